//! Sidecars: init containers that run beside the others.

use jiff::SignedDuration;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Api, api::PostParams};
use kubewasm_tests::wait;
use serde_json::{Value, json};

use crate::{
    endpoint::{Answer, Endpoint},
    pods::{Pods, is, phase},
    status,
    suite::{NODE, SOON, suite, with_temp_ns},
};

async fn sidecar(name: &str, args: &[&str]) -> Value {
    json!({ "name": name, "image": suite().await.actor.tagged, "args": args, "restartPolicy": "Always" })
}

async fn regular(args: &[&str]) -> Value {
    json!({ "name": "main", "image": suite().await.actor.tagged, "args": args })
}

/// A Job completes although a sidecar of its pod would run for ever; how the sidecar ends does not matter.
#[tokio::test]
async fn a_sidecar_does_not_hold_up_a_job() {
    with_temp_ns(async |client, ns| {
        let jobs: Api<Job> = Api::namespaced(client.clone(), ns);
        let job = json!({
            "metadata": { "name": "batch" },
            "spec": { "template": {
                "metadata": { "labels": { "app": "batch" } },
                "spec": {
                    "restartPolicy": "Never",
                    "runtimeClassName": "wasm",
                    "nodeSelector": { "kubernetes.io/hostname": NODE },
                    "initContainers": [sidecar("proxy", &["sleep", "600"]).await],
                    "containers": [regular(&["sleep", "1", "say", "done"]).await],
                },
            } },
        });
        jobs.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
        wait::object(jobs, "batch", "completion", SOON, |job| {
            job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.completion_time.is_some())
        })
        .await
        .unwrap();
        let pods: Api<Pod> = Api::namespaced(client, ns);
        let pod = pods.list(&Default::default()).await.unwrap().items.remove(0);
        assert_eq!((phase(&pod), status::restarts(&pod, "proxy")), ("Succeeded", 0));
        assert_eq!(status::end(&pod, "proxy").unwrap().exit_code, 143);
    })
    .await;
}

/// A sidecar that ends is started again, well or not and whatever the pod's policy is, while the others go on.
#[tokio::test]
async fn a_sidecar_is_always_restarted() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        for (name, code) in [("well", "0"), ("ill", "1")] {
            let spec = json!({
                "initContainers": [sidecar("proxy", &["exit", code]).await],
                "containers": [regular(&["sleep", "600"]).await],
            });
            pods.create(name, spec).await;
        }
        for (name, code) in [("well", 0), ("ill", 1)] {
            let pod = pods
                .until(name, "a back-off", |pod| status::waiting_reason(pod, "proxy") == "CrashLoopBackOff")
                .await;
            let last = status::last_end(&pod, "proxy").unwrap();
            assert_eq!((last.exit_code, status::restarts(&pod, "proxy")), (code, 1));
            let pod = pods.until(name, "main to run", |pod| status::runs(pod, "main")).await;
            assert_eq!((phase(&pod), status::restarts(&pod, "main")), ("Running", 0));
            let (_, reason, message) = status::condition(&pod, "ContainersReady");
            assert_eq!((reason, message), ("ContainersNotReady", "containers with unready status: [proxy]"));
        }
    })
    .await;
}

/// A sidecar holds back what comes after it until its startup probe has succeeded, and is never waited for
/// again: the pod is initialised then.
#[tokio::test]
async fn what_comes_after_a_sidecar_waits_for_its_start() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let endpoint = Endpoint::start(Answer::Http(503)).await;
        let mut proxy = sidecar("proxy", &[]).await;
        endpoint.listen_in(&mut proxy).await;
        let up = json!({ "path": "/up", "port": endpoint.port() });
        proxy["startupProbe"] = json!({ "httpGet": up, "periodSeconds": 1, "failureThreshold": 600 });
        let mut setup = regular(&["say", "set up"]).await;
        setup["name"] = json!("setup");
        let spec =
            json!({ "initContainers": [proxy, setup], "containers": [regular(&["sleep", "600"]).await] });
        pods.create("ordered", spec).await;
        endpoint.until_asked("/up", 3).await;
        let pod = pods.api().get("ordered").await.unwrap();
        assert!(status::runs(&pod, "proxy") && phase(&pod) == "Pending", "{:?}", pod.status);
        for waits in ["setup", "main"] {
            assert_eq!(status::waiting_reason(&pod, waits), "PodInitializing", "{waits}");
        }
        let (_, reason, message) = status::condition(&pod, "Initialized");
        assert_eq!(
            (reason, message),
            ("ContainersNotInitialized", "containers with incomplete status: [proxy setup]")
        );
        endpoint.answer(Answer::Http(200));
        let pod = pods.until("ordered", "Ready", |pod| is(pod, "Ready")).await;
        assert!(status::runs(&pod, "proxy") && status::end(&pod, "setup").is_some(), "{:?}", pod.status);
    })
    .await;
}

/// At the end of the pod its sidecars end after the others and in reverse, each when the one before has.
#[tokio::test]
async fn sidecars_end_last_and_in_reverse() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let first = sidecar("first", &["sleep", "600"]).await;
        let mut second = sidecar("second", &["sleep", "600"]).await;
        second["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": 3 } } });
        let spec =
            json!({ "initContainers": [first, second], "containers": [regular(&["sleep", "1", "say", "done"]).await] });
        pods.create("ordered", spec).await;
        let pod = pods.phase("ordered", "Succeeded").await;
        let end = |name| {
            let end = status::end(&pod, name).unwrap_or_else(|| panic!("{name} has not ended: {:?}", pod.status));
            end.finished_at.as_ref().unwrap().0
        };
        // The times are whole seconds.
        let held_up = end("second").duration_since(end("main"));
        assert!(held_up >= SignedDuration::from_secs(2), "{held_up:?}");
        assert!(end("first") >= end("second"), "{:?}", pod.status);
    })
    .await;
}
