use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

/// A spec in which every field is.
fn whole() -> Value {
    let reference = json!({ "key": "k", "name": "n", "namespace": "ns" });
    let configuration =
        json!({ "value": "v", "valueFrom": { "configMapKeyRef": reference, "secretKeyRef": reference } });
    json!({
        "runtime": "v8", "vm_id": "vm", "root_id": "root", "filter_type": "network", "failure_policy": "FailOpen",
        "after_deletion": "NoOp",
        "image": {
            "protocol": "oci", "uri": "r.example/f:v1", "sha256": "0".repeat(64), "pull_policy": "Always",
            "pull_secret": "s", "ca_bundle": "-----BEGIN",
        },
        "plugin_configuration": configuration, "vm_configuration": configuration,
        "selector": {
            "node_ids": ["n"], "clusters": ["c"], "metadata": [{ "path": ["a", "b"], "value": "v" }],
        },
    })
}

fn schema() -> Value {
    let definition: Value = serde_yaml_ng::from_str(DEFINITION).unwrap();
    assert_eq!(definition["spec"]["group"], GROUP);
    assert_eq!(definition["spec"]["names"]["kind"], KIND);
    assert_eq!(definition["spec"]["names"]["plural"], api_resource().plural);
    let version = &definition["spec"]["versions"][0];
    assert_eq!(version["name"], VERSION);
    version["schema"]["openAPIV3Schema"]["properties"].clone()
}

/// Holds a value that has every field against the schema of it: no field is in one of them alone.
fn compare(path: &str, schema: &Value, value: &Value) {
    match value {
        Value::Object(fields) => {
            let known: BTreeSet<_> =
                schema["properties"].as_object().unwrap_or_else(|| panic!("{path}")).keys().collect();
            assert_eq!(known, fields.keys().collect(), "{path}");
            for (name, value) in fields {
                compare(&format!("{path}.{name}"), &schema["properties"][name], value);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| compare(path, &schema["items"], item)),
        Value::String(_) => assert_eq!(schema["type"], "string", "{path}"),
        Value::Number(_) => assert_eq!(schema["type"], "integer", "{path}"),
        other => panic!("{path}: {other}"),
    }
}

#[test]
fn the_definition_has_the_fields_that_the_types_have() {
    let spec: WasmExtensionSpec = serde_json::from_value(whole()).unwrap();
    assert_eq!(serde_json::to_value(&spec).unwrap(), whole(), "nothing is left out when it is read");
    compare("spec", &schema()["spec"], &whole());
    let condition = json!({
        "type": "Fetched", "status": "True", "reason": "r", "message": "m", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({
        "observedGeneration": 1, "resolvedDigest": "d", "sizeBytes": 1, "lastFetched": "2026-01-01T00:00:00Z",
        "version": "v", "abiVersion": "0.2.1", "subscribers": 3, "acks": 2, "nacks": 1, "conditions": [condition],
    });
    let read: WasmExtensionStatus = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), status);
    compare("status", &schema()["status"], &status);
}

#[test]
fn every_word_of_the_definition_is_known_and_its_defaults_are_ours() {
    let schema = schema();
    let spec = &schema["spec"]["properties"];
    let words = |schema: &Value| schema["enum"].as_array().unwrap().clone();
    for (name, field, pointer) in [
        ("runtime", &spec["runtime"], "/runtime"),
        ("filter_type", &spec["filter_type"], "/filter_type"),
        ("failure_policy", &spec["failure_policy"], "/failure_policy"),
        ("after_deletion", &spec["after_deletion"], "/after_deletion"),
        ("protocol", &spec["image"]["properties"]["protocol"], "/image/protocol"),
        ("pull_policy", &spec["image"]["properties"]["pull_policy"], "/image/pull_policy"),
    ] {
        for word in words(field) {
            let mut one = whole();
            *one.pointer_mut(pointer).unwrap() = word.clone();
            assert!(serde_json::from_value::<WasmExtensionSpec>(one).is_ok(), "{name}: {word}");
        }
    }
    let required =
        json!({ "runtime": "v8", "vm_id": "", "root_id": "", "image": { "protocol": "oci", "uri": "u" } });
    let read: WasmExtensionSpec = serde_json::from_value(required.clone()).unwrap();
    let read = serde_json::to_value(read).unwrap();
    for name in ["filter_type", "failure_policy", "after_deletion"] {
        assert_eq!(read[name], spec[name]["default"], "{name}");
    }
    assert_eq!(schema["spec"]["required"], json!(["image", "root_id", "runtime", "vm_id"]));
    for name in ["runtime", "vm_id", "root_id", "image"] {
        let mut less = required.clone();
        less.as_object_mut().unwrap().remove(name);
        assert!(serde_json::from_value::<WasmExtensionSpec>(less).is_err(), "{name}");
    }
}

#[test]
fn what_cannot_be_read_is_told_without_what_is_there() {
    let object = |spec: Value| -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "wasmxds.tetrate.io/v1alpha1", "kind": KIND, "spec": spec,
            "metadata": { "name": "a", "namespace": "team", "uid": "u", "generation": 3 },
            "status": {},
        }))
        .unwrap()
    };
    let read = WasmExtension::read(&object(whole())).unwrap();
    assert_eq!((read.name.as_str(), &*read.uid, read.generation), ("team/a", "u", 3));
    assert!(read.spec.is_ok());
    assert_eq!(read.status, Some(WasmExtensionStatus::default()));
    let mut less = whole();
    less.as_object_mut().unwrap().remove("image");
    assert_eq!(WasmExtension::read(&object(less)).unwrap().spec, Err("the spec has no image".to_owned()));
    let mut secret = whole();
    secret["plugin_configuration"] = json!("hunter2");
    let shown = format!("{:?}", WasmExtension::read(&object(secret)).unwrap());
    assert!(shown.contains("cannot be read") && !shown.contains("hunter2"), "{shown}");
    let mut value = whole();
    value["plugin_configuration"]["value"] = json!("hunter2");
    assert!(!format!("{:?}", WasmExtension::read(&object(value)).unwrap()).contains("hunter2"));
}
