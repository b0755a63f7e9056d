use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{
    testing::{Bench, CONTAINER_ID, FakeRuntime, PLENTY, SECOND, Server, closed_port, exit},
    *,
};
use crate::{
    pods::{
        lifecycle::{Note, ProbeKind},
        reason::EventReason,
    },
    runtime::{ExecEnd, ExecError, ExposedPort, HostPortProtocol},
};

fn probe_of(value: serde_json::Value) -> Probe {
    serde_json::from_value(value).unwrap()
}

fn handler(value: serde_json::Value) -> LifecycleHandler {
    serde_json::from_value(value).unwrap()
}

fn broken() -> Result<ExecEnd, ExecError> {
    Err(ExecError::Failed("no worker".into()))
}

#[tokio::test]
async fn what_cannot_be_carried_out_is_tried_three_times_and_a_failure_once() {
    let exec = probe_of(serde_json::json!({"exec": {"command": ["check"]}}));
    let error = ProbeOutcome::Error("no worker".to_owned());
    let table = [
        (vec![broken(), broken(), exit(0, "")], ProbeOutcome::success(), 3),
        (vec![broken(), broken(), broken(), exit(0, "")], error, 3),
        (vec![exit(1, "bad"), exit(0, "")], ProbeOutcome::Failure("bad".to_owned()), 1),
    ];
    for (answers, expected, calls) in table {
        let bench = Bench { runtime: FakeRuntime::answering(answers), ..Bench::new() };
        assert_eq!(probe(bench.target(), &exec, SECOND).await, expected);
        assert_eq!(bench.runtime.calls.lock().unwrap().len(), calls);
    }
}

#[tokio::test]
async fn every_kind_of_handler_is_carried_out() {
    let bench = Bench::new();
    let port = closed_port().await.port();
    let table = [
        (serde_json::json!({"httpGet": {"port": port, "path": "/"}}), "Get \"http://127.0.0.1:"),
        (serde_json::json!({"tcpSocket": {"port": port}}), "dial tcp 127.0.0.1:"),
        (serde_json::json!({"grpc": {"port": port}}), "error: failed to connect service at \"127.0.0.1:"),
    ];
    for (value, expected) in table {
        let outcome = probe(bench.target(), &probe_of(value), PLENTY).await;
        assert!(matches!(&outcome, ProbeOutcome::Failure(text) if text.starts_with(expected)), "{outcome:?}");
    }
    let table = [
        (serde_json::json!({}), "missing probe handler for p_ns(u):c"),
        (
            serde_json::json!({"tcpSocket": {"port": 80, "host": "192.0.2.1"}}),
            "host \"192.0.2.1\" is not this pod",
        ),
        (serde_json::json!({"grpc": {"port": 0}}), "invalid port number: 0"),
    ];
    for (value, expected) in table {
        let outcome = probe(bench.target(), &probe_of(value), PLENTY).await;
        assert!(matches!(&outcome, ProbeOutcome::Error(text) if text.starts_with(expected)), "{outcome:?}");
    }
}

#[tokio::test]
async fn hooks_that_wait_and_hooks_that_cannot_be_run() {
    let bench = Bench::new();
    let table = [
        (serde_json::json!({"sleep": {"seconds": 0}}), Ok(None)),
        (serde_json::json!({"sleep": {"seconds": -1}}), Ok(None)),
    ];
    for (value, expected) in table {
        assert_eq!(hook(bench.target(), &handler(value), PLENTY).await, expected);
    }
    for (value, why) in [
        (serde_json::json!({}), "names none"),
        (serde_json::json!({"tcpSocket": {"port": 1}}), "is a tcpSocket, which no hook can be"),
    ] {
        let refused = hook(bench.target(), &handler(value), PLENTY).await;
        let named = |text: &str| text.starts_with("Cannot run handler: ") && text.contains(why);
        assert!(matches!(&refused, Err(HookError::Failed(text)) if named(text)), "{refused:?}");
    }
    // Cut long before its end.
    let long = handler(serde_json::json!({"sleep": {"seconds": 3600}}));
    let within = Duration::from_millis(20);
    let cut = hook(bench.target(), &long, within).await.unwrap_err();
    assert_eq!(cut, HookError::CutOff(within));
    assert_eq!(cut.to_string(), "the lifecycle hook did not end within 20ms");
}

/// An attempt of a container of a pod without a cluster, and the events about it.
struct Case {
    attempt: Attempt,
    notes: Arc<Mutex<Vec<Note>>>,
    runtime: Arc<FakeRuntime>,
}

impl Case {
    fn new(
        container: serde_json::Value,
        answers: impl IntoIterator<Item = Result<ExecEnd, ExecError>>,
    ) -> Self {
        let container: Container = serde_json::from_value(container).unwrap();
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [container]},
        }))
        .unwrap();
        let runtime = Arc::new(FakeRuntime::answering(answers));
        let notes = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&notes);
        let attempt = Attempt {
            runtime: Arc::clone(&runtime) as Arc<dyn Runtime>,
            addresses: vec!["127.0.0.1".parse().unwrap()],
            exposed: None,
            pod: Arc::new(pod),
            name: PodName { name: "p".to_owned(), namespace: "ns".to_owned(), uid: "u".to_owned() },
            container,
            id: CONTAINER_ID.to_owned(),
            number: 0,
            tell: Box::new(move |note| told.lock().unwrap().push(note)),
        };
        Self { attempt, notes, runtime }
    }

    /// The events so far: reason and message, all of them warnings about the container.
    fn warnings(&self) -> Vec<(EventReason, String)> {
        let notes = std::mem::take(&mut *self.notes.lock().unwrap());
        assert!(notes.iter().all(|note| note.warning && note.container.as_deref() == Some("c")), "{notes:?}");
        notes.into_iter().map(|note| (note.reason, note.message)).collect()
    }
}

