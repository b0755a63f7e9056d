//! The strategic merge patch that makes a pod's status in the API what it should be.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

/// Fields that have to be taken out explicitly when they do not apply any more.
const CLEARED: [&str; 2] = ["reason", "message"];

/// Lists that the API server would merge by address instead of replacing them.
const REPLACED: [&str; 2] = ["hostIPs", "podIPs"];

/// Conditions of this node's that come and go: what the API server still has of them is taken out.
const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// The body of a PATCH of `pods/status` for the pod as the API has it. It holds the UID, so that it can
/// never reach another pod of the same name; conditions of other owners are left alone, because the API
/// server merges them by type.
///
/// # Errors
/// When the status cannot be written as JSON, which no status of ours can fail to.
pub(super) fn of(pod: &Pod, status: &PodStatus) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(status)?;
    let present = pod.status.as_ref().map(serde_json::to_value).transpose()?.unwrap_or(Value::Null);
    if let Value::Object(fields) = &mut value {
        for name in CLEARED {
            fields.entry(name).or_insert(Value::Null);
        }
        for name in REPLACED {
            let before = present.get(name).and_then(Value::as_array).filter(|list| !list.is_empty());
            if let (Some(Value::Array(list)), Some(before)) = (fields.get_mut(name), before)
                && list != before
            {
                list.insert(0, json!({"$patch": "replace"}));
            }
        }
        for condition in fields.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(condition) = condition {
                for name in CLEARED {
                    condition.entry(name).or_insert(Value::Null);
                }
            }
        }
    }
    let has = |list: Option<&Value>, kind: &str| {
        list.and_then(Value::as_array).is_some_and(|list| list.iter().any(|c| c["type"] == kind))
    };
    let over = PASSING
        .iter()
        .filter(|kind| has(present.get("conditions"), kind) && !has(value.get("conditions"), kind));
    let over: Vec<_> = over.map(|kind| json!({"$patch": "delete", "type": kind})).collect();
    if let Some(conditions) = value.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.extend(over);
    }
    Ok(json!({"metadata": {"uid": pod.metadata.uid}, "status": value}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_a_resize_go_with_it() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"uid": "u"}, "status": {"conditions": [
            {"type": "PodResizePending", "status": "True"},
            {"type": "PodResizeInProgress", "status": "True"},
            {"type": "example.com/other", "status": "True"},
        ]}}))
        .unwrap();
        let status = json!({"conditions": [{"type": "PodResizeInProgress", "status": "True"}]});
        let patch = of(&pod, &serde_json::from_value(status).unwrap()).unwrap();
        let expected = json!([
            {"type": "PodResizeInProgress", "status": "True", "reason": null, "message": null},
            {"$patch": "delete", "type": "PodResizePending"},
        ]);
        assert_eq!(patch["status"]["conditions"], expected);
    }

    #[test]
    fn what_does_not_apply_any_more_is_taken_out() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u"},
            "status": {"reason": "Old", "podIPs": [{"ip": "10.0.0.1"}], "hostIPs": [{"ip": "10.0.0.9"}]},
        }))
        .unwrap();
        let status: PodStatus = serde_json::from_value(json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "podIPs": [{"ip": "10.0.0.2"}],
            "hostIPs": [{"ip": "10.0.0.9"}],
        }))
        .unwrap();
        let expected = json!({
            "metadata": {"uid": "u"},
            "status": {
                "phase": "Running",
                "reason": null,
                "message": null,
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}],
                "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}],
                "hostIPs": [{"ip": "10.0.0.9"}],
            },
        });
        assert_eq!(of(&pod, &status).unwrap(), expected);
    }
}
