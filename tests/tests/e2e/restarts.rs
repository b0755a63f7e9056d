//! When a container is started again, and how long that takes.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kubewasm_tests::{guests, registry::image::Content};
use serde_json::{Value, json};

use crate::{
    exit_code::ExitCode,
    impatient,
    pods::{Pods, is, phase, restarts},
    status::{self, says},
    suite::{suite, with_temp_ns},
};

async fn actor(name: &str, args: &[&str]) -> Value {
    json!({ "name": name, "image": suite().await.actor.tagged, "args": args })
}

/// The first restart is at once, the second after ten seconds, the third after twenty; under `Always` that
/// goes for a container that succeeds, too.
#[tokio::test]
async fn back_off_doubles() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec =
            json!({ "restartPolicy": "Always", "containers": [actor("main", &["say", "again"]).await] });
        pods.create("repeats", spec).await;
        for (count, delay) in [(1, "10s"), (2, "20s")] {
            let backing_off = |pod: &Pod| {
                restarts(pod) == count && status::waiting_reason(pod, "main") == "CrashLoopBackOff"
            };
            let pod = pods.until("repeats", &format!("back-off {count}"), backing_off).await;
            let uid = pod.metadata.uid.as_deref().unwrap();
            let message = status::waiting(&pod, "main").unwrap().message.as_deref().unwrap();
            let expected =
                format!("back-off {delay} restarting failed container=main pod=repeats_{ns}({uid})");
            assert_eq!(message, expected);
            // It runs between two waits, which is the phase of both.
            assert_eq!(phase(&pod), "Running");
            assert_eq!(status::last_end(&pod, "main").unwrap().reason.as_deref(), Some("Completed"));
        }
    })
    .await;
}

/// The node's configuration bounds the wait.
#[tokio::test]
async fn back_off_has_a_configured_maximum() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "restartPolicy": "OnFailure",
            "nodeSelector": { "kubernetes.io/hostname": impatient::node().await },
            "containers": [actor("main", &["exit", "7"]).await],
        });
        pods.create("hasty", spec).await;
        let pod = pods.until("hasty", "five restarts", |pod| restarts(pod) >= 5).await;
        assert_eq!(status::last_end(&pod, "main").unwrap().exit_code, 7);
        let waiting = pods.waiting("hasty", &["CrashLoopBackOff"]).await;
        assert!(waiting.message.unwrap_or_default().starts_with("back-off 1s restarting"));
    })
    .await;
}

/// Under `OnFailure` a container that succeeded stays as it is beside one that is restarted.
#[tokio::test]
async fn only_what_failed_is_restarted() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "restartPolicy": "OnFailure",
            "containers": [actor("done", &["say", "done"]).await, actor("fails", &["exit", "1"]).await],
        });
        pods.create("mixed", spec).await;
        let pod = pods
            .until("mixed", "a back-off", |pod| status::waiting_reason(pod, "fails") == "CrashLoopBackOff")
            .await;
        assert_eq!((phase(&pod), status::restarts(&pod, "done")), ("Running", 0));
        assert_eq!(status::end(&pod, "done").unwrap().reason.as_deref(), Some("Completed"));
        assert_eq!(pods.api().logs("mixed", &of("done")).await.unwrap(), "done\n");
    })
    .await;
}

/// A rule about an exit code goes before the policy; where no rule speaks, the policy does.
#[tokio::test]
async fn a_rule_restarts_on_an_exit_code() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let code = ExitCode::new(&client, ns, 42).await;
        let mut main = actor("main", &[]).await;
        ExitCode::apply(&mut main);
        main["restartPolicy"] = json!("Never");
        main["restartPolicyRules"] = rule("Restart", 42);
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": impatient::node().await },
            "containers": [main],
        });
        pods.create("ruled", spec).await;
        pods.until("ruled", "two restarts", |pod| restarts(pod) >= 2).await;
        code.set(3).await;
        let pod = pods.phase("ruled", "Failed").await;
        assert_eq!(status::end(&pod, "main").unwrap().exit_code, 3);
        assert_eq!(status::last_end(&pod, "main").unwrap().exit_code, 42);
    })
    .await;
}

