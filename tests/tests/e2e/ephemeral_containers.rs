//! Containers that are added to a pod that runs: `kubectl debug`.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{DeleteParams, LogParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    pods::{Pods, is, phase, restarts, running},
    status::says,
    suite::{suite, with_temp_ns},
};

/// It is run once, with the arguments and environment that it was given, and is read by its log and its status.
/// The pod and its containers go on as if nothing were.
#[tokio::test]
async fn an_ephemeral_container_runs_once() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("debugged", &["sleep", "600"]).await;
        let before = pods.until("debugged", "Ready", |pod| is(pod, "Ready")).await;
        let image = format!("--image={}", suite().await.actor.tagged);
        let mut debug = vec!["--namespace", ns, "debug", "debugged", "--profile=baseline", &image];
        debug.extend(["--container=look", "--env=COLOUR=blue", "--arguments-only"]);
        debug.extend(["--", "say", "seen", "env", "exit", "3"]);
        suite().await.cluster.kubectl(&debug).await.unwrap();
        let ended = |pod: &Pod| end(pod, "look").is_some();
        let pod = pods.until("debugged", "the end of the ephemeral container", ended).await;
        assert_eq!(end(&pod, "look"), Some((3, "Error")));
        assert_eq!((phase(&pod), is(&pod, "Ready"), restarts(&pod)), ("Running", true, 0));
        assert_eq!(running(&before), running(&pod));
        let of_look = LogParams { container: Some("look".to_owned()), ..LogParams::default() };
        let log = pods.api().logs("debugged", &of_look).await.unwrap();
        assert!(log.starts_with("seen\n") && log.contains("COLOUR=blue\n"), "{log:?}");
        pods.event("debugged", "the start", |event| {
            let path = event.involved_object.field_path.as_deref();
            says(event, "Started", "Container started") && path == Some("spec.ephemeralContainers{look}")
        })
        .await;
        // Another one shows that the first has not been started again.
        add(&pods, "debugged", "again", json!({ "args": ["say", "again"] })).await;
        let ended = |pod: &Pod| end(pod, "again").is_some();
        let pod = pods.until("debugged", "the end of the other one", ended).await;
        assert_eq!((end(&pod, "again"), end(&pod, "look")), (Some((0, "Completed")), Some((3, "Error"))));
        assert_eq!(pods.api().logs("debugged", &of_look).await.unwrap(), log);
    })
    .await;
}

/// A pod that does not get past its init containers can be looked into, and what still runs there ends with it.
#[tokio::test]
async fn an_ephemeral_container_waits_for_nobody() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let spec = json!({
            "initContainers": [{ "name": "stuck", "image": image, "args": ["sleep", "600"] }],
            "containers": [{ "name": "main", "image": image, "args": ["say", "never"] }],
        });
        pods.create("stuck", spec).await;
        pods.until("stuck", "a start", |pod| phase(pod) == "Pending").await;
        add(&pods, "stuck", "look", json!({ "args": ["sleep", "600"] })).await;
        let runs = |pod: &Pod| {
            of(pod, "look").and_then(|each| each.state.as_ref()).is_some_and(|s| s.running.is_some())
        };
        let pod = pods.until("stuck", "a running ephemeral container", runs).await;
        assert_eq!((phase(&pod), is(&pod, "Initialized")), ("Pending", false));
        pods.api().delete("stuck", &DeleteParams::default()).await.unwrap();
        pods.gone("stuck").await;
    })
    .await;
}

/// Adds an ephemeral container that runs the actor guest.
async fn add(pods: &Pods, pod: &str, name: &str, more: Value) {
    let mut container = json!({ "name": name, "image": suite().await.actor.tagged });
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let patch = Patch::Strategic(json!({ "spec": { "ephemeralContainers": [container] } }));
    pods.api().patch_ephemeral_containers(pod, &PatchParams::default(), &patch).await.unwrap();
}

fn of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    pod.status.as_ref()?.ephemeral_container_statuses.iter().flatten().find(|each| each.name == name)
}

/// Exit code and reason, once it has ended.
fn end<'a>(pod: &'a Pod, name: &str) -> Option<(i32, &'a str)> {
    let end = of(pod, name)?.state.as_ref()?.terminated.as_ref()?;
    Some((end.exit_code, end.reason.as_deref().unwrap_or_default()))
}
