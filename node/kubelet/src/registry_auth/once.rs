//! Work that several callers want at the same time, done once.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, PoisonError},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};

/// Work under way, by what it is for. It belongs to those who wait: when all have gone, it ends.
pub(super) struct Once<T: Clone>(Mutex<HashMap<String, WeakShared<BoxFuture<'static, T>>>>);

impl<T: Clone> Default for Once<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Once<T> {
    /// The outcome of the work for `key` that is under way, or of `work`.
    pub(super) async fn join(&self, key: &str, work: impl Future<Output = T> + Send + 'static) -> T {
        let shared: Shared<_> = {
            let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|_, work| work.upgrade().is_some_and(|work| work.peek().is_none()));
            match running.get(key).and_then(WeakShared::upgrade) {
                Some(shared) => shared,
                None => {
                    let shared = work.boxed().shared();
                    if let Some(weak) = shared.downgrade() {
                        running.insert(key.to_owned(), weak);
                    }
                    shared
                }
            }
        };
        shared.await
    }
}

impl<T: Clone> std::fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Once")
    }
}
