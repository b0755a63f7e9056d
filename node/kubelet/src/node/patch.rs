//! The difference between a Node as it is and as it should be, as a strategic merge patch.
//!
//! Only what is ours is compared and sent: conditions, labels and resources that others put on the object
//! stay as they are.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{object::ATTACH_DETACH, resources::Resources};
use crate::quantity;

/// A patch of `nodes/status`.
#[derive(Debug)]
pub(super) struct Patch {
    /// What to send; always with the conditions, whose heartbeat is the point of sending.
    pub(super) body: Value,
    /// Something other than the time of the heartbeat is different.
    pub(super) differs: bool,
}

/// Compares `current` with the wanted labels and status.
pub(super) fn patch(current: &Node, labels: &BTreeMap<String, String>, wanted: &NodeStatus) -> Patch {
    let mut metadata = Map::new();
    let there = current.metadata.labels.clone().unwrap_or_default();
    let wrong: BTreeMap<_, _> =
        labels.iter().filter(|(key, value)| there.get(*key) != Some(*value)).collect();
    if !wrong.is_empty() {
        metadata.insert("labels".to_owned(), json!(wrong));
    }
    let annotations = current.metadata.annotations.clone().unwrap_or_default();
    if annotations.get(ATTACH_DETACH).is_none_or(|value| value != "true") {
        metadata.insert("annotations".to_owned(), json!({ ATTACH_DETACH: "true" }));
    }

    let empty = NodeStatus::default();
    let is = current.status.as_ref().unwrap_or(&empty);
    let mut status = Map::new();
    for (field, is, wanted) in
        [("capacity", &is.capacity, &wanted.capacity), ("allocatable", &is.allocatable, &wanted.allocatable)]
    {
        let wrong = wrong_amounts(is.as_ref(), wanted.as_ref());
        if !wrong.is_empty() {
            status.insert(field.to_owned(), json!(wrong));
        }
    }
    // Those that a cloud controller has set are its business, and not among what is wanted.
    if wanted.addresses.is_some() && is.addresses != wanted.addresses {
        // The list's merge key is the type, and two families share one: it can only be replaced as a whole.
        let mut addresses = vec![json!({ "$patch": "replace" })];
        addresses.extend(wanted.addresses.iter().flatten().map(|address| json!(address)));
        status.insert("addresses".to_owned(), Value::Array(addresses));
    }
    differing(&mut status, "daemonEndpoints", &is.daemon_endpoints, &wanted.daemon_endpoints);
    differing(&mut status, "nodeInfo", &is.node_info, &wanted.node_info);
    if is.images.as_deref().unwrap_or_default() != wanted.images.as_deref().unwrap_or_default() {
        status.insert("images".to_owned(), json!(wanted.images));
    }

    let wanted_conditions = wanted.conditions.as_deref().unwrap_or_default();
    let differs = !metadata.is_empty()
        || !status.is_empty()
        || conditions_differ(is.conditions.as_deref().unwrap_or_default(), wanted_conditions);
    status.insert("conditions".to_owned(), json!(wanted_conditions));
    // Sent along and no reason to send: API servers before 1.30 and 1.35 do not keep them, so they would always
    // differ.
    differing(&mut status, "runtimeHandlers", &is.runtime_handlers, &wanted.runtime_handlers);
    differing(&mut status, "declaredFeatures", &is.declared_features, &wanted.declared_features);

    let mut body = json!({ "status": status });
    if !metadata.is_empty()
        && let Some(body) = body.as_object_mut()
    {
        body.insert("metadata".to_owned(), Value::Object(metadata));
    }
    Patch { body, differs }
}

fn differing<T: PartialEq + Serialize>(status: &mut Map<String, Value>, field: &str, is: &T, wanted: &T) {
    if is != wanted {
        status.insert(field.to_owned(), json!(wanted));
    }
}

/// Amounts that differ as numbers: the API server writes `8388608Ki` as `8Gi`.
fn wrong_amounts(is: Option<&Resources>, wanted: Option<&Resources>) -> Resources {
    let amount = |text: &str| quantity::millis(text).ok();
    wanted
        .into_iter()
        .flatten()
        .filter(|(name, wanted)| {
            is.and_then(|is| is.get(*name)).is_none_or(|is| amount(&is.0) != amount(&wanted.0))
        })
        .map(|(name, wanted)| (name.clone(), wanted.clone()))
        .collect()
}

