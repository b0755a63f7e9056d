//! Looks at the node's memory and disk, and sees to it that they do not run out. The edge around the pure parts of this module.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    candidate::Candidate,
    collector::ImageCollector,
    desk::{EvictionCause, EvictionDesk, EvictionOrder},
    images::ImagePolicy,
    limits,
    measure::{Measured, Measuring},
    pace,
    pressure::{Observation, Observations, PressureTracker},
    signal::{Resource, resource},
};
use crate::{
    config::{
        Config,
        thresholds::{self, Signal, Threshold},
    },
    events::Recorder,
    node::reserved_memory,
    pods::reason::PodReason,
    runtime::Runtime,
    stats::NodeStats,
    supply::{Disk, MemoryInfo},
};

/// What is left of the grace of a pod that is evicted for a hard threshold or its own limit; upstream's number.
pub(super) const IMMEDIATELY: Duration = Duration::from_secs(1);

/// How often images are looked through for those that are too old; upstream's number.
const IMAGE_ROUND: Duration = Duration::from_mins(5);

/// The pods of the node as eviction sees them.
pub trait CandidateSource: std::fmt::Debug + Send + Sync + 'static {
    /// All pods that have not ended.
    fn candidates(&self) -> Vec<Candidate>;

    /// Those of them of which something bounds what they may write. Asked for at every look.
    fn limited(&self) -> Vec<Candidate>;

    /// Images that these pods name, for containers and for volumes; `None` while not all pods are known.
    fn wanted_images(&self) -> Option<BTreeSet<String>>;

    /// Removes the files of containers that have ended and have a successor. Blocking.
    fn remove_dead_files(&self);
}

/// What a watcher is made of.
#[derive(Debug)]
pub struct WatcherParts {
    /// The effective configuration.
    pub config: Config,
    /// Asked for images.
    pub runtime: Arc<dyn Runtime>,
    /// Told of what is done.
    pub recorder: Recorder,
    /// Where pods are told to go.
    pub desk: EvictionDesk,
    /// Which pods there are.
    pub pods: Arc<dyn CandidateSource>,
    /// Knows what they take of memory.
    pub stats: NodeStats,
}

/// Watches the memory and the disk of the node and of its pods. Made by [`Watcher::new`], driven by [`Watcher::run`].
#[derive(Debug)]
pub struct Watcher {
    root_dir: PathBuf,
    pub(super) node_name: String,
    pub(super) longest_grace: Duration,
    pub(super) recorder: Recorder,
    desk: EvictionDesk,
    pub(super) pods: Arc<dyn CandidateSource>,
    pub(super) stats: NodeStats,
    tracker: PressureTracker,
    /// Bytes of the machine's memory that are kept from pods.
    reserved_memory: u64,
    pub(super) images: ImageCollector,
    images_due: Instant,
    measuring: Measuring,
    measured: LastMeasured,
}

/// The last measurement of pods that have limits.
#[derive(Clone, Copy, Debug, Default)]
struct LastMeasured {
    at: Option<Instant>,
    /// Bytes that were in use on the disk.
    used: u64,
    /// Bytes that the one nearest to its limit had left.
    slack: Option<u64>,
}

impl Watcher {
    /// Puts the watcher together.
    #[must_use]
    pub fn new(parts: WatcherParts) -> Self {
        let WatcherParts { config, runtime, recorder, desk, pods, stats } = parts;
        let kubelet = &config.kubelet;
        // A configuration that has been resolved has none that are wrong.
        let thresholds = thresholds::thresholds(kubelet).unwrap_or_default();
        let images = ImageCollector {
            policy: ImagePolicy {
                high_percent: kubelet.image_gc_high_threshold_percent,
                low_percent: kubelet.image_gc_low_threshold_percent,
                minimum_age: kubelet.image_minimum_gc_age,
                maximum_age: kubelet.image_maximum_gc_age,
            },
            dir: runtime.image_dir().unwrap_or_else(|| config.root_dir.clone()),
            runtime,
            recorder: recorder.clone(),
            node_name: config.node_name.clone(),
            failed: false,
        };
        Self {
            tracker: PressureTracker::new(thresholds, kubelet.eviction_pressure_transition_period),
            reserved_memory: reserved_memory(kubelet),
            longest_grace: Duration::from_secs(kubelet.eviction_max_pod_grace_period.into()),
            root_dir: config.root_dir,
            node_name: config.node_name,
            recorder,
            desk,
            pods,
            stats,
            images,
            images_due: Instant::now(),
            measuring: Measuring::default(),
            measured: LastMeasured::default(),
        }
    }

