//! What goes on beside the running attempts of one pod, and ends with them.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::OnceCell, task::AbortHandle};

use crate::runtime::ContainerSpec;

/// Container specs for `exec`, made when first needed, and hooks under way, by container id.
#[derive(Default)]
pub(in crate::pods) struct Ongoing {
    attempts: HashMap<String, Entry>,
}

#[derive(Default)]
struct Entry {
    spec: Arc<OnceCell<ContainerSpec>>,
    /// At most two: postStart and preStop.
    hooks: Vec<AbortHandle>,
}

impl Ongoing {
    /// Where the spec of the attempt is kept once somebody has made it.
    pub(in crate::pods) fn spec(&mut self, id: &str) -> Arc<OnceCell<ContainerSpec>> {
        Arc::clone(&self.attempts.entry(id.to_owned()).or_default().spec)
    }

    /// Notes that a hook of the attempt is under way.
    pub(in crate::pods) fn hook(&mut self, id: &str, handle: AbortHandle) {
        self.attempts.entry(id.to_owned()).or_default().hooks.push(handle);
    }

    /// The attempt has ended, and with it its hooks.
    pub(in crate::pods) fn end(&mut self, id: &str) {
        for hook in self.attempts.remove(id).into_iter().flat_map(|entry| entry.hooks) {
            hook.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hooks_end_with_their_attempt_and_no_other() {
        let mut ongoing = Ongoing::default();
        let pending = || tokio::spawn(std::future::pending::<()>());
        let (first, second) = (pending(), pending());
        ongoing.hook("a", first.abort_handle());
        ongoing.hook("b", second.abort_handle());
        ongoing.end("a");
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(!second.is_finished());
        second.abort();
    }

    #[tokio::test]
    async fn a_spec_is_kept_for_its_attempt() {
        let mut ongoing = Ongoing::default();
        assert!(Arc::ptr_eq(&ongoing.spec("a"), &ongoing.spec("a")));
        let before = ongoing.spec("a");
        ongoing.end("a");
        assert!(!Arc::ptr_eq(&before, &ongoing.spec("a")));
    }
}