fn conditions_differ(is: &[NodeCondition], wanted: &[NodeCondition]) -> bool {
    wanted.iter().any(|wanted| {
        !is.iter().any(|is| {
            (&is.type_, &is.status, &is.reason, &is.message)
                == (&wanted.type_, &wanted.status, &wanted.reason, &wanted.message)
        })
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::api::resource::Quantity, jiff::Timestamp};

    use super::{
        super::object::{
            self, own_labels,
            tests::{fixed, observed},
        },
        *,
    };
    use crate::{config::Flags, runtime::Image};

    /// A registered node, as the API server would give it back, with what others put on it.
    fn registered() -> (object::Fixed, Node) {
        let fixed = fixed(&Flags::default());
        let mut node = object::node(&fixed, &observed());
        let status = node.status.as_mut().unwrap();
        for resources in [&mut status.capacity, &mut status.allocatable] {
            let resources = resources.as_mut().unwrap();
            resources.insert("example.com/device".to_owned(), Quantity("2".to_owned()));
        }
        status.capacity.as_mut().unwrap().insert("memory".to_owned(), Quantity("1Gi".to_owned()));
        status.images = None;
        status.conditions.as_mut().unwrap().push(NodeCondition {
            type_: "NetworkUnavailable".to_owned(),
            status: "False".to_owned(),
            ..NodeCondition::default()
        });
        node.metadata.labels.as_mut().unwrap().insert("others".to_owned(), "label".to_owned());
        (fixed, node)
    }

    fn compare(fixed: &object::Fixed, node: &Node, observed: &object::Observed) -> Patch {
        let before = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        patch(node, &own_labels(&fixed.config), &object::status(fixed, observed, before))
    }

    #[test]
    fn nothing_differs_but_the_time() {
        let (fixed, node) = registered();
        let mut later = observed();
        later.now = Timestamp::UNIX_EPOCH + std::time::Duration::from_secs(10);
        let patch = compare(&fixed, &node, &later);
        assert!(!patch.differs, "{patch:?}");
        assert_eq!(patch.body.as_object().unwrap().len(), 1);
        let status = patch.body["status"].as_object().unwrap();
        assert_eq!(status.keys().collect::<Vec<_>>(), ["conditions"]);
        assert_eq!(status["conditions"].as_array().unwrap().len(), 4, "others' conditions are not sent");
        assert_eq!(status["conditions"][3]["lastHeartbeatTime"], "1970-01-01T00:00:10Z");
        assert_eq!(status["conditions"][3]["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn only_what_differs_is_sent() {
        let (mut fixed, mut node) = registered();
        let mut changed = observed();
        changed.machine.cpus = 8;
        changed.images = vec![Image { size_bytes: 7, names: vec!["x:1".to_owned()], ..Image::default() }];
        fixed.addresses = vec![[10, 0, 0, 2].into()];
        fixed.port = 1;
        node.metadata.labels.as_mut().unwrap().insert("kubernetes.io/arch".to_owned(), "amd64".to_owned());
        node.metadata.annotations = None;

        let patch = compare(&fixed, &node, &changed);
        assert!(patch.differs);
        assert_eq!(
            patch.body["metadata"],
            json!({ "labels": { "kubernetes.io/arch": "wasm32-wasi" }, "annotations": { ATTACH_DETACH: "true" } })
        );
        let status = &patch.body["status"];
        assert_eq!(status["capacity"], json!({ "cpu": "8" }));
        assert_eq!(
            status["addresses"],
            json!([{ "$patch": "replace" }, { "type": "InternalIP", "address": "10.0.0.2" }, { "type": "Hostname", "address": "edge" }])
        );
        assert_eq!(status["daemonEndpoints"], json!({ "kubeletEndpoint": { "Port": 1 } }));
        assert_eq!(status["images"], json!([{ "names": ["x:1"], "sizeBytes": 7 }]));
        assert!(status.get("nodeInfo").is_none());
    }

    #[test]
    fn an_api_server_that_knows_no_features_is_not_told_again_and_again() {
        let (fixed, mut node) = registered();
        node.status.as_mut().unwrap().declared_features = None;
        let patch = compare(&fixed, &node, &observed());
        assert!(!patch.differs, "{patch:?}");
        let declared = patch.body["status"]["declaredFeatures"].as_array().unwrap();
        assert!(declared.contains(&json!("RestartAllContainersOnContainerExits")), "{declared:?}");
    }

    #[test]
    fn a_condition_that_someone_else_changed_is_put_right() {
        let (fixed, mut node) = registered();
        let ready = &mut node.status.as_mut().unwrap().conditions.as_mut().unwrap()[3];
        ready.status = "Unknown".to_owned();
        ready.reason = Some("NodeStatusUnknown".to_owned());
        assert!(compare(&fixed, &node, &observed()).differs);
    }
}
