//! All pods of the node with their newest statuses, for whoever has to look one up.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;

use super::board::FullName;

/// Pods by UID. Written by the pod tasks, each its own; read by the HTTPS server.
#[derive(Clone, Debug, Default)]
pub struct PodIndex {
    pods: Arc<RwLock<HashMap<String, Arc<Pod>>>>,
    /// The pods that mirrors show, by UIDs of the mirrors.
    mirrors: Arc<RwLock<HashMap<String, FullName>>>,
    all_known: Arc<AtomicBool>,
    /// When the manager's loop last began an iteration.
    round: Arc<RwLock<Option<Instant>>>,
    changes: Arc<watch::Sender<()>>,
}

/// For how long the manager may be busy with one thing: upstream's bound of its sync loop.
const LONGEST_ROUND: Duration = Duration::from_secs(5 * 60);

impl PodIndex {
    /// Puts in a pod with its newest status.
    pub(crate) fn put(&self, uid: &str, pod: Arc<Pod>) {
        self.pods.write().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), pod);
        self.changes.send_replace(());
    }

    /// The API server shows a static pod by a mirror of this UID.
    pub(super) fn put_mirror(&self, uid: &str, of: FullName) {
        self.mirrors.write().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), of);
    }

    /// The API server does not show the other mirrors any more.
    pub(super) fn retain_mirrors(&self, keep: &impl Fn(&str) -> bool) {
        self.mirrors.write().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| keep(uid));
    }

    /// Whether the mirror of this UID shows the pod.
    #[must_use]
    pub fn is_mirror_of(&self, uid: &str, pod: &Pod) -> bool {
        let mirrors = self.mirrors.read().unwrap_or_else(PoisonError::into_inner);
        mirrors.get(uid).is_some_and(|name| *name == FullName::of(pod))
    }

    /// Told of every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Every source has told of all its pods, and they are in here.
    pub(super) fn set_all_known(&self) {
        self.all_known.store(true, Ordering::Release);
    }

    /// Whether a pod that is not in here is none of this node's. An agent that has just started does not know
    /// yet.
    #[must_use]
    pub fn are_all_known(&self) -> bool {
        self.all_known.load(Ordering::Acquire)
    }

    /// The manager's loop begins an iteration.
    pub(super) fn come_round(&self, now: Instant) {
        *self.round.write().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Whether pods are being looked after. They are not yet where nothing has begun.
    ///
    /// # Errors
    /// Since when the manager has been busy with one and the same thing.
    pub fn looked_after(&self, now: Instant) -> Result<(), String> {
        let round = *self.round.read().unwrap_or_else(PoisonError::into_inner);
        match round.map(|round| now.saturating_duration_since(round)) {
            Some(busy) if busy > LONGEST_ROUND => {
                Err(format!("the pods have not been looked after for {} s", busy.as_secs()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes a pod out.
    pub(super) fn remove(&self, uid: &str) {
        self.pods.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.changes.send_replace(());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_of() {
        let index = PodIndex::default();
        index.put("u", Arc::default());
        let mut changes = index.changes();
        assert!(!changes.has_changed().unwrap(), "that was before");
        index.put("u", Arc::default());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        index.remove("u");
        assert!(changes.has_changed().unwrap());
    }

    #[test]
    fn a_mirror_shows_its_pod_while_it_is_there() {
        let pod = |name: &str| {
            let mut pod = Pod::default();
            pod.metadata.namespace = Some("ns".to_owned());
            pod.metadata.name = Some(name.to_owned());
            pod
        };
        let index = PodIndex::default();
        index.put_mirror("m", FullName::of(&pod("a")));
        assert!(index.is_mirror_of("m", &pod("a")));
        assert!(!index.is_mirror_of("m", &pod("b")) && !index.is_mirror_of("n", &pod("a")));
        index.retain_mirrors(&|uid: &str| uid != "m");
        assert!(!index.is_mirror_of("m", &pod("a")));
    }

    #[test]
    fn a_manager_that_is_stuck_is_noticed() {
        let (index, begun) = (PodIndex::default(), Instant::now());
        assert_eq!(index.looked_after(begun), Ok(()));
        index.come_round(begun);
        assert_eq!(index.looked_after(begun + LONGEST_ROUND), Ok(()));
        let stuck = index.looked_after(begun + Duration::from_secs(301));
        assert_eq!(stuck, Err("the pods have not been looked after for 301 s".to_owned()));
    }
}
