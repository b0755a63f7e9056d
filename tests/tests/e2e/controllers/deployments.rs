//! Deployments: Ready pods, and pods that go when they are asked to.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, Client, api::ListParams};
use kubewasm_tests::{guests, registry::image::Content, wait};
use serde_json::json;

use super::{create, template};
use crate::{
    pods::{container, is},
    suite::{SOON, suite, with_temp_ns},
};

/// A new image replaces the old one pod by pod, and `rollout undo` brings the old one back.
#[tokio::test]
async fn a_new_image_rolls_out_and_back() {
    with_temp_ns(async |client, ns| {
        let suite = suite().await;
        let other = Content::Artifact(guests::guest("actor.c").await.unwrap());
        let other = suite.registry.push("rolled-out:v2", &other).await.unwrap();
        let kubectl = async |arguments: &[&str]| {
            let arguments: Vec<&str> =
                ["--namespace", ns].into_iter().chain(arguments.iter().copied()).collect();
            suite.cluster.kubectl(&arguments).await.unwrap()
        };
        let spec = json!({
            "replicas": 2,
            "selector": { "matchLabels": { "app": "test" } },
            "template": template("Always", &["sleep", "600"]).await,
        });
        create::<Deployment>(&client, ns, "web", spec).await;
        let status = ["rollout", "status", "deployment/web", "--timeout=90s"];
        kubectl(&status).await;
        assert_eq!(images(&client, ns).await, vec![suite.actor.by_digest.clone(); 2]);
        kubectl(&["set", "image", "deployment/web", &format!("main={}", other.tagged)]).await;
        kubectl(&status).await;
        assert_eq!(images(&client, ns).await, vec![other.by_digest; 2]);
        kubectl(&["rollout", "undo", "deployment/web"]).await;
        kubectl(&status).await;
        assert_eq!(images(&client, ns).await, vec![suite.actor.by_digest.clone(); 2]);
        kubectl(&["scale", "deployment/web", "--replicas=0"]).await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), ns);
        wait::until("no pod", SOON, async || match pods.list(&ListParams::default()).await {
            Ok(list) if list.items.is_empty() => Ok(()),
            Ok(list) => Err(format!("{} pods are left", list.items.len())),
            Err(error) => Err(error.to_string()),
        })
        .await
        .unwrap();
    })
    .await;
}

/// What the Ready pods run that are not on their way out.
async fn images(client: &Client, ns: &str) -> Vec<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), ns);
    let all = pods.list(&ListParams::default()).await.unwrap().items;
    let stays = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none() && is(pod, "Ready");
    all.iter().filter(stays).filter_map(container).map(|status| status.image_id.clone()).collect()
}
