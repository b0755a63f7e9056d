//! What the guests of a pod have together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Something that all guests of a pod share, for as long as one of them runs, by the pod's UID.
#[derive(Debug, Default)]
pub(super) struct PodWide<T>(Mutex<HashMap<String, Weak<T>>>);

impl<T: Default> PodWide<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Weak<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That of a pod of which a guest runs.
    pub(super) fn known(&self, pod_uid: &str) -> Option<Arc<T>> {
        self.lock().get(pod_uid).and_then(Weak::upgrade)
    }

    /// That of a pod, for one guest more.
    pub(super) fn of(&self, pod_uid: &str) -> Arc<T> {
        let mut all = self.lock();
        if let Some(shared) = all.get(pod_uid).and_then(Weak::upgrade) {
            return shared;
        }
        all.retain(|_, shared| shared.strong_count() > 0);
        let shared = Arc::default();
        all.insert(pod_uid.to_owned(), Arc::downgrade(&shared));
        shared
    }
}
