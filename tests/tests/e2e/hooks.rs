//! postStart and preStop hooks.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    endpoint::{Answer, Endpoint},
    pods::{Pods, is, restarts, running, terminated},
    status::{self, says},
    suite::{NODE, suite, with_temp_ns},
    volumes::{create_config_map, create_secret},
};

/// A container whose guest sleeps, with the hooks given.
async fn hooked(name: &str, lifecycle: Value) -> Value {
    json!({
        "name": name,
        "image": suite().await.actor.tagged,
        "args": ["sleep", "600"],
        "lifecycle": lifecycle,
    })
}

fn http(endpoint: &Endpoint, path: &str) -> Value {
    json!({ "httpGet": { "path": path, "port": endpoint.port() } })
}

/// Until the postStart hook of a container has its response, the container is not shown as running, and the
/// next one is not started. Any response is a success.
#[tokio::test]
async fn a_post_start_hook_holds_back_its_container_and_the_next() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let endpoint = Endpoint::start(Answer::Silence).await;
        let first = hooked("first", json!({ "postStart": http(&endpoint, "/started") })).await;
        let second = hooked("second", json!({})).await;
        let sidecars = json!([endpoint.sidecar().await]);
        pods.create("slow", json!({ "initContainers": sidecars, "containers": [first, second] })).await;
        endpoint.until_asked("/started", 1).await;
        assert!(endpoint.asked()[0].agent.starts_with("kube-lifecycle/"), "{:?}", endpoint.asked());
        // The hook may be asked before the API server has been told of anything but the sidecar's start.
        let held_back = |pod: &Pod| {
            ["first", "second"].map(|name| status::waiting_reason(pod, name)) == ["ContainerCreating"; 2]
        };
        pods.until("slow", "both containers ContainerCreating", held_back).await;
        endpoint.answer(Answer::Http(500));
        pods.until("slow", "Ready", |pod| is(pod, "Ready")).await;
        assert_eq!(endpoint.count("/started"), 1);
    })
    .await;
}

/// A hook that is to be asked by https and answers http is asked once more without, and that is told.
#[tokio::test]
async fn a_hook_that_speaks_no_tls_is_asked_without() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let endpoint = Endpoint::start(Answer::Http(200)).await;
        let mut hook = http(&endpoint, "/started");
        hook["httpGet"]["scheme"] = json!("HTTPS");
        let main = hooked("main", json!({ "postStart": hook })).await;
        let sidecars = json!([endpoint.sidecar().await]);
        pods.create("plain", json!({ "initContainers": sidecars, "containers": [main] })).await;
        pods.until("plain", "Ready", |pod| is(pod, "Ready")).await;
        assert_eq!(endpoint.count("/started"), 1);
        let retried = "got HTTP response, retry with HTTP succeeded";
        pods.event("plain", "the second try", |event| says(event, "LifecycleHTTPFallback", retried)).await;
    })
    .await;
}

/// An exec hook runs the container's module anew; where it succeeds, the container goes on.
#[tokio::test]
async fn an_exec_hook_succeeds() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let hook = json!({ "postStart": { "exec": { "command": ["actor", "say", "warm"] } } });
        pods.create("warm", json!({ "containers": [hooked("main", hook).await] })).await;
        pods.until("warm", "Ready", |pod| is(pod, "Ready")).await;
        // What a hook prints is not the container's output.
        assert_eq!(pods.logs("warm").await, "");
    })
    .await;
}

/// A postStart hook that fails kills its container, preStop hook and all, and it is then restarted by policy.
/// What the hook printed is in the container's status and not in an Event.
#[tokio::test]
async fn a_failed_post_start_hook_kills_its_container() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let command = json!(["actor", "say", "no database", "exit", "3"]);
        let hooks = json!({ "postStart": { "exec": { "command": command } }, "preStop": { "sleep": { "seconds": 2 } } });
        let spec = json!({ "restartPolicy": "Always", "containers": [hooked("main", hooks).await] });
        pods.create("cold", spec).await;
        let message = pods.waiting("cold", &["PostStartHookError"]).await.message.unwrap_or_default();
        assert!(message.contains("exited with 3") && message.contains("no database"), "{message}");
        let pod = pods.until("cold", "a restart", |pod| restarts(pod) >= 1).await;
        let last = status::last_end(&pod, "main").unwrap();
        assert_eq!(last.exit_code, 143, "{last:?}");
        let failed = |event: &_| {
            says(event, "FailedPostStartHook", "PostStartHook failed")
                && !says(event, "FailedPostStartHook", "database")
        };
        pods.event("cold", "a failed hook", failed).await;
    })
    .await;
}

/// A deleted pod's preStop hook runs to its end before the guest is stopped; the pod is not Ready meanwhile.
#[tokio::test]
async fn a_pre_stop_hook_comes_before_the_end() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let endpoint = Endpoint::start(Answer::Silence).await;
        let main = hooked("main", json!({ "preStop": http(&endpoint, "/drain") })).await;
        let sidecars = json!([endpoint.sidecar().await]);
        pods.create("drains", json!({ "initContainers": sidecars, "containers": [main] })).await;
        pods.until("drains", "Ready", |pod| is(pod, "Ready")).await;
        pods.api().delete("drains", &DeleteParams::default()).await.unwrap();
        endpoint.until_asked("/drain", 1).await;
        let pod = pods.api().get("drains").await.unwrap();
        assert!(pod.metadata.deletion_timestamp.is_some() && running(&pod), "{:?}", pod.status);
        let table =
            suite().await.cluster.kubectl(&["--namespace", ns, "get", "pod", "drains"]).await.unwrap();
        assert!(table.contains("Terminating"), "{table}");
        endpoint.answer(Answer::Http(200));
        pods.gone("drains").await;
        assert_eq!(endpoint.count("/drain"), 1);
    })
    .await;
}