    /// Watches for ever.
    pub async fn run(mut self) {
        loop {
            let pause = self.round().await;
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks once and does what is to be done; returns how long nothing has to be looked at.
    async fn round(&mut self) -> Duration {
        let (seen, image_disk) = self.observe().await;
        let now = Instant::now();
        let (pressure, met) = self.tracker.observe(&seen, now);
        self.desk.set_pressure(pressure);
        let (of_memory, of_disk): (Vec<Threshold>, Vec<Threshold>) = met
            .into_iter()
            .filter(|threshold| resource(threshold.signal).is_some())
            .partition(|threshold| resource(threshold.signal) == Some(Resource::Memory));

        if !of_memory.is_empty() && self.relieve_memory(&of_memory).await {
            return pace::SHORTEST;
        }
        if !of_disk.is_empty() {
            let measured = self.measure(self.pods.candidates(), &seen, now).await;
            if self.evict_beyond_limits(&measured) {
                return pace::SHORTEST;
            }
            return self.reclaim(&of_disk, measured).await;
        }
        let limited = self.pods.limited();
        if limited.is_empty() {
            self.measured = LastMeasured::default();
        } else if self.is_measurement_due(&seen, now) {
            let measured = self.measure(limited, &seen, now).await;
            self.evict_beyond_limits(&measured);
        }
        let images_due = self.images_due <= now || (self.images.is_due(&image_disk) && !self.images.failed);
        if let Some(wanted) = self.pods.wanted_images().filter(|_| images_due) {
            self.images.collect(&wanted).await;
            self.images_due = Instant::now() + IMAGE_ROUND;
        }
        // Pressure for which there was nobody to evict is looked at at leisure.
        if of_memory.is_empty() { self.pause(&seen, now) } else { pace::LONGEST }
    }

    fn pause(&self, seen: &Observations, now: Instant) -> Duration {
        let (bytes, inodes) = self.tracker.headroom(seen);
        let bytes = bytes.into_iter().chain(self.measured.slack).min();
        let next = pace::next_look(bytes, inodes);
        let deadline = self.tracker.deadline().map(|at| at.saturating_duration_since(now));
        deadline.map_or(next, |deadline| next.min(deadline.max(pace::SHORTEST)))
    }

    pub(super) async fn observe(&self) -> (Observations, Disk) {
        let reserved = self.reserved_memory;
        let of_pods = match self.tracker.asks_for(Signal::AllocatableMemoryAvailable) {
            true => Some(self.stats.pods_memory().await),
            false => None,
        };
        let (root, images) = (self.root_dir.clone(), self.images.dir.clone());
        let look = move || {
            let read = |dir: &PathBuf| {
                Disk::of(dir).unwrap_or_else(|error| {
                    tracing::warn!(dir = %dir.display(), %error, "cannot read the size of the file system");
                    Disk::default()
                })
            };
            let memory = MemoryInfo::read();
            let (nodefs, imagefs) = (read(&root), read(&images));
            // A kubelet asks the cgroup of all pods, whose limit this is; here the accounts of containers say it.
            let allocatable = memory.total.saturating_sub(reserved);
            let left = of_pods.map_or(0, |taken| allocatable.saturating_sub(taken));
            let seen = [
                (Signal::MemoryAvailable, memory.available(), memory.total),
                (Signal::AllocatableMemoryAvailable, left, if of_pods.is_some() { allocatable } else { 0 }),
                (Signal::NodefsAvailable, nodefs.available, nodefs.capacity),
                (Signal::NodefsInodesFree, nodefs.inodes_free, nodefs.inodes),
                (Signal::ImagefsAvailable, imagefs.available, imagefs.capacity),
                (Signal::ImagefsInodesFree, imagefs.inodes_free, imagefs.inodes),
            ];
            // Zero capacity is what could not be read, or a file system that does not count.
            let counted = seen.into_iter().filter(|(_, _, capacity)| *capacity > 0);
            let seen = counted
                .map(|(signal, available, capacity)| (signal, Observation { available, capacity }))
                .collect();
            (seen, imagefs)
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    /// Whether pods that have limits are to be measured: it is time, or the disk has taken in as much since as the one
    /// nearest to its limit had left.
    fn is_measurement_due(&self, seen: &Observations, now: Instant) -> bool {
        let LastMeasured { at, used, slack } = self.measured;
        let Some(since) = at.map(|at| now.saturating_duration_since(at)) else { return true };
        let grown = used_bytes(seen).saturating_sub(used);
        let may_be_beyond = slack.is_some_and(|slack| grown >= slack);
        since >= pace::LONGEST || (may_be_beyond && since >= pace::LEAST_BETWEEN_MEASUREMENTS)
    }

    async fn measure(&mut self, pods: Vec<Candidate>, seen: &Observations, now: Instant) -> Vec<Measured> {
        let measured = self.measuring.measure(pods).await;
        let slack = measured.iter().filter_map(|(pod, usage)| limits::slack(pod, usage.as_ref()?)).min();
        self.measured = LastMeasured { at: Some(now), used: used_bytes(seen), slack };
        measured
    }

    /// Evicts all pods that have written more than they may; says whether there was one.
    fn evict_beyond_limits(&self, measured: &[Measured]) -> bool {
        let mut any = false;
        for (pod, usage) in measured.iter().filter(|(pod, _)| !pod.critical) {
            if let Some((signal, message)) = usage.as_ref().and_then(|usage| limits::excess(pod, usage)) {
                any |= self.evict(
                    pod,
                    EvictionOrder {
                        reason: PodReason::Evicted,
                        message,
                        annotations: BTreeMap::new(),
                        cause: EvictionCause::Signal(signal),
                        grace: IMMEDIATELY,
                        disrupts: false,
                    },
                );
            }
        }
        any
    }

    /// Orders a pod to go; false where nobody can carry it out, or it has been ordered already.
    pub(super) fn evict(&self, pod: &Candidate, order: EvictionOrder) -> bool {
        let message = order.message.clone();
        let evicted = self.desk.evict(&pod.uid, order);
        if evicted {
            tracing::warn!(pod = pod.name, message, "evicting a pod");
        }
        evicted
    }
}

fn used_bytes(seen: &Observations) -> u64 {
    seen.get(&Signal::NodefsAvailable)
        .map_or(0, |observed| observed.capacity.saturating_sub(observed.available))
}
