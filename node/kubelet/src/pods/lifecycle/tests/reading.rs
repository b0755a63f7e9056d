//! What is read of a pod, with the defaults that the API server would have filled in.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{
    super::spec::{ContainerKind, Probe, RestartPolicy, RestartRule, Spec},
    secs,
};

fn read(metadata: Value, spec: Value) -> Spec {
    let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    Spec::of(&pod)
}

#[test]
fn parts_and_policies_of_containers() {
    use ContainerKind::{Init, Regular, Sidecar};
    use RestartPolicy::{Always, Never, OnFailure};
    type Row<'a> = (Option<&'a str>, Option<&'a str>, bool, ContainerKind, RestartPolicy);
    let table: &[Row<'_>] = &[
        (None, None, false, Regular, Always),
        (Some("Always"), None, false, Regular, Always),
        (Some("OnFailure"), None, false, Regular, OnFailure),
        (Some("Never"), None, false, Regular, Never),
        (Some("Never"), Some("OnFailure"), false, Regular, OnFailure),
        (Some("Always"), Some("Never"), false, Regular, Never),
        // An init container that has succeeded is not run again, also where the pod says Always.
        (Some("Always"), None, true, Init, OnFailure),
        (Some("OnFailure"), None, true, Init, OnFailure),
        (Some("Never"), None, true, Init, Never),
        (Some("Never"), Some("OnFailure"), true, Init, OnFailure),
        (Some("Never"), Some("Always"), true, Sidecar, Always),
    ];
    for (pod_policy, own, init, kind, policy) in table {
        let container = json!({"name": "x", "restartPolicy": own});
        let list = if *init { "initContainers" } else { "containers" };
        let mut spec = json!({"restartPolicy": pod_policy, "containers": []});
        spec[list] = json!([container]);
        let spec = read(json!({}), spec);
        let seen = spec.container("x").unwrap();
        assert_eq!((seen.kind, seen.restart.policy), (*kind, *policy), "{pod_policy:?} {own:?} init: {init}");
    }
}

#[test]
fn grace_and_deletion() {
    let deleted = |grace: Option<i64>| json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace});
    let table = [
        (None, json!({}), 30, None),
        (Some(0), json!({}), 1, None),
        (Some(-5), json!({}), 1, None),
        (Some(7), json!({}), 7, None),
        (Some(7), deleted(Some(3)), 7, Some(3)),
        (Some(7), deleted(Some(60)), 7, Some(60)),
        (Some(7), deleted(Some(0)), 7, Some(1)),
        (Some(7), deleted(None), 7, Some(7)),
    ];
    for (grace, metadata, expected, deletion) in table {
        let spec = read(metadata.clone(), json!({"terminationGracePeriodSeconds": grace, "containers": []}));
        assert_eq!((spec.grace, spec.deletion), (secs(expected), deletion.map(secs)), "{grace:?} {metadata}");
    }
}

#[test]
fn probes_have_defaults() {
    let probe = |fields: Value| {
        let spec = read(json!({}), json!({"containers": [{"name": "c", "livenessProbe": fields}]}));
        spec.containers[0].liveness.unwrap()
    };
    let default = Probe {
        initial_delay: secs(0),
        period: secs(10),
        timeout: secs(1),
        success_threshold: 1,
        failure_threshold: 3,
        grace: None,
    };
    assert_eq!(probe(json!({})), default);
    let zeros =
        json!({"periodSeconds": 0, "timeoutSeconds": 0, "successThreshold": 0, "failureThreshold": 0});
    assert_eq!(probe(zeros), default);
    let all = json!({
        "initialDelaySeconds": 4, "periodSeconds": 5, "timeoutSeconds": 2, "successThreshold": 1,
        "failureThreshold": 7, "terminationGracePeriodSeconds": 9,
    });
    let expected = Probe {
        initial_delay: secs(4),
        period: secs(5),
        timeout: secs(2),
        failure_threshold: 7,
        grace: Some(secs(9)),
        ..default
    };
    assert_eq!(probe(all), expected);
}

#[test]
fn the_rest() {
    let rules = json!([
        {"action": "Restart", "exitCodes": {"operator": "In", "values": [1, 2]}},
        {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}},
        {"action": "Restart"},
    ]);
    let hook = json!({"exec": {"command": ["x"]}});
    let container = json!({
        "name": "c", "image": "img", "restartPolicy": "Never", "restartPolicyRules": rules,
        "lifecycle": {"preStop": hook},
    });
    let source = |source: &str| json!({"annotations": {"kubernetes.io/config.source": source}});
    let spec = read(source("file"), json!({"activeDeadlineSeconds": 60, "containers": [container]}));
    assert_eq!((spec.active_deadline, spec.is_static), (Some(secs(60)), true));
    let container = &spec.containers[0];
    assert_eq!((container.image.as_str(), container.post_start, container.pre_stop), ("img", false, true));
    let rule = |values: &[i32], within, all| RestartRule { values: values.to_vec(), within, all };
    assert_eq!(container.restart.rules, [rule(&[1, 2], true, false), rule(&[0], false, true)]);
    assert!(!read(source("api"), json!({"containers": []})).is_static);
    assert!(!read(json!({}), json!({"containers": []})).is_static);
}
