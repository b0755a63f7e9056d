use std::collections::BTreeSet;

use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::{super::resource::PolicyMode, *};
use crate::{metadata::ContextAwareResource, spec::Mode};

fn object(spec: Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "policies.kubewarden.io/v1", "kind": "Any",
        "metadata": { "name": "p", "namespace": "team", "uid": "u", "generation": 3 },
        "spec": spec,
    }))
    .unwrap()
}

fn read(kind: PolicyKind, spec: Value) -> ClusterPolicy {
    ClusterPolicy::read(kind, &object(spec))
}

fn rules() -> Value {
    json!([{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"] }])
}

#[test]
fn a_policy_is_what_its_object_says() {
    let spec = json!({
        "policyServer": "edge", "mode": "monitor", "module": "registry://r.io/p:v1", "settings": { "a": 1 }, "rules": rules(),
        "mutating": true, "timeoutEvalSeconds": 4, "message": "no", "timeoutSeconds": 7,
        "contextAwareResources": [{ "apiVersion": "v1", "kind": "Namespace" }],
    });
    let policy = read(PolicyKind::ClusterAdmissionPolicy, spec);
    assert_eq!(policy.name.unique(), "kw.cap.p");
    assert_eq!(policy.version, PolicyVersion { uid: "u".into(), generation: 3 });
    assert_eq!((&*policy.server, policy.is_deleted, policy.has_finalizer()), ("edge", false, false));
    let asked = policy.asked.unwrap();
    assert!(asked.is_mutating());
    assert_eq!(asked.hook.timeout_seconds, 7);
    let Value::Object(settings) = json!({ "a": 1 }) else { unreachable!() };
    let context = ContextAwareResource { api_version: "v1".into(), kind: "Namespace".into() };
    let expected = PolicySpec {
        program: ProgramSpec {
            module: "registry://r.io/p:v1".into(),
            settings: settings.into(),
            context_aware_resources: BTreeSet::from([context]),
            timeout: Some(Duration::from_secs(4)),
        },
        mode: Mode::Monitor,
        allowed_to_mutate: true,
        message: Some("no".into()),
    };
    assert_eq!(asked.served, Spec::Policy(expected));
}

#[test]
fn what_may_be_missing_may_be_missing() {
    let policy = read(
        PolicyKind::AdmissionPolicy,
        json!({ "module": "r.io/p", "rules": rules(), "settings": null, "message": "" }),
    );
    assert_eq!((policy.name.unique(), &*policy.server), ("kw.ap.team.p".to_owned(), "default"));
    let asked = policy.asked.unwrap();
    assert_eq!((asked.hook.mode, asked.hook.timeout_seconds), (PolicyMode::Protect, 10));
    let Spec::Policy(served) = asked.served else { panic!("no policy") };
    assert_eq!((served.mode, served.allowed_to_mutate, served.message), (Mode::Protect, false, None));
    assert_eq!(served.program.settings, Settings::default());
}

#[test]
fn a_group_has_members() {
    let spec = json!({
        "rules": rules(), "expression": "a() || b()", "message": "neither",
        "policies": {
            "a": { "module": "r.io/a", "timeoutEvalSeconds": 2 },
            "b": { "module": "r.io/b", "settings": {} },
        },
    });
    let asked = read(PolicyKind::AdmissionPolicyGroup, spec).asked.unwrap();
    assert!(!asked.is_mutating());
    let Spec::Group(group) = asked.served else { panic!("no group") };
    assert_eq!((&*group.expression, &*group.message, group.mode), ("a() || b()", "neither", Mode::Protect));
    assert_eq!(group.policies["a"].timeout, Some(Duration::from_secs(2)));
    assert_eq!(group.policies.keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn what_cannot_be_understood_is_told_and_no_more() {
    let reason = |kind, spec| read(kind, spec).asked.unwrap_err();
    let cluster = PolicyKind::ClusterAdmissionPolicy;
    assert_eq!(reason(cluster, json!({ "rules": rules() })), "spec: missing field `module`");
    assert_eq!(reason(cluster, json!({ "module": "r.io/p" })), "spec: missing field `rules`");
    let settings = json!({ "module": "r.io/p", "rules": rules(), "settings": [1] });
    assert!(reason(cluster, settings).starts_with("spec: "), "settings are an object");
    let mode = json!({ "module": "r.io/p", "rules": rules(), "mode": "off" });
    assert!(reason(cluster, mode).contains("unknown variant `off`"));
    let nothing: DynamicObject = serde_json::from_value(json!({ "metadata": { "name": "p" } })).unwrap();
    assert!(ClusterPolicy::read(cluster, &nothing).asked.is_err());
}

/// Whoever may write policies of a namespace gets nothing of the server's by them.
#[test]
fn a_policy_of_a_namespace_reads_no_files_and_no_cluster() {
    let spec = |module: &str| json!({ "module": module, "rules": rules() });
    for module in ["file:///etc/p.wasm", "FILE:///etc/p.wasm", "/etc/p.wasm", "./p.wasm", " file:///p"] {
        let reason = read(PolicyKind::AdmissionPolicy, spec(module)).asked.unwrap_err();
        assert!(reason.contains("is a file of the policy server"), "{module}: {reason}");
    }
    assert!(read(PolicyKind::ClusterAdmissionPolicy, spec("file:///etc/p.wasm")).asked.is_ok());
    let group = json!({
        "rules": rules(), "expression": "a()", "message": "no", "policies": { "a": { "module": "file:///p.wasm" } },
    });
    let reason = read(PolicyKind::AdmissionPolicyGroup, group).asked.unwrap_err();
    assert!(reason.starts_with("policies.a.module: "), "{reason}");
    let context = json!({
        "module": "r.io/p", "rules": rules(), "contextAwareResources": [{ "apiVersion": "v1", "kind": "Secret" }],
    });
    assert!(read(PolicyKind::AdmissionPolicy, context).asked.is_err());
}

#[test]
fn who_is_being_deleted_and_waits_for_us_is_seen() {
    let mut object = object(json!({ "policyServer": "", "module": "r.io/p", "rules": rules() }));
    object.metadata.finalizers = Some(vec!["other".into(), FINALIZER.into()]);
    object.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    let policy = ClusterPolicy::read(PolicyKind::AdmissionPolicy, &object);
    assert_eq!((policy.is_deleted, policy.has_finalizer(), &*policy.server), (true, true, ""));
}
