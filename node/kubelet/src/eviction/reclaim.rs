//! What is done when a threshold is met: what nobody uses goes first, then one pod at a time.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    candidate::{Candidate, PodMemoryUsage},
    desk::{EvictionCause, EvictionOrder},
    measure::{self, Measured},
    pace,
    pressure::{Observation, Observations, is_crossed},
    ranking::{self, Ranked, Taken},
    signal::{Resource, resource},
    watcher::{IMMEDIATELY, Watcher},
};
use crate::{
    config::thresholds::{Signal, Threshold},
    events::node_reference,
    pods::reason::PodReason,
};

/// How long an evicted pod is waited for when its grace is over, before the next one is evicted; upstream's numbers.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const WAIT_STEP: Duration = Duration::from_millis(100);

/// How long the machine is given to have more memory after a pod has ended, before another one has to.
const MEMORY_SETTLES: Duration = Duration::from_secs(2);

impl Watcher {
    /// Ends the pod that is the first to go where memory is short, and waits for it; false where none can be ended, or
    /// memory is not short any more.
    pub(super) async fn relieve_memory(&self, met: &[Threshold]) -> bool {
        let Some(first) = met.first() else { return false };
        self.announce(Resource::Memory);
        let runs = |pods: Vec<Candidate>| pods.into_iter().filter(|pod| pod.runs).map(|pod| pod.uid);
        let ran: BTreeSet<String> = runs(self.pods.candidates()).collect();
        let mut usage = self.stats.memory().await;
        let rank = |pod: Candidate| {
            let taken = usage.remove(&pod.uid);
            // A pod that ran before its worker was asked and runs afterwards is unknown to it; others have nothing yet.
            let is_unknown = pod.runs && ran.contains(&pod.uid);
            let taken = taken.or_else(|| (!is_unknown).then(PodMemoryUsage::default));
            (pod, taken.map(|usage| Taken::of_memory(&usage)))
        };
        let mut pods: Vec<Ranked> = self.pods.candidates().into_iter().map(rank).collect();
        let (seen, _) = self.observe().await;
        if !met.iter().any(|threshold| is_crossed(threshold, &seen, true)) {
            return false;
        }
        ranking::rank(&mut pods, Resource::Memory);
        let evicted = self.evict_first(&pods, first, Resource::Memory, met, &seen).await;
        if !evicted {
            tracing::warn!("the node runs short of memory, and there is no pod left to evict");
        }
        evicted
    }

    /// Frees what a threshold of a disk asks for: files and images that nobody uses first, then the place of one pod.
    pub(super) async fn reclaim(&mut self, met: &[Threshold], mut measured: Vec<Measured>) -> Duration {
        let Some((first, short)) = met.first().and_then(|t| Some((*t, resource(t.signal)?))) else {
            return pace::LONGEST;
        };
        self.announce(short);
        let pods = Arc::clone(&self.pods);
        if let Err(error) = tokio::task::spawn_blocking(move || pods.remove_dead_files()).await {
            tracing::error!(%error, "the removal of ended containers' files has panicked");
        }
        if let Some(wanted) = self.pods.wanted_images() {
            self.images.remove_all_unused(&wanted).await;
        }
        let (seen, _) = self.observe().await;
        if !met.iter().any(|threshold| is_crossed(threshold, &seen, true)) {
            return pace::SHORTEST;
        }

        if has_images_apart(&first, &seen) {
            // What pods have written takes nothing of the images' file system.
            measured.iter_mut().for_each(|(_, usage)| *usage = Some(Default::default()));
        }
        let taken = |(pod, usage): Measured| (pod, usage.map(|usage| Taken::of_disk(&usage, short)));
        let mut pods: Vec<Ranked> = measured.into_iter().map(taken).collect();
        ranking::rank(&mut pods, short);
        if self.evict_first(&pods, &first, short, met, &seen).await {
            return pace::SHORTEST;
        }
        tracing::warn!(resource = short.as_str(), "the node runs short, and there is no pod left to evict");
        pace::LONGEST
    }

    fn announce(&self, short: Resource) {
        let message = format!("Attempting to reclaim {}", short.as_str());
        self.recorder.warning(&node_reference(&self.node_name), "EvictionThresholdMet", message);
    }

    /// Evicts the first of the ranked pods that can be, and waits until it has ended; false where there is none.
    async fn evict_first(
        &self,
        ranked: &[Ranked],
        first: &Threshold,
        short: Resource,
        met: &[Threshold],
        seen: &Observations,
    ) -> bool {
        for candidate in ranked.iter().filter(|(pod, _)| !pod.critical) {
            let (pod, _) = candidate;
            let told = ranking::explain(candidate, short, met, seen);
            let grace = first.soft.map_or(IMMEDIATELY, |_| self.longest_grace.min(pod.grace));
            let order = EvictionOrder {
                reason: PodReason::Evicted,
                message: told.message,
                annotations: told.annotations,
                cause: EvictionCause::Signal(first.signal.as_str()),
                grace,
                disrupts: true,
            };
            if self.evict(pod, order) {
                self.await_end(pod, grace + LONGEST_WAIT, short, met).await;
                return true;
            }
        }
        false
    }

    /// Waits until an evicted pod has ended and has given back what it had, or the node no longer runs short.
    async fn await_end(&self, pod: &Candidate, within: Duration, short: Resource, met: &[Threshold]) {
        let begun = Instant::now();
        let mut ended_at = None;
        while begun.elapsed() < within {
            tokio::time::sleep(WAIT_STEP).await;
            if ended_at.is_none() && self.pods.candidates().iter().any(|other| other.uid == pod.uid) {
                continue;
            }
            let ended_at = *ended_at.get_or_insert_with(Instant::now);
            let (seen, _) = self.observe().await;
            let has_given_back = match short {
                Resource::Memory => ended_at.elapsed() >= MEMORY_SETTLES,
                Resource::EphemeralStorage | Resource::Inodes => {
                    let candidate = pod.clone();
                    let look = tokio::task::spawn_blocking(move || measure::has_files(&candidate));
                    !look.await.unwrap_or(false)
                }
            };
            if has_given_back || !met.iter().any(|threshold| is_crossed(threshold, &seen, true)) {
                return;
            }
        }
    }
}

/// A signal of the images, and they are not on the file system that pods write to.
fn has_images_apart(threshold: &Threshold, seen: &Observations) -> bool {
    let is_images = matches!(threshold.signal, Signal::ImagefsAvailable | Signal::ImagefsInodesFree);
    let capacity = |signal| seen.get(&signal).map(|observed: &Observation| observed.capacity);
    is_images && capacity(Signal::ImagefsAvailable) != capacity(Signal::NodefsAvailable)
}
