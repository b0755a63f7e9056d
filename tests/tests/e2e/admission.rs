//! Pods that the node does not take, or takes and does not start. They are bound by hand here: the scheduler
//! would not send most of them.

use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::{Api, api::DeleteParams};
use kubewasm_tests::node::Options;
use serde_json::{Value, json};

use crate::{
    pods::{Pods, container, phase, running},
    pressure::is_target,
    status::{self, says},
    suite::{NODE, own_node, suite, with_temp_ns},
};

/// A pod bound to the shared node, with `more` in its spec and `main` in its container.
async fn bound(main: Value, more: Value) -> Value {
    let mut container =
        json!({ "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"] });
    container.as_object_mut().unwrap().extend(main.as_object().unwrap().clone());
    let mut spec = json!({ "nodeName": NODE, "containers": [container] });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

/// More of a spec: a kernel parameter.
fn sysctl(name: &str) -> Value {
    json!({ "securityContext": { "sysctls": [{ "name": name, "value": "0" }] } })
}

/// What the node cannot have fails at once, with the reason and the numbers, and is never started.
#[tokio::test]
async fn a_pod_that_does_not_fit_is_rejected() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let port = json!({ "ports": [{ "containerPort": 80, "hostPort": 19_999 }] });
        pods.create("port-holder", bound(port.clone(), json!({})).await).await;
        pods.until("port-holder", "running", running).await;
        let asks =
            |resource: &str, amount: &str| json!({ "resources": { "requests": { resource: amount } } });
        let cases = [
            (
                "cpu",
                bound(asks("cpu", "1000"), json!({})).await,
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 1000000, used: ",
            ),
            (
                "memory",
                bound(asks("memory", "900Ti"), json!({})).await,
                "OutOfmemory",
                "Node didn't have enough resource: memory, requested: ",
            ),
            (
                "selector",
                bound(json!({}), json!({ "nodeSelector": { "example.dev/disk": "none" } })).await,
                "NodeAffinity",
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            ),
            (
                "sysctl",
                bound(json!({}), sysctl("kernel.msgmax")).await,
                "SysctlForbidden",
                "forbidden sysctl: \"kernel.msgmax\" not allowlisted",
            ),
            (
                "port",
                bound(port, json!({})).await,
                "NodePorts",
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            ),
        ];
        for (name, spec, reason, why) in cases {
            pods.create(name, spec).await;
            let pod = pods.phase(name, "Failed").await;
            let status = pod.status.as_ref().unwrap();
            assert_eq!(status.reason.as_deref(), Some(reason), "{name}");
            let message = status.message.as_deref().unwrap_or_default();
            assert!(message.starts_with(&format!("Pod was rejected: {why}")), "{name}: {message}");
            assert_eq!(container(&pod).and_then(|main| main.container_id.as_deref()), None, "{name}");
            assert_eq!(status::condition(&pod, "Ready").0, "False", "{name}");
            pods.event(name, "the rejection", |event| says(event, reason, why)).await;
        }
    })
    .await;
}

/// A pod that does not tolerate the node's taint is not run, even where somebody binds it.
#[tokio::test]
async fn a_pod_that_does_not_tolerate_the_node_is_rejected() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = bound(json!({}), json!({ "runtimeClassName": null, "nodeSelector": null })).await;
        pods.create("intolerant", spec).await;
        // The object may be gone soon: evicting by taints is another's business, too.
        let why = "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        pods.event("intolerant", "the rejection", |event| says(event, "TaintToleration", why)).await;
    })
    .await;
}

/// A pod for another operating system is not run, whichever way it says so.
#[tokio::test]
async fn a_pod_for_another_system_is_rejected() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let cases = [
            (
                "selects",
                json!({ "nodeSelector": { "kubernetes.io/os": "windows" } }),
                "PodOSSelectorNodeLabelDoesNotMatch",
                "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
            ),
            (
                "says",
                json!({ "os": { "name": "windows" } }),
                "PodOSNotSupported",
                "Failed to admit pod as the OS field doesn't match node OS",
            ),
        ];
        for (name, more, reason, why) in cases {
            pods.create(name, bound(json!({}), more).await).await;
            let pod = pods.phase(name, "Failed").await;
            assert_eq!(pod.status.as_ref().unwrap().reason.as_deref(), Some(reason), "{name}");
            pods.event(name, "the rejection", |event| says(event, reason, why)).await;
        }
    })
    .await;
}

