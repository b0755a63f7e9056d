//! One task per pod UID.
//!
//! The manager hands every pod to its task and wakes tasks when the provider has news. It decides nothing
//! about a pod; what it does decide is what belongs to nobody: containers and folders of pods that no
//! source knows, which are removed after the first complete list and never before.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::task::{Desired, PodTask, Shared};

/// What a source says about its pods.
#[derive(Debug)]
pub enum Update {
    /// A pod is new or has changed.
    Set(Box<Pod>),
    /// The pod of this UID is gone.
    Gone(String),
    /// These are the UIDs of all pods that the source has.
    Synced(HashSet<String>),
}

struct Handle {
    desired: watch::Sender<Desired>,
    wake: Arc<Notify>,
}

/// Owns the pod tasks.
pub struct PodManager {
    shared: Arc<Shared>,
    handles: HashMap<String, Handle>,
    tasks: JoinSet<String>,
}

impl std::fmt::Debug for PodManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodManager").field("pods", &self.handles.len()).finish_non_exhaustive()
    }
}

impl PodManager {
    /// A manager without pods.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, handles: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Runs until `cancel`, or until the source ends. The tasks end with it; containers do not.
    pub async fn run(mut self, mut updates: mpsc::Receiver<Update>, cancel: CancellationToken) {
        let mut wakeups = self.shared.runtime.wakeups();
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                update = updates.recv() => match update {
                    Some(update) => self.update(update).await,
                    None => break,
                },
                Some(uid) = next(&mut wakeups) => {
                    if let Some(handle) = self.handles.get(&uid) {
                        handle.wake.notify_one();
                    }
                }
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(uid) => {
                        self.handles.remove(&uid);
                    }
                    Err(error) => tracing::error!(%error, "the task of a pod has panicked"),
                },
            }
        }
    }

    async fn update(&mut self, update: Update) {
        match update {
            Update::Set(pod) => self.set(Arc::from(pod)),
            Update::Gone(uid) => self.gone(&uid),
            Update::Synced(present) => {
                let absent: Vec<_> = self.handles.keys().filter(|uid| !present.contains(*uid)).cloned().collect();
                for uid in absent {
                    self.gone(&uid);
                }
                self.remove_orphans().await;
            }
        }
    }

    fn set(&mut self, pod: Arc<Pod>) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        match self.handles.get(&uid) {
            Some(handle) => {
                handle.desired.send_replace(Desired::Pod(pod));
            }
            None => {
                let (desired, receiver) = watch::channel(Desired::Pod(Arc::clone(&pod)));
                let wake = Arc::new(Notify::new());
                let task = PodTask::new(Arc::clone(&self.shared), pod, receiver, Arc::clone(&wake));
                self.handles.insert(uid, Handle { desired, wake });
                self.tasks.spawn(task.run());
            }
        }
    }

    fn gone(&self, uid: &str) {
        if let Some(handle) = self.handles.get(uid) {
            handle.desired.send_replace(Desired::Gone);
        }
    }

    /// Removes what belongs to pods that no source knows.
    async fn remove_orphans(&self) {
        for container in self.shared.runtime.containers() {
            if self.handles.contains_key(&container.pod_uid) {
                continue;
            }
            tracing::info!(container = container.id, pod = container.pod_uid, "removing a container without a pod");
            if let Err(error) = self.shared.runtime.remove(&container.id).await {
                tracing::warn!(container = container.id, %error, "a container without a pod could not be removed");
            }
        }
        let uids = self.shared.records.uids().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the records of pods");
            Vec::new()
        });
        for uid in uids.iter().filter(|uid| !self.handles.contains_key(*uid)) {
            tracing::info!(pod = uid, "removing the folder of a pod that is gone");
            if let Err(error) = self.shared.records.remove(uid) {
                tracing::warn!(pod = uid, %error, "the folder of a pod that is gone could not be removed");
            }
        }
    }
}

/// The next wake-up; none for ever when there is no channel.
async fn next(wakeups: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match wakeups {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}
