//! Probes of every kind, and what comes of their results.

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kubewasm_tests::ports;
use serde_json::{Value, json};

use crate::{
    access,
    endpoint::{Answer, Endpoint, sockets},
    impatient,
    pods::{Pods, container, is, phase, restarts, running},
    status::{self, says},
    suite::{suite, with_temp_ns},
};

/// A pod whose guest sleeps, with the probes given.
async fn probed(probes: Value) -> Value {
    let mut container =
        json!({ "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"] });
    container.as_object_mut().unwrap().extend(probes.as_object().unwrap().clone());
    json!({ "containers": [container] })
}

/// The same with a guest that listens for an endpoint.
async fn listening(endpoint: &Endpoint, probes: Value) -> Value {
    let mut spec = probed(probes).await;
    endpoint.listen_in(&mut spec["containers"][0]).await;
    spec
}

/// A probe that is run every second, and of which one result is enough.
fn every_second(handler: &Value) -> Value {
    let mut probe = json!({ "periodSeconds": 1, "failureThreshold": 1 });
    probe.as_object_mut().unwrap().extend(handler.as_object().unwrap().clone());
    probe
}

/// A probe for `path` at `endpoint`.
fn http(endpoint: &Endpoint, path: &str) -> Value {
    every_second(&json!({ "httpGet": { "path": path, "port": endpoint.port() } }))
}

/// A pod is Ready as long as its HTTP probe gets a good answer. A bad one and none at all are told apart in
/// Events, and neither restarts the container.
#[tokio::test]
async fn readiness_follows_an_http_probe() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let endpoint = Endpoint::start(Answer::Http(200)).await;
        let probe = every_second(&json!({ "httpGet": { "path": "/ready", "port": "web" } }));
        let mut spec = listening(&endpoint, json!({ "readinessProbe": probe })).await;
        spec["restartPolicy"] = json!("Always");
        pods.create("web", spec).await;
        pods.until("web", "Ready", |pod| is(pod, "Ready")).await;
        assert!(endpoint.asked().iter().all(|asked| asked.agent.starts_with("kube-probe/")));
        for (bad, why) in [
            (Answer::Http(500), "HTTP probe failed with statuscode: 500"),
            (Answer::Silence, "context deadline exceeded"),
        ] {
            endpoint.answer(bad);
            let pod = pods.until("web", "unready", |pod| !is(pod, "Ready")).await;
            let (_, reason, message) = status::condition(&pod, "Ready");
            assert_eq!((reason, message), ("ContainersNotReady", "containers with unready status: [main]"));
            let why = |event: &_| {
                says(event, "Unhealthy", "Readiness probe failed: ") && says(event, "Unhealthy", why)
            };
            pods.event("web", "a failed probe", why).await;
            endpoint.answer(Answer::Http(204));
            pods.until("web", "Ready again", |pod| is(pod, "Ready")).await;
        }
        assert_eq!(restarts(&pods.api().get("web").await.unwrap()), 0);
    })
    .await;
}

/// Monitoring can tell the pods apart whose probes fail, and how long those take that succeed; it forgets those that
/// are gone.
#[tokio::test]
async fn results_of_probes_are_counted() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        for (name, code) in [("ill", "1"), ("well", "0")] {
            let probe = every_second(&json!({ "exec": { "command": ["actor", "exit", code] } }));
            pods.create(name, probed(json!({ "readinessProbe": probe })).await).await;
        }
        pods.event("ill", "a failed probe", |event| says(event, "Unhealthy", "Readiness probe failed")).await;
        pods.until("well", "Ready", |pod| is(pod, "Ready")).await;
        let counted = |metrics: &str| {
            let begins = [
                "prober_probe_total{probe_type=\"Readiness\",result=\"failed\"",
                "prober_probe_total{probe_type=\"Readiness\",result=\"successful\"",
                "prober_probe_duration_seconds_bucket{le=\"10.0\",probe_type=\"Readiness\"",
            ];
            let of_ours = |line: &&str| line.contains(&format!("namespace=\"{ns}\""));
            let lines: Vec<_> = metrics.lines().filter(of_ours).collect();
            begins.map(|begin| lines.iter().any(|line| line.starts_with(begin)))
        };
        assert_eq!(counted(&access::get_allowed("/metrics/probes").await), [true; 3]);
        for name in ["ill", "well"] {
            pods.api().delete(name, &DeleteParams::default()).await.unwrap();
            pods.gone(name).await;
        }
        assert_eq!(counted(&access::get_allowed("/metrics/probes").await), [false; 3]);
    })
    .await;
}