/// A node takes as many pods as it is configured for, and one more as soon as one of them has finished.
#[tokio::test]
async fn a_full_node_takes_no_more_pods() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("small-node", &Options::default().config("maxPods", json!(2))).await;
        let here = json!({ "nodeName": node.name(), "nodeSelector": null });
        for name in ["first", "second"] {
            pods.create(name, bound(json!({}), here.clone()).await).await;
            pods.until(name, "running", running).await;
        }
        pods.create("third", bound(json!({}), here.clone()).await).await;
        let pod = pods.phase("third", "Failed").await;
        let status = pod.status.as_ref().unwrap();
        assert_eq!(status.reason.as_deref(), Some("OutOfpods"));
        let why =
            "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2";
        assert_eq!(status.message.as_deref(), Some(why));
        pods.api().delete("first", &DeleteParams::default()).await.unwrap();
        pods.gone("first").await;
        pods.create("fourth", bound(json!({ "args": ["say", "room"] }), here).await).await;
        pods.phase("fourth", "Succeeded").await;
        let name = node.name().to_owned();
        drop(node);
        Api::<NodeObject>::all(client).delete(&name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

/// A critical pod that finds the node full has room made for it by the one that has asked for the least, and starts when that
/// has ended. Where nobody's end would be enough, it is told what is missing, and nobody goes for it.
#[tokio::test]
async fn a_critical_pod_has_room_made_for_it() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("preempting-node", &Options::default().config("maxPods", json!(2))).await;
        let here = json!({ "nodeName": node.name(), "nodeSelector": null });
        let asking = json!({ "resources": { "requests": { "cpu": "10m", "memory": "1Mi" } } });
        pods.create("asking", bound(asking, here.clone()).await).await;
        pods.create("modest", bound(json!({}), here.clone()).await).await;
        for name in ["asking", "modest"] {
            pods.until(name, "running", running).await;
        }
        let mut critical = here.clone();
        critical["priorityClassName"] = json!("system-node-critical");
        let too_much = json!({ "resources": { "requests": { "cpu": "1000" } } });
        pods.create("too-much", bound(too_much, critical.clone()).await).await;
        let why = "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of \
                   pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: ";
        let pod = pods.phase("too-much", "Failed").await;
        let status = pod.status.as_ref().unwrap();
        assert_eq!(status.reason.as_deref(), Some("UnexpectedAdmissionError"));
        let message = status.message.as_deref().unwrap();
        assert!(message.starts_with(&format!("Pod was rejected: {why}")), "{message}");

        pods.create("critical", bound(json!({}), critical).await).await;
        let gone = pods.phase("modest", "Failed").await;
        let status = gone.status.as_ref().unwrap();
        let told = "Preempted in order to admit critical pod";
        assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Preempting"), Some(told)));
        is_target(&gone, "Pod was preempted by Kubelet to accommodate a critical pod.");
        pods.event("modest", "the preemption", |event| says(event, "Preempting", told)).await;
        let pod = pods.until("critical", "running", running).await;
        let started = |pod: &Pod| container(pod).unwrap().state.clone().unwrap().running.unwrap().started_at;
        let ended = container(&gone).unwrap().state.clone().unwrap().terminated.unwrap().finished_at;
        assert!(started(&pod) >= ended, "it waits for the end of the other: {ended:?} {pod:?}");
        assert!(running(&pods.api().get("asking").await.unwrap()), "nobody goes for nothing");
        let name = node.name().to_owned();
        drop(node);
        Api::<NodeObject>::all(client).delete(&name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

/// What no guest can have is held, not run without: the container waits and names the field. Such a pod can be
/// deleted.
#[tokio::test]
async fn a_field_that_cannot_be_honoured_is_named() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let cases = [
            (
                "privileged",
                json!({ "securityContext": { "privileged": true } }),
                json!({}),
                "securityContext.privileged",
            ),
            (
                "capabilities",
                json!({ "securityContext": { "capabilities": { "add": ["NET_ADMIN"] } } }),
                json!({}),
                "securityContext.capabilities.add",
            ),
            ("host-pid", json!({}), json!({ "hostPID": true }), "spec.hostPID"),
            ("host-ipc", json!({}), json!({ "hostIPC": true }), "spec.hostIPC"),
            ("shared", json!({}), json!({ "shareProcessNamespace": true }), "spec.shareProcessNamespace"),
            ("sysctls", json!({}), sysctl("net.ipv4.ping_group_range"), "spec.securityContext.sysctls"),
            (
                "windows",
                json!({}),
                json!({ "securityContext": { "windowsOptions": { "runAsUserName": "me" } } }),
                "spec.securityContext.windowsOptions",
            ),
            (
                "windows-container",
                json!({ "securityContext": { "windowsOptions": { "runAsUserName": "me" } } }),
                json!({}),
                "securityContext.windowsOptions",
            ),
            (
                "claims",
                json!({ "resources": { "claims": [{ "name": "gpu" }] } }),
                json!({ "resourceClaims": [{ "name": "gpu", "resourceClaimName": "gpu" }] }),
                "spec.resourceClaims",
            ),
            (
                "device",
                json!({ "volumeDevices": [{ "name": "disk", "devicePath": "/dev/disk" }] }),
                json!({ "volumes": [{ "name": "disk", "persistentVolumeClaim": { "claimName": "disk" } }] }),
                "volumeDevices",
            ),
        ];
        for (name, main, more, _) in &cases {
            pods.create(name, bound(main.clone(), more.clone()).await).await;
        }
        for (name, _, _, field) in &cases {
            let state = pods.waiting(name, &["CreateContainerConfigError"]).await;
            let message = state.message.unwrap_or_default();
            assert!(message.starts_with(&format!("{field} cannot be honoured")), "{name}: {message}");
            let failed = |event: &_| says(event, "Failed", &format!("Error: {field} cannot be honoured"));
            pods.event(name, "the refusal", failed).await;
            assert_eq!(phase(&pods.api().get(name).await.unwrap()), "Pending");
            pods.api().delete(name, &DeleteParams::default()).await.unwrap();
            pods.gone(name).await;
        }
    })
    .await;
}

