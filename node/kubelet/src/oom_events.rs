//! How often containers have ended by their memory limit, for `container_oom_events_total`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Counts by the UID of the pod and the name of the container, over all of its attempts that this agent has seen end. Clones
/// share them.
#[derive(Clone, Debug, Default)]
pub struct OomEvents(Arc<Mutex<HashMap<String, BTreeMap<String, u64>>>>);

impl OomEvents {
    /// A container has ended by its limit.
    pub(crate) fn note(&self, pod_uid: &str, container: &str) {
        let mut pods = self.lock();
        *pods.entry(pod_uid.to_owned()).or_default().entry(container.to_owned()).or_default() += 1;
    }

    /// How often that has happened to this one.
    pub(crate) fn of(&self, pod_uid: &str, container: &str) -> u64 {
        self.lock().get(pod_uid).and_then(|pod| pod.get(container)).copied().unwrap_or(0)
    }

    /// Nothing is left of a pod.
    pub(crate) fn forget(&self, pod_uid: &str) {
        self.lock().remove(pod_uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BTreeMap<String, u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_counted_until_their_pod_is_gone() {
        let events = OomEvents::default();
        events.note("u", "a");
        events.clone().note("u", "a");
        assert_eq!((events.of("u", "a"), events.of("u", "b"), events.of("v", "a")), (2, 0, 0));
        events.forget("u");
        assert_eq!(events.of("u", "a"), 0);
        assert!(events.lock().is_empty());
    }
}
