//! What a source of static pods has told of them, and what has changed since.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use crate::pods::{
    board::FullName,
    manager::{PodSource, Update},
};

/// What was told so far.
#[derive(Debug)]
pub(super) struct Told {
    source: PodSource,
    pods: HashMap<String, Arc<Pod>>,
    conflicts: Vec<String>,
    synced: bool,
}

impl Told {
    /// Nothing yet, by this source.
    pub(super) fn of(source: PodSource) -> Self {
        Self { source, pods: HashMap::new(), conflicts: Vec::new(), synced: false }
    }

    /// What was told last of the pod of this UID.
    pub(super) fn pod(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.pods.get(uid)
    }

    /// Tells what has changed since the last time.
    pub(super) async fn tell(
        &mut self,
        pods: Vec<Arc<Pod>>,
        conflicts: Vec<String>,
        updates: &mpsc::Sender<Update>,
    ) -> Result<(), mpsc::error::SendError<Update>> {
        for conflict in conflicts.iter().filter(|conflict| !self.conflicts.contains(conflict)) {
            tracing::error!("static pod: {conflict}");
        }
        self.conflicts = conflicts;
        let by_uid = pods.into_iter().filter_map(|pod| Some((pod.metadata.uid.clone()?, pod)));
        let pods: HashMap<String, Arc<Pod>> = by_uid.collect();
        if self.synced && pods == self.pods {
            return Ok(());
        }
        for (uid, pod) in &pods {
            if self.pods.get(uid) != Some(pod) {
                tracing::info!(uid, source = ?self.source, "the static pod {} is described", FullName::of(pod));
                updates.send(Update::Set(Box::new(Pod::clone(pod)))).await?;
            }
        }
        for (uid, pod) in self.pods.iter().filter(|(uid, _)| !pods.contains_key(*uid)) {
            tracing::info!(uid, source = ?self.source, "the static pod {} is not described any more", FullName::of(pod));
        }
        updates.send(Update::Synced(self.source, pods.keys().cloned().collect())).await?;
        (self.pods, self.synced) = (pods, true);
        Ok(())
    }
}
