//! What nodes ask the API server for, as it has noted that down itself.

use std::{collections::BTreeMap, fs};

use kube::api::DeleteParams;
use kubewasm_tests::{cluster::Cluster, wait};
use serde_json::json;

use super::{change_config_map, create_config_map, folder, follower, holds, holds_text, main};
use crate::{
    pods::{Pods, restarts, running},
    suite::{SOON, suite, with_temp_ns},
};

/// Requests for an object: lists, watches that were begun, watches that have ended, and gets.
type Counts = (usize, usize, usize, usize);

/// How often nodes have asked for objects of the namespace so far, by kind and name.
fn asked(ns: &str, cluster: &Cluster) -> BTreeMap<String, Counts> {
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    for request in cluster.requests_of_nodes(ns).unwrap() {
        let (lists, begun, ended, gets) = counts.entry(request.object).or_default();
        match (request.verb.as_str(), request.is_over) {
            ("list", _) => *lists += 1,
            ("watch", false) => *begun += 1,
            ("watch", true) => *ended += 1,
            _ => *gets += 1,
        }
    }
    counts
}

/// Pods that take variables and files from one object share one watch of it, which ends with the last of them. An
/// object that never changes is read once, and not watched.
#[tokio::test]
async fn pods_share_the_watch_of_an_object() {
    with_temp_ns(async |client, ns| {
        let (pods, image, cluster) = (Pods::new(&client, ns), follower().await, &suite().await.cluster);
        create_config_map(&client, ns, "shared", json!({ "KEY": "one" })).await;
        create_config_map(&client, ns, "fixed", json!({ "OTHER": "two" })).await;
        cluster
            .kubectl(&[
                "patch",
                "configmap",
                "fixed",
                "-n",
                ns,
                "--type=merge",
                "-p",
                r#"{"immutable":true}"#,
            ])
            .await
            .unwrap();
        let names: Vec<String> = (0..5).map(|number| format!("pod-{number}")).collect();
        for name in &names {
            let mut reader = main(&image, &["until", "/v/KEY", "one"]);
            reader["env"] = json!([{
                "name": "OTHER",
                "valueFrom": { "configMapKeyRef": { "name": "fixed", "key": "OTHER" } },
            }]);
            let mut waits = holds().await;
            waits["envFrom"] = json!([{ "configMapRef": { "name": "shared" } }]);
            let spec = json!({
                "volumes": [{ "name": "v", "configMap": { "name": "shared" } }],
                "initContainers": [reader],
                "containers": [waits],
            });
            pods.create(name, spec).await;
        }
        for name in &names {
            pods.until(name, "running", running).await;
        }
        let counts = asked(ns, cluster);
        assert_eq!(counts.get("configmaps/shared"), Some(&(1, 1, 0, 0)), "{counts:?}");
        assert_eq!(counts.get("configmaps/fixed"), Some(&(1, 0, 0, 0)), "{counts:?}");

        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let (last, others) = names.split_last().unwrap();
        for name in others {
            pods.api().delete(name, &now).await.unwrap();
        }
        for name in others {
            pods.gone(name).await;
        }
        assert_eq!(asked(ns, cluster)["configmaps/shared"], (1, 1, 0, 0), "the last pod still needs it");
        pods.api().delete(last, &now).await.unwrap();
        wait::until("the end of the watch", SOON, async || match asked(ns, cluster)["configmaps/shared"] {
            (1, 1, 1, 0) => Ok(()),
            counts => Err(format!("{counts:?}")),
        })
        .await
        .unwrap();
    })
    .await;
}

/// A container that is started again has its variables as they are by then, without another request.
#[tokio::test]
async fn a_restart_takes_variables_as_they_are_by_then() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        create_config_map(&client, ns, "cm", json!({ "VERB": "fail" })).await;
        let spec = json!({
            "restartPolicy": "OnFailure",
            "volumes": [{ "name": "v", "emptyDir": {} }, { "name": "seen", "configMap": { "name": "cm" } }],
            "containers": [{
                "name": "main", "image": image.tagged, "args": ["until", "/v/go", "on", "$(VERB)", "well"],
                "envFrom": [{ "configMapRef": { "name": "cm" } }],
                "volumeMounts": [{ "name": "v", "mountPath": "/v" }, { "name": "seen", "mountPath": "/seen" }],
            }],
        });
        pods.create("again", spec).await;
        let pod = pods.until("again", "running", running).await;
        change_config_map(&client, ns, "cm", json!({ "VERB": "say" })).await;
        // The same watch brings it to the volume.
        holds_text(&folder(&pod, "configmap", "seen").await.join("VERB"), "say").await;
        fs::write(folder(&pod, "empty-dir", "v").await.join("go"), "on").unwrap();
        let pod = pods.phase("again", "Succeeded").await;
        assert_eq!((restarts(&pod), pods.logs("again").await.as_str()), (1, "well\n"));
        assert_eq!(asked(ns, &suite().await.cluster)["configmaps/cm"].0, 1);
    })
    .await;
}
