//! All pods of the node with their newest statuses, for whoever has to look one up.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use k8s_openapi::api::core::v1::{Pod, PodStatus};

/// Pods by UID. Written by the pod tasks, each its own; read by the HTTPS server.
#[derive(Clone, Debug, Default)]
pub struct PodIndex {
    pods: Arc<RwLock<HashMap<String, Arc<Pod>>>>,
}

impl PodIndex {
    /// Puts in a pod with its newest status.
    pub(super) fn put(&self, uid: &str, pod: Arc<Pod>) {
        self.pods.write().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), pod);
    }

    /// Takes a pod out.
    pub(super) fn remove(&self, uid: &str) {
        self.pods.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// The pod of that UID.
    #[must_use]
    pub fn get(&self, uid: &str) -> Option<Arc<Pod>> {
        self.pods.read().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// All pods, in no order.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The pod of that name; of two that share it, the one that is not being deleted.
    #[must_use]
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        let named = pods.values().filter(|pod| {
            pod.metadata.name.as_deref() == Some(name) && pod.metadata.namespace.as_deref() == Some(namespace)
        });
        named.min_by_key(|pod| pod.metadata.deletion_timestamp.is_some()).cloned()
    }
}

/// The pod as it is shown: with the status that was computed, and the conditions that are others'.
pub(super) fn shown(pod: &Pod, computed: &PodStatus) -> Pod {
    let mut status = computed.clone();
    let ours = status.conditions.get_or_insert_default();
    let present = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let foreign: Vec<_> =
        present.iter().filter(|c| !ours.iter().any(|o| o.type_ == c.type_)).cloned().collect();
    ours.extend(foreign);
    Pod { status: Some(status), ..pod.clone() }
}
