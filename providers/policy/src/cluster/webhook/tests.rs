use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::*;
use crate::cluster::identity::PolicyKind;

fn policy(kind: PolicyKind, spec: Value) -> ClusterPolicy {
    let object: DynamicObject = serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "team", "uid": "u", "generation": 3 }, "spec": spec,
    }))
    .unwrap();
    ClusterPolicy::read(kind, &object)
}

fn spec(more: Value) -> Value {
    let mut spec = json!({
        "module": "r.io/p", "mutating": false,
        "rules": [{ "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE"] }],
    });
    let Value::Object(more) = more else { panic!("no object") };
    spec.as_object_mut().unwrap().extend(more);
    spec
}

fn target() -> WebhookTarget {
    let address = ServerAddress::Service { namespace: "kubewasm-system".into(), name: "policies".into() };
    WebhookTarget { server: "default".into(), address, namespace: "kubewasm-system".into() }
}

fn manifest(kind: PolicyKind, more: Value) -> Value {
    let policy = policy(kind, spec(more));
    WebhookConfiguration::new(&policy, policy.asked.as_ref().unwrap(), &target(), "CA").manifest()
}

const CLUSTER: PolicyKind = PolicyKind::ClusterAdmissionPolicy;

#[test]
fn a_policy_has_one_webhook_with_every_field() {
    let expected = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {
            "name": "kw.cap.p",
            "labels": { "app.kubernetes.io/managed-by": "kubewasm-policy", "kubewasm.dev/policy-server": "default" },
            "annotations": {
                "kubewasm.dev/policy": "ClusterAdmissionPolicy p",
                "kubewasm.dev/policy-uid": "u",
                "kubewasm.dev/policy-generation": "3",
            },
        },
        "webhooks": [{
            "name": "kw.cap.p.kubewarden.admission",
            "clientConfig": {
                "caBundle": "Q0E=",
                "service": { "namespace": "kubewasm-system", "name": "policies", "path": "/validate/kw.cap.p", "port": 443 },
            },
            "rules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"], "operations": ["CREATE"], "scope": "*",
            }],
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "namespaceSelector": {
                "matchExpressions": [
                    { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kubewasm-system"] },
                ],
            },
            "objectSelector": {},
            "sideEffects": "None",
            "timeoutSeconds": 10,
            "admissionReviewVersions": ["v1"],
        }],
    });
    assert_eq!(manifest(CLUSTER, json!({})), expected);
}

#[test]
fn what_the_policy_says_is_in_it() {
    let webhook = &manifest(
        CLUSTER,
        json!({
            "failurePolicy": "Ignore", "matchPolicy": "Exact", "sideEffects": "NoneOnDryRun", "timeoutSeconds": 5,
            "matchConditions": [{ "name": "a", "expression": "true" }],
            "objectSelector": { "matchLabels": { "a": "b" } },
        }),
    )["webhooks"][0];
    for (field, expected) in [
        ("failurePolicy", json!("Ignore")),
        ("matchPolicy", json!("Exact")),
        ("sideEffects", json!("NoneOnDryRun")),
        ("timeoutSeconds", json!(5)),
        ("matchConditions", json!([{ "name": "a", "expression": "true" }])),
        ("objectSelector", json!({ "matchLabels": { "a": "b" } })),
    ] {
        assert_eq!(webhook[field], expected, "{field}");
    }
}

#[test]
fn the_servers_own_namespace_is_left_out_beside_what_the_policy_says() {
    let selector = |more| manifest(CLUSTER, more)["webhooks"][0]["namespaceSelector"].clone();
    let own = json!({ "key": NAMESPACE_NAME, "operator": "NotIn", "values": ["kubewasm-system"] });
    let asked =
        json!({ "matchLabels": { "a": "b" }, "matchExpressions": [{ "key": "c", "operator": "Exists" }] });
    let mut expected = asked.clone();
    expected["matchExpressions"].as_array_mut().unwrap().push(own);
    assert_eq!(selector(json!({ "namespaceSelector": asked })), expected);
    let inside = json!({ "namespaceSelector": asked, "allowInsideAdmissionControllerNamespace": true });
    assert_eq!(selector(inside), asked);
}

/// Not even by asking for it does a policy of a namespace get to see what is in another one, or in none.
#[test]
fn a_policy_of_a_namespace_is_for_that_alone() {
    for kind in [PolicyKind::AdmissionPolicy, PolicyKind::AdmissionPolicyGroup] {
        let more = json!({
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "resources": ["*"], "operations": ["*"], "scope": "Cluster",
            }],
            "namespaceSelector": {}, "allowInsideAdmissionControllerNamespace": true,
            "policies": { "a": { "module": "r.io/p" } }, "expression": "a()", "message": "no",
        });
        let webhook = &manifest(kind, more)["webhooks"][0];
        assert_eq!(webhook["rules"][0]["scope"], json!("Namespaced"));
        let only = json!({ "key": NAMESPACE_NAME, "operator": "In", "values": ["team"] });
        assert_eq!(webhook["namespaceSelector"], json!({ "matchExpressions": [only] }));
    }
}

#[test]
fn a_policy_that_changes_objects_has_a_webhook_that_does() {
    let manifest = manifest(CLUSTER, json!({ "mutating": true }));
    assert_eq!(manifest["kind"], json!("MutatingWebhookConfiguration"));
    assert_eq!(manifest["webhooks"][0]["reinvocationPolicy"], json!("Never"));
}

fn written(manifest: Value, change: impl FnOnce(&mut Value)) -> DynamicObject {
    let mut manifest = manifest;
    change(&mut manifest);
    serde_json::from_value(manifest).unwrap()
}

#[test]
fn what_was_written_is_what_is_read() {
    for (kind, mutating) in [(WebhookKind::Validating, false), (WebhookKind::Mutating, true)] {
        let policy = policy(CLUSTER, spec(json!({ "mutating": mutating })));
        let ours = WebhookConfiguration::new(&policy, policy.asked.as_ref().unwrap(), &target(), "CA");
        let read = WebhookConfiguration::read(kind, &written(ours.manifest(), |_| {})).unwrap();
        assert_eq!(read, ours);
        assert_eq!((read.version(), read.bundle()), (Some(policy.version.clone()), "CA"));
        assert_eq!(read.with_bundle("CB").unwrap().bundle(), "CB");
    }
}

#[test]
fn what_others_have_changed_is_noticed_and_what_is_not_ours_is_not_read() {
    let policy = policy(CLUSTER, spec(json!({ "mutating": true })));
    let ours = WebhookConfiguration::new(&policy, policy.asked.as_ref().unwrap(), &target(), "CA");
    let read = |change: &dyn Fn(&mut Value)| {
        WebhookConfiguration::read(WebhookKind::Mutating, &written(ours.manifest(), change))
    };
    let changes: [&dyn Fn(&mut Value); 5] = [
        &|object: &mut Value| object["webhooks"][0]["failurePolicy"] = json!("Ignore"),
        &|object: &mut Value| object["webhooks"][0]["reinvocationPolicy"] = json!("IfNeeded"),
        &|object: &mut Value| object["webhooks"] = json!([]),
        &|object: &mut Value| object["metadata"]["annotations"] = json!({}),
        &|object: &mut Value| object["metadata"]["labels"][SERVER_LABEL] = json!("other"),
    ];
    for change in changes {
        assert_ne!(read(change).unwrap(), ours);
    }
    let strange = read(&|object: &mut Value| object["webhooks"] = json!([])).unwrap();
    assert_eq!(strange.with_bundle("CB"), None);
    assert!(read(&|object: &mut Value| object["metadata"]["labels"] = json!({})).is_none());
}
