//! The keeper of one pod's volumes: it sets them up, and keeps projected ones as their objects are.
//!
//! It goes round whenever something may have changed (an object, the pod, the time), does what can be done,
//! and says what cannot. A round that finds nothing new writes nothing.

mod needs;
mod slot;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use self::{
    needs::Needs,
    slot::{LimitedVolume, SetUpOutcome, VolumeSlot},
};
use super::{VolumePlace, VolumePlaces, Volumes, empty_dir, source};
use crate::pods::{
    admission::NodeView, environment::NodeFacts, lifecycle::Note, reason::EventReason, records::Records,
};

/// How long a pod may wait for its volumes before that is told; upstream's number.
const PATIENCE: Duration = Duration::from_secs(123);

/// How often the size of volumes that have a limit is measured; upstream's number.
const MEASURE: Duration = Duration::from_secs(10);

/// What the keeper has to do with.
pub(in crate::pods) struct KeeperParts {
    pub(in crate::pods) volumes: Arc<Volumes>,
    pub(in crate::pods) records: Records,
    pub(in crate::pods) node: watch::Receiver<NodeFacts>,
    /// Labels of the node, where it has some.
    pub(in crate::pods) view: Option<watch::Receiver<NodeView>>,
    /// Makes an event about the pod.
    pub(in crate::pods) tell: Box<dyn Fn(Note) + Send + Sync>,
}

/// How far the volumes of a pod are.
#[derive(Clone, Debug, Default)]
struct VolumeProgress {
    /// Number of the newest version of the pod that was looked at.
    version: u64,
    /// All volumes that are used have been there once.
    ready: bool,
    places: VolumePlaces,
    /// A volume has grown beyond its limit: what to say when the pod is evicted for it.
    excess: Option<String>,
}

/// Keeps the volumes of a pod until it is dropped.
pub(in crate::pods) struct Keeper {
    progress: watch::Receiver<VolumeProgress>,
    /// The pod, and how often it has changed.
    pod: watch::Sender<(u64, Arc<Pod>)>,
    task: AbortOnDropHandle<()>,
}

impl Keeper {
    /// Begins to set up the volumes of `pod`.
    pub(in crate::pods) fn start(pod: Arc<Pod>, parts: KeeperParts) -> Self {
        let (progress, receiver) = watch::channel(VolumeProgress::default());
        let (sender, pod) = watch::channel((1, pod));
        let task = AbortOnDropHandle::new(tokio::spawn(Work::new(parts, pod, progress).run()));
        Self { progress: receiver, pod: sender, task }
    }

    /// The pod has changed.
    pub(in crate::pods) fn update(&self, pod: &Arc<Pod>) {
        self.pod.send_modify(|(version, present)| {
            *version += 1;
            present.clone_from(pod);
        });
    }

