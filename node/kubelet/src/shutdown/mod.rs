//! Graceful shutdown of the node: pods end before the machine does.
//!
//! ```text
//! logind ─PrepareForShutdown─► Logind ─► ShutdownManager ─► EvictionDesk ─► tasks of pods, by groups of priority
//!   ▲                                        │
//!   └────────── inhibitor (a descriptor) ────┘ given back when all have ended, or their time is over
//! ```
//!
//! After upstream's `pkg/kubelet/nodeshutdown`. The end of the agent alone (SIGTERM) leaves pods running: nothing here has to
//! do with it.

mod bus;
mod logind;
mod metrics;
pub mod plan;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;

pub use self::metrics::ShutdownMetrics;
use self::{
    bus::BusError,
    logind::{Inhibitor, Logind},
    plan::ShutdownPeriod,
};
use crate::{
    events::{Recorder, node_reference},
    eviction::{EvictionCause, EvictionDesk, EvictionOrder},
    node::NodeHandle,
    pods::{PodIndex, reason::PodReason, status::is_terminal},
    retry::Backoff,
};

/// How soon the bus is looked for again, at first and at last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LATEST_RETRY: Duration = Duration::from_secs(60);
/// What the last statuses are given to reach the API server before the machine goes down, at the most.
const FAREWELL: Duration = Duration::from_secs(1);
/// Who says in the Node's condition that it is not ready.
const SOURCE: &str = "shutdown";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Who has to do with the end of the node.
#[derive(Debug)]
pub struct ShutdownParts {
    /// What pods are left by their priority, ascending; not empty.
    pub periods: Vec<ShutdownPeriod>,
    /// Name of the node.
    pub node_name: String,
    /// Told that the node is not ready.
    pub node: NodeHandle,
    /// Tells people.
    pub recorder: Recorder,
    /// The pods.
    pub index: PodIndex,
    /// Where pods are ordered to go.
    pub desk: EvictionDesk,
    /// When it was, last.
    pub metrics: ShutdownMetrics,
}

/// Delays the shutdown of the machine until pods have ended.
#[derive(Debug)]
pub struct ShutdownManager {
    parts: ShutdownParts,
    /// Directory of settings of logind.
    logind_settings: PathBuf,
    told: Option<String>,
}

impl ShutdownManager {
    /// A manager for these periods.
    #[must_use]
    pub fn new(parts: ShutdownParts) -> Self {
        Self { parts, logind_settings: PathBuf::from(logind::SETTINGS), told: None }
    }

    /// Runs until it is dropped. Where there is no logind, it looks for one again and again.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_RETRY, LATEST_RETRY);
        loop {
            let Err(error) = self.follow(&mut backoff).await;
            self.tell(&error);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Waits for shutdowns, and sees to each, until the bus is gone.
    async fn follow(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible, BusError> {
        let mut logind = Logind::connect().await?;
        let wanted = self.parts.periods.iter().map(|period| period.grace).sum();
        let (mut inhibitor, delay) = logind.inhibit(wanted, &self.logind_settings).await?;
        if delay < wanted {
            tracing::warn!(
                seconds = delay.as_secs(),
                wanted = wanted.as_secs(),
                "logind delays a shutdown for less than pods are to be given: set InhibitDelayMaxSec in logind.conf"
            );
        }
        tracing::info!(seconds = wanted.as_secs(), "pods end before this machine does");
        self.told = None;
        backoff.reset();
        loop {
            let shuts_down = logind.next_shutdown().await?;
            let node = node_reference(&self.parts.node_name);
            let what = if shuts_down { "shutdown event" } else { "shutdown cancellation" };
            let message = format!("Shutdown manager detected {what}");
            self.parts.recorder.normal(&node, "Shutdown", message);
            self.parts.desk.set_shutting_down(shuts_down);
            self.parts.node.set_problem(SOURCE, shuts_down.then(|| "node is shutting down".to_owned()));
            if shuts_down {
                self.end_pods(inhibitor.take()).await;
            } else {
                inhibitor = logind.inhibit(wanted, &self.logind_settings).await?.0;
            }
        }
    }

    /// Ends all pods, one group after the other. The shutdown goes on when this returns.
    async fn end_pods(&self, inhibitor: Option<Inhibitor>) {
        self.parts.metrics.begin();
        let mut last = None;
        for (period, pods) in plan::groups(&self.parts.periods, self.active()) {
            if pods.is_empty() {
                continue;
            }
            tracing::info!(
                priority = period.priority,
                seconds = period.grace.as_secs(),
                pods = pods.len(),
                "the machine shuts down: pods end"
            );
            let until = Instant::now() + period.grace;
            let mut changes = self.parts.index.changes();
            for pod in &pods {
                let Some(uid) = &pod.metadata.uid else { continue };
                let order = EvictionOrder {
                    reason: PodReason::Terminated,
                    message: MESSAGE.to_owned(),
                    annotations: BTreeMap::new(),
                    cause: EvictionCause::Shutdown,
                    grace: period.grace.min(plan::grace(pod)),
                    disrupts: true,
                };
                self.parts.desk.evict(uid, order);
            }
            let all_have_ended = async {
                while pods.iter().any(|pod| self.is_active(pod)) && changes.changed().await.is_ok() {}
            };
            // Either way the next ones are due.
            let _ = tokio::time::timeout_at(until.into(), all_have_ended).await;
            last = Some(until);
        }
        // Nobody waits for longer than pods were given.
        let left = last.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        tokio::time::sleep(FAREWELL.min(left)).await;
        self.parts.metrics.end();
        tracing::info!("the shutdown goes on");
        drop(inhibitor);
    }

    fn active(&self) -> Vec<Arc<Pod>> {
        let pods = self.parts.index.pods();
        pods.into_iter().filter(|pod| !is_terminal(pod.status.as_ref())).collect()
    }

    fn is_active(&self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.parts.index.get(uid).is_some_and(|pod| !is_terminal(pod.status.as_ref()))
    }

    /// Tells once of what is wrong.
    fn tell(&mut self, error: &BusError) {
        let error = error.to_string();
        if self.told.as_ref() != Some(&error) {
            tracing::warn!(
                error,
                "pods do not end before this machine does (shutdownGracePeriod): logind cannot be asked to wait for them; \
                 trying again"
            );
            self.told = Some(error);
        }
    }
}
