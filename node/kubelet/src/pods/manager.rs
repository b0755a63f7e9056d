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

use super::{
    admission::{
        self, Rejection,
        resources::{self, Amounts},
    },
    shared::Shared,
    task::{Desired, PodTask},
};

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
    pod: Arc<Pod>,
    /// What it takes of the node, as long as it is not over.
    footprint: Amounts,
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
        match self.handles.get_mut(&uid) {
            Some(handle) => {
                handle.pod = Arc::clone(&pod);
                handle.desired.send_replace(Desired::Pod(pod));
            }
            None => {
                let rejection = self.admit(&uid, &pod).err();
                let (desired, receiver) = watch::channel(Desired::Pod(Arc::clone(&pod)));
                let wake = Arc::new(Notify::new());
                let (shared, task_pod) = (Arc::clone(&self.shared), Arc::clone(&pod));
                let task = PodTask::new(shared, task_pod, receiver, Arc::clone(&wake), rejection);
                let footprint = resources::footprint(&pod);
                self.handles.insert(uid, Handle { pod, footprint, desired, wake });
                self.tasks.spawn(task.run());
            }
        }
    }

    /// Whether the node takes a pod that it has not taken yet. Pods come here one at a time, so two of them
    /// can never be given the same room.
    fn admit(&self, uid: &str, pod: &Pod) -> Result<(), Rejection> {
        let Some(view) = &self.shared.admission else { return Ok(()) };
        if self.shared.records.knows(uid) || pod.metadata.deletion_timestamp.is_some() || is_over(pod) {
            return Ok(());
        }
        let taken = self.handles.iter().filter(|(uid, _)| !self.shared.index.get(uid).is_some_and(|p| is_over(&p)));
        let mut used = Amounts::new();
        taken.clone().for_each(|(_, handle)| resources::add(&mut used, &handle.footprint));
        admission::admit(pod, &view.borrow(), &used, taken.map(|(_, handle)| &*handle.pod))
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

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The next wake-up; none for ever when there is no channel.
async fn next(wakeups: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match wakeups {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}
