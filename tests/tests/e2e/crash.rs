//! An agent that dies, workers that die, and what survives.

use std::fs;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, api::DeleteParams};
use kubewasm_tests::{
    node::{Node, Options},
    wait,
};
use serde_json::{Value, json};

use crate::{
    pods::{Pods, container, restarts, running, terminated},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// Guests go on while the agent is dead, and a new agent takes them over: same container, no restart, no
/// line lost.
#[tokio::test]
async fn guests_outlive_a_killed_agent() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut node = own_node("killed-node", &Options::default()).await;
        pods.create("survivor", spec(&node, "Never", &["tick", "200"]).await).await;
        let before = pods.until("survivor", "running", running).await;
        let uid = before.metadata.uid.as_deref().unwrap();
        let file = node.pod_logs().join(format!("{ns}_survivor_{uid}/main/0.log"));
        let lines = || fs::read_to_string(&file).map_or(0, |text| text.lines().count());
        node.kill().unwrap();
        let ticks = lines();
        wait::until("more ticks of a guest whose agent is dead", SOON, async || match lines() {
            now if now > ticks => Ok(()),
            now => Err(format!("{now} lines")),
        })
        .await
        .unwrap();
        node.start_again().await.unwrap();
        let log = pods.logs_once_known("survivor").await;
        let numbers: Vec<String> = (1..=log.lines().count()).map(|number| format!("tick {number}")).collect();
        assert_eq!(log.lines().collect::<Vec<_>>(), numbers);
        let after = pods.api().get("survivor").await.unwrap();
        assert_eq!(container(&before).unwrap().container_id, container(&after).unwrap().container_id);
        assert_eq!(restarts(&after), 0);
        pods.api().delete("survivor", &DeleteParams::default()).await.unwrap();
        pods.gone("survivor").await;
        remove(&client, node).await;
    })
    .await;
}

/// SIGTERM ends the agent, not the pods; a pod that has finished does not run again after it.
#[tokio::test]
async fn a_restart_runs_nothing_twice() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut node = own_node("restarted-node", &Options::default()).await;
        pods.create("finished", spec(&node, "Never", &["say", "once"]).await).await;
        pods.create("sleeping", spec(&node, "Always", &["sleep", "600"]).await).await;
        let finished = pods.phase("finished", "Succeeded").await;
        let sleeping = pods.until("sleeping", "running", running).await;
        assert!(node.stop().await.unwrap().success());
        node.start_again().await.unwrap();
        // A third pod that runs to its end shows that the agent has seen all pods again.
        pods.create("later", spec(&node, "Never", &["say", "after"]).await).await;
        pods.phase("later", "Succeeded").await;
        let again = pods.api().get("finished").await.unwrap();
        assert_eq!(terminated(&again), terminated(&finished));
        assert_eq!(pods.logs("finished").await, "once\n");
        let still = pods.api().get("sleeping").await.unwrap();
        assert_eq!(container(&still).unwrap().container_id, container(&sleeping).unwrap().container_id);
        assert_eq!(restarts(&still), 0);
        remove(&client, node).await;
    })
    .await;
}

/// A worker that dies takes its containers with it; they are restarted by policy, and the loss is told.
#[tokio::test]
async fn a_dead_workers_containers_are_restarted() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("workerless-node", &Options::default()).await;
        pods.create("victim", spec(&node, "Always", &["sleep", "600"]).await).await;
        pods.until("victim", "running", running).await;
        node.kill_workers().await.unwrap();
        let pod = pods.until("victim", "a restart", |pod| restarts(pod) == 1 && running(pod)).await;
        let last =
            container(&pod).unwrap().last_state.as_ref().and_then(|state| state.terminated.as_ref()).unwrap();
        assert_ne!(last.exit_code, 0);
        assert!(last.reason.is_some(), "{last:?}");
        remove(&client, node).await;
    })
    .await;
}

async fn spec(node: &Node, policy: &str, args: &[&str]) -> Value {
    json!({
        "restartPolicy": policy,
        "nodeSelector": { "kubernetes.io/hostname": node.name() },
        "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": args }],
    })
}

/// Ends the node first: it would register again.
/// Ends a node, and removes its Node object.
pub(crate) async fn remove(client: &kube::Client, node: Node) {
    let name = node.name().to_owned();
    drop(node);
    Api::<NodeObject>::all(client.clone()).delete(&name, &DeleteParams::default()).await.unwrap();
}
