//! Starts that have not come to their worker yet: they can be called off.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// Containers whose modules are looked for, waited for or compiled.
#[derive(Debug, Default)]
pub(super) struct Preparing(Mutex<HashMap<String, CancellationToken>>);

/// One of them, for as long as it is prepared.
#[derive(Debug)]
pub(super) struct Preparation<'a> {
    of: &'a Preparing,
    id: &'a str,
    called_off: CancellationToken,
}

impl Preparing {
    /// Takes note of a container; of two that are prepared under one id, the later one can be called off.
    pub(super) fn begin<'a>(&'a self, id: &'a str) -> Preparation<'a> {
        let called_off = CancellationToken::new();
        self.lock().insert(id.to_owned(), called_off.clone());
        Preparation { of: self, id, called_off }
    }

    /// Calls a start off, if it is still prepared.
    pub(super) fn call_off(&self, id: &str) {
        if let Some(called_off) = self.lock().get(id) {
            called_off.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, CancellationToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Preparation<'_> {
    /// What is done for the container; nothing if it is called off before.
    pub(super) async fn run<T>(self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.called_off.cancelled() => None,
            done = work => Some(done),
        }
    }
}

impl Drop for Preparation<'_> {
    fn drop(&mut self) {
        self.of.lock().remove(self.id);
    }
}
