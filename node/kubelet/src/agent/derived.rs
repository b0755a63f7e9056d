//! What follows from the Node as the API server has it: what pods may learn of it, and which pods are taken.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

use crate::pods::{
    NodeFacts,
    admission::{
        NodeView,
        resources::{self, Amounts},
    },
};

/// Keeps what is derived from the Node as the API server has it.
pub(super) async fn keep<T: PartialEq>(
    mut node: watch::Receiver<Option<Arc<Node>>>,
    kept: watch::Sender<T>,
    from: impl Fn(&Node, &T) -> T,
) {
    while node.changed().await.is_ok() {
        refresh(&node, &kept, &from);
    }
}

/// Derives it anew from the Node as it is now.
pub(super) fn refresh<T: PartialEq>(
    node: &watch::Receiver<Option<Arc<Node>>>,
    kept: &watch::Sender<T>,
    from: impl Fn(&Node, &T) -> T,
) {
    if let Some(node) = node.borrow().clone() {
        derive(&node, kept, from);
    }
}

/// Derives it from this Node.
pub(super) fn derive<T: PartialEq>(node: &Node, kept: &watch::Sender<T>, from: impl Fn(&Node, &T) -> T) {
    kept.send_if_modified(|kept| {
        let new = from(node, kept);
        let changed = *kept != new;
        *kept = new;
        changed
    });
}

/// What pods may learn of the node.
pub(super) fn learn(node: &Node, facts: &NodeFacts) -> NodeFacts {
    let allocatable = allocatable(node);
    let get = |name: &str| allocatable.get(name).copied().unwrap_or(0);
    NodeFacts {
        cpu_millis: get("cpu"),
        memory_bytes: get("memory"),
        storage_bytes: get("ephemeral-storage"),
        ..facts.clone()
    }
}

/// What decides which pods are taken.
pub(super) fn view(node: &Node, view: &NodeView) -> NodeView {
    NodeView {
        name: node.metadata.name.clone().unwrap_or_default(),
        labels: node.metadata.labels.clone().unwrap_or_default(),
        taints: node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default(),
        allocatable: allocatable(node),
        sysctls: view.sysctls.clone(),
    }
}

fn allocatable(node: &Node) -> Amounts {
    resources::amounts(node.status.as_ref().and_then(|s| s.allocatable.as_ref()))
}