/// A container that may not be root and is told to be is held in a kubelet's words. Where only the image would say
/// who it is, there is no contradiction: a guest has no user.
#[tokio::test]
async fn root_where_it_must_not_be_is_held() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let main = json!({ "securityContext": { "runAsUser": 0 } });
        let more = json!({ "securityContext": { "runAsNonRoot": true } });
        pods.create("root", bound(main, more.clone()).await).await;
        let state = pods.waiting("root", &["CreateContainerConfigError"]).await;
        let uid = pods.api().get("root").await.unwrap().metadata.uid.unwrap();
        let expected = format!(
            "container's runAsUser breaks non-root policy (pod: \"root_{ns}({uid})\", container: main)"
        );
        assert_eq!(state.message.as_deref(), Some(expected.as_str()));
        pods.event("root", "the refusal", |event| says(event, "Failed", &format!("Error: {expected}"))).await;
        pods.create("userless", bound(json!({ "args": ["say", "fine"] }), more).await).await;
        pods.phase("userless", "Succeeded").await;
    })
    .await;
}

/// What only narrows a process changes nothing for a guest, so pods with it run.
#[tokio::test]
async fn fields_that_only_narrow_are_accepted() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let both = json!({
            "appArmorProfile": { "type": "RuntimeDefault" },
            "runAsGroup": 65532,
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "seLinuxOptions": { "level": "s0:c1,c2" },
            "seccompProfile": { "type": "RuntimeDefault" },
        });
        let with = |more: Value| {
            let mut all = both.clone();
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        let main = json!({
            "args": ["say", "narrow"],
            "lifecycle": { "stopSignal": "SIGUSR1" },
            "securityContext": with(json!({
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "procMount": "Default",
                "readOnlyRootFilesystem": true,
            })),
        });
        let more = json!({
            "hostUsers": false,
            "os": { "name": "linux" },
            "securityContext": with(json!({
                "fsGroup": 65532,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seLinuxChangePolicy": "Recursive",
                "supplementalGroups": [65533],
                "supplementalGroupsPolicy": "Strict",
            })),
        });
        pods.create("narrow", bound(main, more).await).await;
        pods.phase("narrow", "Succeeded").await;
        assert_eq!(pods.logs("narrow").await, "narrow\n");
    })
    .await;
}
