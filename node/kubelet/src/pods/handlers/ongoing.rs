//! What goes on beside the running attempts of one pod, and ends with them.

use std::collections::HashMap;

use tokio::task::AbortHandle;

/// Hooks under way, by container id: at most two of each, postStart and preStop.
#[derive(Default)]
pub(in crate::pods) struct Ongoing {
    hooks: HashMap<String, Vec<AbortHandle>>,
}

impl Ongoing {
    /// Notes that a hook of the attempt is under way.
    pub(in crate::pods) fn hook(&mut self, id: &str, handle: AbortHandle) {
        self.hooks.entry(id.to_owned()).or_default().push(handle);
    }

    /// The attempt has ended, and with it its hooks.
    pub(in crate::pods) fn end(&mut self, id: &str) {
        for hook in self.hooks.remove(id).into_iter().flatten() {
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
}
