//! Tokens of service accounts, as the API server takes them.

use std::fs;

use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use kubewasm_tests::{cluster, node::Options, wait};
use serde_json::json;

use super::{folders_of, holds, of_volume};
use crate::{
    pods::{Pods, running},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// What the API server says of a token.
pub(super) async fn review(client: &Client, token: &str, audience: &str) -> TokenReviewStatus {
    let review = json!({ "spec": { "token": token, "audiences": [audience] } });
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &serde_json::from_value(review).unwrap()).await;
    answer.unwrap().status.unwrap()
}

/// The user that the API server takes the bearer of a token for.
async fn user(token: &str) -> String {
    let mut config = cluster::config_of(&suite().await.cluster.admin_kubeconfig()).await.unwrap();
    config.auth_info = serde_json::from_value(json!({ "token": token })).unwrap();
    let reviews: Api<SelfSubjectReview> = Api::all(Client::try_from(config).unwrap());
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    review.status.unwrap().user_info.unwrap().username.unwrap()
}

/// The token that every pod has opens the API server to the pod's account. It is in the same place when another one
/// has been asked for, as an agent does that has been started again: it keeps tokens in memory only.
#[tokio::test]
async fn a_token_opens_the_api_server_and_is_replaced() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut node = own_node("token-node", &Options::default()).await;
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() }, "containers": [holds().await],
        });
        pods.create("asks", spec).await;
        let pod = pods.until("asks", "running", running).await;
        let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
        let name = &volumes.iter().find(|volume| volume.projected.is_some()).unwrap().name;
        let path = of_volume(&folders_of(&node, &pod), "projected", name).join("token");
        let first = fs::read_to_string(&path).unwrap();
        let expected = format!("system:serviceaccount:{ns}:default");
        assert_eq!(user(&first).await, expected);

        assert!(node.stop().await.unwrap().success());
        node.start_again().await.unwrap();
        let next = wait::until("another token", SOON, async || match fs::read_to_string(&path) {
            Ok(token) if token != first => Ok(token),
            other => Err(format!("{other:?}")),
        })
        .await
        .unwrap();
        assert_eq!(user(&next).await, expected);
        // Who still has the first one, has it until it ends by itself.
        assert_eq!(user(&first).await, expected);
    })
    .await;
}
