//! How pods end that do not end by themselves, and what their status says at each stage.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    pods::{Pods, is, phase, running, terminated},
    status::{self, condition, says},
    suite::{suite, with_temp_ns},
};

async fn actor(args: &[&str]) -> Value {
    json!({ "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": args }] })
}

/// A deleted pod's guest ends as by SIGTERM, and the pod's last status says so before its object goes.
#[tokio::test]
async fn a_deleted_pod_leaves_a_last_status() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.create("deleted", actor(&["sleep", "600"]).await).await;
        let pod = pods.until("deleted", "Ready", |pod| is(pod, "Ready")).await;
        for kind in ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"] {
            assert_eq!(condition(&pod, kind), ("True", "", ""), "{kind}");
        }
        // With a finalizer the object stays after the node has let go of it.
        finalizers(&pods, "deleted", json!(["example.dev/keep"])).await;
        pods.api().delete("deleted", &DeleteParams::default()).await.unwrap();
        let pod = pods.until("deleted", "an end", |pod| terminated(pod).is_some()).await;
        let end = terminated(&pod).unwrap();
        assert_eq!((end.exit_code, end.reason.as_deref()), (143, Some("Error")));
        assert_eq!(phase(&pod), "Failed");
        for kind in ["ContainersReady", "Ready"] {
            assert_eq!(condition(&pod, kind), ("False", "PodFailed", ""), "{kind}");
        }
        pods.event("deleted", "the stop", |event| says(event, "Killing", "Stopping container main")).await;
        // The node's own deletion leaves no grace.
        let let_go = |pod: &Pod| pod.metadata.deletion_grace_period_seconds == Some(0);
        pods.until("deleted", "the node to let go", let_go).await;
        finalizers(&pods, "deleted", json!([])).await;
        pods.gone("deleted").await;
    })
    .await;
}

/// What a pod says of itself after it has ended well, and after it has not.
#[tokio::test]
async fn conditions_of_pods_that_ended() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        for (name, code, phase, reason, column) in [
            ("well", "0", "Succeeded", "PodCompleted", "Completed"),
            ("ill", "1", "Failed", "PodFailed", "Error"),
        ] {
            pods.create(name, actor(&["exit", code]).await).await;
            let pod = pods.phase(name, phase).await;
            for kind in ["ContainersReady", "Ready"] {
                assert_eq!(condition(&pod, kind), ("False", reason, ""), "{name}: {kind}");
            }
            assert_eq!(condition(&pod, "Initialized").0, "True", "{name}");
            assert_eq!(condition(&pod, "PodReadyToStartContainers").0, "False", "{name}");
            // Its addresses stay.
            assert!(pod.status.as_ref().unwrap().pod_ip.is_some(), "{name}");
            let table =
                suite().await.cluster.kubectl(&["--namespace", ns, "get", "pod", name]).await.unwrap();
            assert!(table.contains(column), "{table}");
        }
    })
    .await;
}

/// A pod with a readiness gate is Ready when its containers are and somebody says that the gate is open.
#[tokio::test]
async fn a_readiness_gate_is_waited_for() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut spec = actor(&["sleep", "600"]).await;
        spec["readinessGates"] = json!([{ "conditionType": "example.dev/gate" }]);
        pods.create("gated", spec).await;
        let pod = pods.until("gated", "ready containers", |pod| is(pod, "ContainersReady")).await;
        let missing = "corresponding condition of pod readiness gate \"example.dev/gate\" does not exist.";
        assert_eq!(condition(&pod, "Ready"), ("False", "ReadinessGatesNotReady", missing));
        set_gate(&pods, "gated", "True").await;
        pods.until("gated", "Ready", |pod| is(pod, "Ready")).await;
        set_gate(&pods, "gated", "False").await;
        let pod = pods.until("gated", "unready", |pod| !is(pod, "Ready")).await;
        let closed = "the status of pod readiness gate \"example.dev/gate\" is not \"True\", but False";
        assert_eq!(condition(&pod, "Ready"), ("False", "ReadinessGatesNotReady", closed));
    })
    .await;
}

async fn set_gate(pods: &Pods, name: &str, status: &str) {
    let gate = json!({ "type": "example.dev/gate", "status": status });
    let patch = Patch::Strategic(json!({ "status": { "conditions": [gate] } }));
    pods.api().patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

/// A pod that runs for longer than it may fails, be the deadline set from the start or later.
#[tokio::test]
async fn a_deadline_ends_a_pod() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut limited = actor(&["sleep", "600"]).await;
        limited["restartPolicy"] = json!("Always");
        pods.create("later", limited.clone()).await;
        limited["activeDeadlineSeconds"] = json!(3);
        pods.create("limited", limited).await;
        pods.until("later", "running", running).await;
        let patch = Patch::Merge(json!({ "spec": { "activeDeadlineSeconds": 1 } }));
        pods.api().patch("later", &PatchParams::default(), &patch).await.unwrap();
        for name in ["limited", "later"] {
            let pod = pods.phase(name, "Failed").await;
            let status = pod.status.as_ref().unwrap();
            let why = "Pod was active on the node longer than the specified deadline";
            assert_eq!(
                (status.reason.as_deref(), status.message.as_deref()),
                (Some("DeadlineExceeded"), Some(why))
            );
            assert_eq!(terminated(&pod).unwrap().exit_code, 143, "{name}");
            pods.event(name, "the deadline", |event| says(event, "DeadlineExceeded", why)).await;
        }
    })
    .await;
}

/// With `FallbackToLogsOnError` the end of a failed guest's output is its termination message; a guest that
/// succeeds leaves none.
#[tokio::test]
async fn a_termination_message_from_the_log() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        for (name, code, message) in [("ill", "1", Some("out\nerr\n")), ("well", "0", None)] {
            let mut spec = actor(&["say", "out", "stderr", "err", "exit", code]).await;
            spec["containers"][0]["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
            pods.create(name, spec).await;
            let pod = pods.until(name, "an end", |pod| terminated(pod).is_some()).await;
            assert_eq!(terminated(&pod).unwrap().message.as_deref(), message, "{name}");
        }
    })
    .await;
}

/// All containers of a deleted pod end, one that has never been started among them.
#[tokio::test]
async fn a_pod_that_is_half_started_can_be_deleted() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut spec = actor(&["sleep", "600"]).await;
        let absent = json!({ "name": "absent", "image": suite().await.registry.name("absent:v1") });
        spec["containers"].as_array_mut().unwrap().push(absent);
        pods.create("half", spec).await;
        let waits =
            |pod: &Pod| ["ErrImagePull", "ImagePullBackOff"].contains(&status::waiting_reason(pod, "absent"));
        let pod = pods.until("half", "half a start", |pod| waits(pod) && status::runs(pod, "main")).await;
        assert_eq!(phase(&pod), "Pending");
        finalizers(&pods, "half", json!(["example.dev/keep"])).await;
        pods.api().delete("half", &DeleteParams::default()).await.unwrap();
        let pod = pods.until("half", "its end", |pod| phase(pod) == "Failed").await;
        assert_eq!(status::end(&pod, "main").unwrap().exit_code, 143);
        let absent = status::end(&pod, "absent").unwrap();
        assert_eq!((absent.exit_code, absent.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
        finalizers(&pods, "half", json!([])).await;
        pods.gone("half").await;
    })
    .await;
}

/// Sets the finalizers of a pod.
pub(crate) async fn finalizers(pods: &Pods, name: &str, list: Value) {
    let patch = Patch::Merge(json!({ "metadata": { "finalizers": list } }));
    pods.api().patch(name, &PatchParams::default(), &patch).await.unwrap();
}
