//! What an agent that was killed leaves behind.

use std::fs;

use kube::api::DeleteParams;
use kubewasm_tests::node::Options;
use serde_json::json;

use super::{create_secret, folders_of, has_gone, holds, of_volume};
use crate::{
    pods::{Pods, running},
    suite::{own_node, with_temp_ns},
};

/// Pods that are deleted while the agent is dead leave files on disk and in memory, and mounts; the next agent removes
/// all of it, and nothing of the pods that are still there.
#[tokio::test]
async fn volumes_of_pods_that_went_while_the_agent_was_dead_are_removed() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        create_secret(&client, ns, "keys", json!({ "key": "geheim" })).await;
        let mut node = own_node("leftovers-node", &Options::default()).await;
        let mut container = holds().await;
        container["volumeMounts"] = ["keys", "disk", "memory"]
            .map(|name| json!({ "name": name, "mountPath": format!("/{name}") }))
            .into_iter()
            .collect();
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "volumes": [
                { "name": "keys", "secret": { "secretName": "keys" } },
                { "name": "disk", "emptyDir": {} },
                { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            ],
            "containers": [container],
        });
        for name in ["goes", "stays"] {
            pods.create(name, spec.clone()).await;
        }
        let goes = pods.until("goes", "running", running).await;
        let stays = pods.until("stays", "running", running).await;
        let key = |pod| of_volume(&folders_of(&node, pod), "secret", "keys").join("key");
        let (left, kept) = (key(&goes), key(&stays));
        let folders = folders_of(&node, &goes);
        let uid = goes.metadata.uid.clone().unwrap();

        node.kill().unwrap();
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        pods.api().delete("goes", &now).await.unwrap();
        pods.gone("goes").await;
        assert_eq!(fs::read_to_string(&left).unwrap(), "geheim", "nobody is there to remove it");
        node.start_again().await.unwrap();
        for folder in &folders {
            has_gone(folder).await;
        }
        has_gone(&node.root().join("pods").join(&uid)).await;
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&uid), "{mounts}");
        assert_eq!(fs::read_to_string(&kept).unwrap(), "geheim");
        pods.api().delete("stays", &now).await.unwrap();
        pods.gone("stays").await;
    })
    .await;
}