/// A TCP probe wants a port to be open, nothing more.
#[tokio::test]
async fn readiness_follows_a_tcp_probe() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let endpoint = Endpoint::start(Answer::Silence).await;
        let probe = every_second(&json!({ "tcpSocket": { "port": endpoint.port() } }));
        pods.create("port", listening(&endpoint, json!({ "readinessProbe": probe })).await).await;
        pods.until("port", "Ready", |pod| is(pod, "Ready")).await;
        endpoint.close().await;
        pods.until("port", "unready", |pod| !is(pod, "Ready")).await;
        let refused = |event: &_| says(event, "Unhealthy", "connect: connection refused");
        pods.event("port", "a refused connection", refused).await;
    })
    .await;
}

/// A port that takes no more connections is one that does not answer in time.
#[tokio::test]
async fn a_tcp_probe_has_a_time_limit() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let port = ports::free().unwrap();
        // The kernel lets two connections wait to be accepted there, and the guest accepts none.
        let probe = every_second(&json!({ "tcpSocket": { "port": port } }));
        let mut spec = probed(json!({
            "ports": [{ "containerPort": port, "hostPort": port }],
            "readinessProbe": probe,
        }))
        .await;
        spec["containers"][0]["image"] = json!(sockets().await);
        spec["containers"][0]["args"] = json!(["tcp-hold", format!("0.0.0.0:{port}")]);
        pods.create("full", spec).await;
        let late = |event: &_| {
            says(event, "Unhealthy", "Readiness probe failed: dial tcp ")
                && says(event, "Unhealthy", ": i/o timeout")
        };
        pods.event("full", "a timeout", late).await;
        pods.until("full", "unready", |pod| running(pod) && !is(pod, "Ready")).await;
    })
    .await;
}

/// A redirect that leads nowhere is a success, and worth a warning.
#[tokio::test]
async fn a_probe_that_is_sent_elsewhere_warns() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let endpoint = Endpoint::start(Answer::Http(302)).await;
        let probe = json!({ "readinessProbe": http(&endpoint, "/ready") });
        pods.create("moved", listening(&endpoint, probe).await).await;
        pods.until("moved", "Ready", |pod| is(pod, "Ready")).await;
        let warning = "Readiness probe warning: Probe terminated redirects, Response body: ";
        pods.event("moved", "the redirect", |event| says(event, "ProbeWarning", warning)).await;
    })
    .await;
}

/// A gRPC probe asks the health service, and takes SERVING alone for an answer.
#[tokio::test]
async fn readiness_follows_a_grpc_probe() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let endpoint = Endpoint::start(Answer::Health(1)).await;
        let probe = every_second(&json!({ "grpc": { "port": endpoint.port() } }));
        pods.create("rpc", listening(&endpoint, json!({ "readinessProbe": probe })).await).await;
        pods.until("rpc", "Ready", |pod| is(pod, "Ready")).await;
        endpoint.answer(Answer::Health(2));
        pods.until("rpc", "unready", |pod| !is(pod, "Ready")).await;
        let why = "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")";
        pods.event("rpc", "what was answered", |event| says(event, "Unhealthy", why)).await;
        endpoint.answer(Answer::Health(1));
        pods.until("rpc", "Ready again", |pod| is(pod, "Ready")).await;
        endpoint.answer(Answer::Silence);
        pods.until("rpc", "unready for want of an answer", |pod| !is(pod, "Ready")).await;
        let why = "Readiness probe failed: timeout: health rpc did not complete within 1s";
        pods.event("rpc", "the timeout", |event| says(event, "Unhealthy", why)).await;
    })
    .await;
}

