//! Resources of pods that run are changed, by `kubectl patch --subresource resize`.

use k8s_openapi::api::core::v1::Pod;
use kubewasm_tests::node::{Node, Options};
use serde_json::{Value, json};

use crate::{
    pods::{Pods, container, is, restarts, running},
    status::{self, says},
    suite::{own_node, suite, with_temp_ns},
};

const MIB: u64 = 1 << 20;

async fn resize(ns: &str, pod: &str, resources: Value) {
    let patch = json!({ "spec": { "containers": [{ "name": "main", "resources": resources }] } });
    patch_resize(ns, pod, &patch).await;
}

async fn patch_resize(ns: &str, pod: &str, patch: &Value) {
    let patch = patch.to_string();
    let arguments = ["patch", "pod", pod, "--namespace", ns, "--subresource", "resize", "--patch", &patch];
    suite().await.cluster.kubectl(&arguments).await.unwrap();
}

fn amounts(cpu: &str, memory: u64) -> Value {
    let memory = format!("{memory}Mi");
    json!({ "requests": { "cpu": "10m", "memory": "1Mi" }, "limits": { "cpu": cpu, "memory": memory } })
}

/// A quantity of the status of the first container.
fn shown(pod: &Pod, list: &str, name: &str) -> Option<String> {
    let resources = serde_json::to_value(container(pod)?.resources.as_ref()?).unwrap();
    Some(resources[list][name].as_str()?.to_owned())
}

/// What a pod asks for and gets is all that was asked for.
fn is_resized(pod: &Pod, memory: u64) -> bool {
    let pending = ["PodResizePending", "PodResizeInProgress"].iter().any(|condition| is(pod, condition));
    shown(pod, "limits", "memory") == Some(format!("{memory}Mi"))
        && !pending
        && pod.status.as_ref().and_then(|s| s.observed_generation) == pod.metadata.generation
}

/// More memory is there for what runs, in the same process; less is taken away when it is not used any more, and not before.
#[tokio::test]
async fn limits_change_while_a_guest_runs() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        // Executed in the container, and so on its account.
        let allocates = json!({
            "exec": { "command": ["actor", "alloc", "40"] }, "periodSeconds": 1, "failureThreshold": 1,
        });
        let image = &suite().await.actor.tagged;
        let spec = json!({ "containers": [{
            "name": "main", "image": image, "args": ["alloc", "16", "sleep", "600"],
            "resources": amounts("500m", 32), "readinessProbe": allocates,
        }] });
        pods.create("grows", spec).await;
        let why = |event: &_| says(event, "Unhealthy", "Readiness probe failed");
        pods.event("grows", "too little memory", why).await;
        let before = pods.until("grows", "running", running).await;
        assert_eq!(shown(&before, "limits", "memory").as_deref(), Some("32Mi"));
        let allocated = container(&before).unwrap().allocated_resources.clone().unwrap();
        assert_eq!(allocated["memory"].0, "1Mi");

        resize(ns, "grows", amounts("1", 128)).await;
        let pod = pods.until("grows", "resized", |pod| is_resized(pod, 128)).await;
        assert_eq!(shown(&pod, "limits", "cpu").as_deref(), Some("1"));
        pods.until("grows", "Ready", |pod| is(pod, "Ready")).await;
        for reason in ["ResizeStarted", "ResizeCompleted"] {
            let what = if reason == "ResizeStarted" { "started" } else { "completed" };
            let text = format!("Pod resize {what}: {{\"containers\":[{{\"name\":\"main\",\"resources\":{{");
            pods.event("grows", reason, |event| says(event, reason, &text)).await;
        }

        // The guest has 16 MiB for good.
        resize(ns, "grows", amounts("1", 8)).await;
        let pod = pods.until("grows", "an error", |pod| {
            is(pod, "PodResizeInProgress") && status::condition(pod, "PodResizeInProgress").1 == "Error"
        });
        let pod = pod.await;
        let (_, _, message) = status::condition(&pod, "PodResizeInProgress");
        let text = format!(
            "cannot decrease memory limits: attempting to set container \"main\" memory limit ({}) below current usage (",
            8 * MIB
        );
        assert!(message.starts_with(&text), "{message}");
        assert_eq!(shown(&pod, "limits", "memory").as_deref(), Some("128Mi"), "it goes on with what it had");
        pods.event("grows", "the error", |event| says(event, "ResizeError", "cannot decrease memory")).await;

        resize(ns, "grows", amounts("100m", 64)).await;
        let pod = pods.until("grows", "resized again", |pod| is_resized(pod, 64)).await;
        assert_eq!(restarts(&pod), 0);
        assert_eq!(container(&pod).unwrap().container_id, container(&before).unwrap().container_id);
    })
    .await;
}

/// `resizePolicy` may ask for a restart, of the container that it is about.
#[tokio::test]
async fn a_policy_restarts_its_container() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let main = |name: &str, policy: &str| {
            json!({
                "name": name, "image": image, "args": ["sleep", "600"], "resources": amounts("500m", 32),
                "resizePolicy": [
                    { "resourceName": "cpu", "restartPolicy": "NotRequired" },
                    { "resourceName": "memory", "restartPolicy": policy },
                ],
            })
        };
        let containers = [main("main", "RestartContainer"), main("other", "NotRequired")];
        pods.create("both", json!({ "restartPolicy": "Always", "containers": containers })).await;
        pods.until("both", "Ready", |pod| is(pod, "Ready")).await;
        resize(ns, "both", amounts("1", 32)).await;
        let pod =
            pods.until("both", "resized", |pod| shown(pod, "limits", "cpu").as_deref() == Some("1")).await;
        assert_eq!(restarts(&pod), 0);

        resize(ns, "both", amounts("1", 64)).await;
        let killed = |event: &_| says(event, "Killing", "Container main resize requires restart");
        pods.event("both", "the restart", killed).await;
        let pod = pods.until("both", "restarted", |pod| restarts(pod) == 1 && is_resized(pod, 64)).await;
        let other = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[1];
        assert_eq!((other.name.as_str(), other.restart_count), ("other", 0));
        pods.until("both", "Ready again", |pod| is(pod, "Ready")).await;
    })
    .await;
}

