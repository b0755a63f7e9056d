//! The little of a pod that the benchmark looks at.
//!
//! A whole Pod takes the observer longer to decode than a node takes to start it when many come at once,
//! and who is too slow to read measures himself.

use kube::core::Request;
use serde::Deserialize;

/// Requests for pods of the default namespace.
pub(crate) fn pods() -> Request {
    Request::new("/api/v1/namespaces/default/pods")
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct View {
    /// Who it is.
    pub(crate) metadata: Metadata,
    /// What it should be.
    #[serde(default)]
    pub(crate) spec: Spec,
    /// What it is.
    #[serde(default)]
    pub(crate) status: Status,
}

/// Who a pod is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    /// Name in its namespace.
    pub(crate) name: String,
    /// Version of the object, where a watch can begin.
    pub(crate) resource_version: Option<String>,
    /// It is being deleted.
    pub(crate) deletion_timestamp: Option<String>,
}

/// What a pod should be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    /// The node that it is bound to.
    pub(crate) node_name: Option<String>,
}

/// What a pod is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    /// Pending, Running, Succeeded or Failed.
    pub(crate) phase: String,
    /// Why, for people.
    pub(crate) message: Option<String>,
    /// What holds of it.
    pub(crate) conditions: Vec<Condition>,
}

impl Status {
    /// Whether the pod is Ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }
}

/// What holds of a pod, or does not.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Condition {
    /// Ready, PodScheduled and so on.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// True, False or Unknown.
    pub(crate) status: String,
}

/// A list of pods.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct List {
    /// The version that the list shows.
    pub(crate) metadata: Metadata,
    /// The pods.
    pub(crate) items: Vec<View>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_seen_without_what_does_not_matter() {
        let pod = |ready: &str| -> View {
            serde_json::from_value(json!({
                "kind": "Pod",
                "metadata": { "name": "a", "resourceVersion": "7", "managedFields": [{ "manager": "m" }] },
                "spec": { "nodeName": "node", "containers": [{ "name": "main" }] },
                "status": {
                    "phase": "Running",
                    "qosClass": "BestEffort",
                    "conditions": [
                        { "type": "Initialized", "status": "True" },
                        { "type": "Ready", "status": ready },
                    ],
                },
            }))
            .unwrap()
        };
        let view = pod("True");
        assert_eq!(view.metadata.name, "a");
        assert_eq!(view.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(view.spec.node_name.as_deref(), Some("node"));
        assert_eq!(view.status.phase, "Running");
        assert!(view.status.is_ready());
        assert!(!pod("False").status.is_ready());
        assert!(!Status::default().is_ready());
    }
}
