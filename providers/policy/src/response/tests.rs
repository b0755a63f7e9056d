use serde_json::json;

use super::*;

fn done(stdout: &Value) -> Ended {
    Ended::Done { stdout: stdout.to_string().into_bytes() }
}

fn wire(response: &AdmissionResponse) -> Value {
    serde_json::to_value(response).unwrap()
}

fn patched(object: &Value, response: &AdmissionResponse) -> Value {
    let patch = BASE64_STANDARD.decode(response.patch.as_ref().unwrap()).unwrap();
    let mut object = object.clone();
    json_patch::patch(&mut object, &serde_json::from_slice::<json_patch::Patch>(&patch).unwrap()).unwrap();
    object
}

#[test]
fn an_accepted_request_is_let_through() {
    let response = AdmissionResponse::of("u1", &done(&json!({ "accepted": true })), Some(&json!({})));
    assert_eq!(
        wire(&response),
        json!({ "uid": "u1", "allowed": true, "auditAnnotations": null, "warnings": null })
    );
}

#[test]
fn a_refusal_has_the_policys_message_and_code() {
    let said = json!({ "accepted": false, "message": "forbidden annotation a", "code": 400 });
    let response = AdmissionResponse::of("u1", &done(&said), None);
    let expected = json!({
        "uid": "u1", "allowed": false, "status": { "message": "forbidden annotation a", "code": 400 },
        "auditAnnotations": null, "warnings": null,
    });
    assert_eq!(wire(&response), expected);
    let silent = AdmissionResponse::of("u1", &done(&json!({ "accepted": false })), None);
    assert_eq!(silent.status, None);
}

#[test]
fn a_policy_that_fails_refuses() {
    let response = AdmissionResponse::of("u1", &Ended::Failed { reason: "boom".into() }, None);
    assert_eq!(response, AdmissionResponse::reject("u1", "boom", 500));
}

#[test]
fn a_mutation_is_a_patch_of_what_changed() {
    let object = json!({ "metadata": { "name": "a", "labels": { "x": "1" } }, "spec": { "containers": [{ "name": "c" }] } });
    let mut mutated = object.clone();
    mutated["metadata"]["labels"]["a/b~c"] = json!("2");
    mutated["spec"]["containers"] = json!([{ "name": "c", "image": "i" }, { "name": "d" }]);
    let said = json!({
        "accepted": true, "mutated_object": mutated, "warnings": ["w"], "audit_annotations": { "k": "v" },
    });
    let response = AdmissionResponse::of("u1", &done(&said), Some(&object));
    assert_eq!(response.patch_type, Some(PatchType::JsonPatch));
    assert_eq!(patched(&object, &response), mutated);
    let value = wire(&response);
    assert_eq!((&value["patchType"], &value["warnings"]), (&json!("JSONPatch"), &json!(["w"])));
    assert_eq!(value["auditAnnotations"], json!({ "k": "v" }));
}

#[test]
fn a_mutation_that_changes_nothing_is_none() {
    let object = json!({ "metadata": { "name": "a" } });
    let said = json!({ "accepted": true, "mutated_object": object });
    let response = AdmissionResponse::of("u1", &done(&said), Some(&object));
    assert_eq!(response, AdmissionResponse::allow("u1"));
}

#[test]
fn what_is_deleted_cannot_be_mutated() {
    let said = json!({ "accepted": true, "mutated_object": {} });
    for object in [None, Some(Value::Null)] {
        let response = AdmissionResponse::of("u1", &done(&said), object.as_ref());
        assert!(!response.allowed);
        let status = response.status.unwrap();
        assert_eq!(status.code, Some(500));
        assert!(status.message.unwrap().contains("DELETE has a null object and cannot be mutated"));
    }
}

#[test]
fn a_message_of_ones_own_has_the_policys_as_its_cause() {
    let refused = AdmissionResponse::reject("u1", "too big", 400).with_message("ask the platform team");
    let expected = json!({
        "message": "ask the platform team", "code": 400, "details": { "causes": [{ "message": "too big" }] },
    });
    assert_eq!(wire(&refused)["status"], expected);
    let silent = AdmissionResponse { allowed: false, ..AdmissionResponse::default() }.with_message("no");
    assert_eq!(wire(&silent)["status"], json!({ "message": "no" }));
    assert_eq!(AdmissionResponse::allow("u1").with_message("no"), AdmissionResponse::allow("u1"));
}

#[test]
fn a_patch_is_refused_where_none_is_allowed() {
    let said = json!({ "accepted": true, "mutated_object": { "a": 1 } });
    let response = AdmissionResponse::of("u1", &done(&said), Some(&json!({})));
    let refused = response.without_mutation("labels");
    assert!(!refused.allowed && refused.patch.is_none());
    assert!(refused.status.unwrap().message.unwrap().contains("policy labels"));
    assert_eq!(AdmissionResponse::allow("u1").without_mutation("labels"), AdmissionResponse::allow("u1"));
}

#[test]
fn who_only_watches_lets_all_through() {
    for said in [
        json!({ "accepted": false, "message": "no" }),
        json!({ "accepted": true, "mutated_object": { "a": 1 } }),
    ] {
        let response = AdmissionResponse::of("u1", &done(&said), Some(&json!({})));
        assert_eq!(response.monitored(), AdmissionResponse::allow("u1"));
    }
}