/// An exec probe runs the container's module anew, with the container's environment; its exit code decides,
/// what it prints is told, and it has a time limit.
#[tokio::test]
async fn readiness_follows_an_exec_probe() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let cases = [
            ("well", json!(["actor", "say", "fine"])),
            ("ill", json!(["actor", "env", "exit", "1"])),
            ("late", json!(["actor", "sleep", "60"])),
        ];
        for (name, command) in &cases {
            let probe = every_second(&json!({ "exec": { "command": command } }));
            let colour = json!([{ "name": "COLOUR", "value": "blue" }]);
            pods.create(name, probed(json!({ "env": colour, "readinessProbe": probe })).await).await;
        }
        pods.until("well", "Ready", |pod| is(pod, "Ready")).await;
        let printed = |event: &_| {
            says(event, "Unhealthy", "Readiness probe failed: ") && says(event, "Unhealthy", "COLOUR=blue")
        };
        pods.event("ill", "the environment", printed).await;
        pods.event("late", "a timeout", |event| says(event, "Unhealthy", "command timed out")).await;
        for name in ["ill", "late"] {
            let pod = pods.api().get(name).await.unwrap();
            assert!(running(&pod) && !is(&pod, "Ready"), "{:?}", pod.status);
        }
    })
    .await;
}

/// A liveness probe that fails restarts its container, each time that it does; the Events say why, and the
/// end of the run before is kept.
#[tokio::test]
async fn a_failing_liveness_probe_restarts() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let probe = every_second(&json!({ "exec": { "command": ["actor", "say", "dead", "exit", "1"] } }));
        let mut spec = probed(json!({ "livenessProbe": probe })).await;
        spec["restartPolicy"] = json!("Always");
        spec["nodeSelector"] = json!({ "kubernetes.io/hostname": impatient::node().await });
        pods.create("ill", spec).await;
        for count in 1..=3 {
            let pod = pods.until("ill", &format!("restart {count}"), |pod| restarts(pod) >= count).await;
            let last = status::last_end(&pod, "main").unwrap();
            assert_eq!((last.exit_code, last.reason.as_deref()), (143, Some("Error")));
        }
        pods.event("ill", "a failed probe", |event| says(event, "Unhealthy", "Liveness probe failed: dead"))
            .await;
        let killing = "Container main failed liveness probe, will be restarted";
        pods.event("ill", "the restart", |event| says(event, "Killing", killing)).await;
    })
    .await;
}

/// A container that its liveness probe restarts again and again is slowed down like one that ends by itself: the
/// first restart is at once, each one after that later than the one before.
#[tokio::test]
async fn restarts_by_liveness_are_slowed_down() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let probe = every_second(&json!({ "exec": { "command": ["actor", "exit", "1"] } }));
        let mut spec = probed(json!({ "livenessProbe": probe })).await;
        spec["restartPolicy"] = json!("Always");
        pods.create("ill", spec).await;
        for (count, delay) in [(1, "10s"), (2, "20s")] {
            let backing_off = |pod: &Pod| {
                restarts(pod) == count && status::waiting_reason(pod, "main") == "CrashLoopBackOff"
            };
            let pod = pods.until("ill", &format!("back-off {count}"), backing_off).await;
            let message = status::waiting(&pod, "main").unwrap().message.clone().unwrap_or_default();
            assert!(message.starts_with(&format!("back-off {delay} restarting")), "{message}");
            assert_eq!(status::last_end(&pod, "main").unwrap().exit_code, 143);
        }
    })
    .await;
}

