//! Which pods are to be looked at: each once, however often it has changed, and none forgotten.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, mpsc};

/// Wake-ups that wait in the channel; more wait in a set, each pod once.
const WAKEUPS: usize = 64;

/// Pods that are to be looked at.
#[derive(Debug, Default)]
pub(super) struct Wake {
    pods: Mutex<HashSet<String>>,
    new: Notify,
    taken: Mutex<bool>,
}

impl Wake {
    pub(super) fn pod(&self, uid: String) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(uid);
        self.new.notify_one();
    }

    /// Takes the channel of pod UIDs; the second call returns `None`. Must be called within a tokio runtime.
    pub(super) fn receiver(self: &Arc<Self>) -> Option<mpsc::Receiver<String>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *taken, true) {
            return None;
        }
        let (sender, receiver) = mpsc::channel(WAKEUPS);
        tokio::spawn(Arc::clone(self).deliver(sender));
        Some(receiver)
    }

    async fn deliver(self: Arc<Self>, to: mpsc::Sender<String>) {
        loop {
            let pods = std::mem::take(&mut *self.pods.lock().unwrap_or_else(PoisonError::into_inner));
            for pod in pods {
                if to.send(pod).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = self.new.notified() => {}
                () = to.closed() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_pod_that_changed_is_told_once_or_more_and_never_forgotten() {
        let wake = Arc::new(Wake::default());
        for n in 0..10 * WAKEUPS {
            wake.pod(n.to_string());
        }
        let mut wakeups = wake.receiver().unwrap();
        assert!(wake.receiver().is_none());
        let mut seen = HashSet::new();
        while seen.len() < 10 * WAKEUPS {
            seen.insert(wakeups.recv().await.unwrap());
        }
        wake.pod("7".to_owned());
        assert_eq!(wakeups.recv().await.unwrap(), "7");
    }
}
