//! Reasons that need something to go wrong with the node itself, and what becomes of a pod once it is put right.

use std::{fs, path::Path};

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client, api::DeleteParams};
use kubewasm_tests::{
    node::{Node, Options},
    registry::image::Content,
};
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::{
    pods::{Pods, restarts, running, terminated},
    status::says,
    suite::{own_node, suite, with_temp_ns},
};

/// A module that cannot be instantiated has no exit code of its own; what is wrong is said.
#[tokio::test]
async fn a_module_that_cannot_be_instantiated() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        // One memory more than an instance may have.
        let module = format!(r#"(module {} (func (export "_start")))"#, "(memory 0)".repeat(33));
        let module = Content::Artifact(wat::parse_str(module).unwrap());
        let image = suite().await.registry.push("many-memories:v1", &module).await.unwrap();
        pods.run("greedy", &image.tagged, &[]).await;
        let pod = pods.phase("greedy", "Failed").await;
        let end = terminated(&pod).unwrap();
        assert_eq!((end.exit_code, end.reason.as_deref()), (128, Some("StartError")));
        let message = end.message.as_deref().unwrap_or_default();
        assert!(message.contains("memory count too high"), "{message:?}");
    })
    .await;
}

/// A container that the node itself fails to start waits, and is started once that is put right. No attempt
/// was lost on it.
#[tokio::test]
async fn a_start_that_fails_on_the_node() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "restartPolicy": "OnFailure",
            "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": ["exit", "1"] }],
        });
        pods.create("stuck", spec).await;
        pods.waiting("stuck", &["CrashLoopBackOff"]).await;
        let pod = pods.api().get("stuck").await.unwrap();
        let uid = pod.metadata.uid.as_deref().unwrap();
        let logs = suite().await.node.pod_logs().join(format!("{ns}_stuck_{uid}/main"));
        // Whichever attempt is next has no file for its log.
        let blocked: Vec<_> = (2..5).map(|attempt| logs.join(format!("{attempt}.log"))).collect();
        blocked.iter().for_each(|path| fs::create_dir(path).unwrap());
        let state = pods.waiting("stuck", &["RunContainerError"]).await;
        let message = state.message.unwrap_or_default();
        assert!(message.contains(".log"), "{message:?}");
        let before = restarts(&pods.api().get("stuck").await.unwrap());
        blocked.iter().for_each(|path| fs::remove_dir(path).unwrap());
        let pod = pods.until("stuck", "another restart", |pod| restarts(pod) > before).await;
        assert_eq!(restarts(&pod), before + 1);
    })
    .await;
}

/// A pod whose record cannot be written begins nothing, and nothing is lost; when it is deleted it goes all the same.
#[tokio::test]
async fn a_record_that_cannot_be_written() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "restartPolicy": "OnFailure",
            "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": ["exit", "1"] }],
        });
        pods.create("unsaved", spec).await;
        pods.waiting("unsaved", &["CrashLoopBackOff"]).await;
        let pod = pods.api().get("unsaved").await.unwrap();
        let uid = pod.metadata.uid.as_deref().unwrap();
        // A folder where the new record is to be written.
        let in_the_way = suite().await.node.root().join(format!("pods/{uid}/.state.json.new/in-the-way"));
        fs::create_dir_all(&in_the_way).unwrap();
        let refused = "cannot save the record of the pod; nothing is begun until then: ";
        pods.event("unsaved", "the failure", |event| says(event, "FailedSync", refused)).await;
        let before = restarts(&pods.api().get("unsaved").await.unwrap());
        assert_eq!(before, restarts(&pod));
        fs::remove_dir_all(in_the_way.parent().unwrap()).unwrap();
        let pod = pods.until("unsaved", "another restart", |pod| restarts(pod) > before).await;
        assert_eq!(restarts(&pod), before + 1);
        fs::create_dir_all(&in_the_way).unwrap();
        pods.api().delete("unsaved", &DeleteParams::default()).await.unwrap();
        pods.gone("unsaved").await;
    })
    .await;
}

/// A node whose module store fails says that it is its own fault, and starts the pod when it does not any more.
#[tokio::test]
async fn a_module_store_that_fails() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("storeless-node", &Options::default()).await;
        let (names, aside) = (node.root().join("modules/names"), node.root().join("names-aside"));
        replace_by_a_file(&names, &aside);
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": ["say", "at last"] }],
        });
        pods.create("patient", spec).await;
        pods.waiting("patient", &["ImageInspectError"]).await;
        pods.event("patient", "the failure", |event| says(event, "Failed", "Error: ImageInspectError")).await;
        fs::remove_file(&names).unwrap();
        fs::rename(&aside, &names).unwrap();
        pods.phase("patient", "Succeeded").await;
        remove(client, node).await;
    })
    .await;
}

/// A worker that does not answer holds up the end of its pods. That is told, and the end comes when it answers
/// again.
#[tokio::test]
async fn a_worker_that_does_not_answer() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("hung-node", &Options::default()).await;
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"] }],
        });
        pods.create("held-up", spec).await;
        pods.until("held-up", "running", running).await;
        let (_, worker) = node.workers().pop_first().unwrap();
        kill_process(worker, Signal::STOP).unwrap();
        pods.api().delete("held-up", &DeleteParams::default()).await.unwrap();
        let exceeded = "Container runtime did not kill the pod within specified grace period.";
        pods.event("held-up", "the delay", |event| says(event, "ExceededGracePeriod", exceeded)).await;
        pods.event("held-up", "the failure", |event| says(event, "FailedKillPod", "error killing pod: "))
            .await;
        let pod = pods.api().get("held-up").await.unwrap();
        assert!(pod.metadata.deletion_timestamp.is_some() && running(&pod), "{:?}", pod.status);
        kill_process(worker, Signal::CONT).unwrap();
        pods.gone("held-up").await;
        remove(client, node).await;
    })
    .await;
}

/// Ends the node first: it would register again.
async fn remove(client: Client, node: Node) {
    let name = node.name().to_owned();
    drop(node);
    Api::<NodeObject>::all(client).delete(&name, &DeleteParams::default()).await.unwrap();
}

fn replace_by_a_file(folder: &Path, aside: &Path) {
    fs::rename(folder, aside).unwrap();
    fs::write(folder, "in the way").unwrap();
}