/// A container that a probe restarts is stopped like any other, preStop hook and all; one that is well again
/// after that is left alone.
#[tokio::test]
async fn a_restart_can_help() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let (live, drain) =
            (Endpoint::start(Answer::Http(200)).await, Endpoint::start(Answer::Silence).await);
        let drain_hook = json!({ "httpGet": { "path": "/drain", "port": drain.port() } });
        let mut spec = probed(json!({
            "livenessProbe": http(&live, "/live"),
            "lifecycle": { "preStop": drain_hook },
        }))
        .await;
        spec["restartPolicy"] = json!("Always");
        spec["initContainers"] = json!([live.sidecar().await, drain.sidecar().await]);
        pods.create("helped", spec).await;
        live.until_asked("/live", 1).await;
        live.answer(Answer::Http(500));
        drain.until_asked("/drain", 1).await;
        live.answer(Answer::Http(200));
        drain.answer(Answer::Http(200));
        pods.until("helped", "Ready again", |pod| restarts(pod) == 1 && is(pod, "Ready")).await;
        let asked = live.count("/live");
        live.until_asked("/live", asked + 3).await;
        let pod = pods.api().get("helped").await.unwrap();
        assert!(restarts(&pod) == 1 && is(&pod, "Ready"), "{:?}", pod.status);
    })
    .await;
}

/// Where nothing is ever restarted, a failed liveness probe ends the pod.
#[tokio::test]
async fn a_failing_liveness_probe_ends_a_pod_that_is_never_restarted() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let probe = every_second(&json!({ "exec": { "command": ["actor", "exit", "1"] } }));
        pods.create("ill", probed(json!({ "livenessProbe": probe })).await).await;
        let pod = pods.phase("ill", "Failed").await;
        assert_eq!((restarts(&pod), status::end(&pod, "main").unwrap().exit_code), (0, 143));
    })
    .await;
}

/// Until its startup probe has succeeded, a container is neither started nor ready, and its other probes are
/// not run; after that the startup probe is not run any more.
#[tokio::test]
async fn a_startup_probe_holds_back_the_others() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let (starting, serving) =
            (Endpoint::start(Answer::Http(503)).await, Endpoint::start(Answer::Http(200)).await);
        let mut startup = http(&starting, "/startup");
        startup["failureThreshold"] = json!(600);
        let probes = json!({
            "startupProbe": startup,
            "readinessProbe": http(&serving, "/ready"),
            "livenessProbe": http(&serving, "/live"),
        });
        let mut spec = probed(probes).await;
        spec["initContainers"] = json!([starting.sidecar().await, serving.sidecar().await]);
        pods.create("slow", spec).await;
        starting.until_asked("/startup", 3).await;
        let pod = pods.api().get("slow").await.unwrap();
        let main = container(&pod).unwrap();
        assert!(running(&pod) && !main.ready && main.started == Some(false), "{main:?}");
        assert_eq!((phase(&pod), serving.asked()), ("Running", vec![]));
        starting.answer(Answer::Http(200));
        let pod = pods.until("slow", "Ready", |pod| is(pod, "Ready")).await;
        assert_eq!(container(&pod).unwrap().started, Some(true));
        let asked = starting.asked().len();
        serving.until_asked("/live", 2).await;
        serving.until_asked("/ready", 2).await;
        assert_eq!(starting.asked().len(), asked);
    })
    .await;
}

/// A container that never starts up is restarted, and its Events name the startup probe.
#[tokio::test]
async fn a_failing_startup_probe_restarts() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let probe = every_second(&json!({ "exec": { "command": ["actor", "exit", "1"] } }));
        let mut spec = probed(json!({ "startupProbe": probe })).await;
        spec["restartPolicy"] = json!("OnFailure");
        pods.create("never-up", spec).await;
        pods.until("never-up", "a restart", |pod| restarts(pod) >= 1).await;
        pods.event("never-up", "the probe", |event| says(event, "Unhealthy", "Startup probe failed")).await;
        let killing = "Container main failed startup probe, will be restarted";
        pods.event("never-up", "the restart", |event| says(event, "Killing", killing)).await;
    })
    .await;
}

/// A node asks nobody but the pod: a probe of another host is not carried out, and an Event says so.
#[tokio::test]
async fn a_probe_of_another_host_is_refused() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let probe = every_second(&json!({ "tcpSocket": { "host": "127.0.0.1", "port": 22 } }));
        pods.create("nosy", probed(json!({ "readinessProbe": probe })).await).await;
        let why = |event: &_| says(event, "Unhealthy", "host \"127.0.0.1\" is not this pod");
        pods.event("nosy", "the refusal", why).await;
        assert!(!is(&pods.api().get("nosy").await.unwrap(), "Ready"));
    })
    .await;
}