/// A rule can start the whole pod anew, in place: init containers run again, other containers are stopped and
/// started again, and the pod is the same one.
#[tokio::test]
async fn a_rule_restarts_the_whole_pod() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let code = ExitCode::new(&client, ns, 9).await;
        let mut main = actor("main", &[]).await;
        ExitCode::apply(&mut main);
        main["restartPolicy"] = json!("Never");
        main["restartPolicyRules"] = rule("RestartAllContainers", 9);
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": impatient::node().await },
            "initContainers": [actor("setup", &["sleep", "1"]).await],
            "containers": [main, actor("beside", &["sleep", "600"]).await],
        });
        pods.create("anew", spec).await;
        let again =
            |pod: &Pod| ["setup", "main", "beside"].iter().all(|name| status::restarts(pod, name) >= 1);
        let waits = |pod: &Pod| status::waiting_reason(pod, "beside") == "RestartingAllContainers";
        pods.until("anew", "a container that waits for its turn in another round", waits).await;
        let pod = pods.until("anew", "a second round of all", again).await;
        let stopped = status::last_end(&pod, "beside").unwrap().reason.as_deref();
        assert_eq!(stopped, Some("RestartingAllContainers"));
        code.set(0).await;
        // Both are started at a time: one can have ended before the other runs.
        let main_is_done = |pod: &Pod| {
            status::end(pod, "main").is_some_and(|end| end.exit_code == 0) && status::runs(pod, "beside")
        };
        let later = pods.until("anew", "the end of main", main_is_done).await;
        assert_eq!(pod.metadata.uid, later.metadata.uid);
        assert_eq!(phase(&later), "Running", "{:?}", later.status);
        assert_eq!(status::condition(&later, "AllContainersRestarting").0, "False");
    })
    .await;
}

/// While a pod is on its way to be started again in place, it says so; a container that takes no notice of its end
/// makes that last here.
#[tokio::test]
async fn a_pod_on_its_way_to_another_round_says_so() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut main = actor("main", &["exit", "9"]).await;
        main["restartPolicy"] = json!("Never");
        main["restartPolicyRules"] = rule("RestartAllContainers", 9);
        let mut beside = actor("beside", &["sleep", "600"]).await;
        beside["env"] = json!([{ "name": "KUBEWASM_STOP_NOTICE", "value": "stdin" }]);
        pods.create("anew", json!({ "containers": [beside, main] })).await;
        let is_on_its_way = |pod: &Pod| is(pod, "AllContainersRestarting");
        let pod = pods.until("anew", "the way to another round", is_on_its_way).await;
        let (_, reason, message) = status::condition(&pod, "AllContainersRestarting");
        assert_eq!(reason, "RestartAllContainersStarted");
        assert_eq!(message, "container exited with restart policy rule");
        let again = |pod: &Pod| status::restarts(pod, "beside") == 1 && status::runs(pod, "beside");
        let pod = pods.until("anew", "another round", again).await;
        let last = status::last_end(&pod, "beside").unwrap();
        assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("RestartingAllContainers")));
    })
    .await;
}

/// A container whose image is changed is restarted with the new one, whatever its policy.
#[tokio::test]
async fn a_new_image_restarts_its_container() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let other = Content::Artifact(guests::guest("actor.c").await.unwrap());
        let other = suite().await.registry.push("changed:v2", &other).await.unwrap();
        let spec =
            json!({ "containers": [actor("main", &["sleep", "600"]).await, actor("beside", &["sleep", "600"]).await] });
        pods.create("changes", spec).await;
        pods.until("changes", "Ready", |pod| is(pod, "Ready")).await;
        let patch = json!({ "spec": { "containers": [{ "name": "main", "image": other.tagged }] } });
        pods.api().patch("changes", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
        let new = |pod: &Pod| status::of(pod, "main").is_some_and(|main| main.image_id == other.by_digest);
        let pod = pods.until("changes", "the new image to run", |pod| new(pod) && is(pod, "Ready")).await;
        assert_eq!((status::restarts(&pod, "main"), status::restarts(&pod, "beside")), (1, 0));
        let killing = "Container main definition changed, will be restarted";
        pods.event("changes", "the restart", |event| says(event, "Killing", killing)).await;
    })
    .await;
}

/// One rule about one exit code.
fn rule(action: &str, code: i32) -> Value {
    json!([{ "action": action, "exitCodes": { "operator": "In", "values": [code] } }])
}

fn of(container: &str) -> kube::api::LogParams {
    kube::api::LogParams { container: Some(container.to_owned()), ..Default::default() }
}