    /// Waits until all volumes of the pod as it is now are there, and returns where. The future does not borrow the keeper; it
    /// never ends when the keeper ends first.
    pub(in crate::pods) fn ready(&self) -> impl Future<Output = VolumePlaces> + Send + use<> {
        let mut progress = self.progress.clone();
        let version = self.pod.borrow().0;
        async move {
            let is_ready = |progress: &VolumeProgress| progress.ready && progress.version >= version;
            let places = progress.wait_for(is_ready).await.map(|p| Arc::clone(&p.places));
            match places {
                Ok(places) => places,
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Waits until a volume is larger than it may be, and returns what to say. May be dropped.
    pub(in crate::pods) async fn excess(&mut self) -> String {
        let excess = self.progress.wait_for(|p| p.excess.is_some()).await.map(|p| p.excess.clone());
        match excess {
            Ok(Some(message)) => message,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Ends the keeping; when this returns, nothing writes to the volumes any more.
    pub(in crate::pods) async fn stop(self) {
        self.task.abort();
        // Cancelled, or ended before: both are fine.
        let _ = self.task.await;
    }
}

/// The keeper's task.
struct Work {
    parts: KeeperParts,
    pod: watch::Receiver<(u64, Arc<Pod>)>,
    progress: watch::Sender<VolumeProgress>,
    slots: Vec<VolumeSlot>,
    needs: Needs,
    /// When the wait is told of, while there is one.
    patience: Instant,
    measure: Instant,
}

impl Work {
    fn new(
        parts: KeeperParts,
        pod: watch::Receiver<(u64, Arc<Pod>)>,
        progress: watch::Sender<VolumeProgress>,
    ) -> Self {
        let needs = Needs::new(&parts.volumes);
        let now = Instant::now();
        Self {
            parts,
            pod,
            progress,
            slots: Vec::new(),
            needs,
            patience: now + PATIENCE,
            measure: now + MEASURE,
        }
    }

    async fn run(mut self) {
        loop {
            let (version, pod) = self.pod.borrow_and_update().clone();
            self.needs.follow_environment(&pod);
            self.add_slots(&pod);
            self.needs.refresh(&pod).await;
            for index in 0..self.slots.len() {
                self.round(&pod, index).await;
            }
            let excess = self.measure().await;
            self.show(version, excess);
            if !self.wait().await {
                return;
            }
        }
    }

    /// Takes in volumes that have come into use: an ephemeral container may mount what nobody did before. A
    /// volume that cannot be had holds up the containers that mount it, and nobody else.
    fn add_slots(&mut self, pod: &Pod) {
        let has_cluster = self.parts.volumes.has_cluster();
        for (name, source) in source::used(pod) {
            let allowed = &self.parts.volumes.settings().allowed_host_paths;
            let is_known = self.slots.iter().any(|slot| slot.name == name);
            if !is_known && source.refusal(allowed, has_cluster).is_none() {
                self.needs.follow(pod, &source);
                self.slots.push(VolumeSlot::new(name, source));
            }
        }
    }

    /// Does what is to be done for one volume.
    async fn round(&mut self, pod: &Arc<Pod>, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        match slot.set_up(pod, &self.parts, &mut self.needs).await {
            SetUpOutcome::Nothing => {}
            SetUpOutcome::Failed(error) => {
                let message = format!("MountVolume.SetUp failed for volume \"{}\" : {error}", slot.name);
                (self.parts.tell)(warning(EventReason::FailedMount, message));
            }
        }
    }

    /// Measures volumes that have a limit, when it is time; returns what to say of one that is too large.
    async fn measure(&mut self) -> Option<String> {
        let limited: Vec<_> = self.slots.iter().filter_map(VolumeSlot::limited).collect();
        if limited.is_empty() || Instant::now() < self.measure {
            return None;
        }
        let measured =
            tokio::task::spawn_blocking(move || limited.iter().find_map(LimitedVolume::excess)).await;
        self.measure = Instant::now() + MEASURE;
        measured.unwrap_or_default()
    }

    /// Shows how far the volumes are, and whether one is too large.
    fn show(&mut self, version: u64, excess: Option<String>) {
        let missing: Vec<&str> =
            self.slots.iter().filter(|s| s.place.is_none()).map(|s| s.name.as_str()).collect();
        let now = Instant::now();
        if !missing.is_empty() && self.patience <= now {
            let message = format!(
                "Unable to attach or mount volumes: unmounted volumes=[{}], unattached volumes=[], failed to process \
                 volumes=[]: timed out waiting for the condition",
                missing.join(" ")
            );
            (self.parts.tell)(warning(EventReason::FailedMount, message));
            self.patience = now + PATIENCE;
        }
        let ready = missing.is_empty();
        let slots = &self.slots;
        self.progress.send_if_modified(|progress| {
            let places = slots.iter().filter_map(|slot| Some((slot.name.clone(), slot.place.clone()?)));
            let places: VolumePlaces = Arc::new(places.collect());
            let changed = (progress.version, progress.ready, &progress.places) != (version, ready, &places)
                || excess.is_some();
            let excess = excess.or(progress.excess.take());
            *progress = VolumeProgress { version, ready, places, excess };
            changed
        });
    }

    /// Waits until something may have changed; false when the keeper is gone.
    async fn wait(&mut self) -> bool {
        let waiting = self.slots.iter().any(|slot| slot.place.is_none());
        let measured = self.slots.iter().any(|slot| slot.limited().is_some());
        let deadlines = [
            waiting.then_some(self.patience),
            measured.then_some(self.measure),
            self.needs.deadline(),
            self.slots.iter().filter_map(VolumeSlot::deadline).min(),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        let sleep = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.pod.changed() => changed.is_ok(),
            () = self.needs.changed() => true,
            () = sleep => true,
        }
    }
}

fn warning(reason: EventReason, message: String) -> Note {
    Note { container: None, warning: true, reason, message }
}

#[cfg(test)]
mod tests;
