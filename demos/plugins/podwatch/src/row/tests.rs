use serde_json::{Value, json};

use super::*;

/// Ready, status and restarts of a pod with this spec and status.
fn told(mut pod: Value) -> (String, String, String) {
    pod["metadata"]["name"] = json!("p");
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let [_, _, ready, status, restarts, ..] = PodRow::of(&pod).cells("2026-11-30T08:00:00Z".parse().unwrap());
    (ready, status, restarts)
}

fn check(pod: Value, expected: (&str, &str, &str)) {
    let (ready, status, restarts) = told(pod);
    assert_eq!((ready.as_str(), status.as_str(), restarts.as_str()), expected);
}

fn container(name: &str, restarts: i32, ready: bool, state: Value) -> Value {
    json!({"name": name, "image": "", "imageID": "", "restartCount": restarts, "ready": ready, "state": state})
}

fn two_containers() -> Value {
    json!({"containers": [{"name": "a"}, {"name": "b"}]})
}

#[test]
fn a_pod_without_containers_yet_has_its_phase_or_a_reason() {
    check(json!({"spec": two_containers(), "status": {"phase": "Pending"}}), ("0/2", "Pending", "0"));
    check(
        json!({"spec": two_containers(), "status": {"phase": "Failed", "reason": "Evicted"}}),
        ("0/2", "Evicted", "0"),
    );
    let gated = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]);
    check(
        json!({"spec": two_containers(), "status": {"phase": "Pending", "conditions": gated}}),
        ("0/2", "SchedulingGated", "0"),
    );
    check(json!({}), ("0/0", "", "0"));
}

#[test]
fn containers_are_counted_and_the_first_of_those_that_do_not_run_names_the_state() {
    let running = json!({"running": {}});
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let mut crashed = container("b", 3, false, waiting);
    crashed["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": "2026-11-30T07:59:30Z"}});
    let statuses = json!([container("a", 1, true, running), crashed]);
    check(
        json!({"spec": two_containers(), "status": {"phase": "Running", "containerStatuses": statuses}}),
        ("1/2", "CrashLoopBackOff", "4 (30s ago)"),
    );
}

#[test]
fn how_containers_ended_is_the_state() {
    let ended = |terminated: Value| container("a", 0, false, json!({"terminated": terminated}));
    let status = |statuses: Value| json!({"spec": two_containers(), "status": {"phase": "Failed", "containerStatuses": statuses}});
    check(status(json!([ended(json!({"exitCode": 3}))])), ("0/2", "ExitCode:3", "0"));
    check(status(json!([ended(json!({"exitCode": 137, "signal": 9}))])), ("0/2", "Signal:9", "0"));
    check(status(json!([ended(json!({"exitCode": 1, "reason": "OOMKilled"}))])), ("0/2", "OOMKilled", "0"));
    let done = json!({"exitCode": 0, "reason": "Completed"});
    check(
        status(json!([ended(done.clone()), ended(json!({"exitCode": 2, "reason": "Error"}))])),
        ("0/2", "Error", "0"),
    );
    let beside = json!([ended(done), container("b", 0, true, json!({"running": {}}))]);
    let mut pod = status(beside);
    check(pod.clone(), ("1/2", "NotReady", "0"));
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    check(pod, ("1/2", "Running", "0"));
}

#[test]
fn init_containers_come_before_the_others() {
    let spec = json!({"containers": [{"name": "a"}],
        "initContainers": [{"name": "i1"}, {"name": "side", "restartPolicy": "Always"}, {"name": "i2"}]});
    let pod = |statuses: Value| json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": statuses}});
    let done = container("i1", 2, false, json!({"terminated": {"exitCode": 0}}));
    let mut side = container("side", 1, true, json!({"running": {}}));
    side["started"] = json!(true);
    let next = |state: Value| container("i2", 0, false, state);
    check(pod(json!([done, side, next(json!({"running": {}}))])), ("1/2", "Init:2/3", "3"));
    check(
        pod(json!([done, side, next(json!({"waiting": {"reason": "PodInitializing"}}))])),
        ("1/2", "Init:2/3", "3"),
    );
    check(
        pod(json!([done, side, next(json!({"waiting": {"reason": "ErrImagePull"}}))])),
        ("1/2", "Init:ErrImagePull", "3"),
    );
    check(
        pod(json!([done, side, next(json!({"terminated": {"exitCode": 4}}))])),
        ("1/2", "Init:ExitCode:4", "3"),
    );

    let i2 = next(json!({"terminated": {"exitCode": 0}}));
    let mut all = pod(json!([done, side, i2]));
    all["status"]["phase"] = json!("Running");
    all["status"]["containerStatuses"] = json!([container("a", 4, true, json!({"running": {}}))]);
    check(all, ("2/2", "Running", "5"));
}

#[test]
fn a_pod_that_is_deleted_terminates_until_it_has_ended() {
    let pod = |phase: &str, reason: &str| {
        json!({"metadata": {"deletionTimestamp": "2026-11-30T08:00:00Z"}, "spec": two_containers(),
            "status": {"phase": phase, "reason": reason}})
    };
    check(pod("Running", ""), ("0/2", "Terminating", "0"));
    check(pod("Succeeded", ""), ("0/2", "Succeeded", "0"));
    check(pod("Running", "NodeLost"), ("0/2", "Unknown", "0"));
}