/// What a pod says as a whole holds for its containers that say nothing.
#[tokio::test]
async fn a_pod_is_resized_as_a_whole() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let allocates = json!({
            "exec": { "command": ["actor", "alloc", "40"] }, "periodSeconds": 1, "failureThreshold": 1,
        });
        let spec = json!({
            "resources": amounts("500m", 32),
            "containers": [{
                "name": "main", "image": image, "args": ["sleep", "600"], "readinessProbe": allocates,
            }],
        });
        pods.create("whole", spec).await;
        let why = |event: &_| says(event, "Unhealthy", "Readiness probe failed");
        pods.event("whole", "too little memory", why).await;
        patch_resize(ns, "whole", &json!({ "spec": { "resources": { "limits": { "memory": "128Mi" } } } }))
            .await;
        let pod = pods.until("whole", "Ready", |pod| is(pod, "Ready")).await;
        assert_eq!(restarts(&pod), 0);
        let shown =
            |pod: &Pod| serde_json::to_value(&pod.status).unwrap()["resources"]["limits"]["memory"].clone();
        pods.until("whole", "resized", |pod| shown(pod) == "128Mi" && !is(pod, "PodResizeInProgress")).await;
    })
    .await;
}

/// Where there is no room, a resize waits for it, over a restart of the agent; and a node that has become too small for it says
/// that, too.
#[tokio::test]
async fn a_resize_waits_for_room() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut node = own_node("full-node", &Options::default()).await;
        let spec = async |node: &Node, memory: &str| {
            json!({
                "nodeSelector": { "kubernetes.io/hostname": node.name() },
                "containers": [{
                    "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"],
                    "resources": { "requests": { "cpu": "10m", "memory": memory } },
                }],
            })
        };
        let allocatable = allocatable(&client, node.name()).await;
        let mebibytes = |percent: u64| allocatable / MIB * percent / 100;
        let share = |percent: u64| format!("{}Mi", mebibytes(percent));
        let bytes = |percent: u64| mebibytes(percent) * MIB;
        pods.create("large", spec(&node, &share(60)).await).await;
        pods.create("grows", spec(&node, &share(10)).await).await;
        for name in ["large", "grows"] {
            pods.until(name, "running", running).await;
        }
        resize(ns, "grows", json!({ "requests": { "memory": share(80) } })).await;
        let pod = pods.until("grows", "waiting for room", |pod| is(pod, "PodResizePending")).await;
        let (_, reason, message) = status::condition(&pod, "PodResizePending");
        assert_eq!(reason, "Deferred");
        let text = format!("Node didn't have enough resource: memory, requested: {}, used: ", bytes(80));
        assert!(message.starts_with(&text), "{message}");
        let allocated = container(&pod).unwrap().allocated_resources.clone().unwrap();
        assert_eq!(allocated["memory"].0, share(10));
        pods.event("grows", "that it waits", |event| says(event, "ResizeDeferred", "Pod resize Deferred: {"))
            .await;

        node.stop().await.unwrap();
        // By a node that is smaller.
        let config = node.root().join("config.yaml");
        let reserved = format!("systemReserved:\n  memory: \"{}\"\n", allocatable / 100 * 25);
        let before = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, format!("{before}{reserved}")).unwrap();
        node.start_again().await.unwrap();
        let infeasible = |pod: &Pod| {
            is(pod, "PodResizePending") && status::condition(pod, "PodResizePending").1 == "Infeasible"
        };
        let pod = pods.until("grows", "too large", infeasible).await;
        let (_, _, message) = status::condition(&pod, "PodResizePending");
        let text = format!("Node didn't have enough capacity: memory, requested: {}, capacity: ", bytes(80));
        assert!(message.starts_with(&text), "{message}");
        let says_so = |event: &_| says(event, "ResizeInfeasible", "Pod resize Infeasible: {");
        pods.event("grows", "that it is too large", says_so).await;

        // Smaller, it waits again, until the other one has gone.
        resize(ns, "grows", json!({ "requests": { "memory": share(50) } })).await;
        let deferred = |pod: &Pod| {
            is(pod, "PodResizePending") && status::condition(pod, "PodResizePending").1 == "Deferred"
        };
        pods.until("grows", "waiting for room", deferred).await;
        pods.api().delete("large", &Default::default()).await.unwrap();
        let pod = pods.until("grows", "resized", |pod| {
            let allocated = container(pod).and_then(|status| status.allocated_resources.clone());
            !is(pod, "PodResizePending") && allocated.is_some_and(|map| map["memory"].0 == share(50))
        });
        let pod = pod.await;
        assert_eq!(restarts(&pod), 0);
    })
    .await;
}

async fn allocatable(client: &kube::Client, node: &str) -> u64 {
    let nodes: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client.clone());
    let node = nodes.get(node).await.unwrap();
    let memory = &node.status.unwrap().allocatable.unwrap()["memory"].0;
    let number = memory.trim_end_matches(|c: char| c.is_alphabetic()).parse::<u64>().unwrap();
    if memory.ends_with("Ki") { number * 1024 } else { number }
}