/// A hook runs in the container as it was started, and asks for nothing again: a pod whose ConfigMap and Secret are gone
/// before it is, as `helm uninstall` may do it, is drained like any other.
#[tokio::test]
async fn a_pre_stop_hook_does_without_the_config_that_its_container_was_started_with() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        create_config_map(&client, ns, "settings", json!({ "MODE": "careful" })).await;
        create_secret(&client, ns, "token", json!({ "TOKEN": "hunter2" })).await;
        // What a hook writes there is told when its container has ended.
        let drain = json!({ "exec": { "command": ["actor", "write", "/dev/termination-log", "drained"] } });
        let mut main = hooked("main", json!({ "preStop": drain })).await;
        main["envFrom"] = json!([{ "configMapRef": { "name": "settings" } }]);
        let token = json!({ "secretKeyRef": { "name": "token", "key": "TOKEN" } });
        main["env"] = json!([{ "name": "TOKEN", "valueFrom": token }]);
        let spec = json!({
            "runtimeClassName": "wasm",
            "nodeSelector": { "kubernetes.io/hostname": NODE },
            "containers": [main],
        });
        // The finalizer keeps it, so that its last status can be read.
        let metadata = json!({ "name": "uninstalled", "finalizers": ["kubewasm.test/reader"] });
        let pod = serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap();
        pods.api().create(&PostParams::default(), &pod).await.unwrap();
        pods.until("uninstalled", "Ready", |pod| is(pod, "Ready")).await;

        let options = DeleteParams::default();
        Api::<ConfigMap>::namespaced(client.clone(), ns).delete("settings", &options).await.unwrap();
        Api::<Secret>::namespaced(client.clone(), ns).delete("token", &options).await.unwrap();
        // The node knows that they are gone.
        pods.create("late", spec).await;
        pods.waiting("late", &["CreateContainerConfigError"]).await;

        pods.api().delete("uninstalled", &options).await.unwrap();
        let pod = pods.until("uninstalled", "its end", |pod| terminated(pod).is_some()).await;
        let end = terminated(&pod).unwrap();
        assert_eq!((end.exit_code, end.message.as_deref()), (143, Some("drained")));
        let release = json!({ "metadata": { "finalizers": null } });
        pods.api().patch("uninstalled", &PatchParams::default(), &Patch::Merge(release)).await.unwrap();
        pods.gone("uninstalled").await;
    })
    .await;
}

/// A preStop hook that fails is told about, and stops nothing from ending.
#[tokio::test]
async fn a_failed_pre_stop_hook_holds_up_nothing() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let hook = json!({ "preStop": { "exec": { "command": ["actor", "exit", "1"] } } });
        pods.create("clumsy", json!({ "containers": [hooked("main", hook).await] })).await;
        pods.until("clumsy", "Ready", |pod| is(pod, "Ready")).await;
        pods.api().delete("clumsy", &DeleteParams::default()).await.unwrap();
        pods.gone("clumsy").await;
        pods.event("clumsy", "a failed hook", |event| says(event, "FailedPreStopHook", "PreStopHook failed"))
            .await;
    })
    .await;
}

/// A preStop hook that does not end is cut off when the pod's grace is over.
#[tokio::test]
async fn a_pre_stop_hook_has_the_pods_grace() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let main = hooked("main", json!({ "preStop": { "sleep": { "seconds": 20 } } })).await;
        pods.create("lazy", json!({ "containers": [main], "terminationGracePeriodSeconds": 20 })).await;
        pods.until("lazy", "Ready", |pod| is(pod, "Ready")).await;
        let start = Instant::now();
        // A later request may leave less than the first.
        pods.api().delete("lazy", &DeleteParams::default()).await.unwrap();
        pods.api().delete("lazy", &DeleteParams::default().grace_period(2)).await.unwrap();
        pods.gone("lazy").await;
        assert!(start.elapsed() < Duration::from_secs(15), "it took {:?}", start.elapsed());
    })
    .await;
}

/// A container that ends by itself runs no preStop hook.
#[tokio::test]
async fn no_pre_stop_hook_at_an_end_of_its_own() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let endpoint = Endpoint::start(Answer::Http(200)).await;
        let mut main = hooked("main", json!({ "preStop": http(&endpoint, "/drain") })).await;
        main["args"] = json!(["say", "done"]);
        let sidecars = json!([endpoint.sidecar().await]);
        pods.create("brief", json!({ "initContainers": sidecars, "containers": [main] })).await;
        pods.phase("brief", "Succeeded").await;
        pods.api().delete("brief", &DeleteParams::default()).await.unwrap();
        pods.gone("brief").await;
        assert_eq!(endpoint.asked(), []);
    })
    .await;
}
