//! The volumes of a task's pod: set up before anything starts, gone before the pod is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use super::{PodTask, TaskOutcome};
use crate::{
    eviction::{EvictionCause, EvictionOrder},
    pods::{
        cleanup, clock,
        files::resolv_conf::Dns,
        lifecycle::{Moment, PodState, Verdict},
        reason::{EventReason, PodReason},
        shared::Shared,
        volumes::{Keeper, KeeperParts, VolumePlaces},
    },
};

/// How long a failed removal waits.
const RETRY: Duration = Duration::from_secs(2);

/// What is left of the grace of a pod that takes more than it may, as upstream has it.
const EVICTED_GRACE: Duration = Duration::from_secs(1);

/// How far a pod's volumes are.
pub(super) enum Storage {
    /// They are not set up before the pod is taken.
    Held,
    /// They are being set up, or are there.
    Kept(Keeper),
    /// They are to be removed; not before this.
    Ending(Moment),
    /// They are being removed.
    Unmounting,
    /// None are left.
    Gone,
}

impl Storage {
    /// Begins to set up the volumes of a pod that has not ended, and says what is to be said of how it
    /// resolves names.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        pod: &Arc<Pod>,
        reference: &ObjectReference,
        state: &PodState,
    ) -> Self {
        if state.is_over() {
            return Self::Ending(Moment::default());
        }
        if state.containers.is_empty() {
            let settings = &shared.volumes.settings().dns;
            let node = shared.volumes.node_dns().unwrap_or_default();
            for note in Dns::of(pod, settings, &node).1 {
                shared.recorder.warning(reference, note.reason.as_str(), note.message);
            }
        }
        let (recorder, reference) = (shared.recorder.clone(), reference.clone());
        let parts = KeeperParts {
            volumes: Arc::clone(&shared.volumes),
            records: shared.records.clone(),
            node: shared.node.clone(),
            view: shared.admission.clone(),
            tell: Box::new(move |note| recorder.warning(&reference, note.reason.as_str(), note.message)),
        };
        Self::Kept(Keeper::start(Arc::clone(pod), parts))
    }

    /// The pod has changed.
    pub(super) fn update(&self, pod: &Arc<Pod>) {
        if let Self::Kept(keeper) = self {
            keeper.update(pod);
        }
    }

    /// Waits until a volume is larger than it may be.
    pub(super) async fn excess(&mut self) -> EvictionOrder {
        match self {
            Self::Kept(keeper) => {
                let message = keeper.excess().await;
                EvictionOrder {
                    reason: PodReason::Evicted,
                    message,
                    annotations: BTreeMap::new(),
                    cause: EvictionCause::Signal("emptydirfs.limit"),
                    grace: EVICTED_GRACE,
                    disrupts: false,
                }
            }
            Self::Held | Self::Ending(_) | Self::Unmounting | Self::Gone => std::future::pending().await,
        }
    }

    /// Ends the keeping of the volumes.
    pub(super) async fn stop(self) {
        if let Self::Kept(keeper) = self {
            keeper.stop().await;
        }
    }
}

impl PodTask {
    /// Waits until all volumes are there; never ends where there are to be none any more.
    pub(super) fn places(&self) -> impl Future<Output = VolumePlaces> + Send + use<> {
        let ready = match &self.storage {
            Storage::Kept(keeper) => Some(keeper.ready()),
            Storage::Held | Storage::Ending(_) | Storage::Unmounting | Storage::Gone => None,
        };
        async move {
            match ready {
                Some(ready) => ready.await,
                None => std::future::pending().await,
            }
        }
    }

    /// The pod has to go: it has taken more than it may, or the node runs short.
    pub(super) fn evict(&mut self, order: EvictionOrder) {
        let EvictionOrder { reason, message, annotations, cause, grace, disrupts } = order;
        match &cause {
            EvictionCause::Signal(signal) => self.shared.metrics.evicted(signal),
            EvictionCause::Preemption(resource) => self.shared.metrics.preempted(resource),
            EvictionCause::Shutdown => {}
        }
        if cause != EvictionCause::Shutdown {
            let recorder = &self.shared.recorder;
            recorder.annotated_warning(&self.reference, reason.as_str(), message.clone(), annotations);
        }
        let verdict = Verdict { reason: reason.to_string(), message, grace: Some(grace), disrupts };
        self.state.record_verdict(verdict, clock::now());
    }

    /// Removes the volumes once nothing of the pod runs any more, and none of it ever will; returns when to try again.
    pub(super) fn unmount(&mut self, now: Moment) -> Option<Moment> {
        if !self.state.is_settled(self.on_disk) {
            return None;
        }
        match &self.storage {
            Storage::Ending(at) if *at > now => return Some(*at),
            Storage::Unmounting | Storage::Gone => return None,
            Storage::Held | Storage::Kept(_) | Storage::Ending(_) => {}
        }
        let kept = std::mem::replace(&mut self.storage, Storage::Unmounting);
        let (shared, uid) = (Arc::clone(&self.shared), self.name.uid.clone());
        let reference = self.reference.clone();
        let failed = |panic| TaskOutcome::Unmounted(Err(panic));
        self.spawn("the removal of volumes", failed, async move {
            kept.stop().await;
            // The last exits are on record: nobody asks the provider for them any more.
            if let Err(error) = cleanup::remove_containers(&shared, &uid).await {
                return TaskOutcome::Unmounted(Err(error));
            }
            if let Err(error) = cleanup::release_addresses(&shared, &uid).await {
                return TaskOutcome::Unmounted(Err(error));
            }
            if let Err(error) = cleanup::tear_down_sandbox(&shared, &uid).await {
                let message = cleanup::failed_sandbox(&uid, &error);
                shared.recorder.warning(&reference, EventReason::FailedKillPod.as_str(), message);
                return TaskOutcome::Unmounted(Err(error));
            }
            let remove = move || shared.volumes.remove(&shared.records, &uid);
            let removed = tokio::task::spawn_blocking(remove).await;
            TaskOutcome::Unmounted(match removed {
                Ok(removed) => removed.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            })
        });
        None
    }

    /// Takes in what has come of a removal.
    pub(super) fn record_unmounted(&mut self, result: Result<(), String>, now: Moment) {
        self.storage = match result {
            Ok(()) => Storage::Gone,
            Err(error) => {
                tracing::warn!(pod = %self.name, error, "the volumes of a pod that has ended could not be removed; trying again");
                Storage::Ending(now.after(RETRY))
            }
        };
    }

    /// None of the pod's volumes are left.
    pub(super) fn is_unmounted(&self) -> bool {
        matches!(self.storage, Storage::Gone)
    }
}
