//! Init containers that fail: what their pod says, and what becomes of it.

use serde_json::{Value, json};

use crate::{
    exit_code::ExitCode,
    impatient,
    pods::{Pods, is, phase},
    status::{self, says},
    suite::{suite, with_temp_ns},
};

/// Two init containers, of which the first does `args`, and a container.
async fn initialised(args: Value) -> Value {
    let image = &suite().await.actor.tagged;
    json!({
        "initContainers": [
            { "name": "first", "image": image, "args": args },
            { "name": "second", "image": image, "args": ["say", "second"] },
        ],
        "containers": [{ "name": "main", "image": image, "args": ["sleep", "600"] }],
    })
}

/// Under `Always` and `OnFailure` alike, a failed init container is started again, at once the first time and
/// after a back-off then; what comes after it waits, and the pod says for whom.
#[tokio::test]
async fn a_failing_init_container_is_tried_again() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let policies = [("always", "Always"), ("on-failure", "OnFailure")];
        for (name, policy) in policies {
            let mut spec = initialised(json!(["say", "no luck", "exit", "9"])).await;
            spec["restartPolicy"] = json!(policy);
            pods.create(name, spec).await;
        }
        for (name, _) in policies {
            let pod = pods
                .until(name, "a back-off", |pod| status::waiting_reason(pod, "first") == "CrashLoopBackOff")
                .await;
            let message = status::waiting(&pod, "first").unwrap().message.clone().unwrap_or_default();
            assert!(message.starts_with("back-off 10s restarting failed container=first pod="), "{message}");
            assert_eq!((phase(&pod), status::restarts(&pod, "first")), ("Pending", 1));
            assert_eq!(status::last_end(&pod, "first").unwrap().exit_code, 9);
            for waits in ["second", "main"] {
                assert_eq!(status::waiting_reason(&pod, waits), "PodInitializing", "{waits}");
                assert_eq!(status::of(&pod, waits).unwrap().container_id, None, "{waits}");
            }
            let (truth, reason, message) = status::condition(&pod, "Initialized");
            assert_eq!((truth, reason), ("False", "ContainersNotInitialized"));
            assert_eq!(message, "containers with incomplete status: [first second]");
            let backing_off = |event: &_| says(event, "BackOff", "restarting failed container first in pod");
            pods.event(name, "the back-off", backing_off).await;
            let column =
                suite().await.cluster.kubectl(&["--namespace", ns, "get", "pod", name]).await.unwrap();
            assert!(column.contains("Init:CrashLoopBackOff"), "{column}");
        }
    })
    .await;
}

/// An init container that succeeds in the end lets its pod go on. Its failures stay to be seen, and what it
/// did is not done again.
#[tokio::test]
async fn an_init_container_may_succeed_in_the_end() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let code = ExitCode::new(&client, ns, 9).await;
        let mut spec = initialised(json!([])).await;
        ExitCode::apply(&mut spec["initContainers"][0]);
        spec["restartPolicy"] = json!("OnFailure");
        spec["nodeSelector"] = json!({ "kubernetes.io/hostname": impatient::node().await });
        pods.create("stubborn", spec).await;
        pods.until("stubborn", "two restarts", |pod| status::restarts(pod, "first") >= 2).await;
        code.set(0).await;
        let pod = pods.until("stubborn", "Ready", |pod| is(pod, "Ready")).await;
        let end = status::end(&pod, "first").unwrap();
        assert_eq!((end.exit_code, end.reason.as_deref()), (0, Some("Completed")));
        assert_eq!(status::last_end(&pod, "first").unwrap().exit_code, 9);
        assert!(status::of(&pod, "first").unwrap().ready, "{:?}", pod.status);
        assert_eq!((status::restarts(&pod, "second"), status::restarts(&pod, "main")), (0, 0));
        assert_eq!(status::condition(&pod, "Initialized").0, "True");
    })
    .await;
}

/// Under `Never`, the first failure is the pod's: nothing after it is started, and the conditions say so.
#[tokio::test]
async fn a_failed_init_container_is_final_under_never() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.create("hopeless", initialised(json!(["exit", "9"])).await).await;
        let pod = pods.phase("hopeless", "Failed").await;
        assert_eq!((status::end(&pod, "first").unwrap().exit_code, status::restarts(&pod, "first")), (9, 0));
        for waits in ["second", "main"] {
            assert_eq!(status::waiting_reason(&pod, waits), "PodInitializing", "{waits}");
        }
        assert_eq!(status::condition(&pod, "Initialized").1, "ContainersNotInitialized");
        for condition in ["Ready", "ContainersReady"] {
            assert_eq!(status::condition(&pod, condition), ("False", "PodFailed", ""), "{condition}");
        }
        let column =
            suite().await.cluster.kubectl(&["--namespace", ns, "get", "pod", "hopeless"]).await.unwrap();
        assert!(column.contains("Init:Error"), "{column}");
    })
    .await;
}