#[tokio::test]
async fn probes_are_told_of_when_they_do_not_succeed() {
    let exec = serde_json::json!({"exec": {"command": ["check"]}});
    let container = serde_json::json!({
        "name": "c", "readinessProbe": exec, "livenessProbe": exec, "startupProbe": exec,
    });
    let answers = [exit(0, ""), exit(1, "cold"), exit(2, "stuck"), broken(), broken(), broken()];
    let case = Case::new(container, answers);
    assert_eq!(case.attempt.probe(ProbeKind::Readiness).await, Some(true));
    assert_eq!(case.warnings(), []);
    assert_eq!(case.attempt.probe(ProbeKind::Startup).await, Some(false));
    assert_eq!(case.warnings(), [(EventReason::Unhealthy, "Startup probe failed: cold".to_owned())]);
    assert_eq!(case.attempt.probe(ProbeKind::Readiness).await, Some(false));
    assert_eq!(case.warnings(), [(EventReason::Unhealthy, "Readiness probe failed: stuck".to_owned())]);
    assert_eq!(case.attempt.probe(ProbeKind::Liveness).await, None);
    let message = "Liveness probe errored and resulted in unknown state: no worker".to_owned();
    assert_eq!(case.warnings(), [(EventReason::Unhealthy, message)]);
    // In the container as it was started, of which nothing is asked again.
    let calls = case.runtime.calls.lock().unwrap();
    assert!(calls.iter().all(|(id, argv, _)| id == CONTAINER_ID && *argv == ["check"]), "{calls:?}");
}

#[tokio::test]
async fn a_probe_that_the_pod_has_no_more_says_nothing() {
    let case = Case::new(serde_json::json!({"name": "c"}), []);
    assert_eq!(case.attempt.probe(ProbeKind::Liveness).await, None);
    assert_eq!(case.attempt.post_start().await, Ok(()));
    case.attempt.pre_stop(SECOND).await;
    assert_eq!(case.warnings(), []);
}

#[tokio::test]
async fn hooks_that_fail_are_told_of_without_their_output() {
    let exec = serde_json::json!({"exec": {"command": ["warm"]}});
    let container = serde_json::json!({"name": "c", "lifecycle": {"postStart": exec, "preStop": exec}});
    let case = Case::new(container, [exit(0, ""), exit(1, "s3cret"), exit(0, ""), exit(1, "s3cret")]);
    assert_eq!(case.attempt.post_start().await, Ok(()));
    assert_eq!(case.warnings(), []);
    let trouble = case.attempt.post_start().await.unwrap_err();
    assert_eq!(trouble.reason.as_str(), "PostStartHookError");
    assert!(
        trouble.message.ends_with("command 'warm' exited with 1, message: \"s3cret\""),
        "{}",
        trouble.message
    );
    assert_eq!(case.warnings(), [(EventReason::FailedPostStartHook, "PostStartHook failed".to_owned())]);
    case.attempt.pre_stop(PLENTY).await;
    assert_eq!(case.warnings(), []);
    case.attempt.pre_stop(PLENTY).await;
    assert_eq!(case.warnings(), [(EventReason::FailedPreStopHook, "PreStopHook failed".to_owned())]);
    // One that takes too long is left alone: there is no more answer than there is time.
    case.attempt.pre_stop(Duration::from_millis(20)).await;
    assert_eq!(case.warnings(), []);
}

fn exposed(container_port: u16, host_port: u16) -> Option<Vec<ExposedPort>> {
    let protocol = HostPortProtocol::Tcp;
    Some(vec![ExposedPort { protocol, container_port, host_ip: None, host_port }])
}

/// Whoever else listens: the node does not know that it is the pod, and asks nobody.
#[tokio::test]
async fn what_another_process_answers_is_not_the_pods() {
    let other = Server::start(|_| async {}).await;
    let port = other.address.port();
    let runtime =
        || FakeRuntime { listens_at: Some("192.0.2.1:1".parse().unwrap()), ..FakeRuntime::default() };
    let not_exposed = Bench { exposed: exposed(8080, port), ..Bench::new() };
    let not_listened = Bench { exposed: exposed(port, port), runtime: runtime(), ..Bench::new() };
    for (bench, expected) in [
        (&not_exposed, format!("port {port} of the pod is not exposed")),
        (&not_listened, format!("dial tcp 127.0.0.1:{port}: connect: connection refused (no container")),
    ] {
        for value in [
            serde_json::json!({"httpGet": {"port": port}}),
            serde_json::json!({"tcpSocket": {"port": port}}),
            serde_json::json!({"grpc": {"port": port}}),
        ] {
            let outcome = probe(bench.target(), &probe_of(value), PLENTY).await;
            let ProbeOutcome::Failure(text) = &outcome else { panic!("{outcome:?}") };
            assert!(text.starts_with(&expected), "{text}");
        }
        let handler = handler(serde_json::json!({"httpGet": {"port": port}}));
        let Err(HookError::Failed(text)) = hook(bench.target(), &handler, PLENTY).await else { panic!() };
        assert!(text.contains(&expected), "{text}");
    }
    assert_eq!(other.connections(), 0);
    let own = FakeRuntime { listens_at: Some(other.address), ..FakeRuntime::default() };
    let listened = Bench { exposed: exposed(8080, port), runtime: own, ..Bench::new() };
    let tcp = probe_of(serde_json::json!({"tcpSocket": {"port": 8080}}));
    assert_eq!(probe(listened.target(), &tcp, PLENTY).await, ProbeOutcome::success());
}
