//! A running attempt of a container, as its probes and hooks find it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};

use super::{Addresses, HookError, ProbeOutcome, Target, hook, probe};
use crate::{
    pods::{
        lifecycle::{Note, PodName, ProbeKind, Trouble},
        reason::{EventReason, WaitingReason},
    },
    runtime::{ExposedPort, Runtime},
};

/// How long a postStart hook may take. Upstream sets no bound, and the container's own end is one; a day
/// is there so that nothing is kept for ever.
const POST_START_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// All that a probe or hook needs, owned: it goes on beside the task that asked for it.
pub(in crate::pods) struct Attempt {
    /// Runs what `exec` names.
    pub(in crate::pods) runtime: Arc<dyn Runtime>,
    /// Addresses of the pod.
    pub(in crate::pods) addresses: Vec<IpAddr>,
    /// See [`Addresses::exposed`].
    pub(in crate::pods) exposed: Option<Vec<ExposedPort>>,
    /// The pod as it is now.
    pub(in crate::pods) pod: Arc<Pod>,
    /// The pod, for messages.
    pub(in crate::pods) name: PodName,
    /// The container as the pod has it.
    pub(in crate::pods) container: Container,
    /// Container id of the attempt.
    pub(in crate::pods) id: String,
    /// Number of the attempt.
    pub(in crate::pods) number: u32,
    /// Makes an event.
    pub(in crate::pods) tell: Box<dyn Fn(Note) + Send + Sync>,
}

impl Attempt {
    /// Runs a probe and tells of what is worth telling. `None` when it could not be carried out, which
    /// counts neither way.
    pub(in crate::pods) async fn probe(&self, kind: ProbeKind) -> Option<bool> {
        let probe = match kind {
            ProbeKind::Startup => self.container.startup_probe.as_ref(),
            ProbeKind::Readiness => self.container.readiness_probe.as_ref(),
            ProbeKind::Liveness => self.container.liveness_probe.as_ref(),
        };
        // It may be gone from the pod since it was asked for.
        let outcome = self.outcome(probe?).await;
        if let Some((reason, message)) = event(kind, &outcome) {
            (self.tell)(self.warning(reason, message));
        }
        match outcome {
            ProbeOutcome::Success { .. } => Some(true),
            ProbeOutcome::Failure(_) => Some(false),
            ProbeOutcome::Error(_) => None,
        }
    }

    async fn outcome(&self, wanted: &Probe) -> ProbeOutcome {
        let seconds = wanted.timeout_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(1);
        let timeout = Duration::from_secs(seconds.max(1));
        probe(self.target(), wanted, timeout).await
    }

    /// Runs the postStart hook.
    ///
    /// # Errors
    /// The waiting reason and message of the container, which is to be killed.
    pub(in crate::pods) async fn post_start(&self) -> Result<(), Trouble> {
        let handler = self.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        self.hook(handler, POST_START_LIMIT).await.map_err(|error| {
            // What the hook printed may be secret and stays out of events.
            (self.tell)(self.warning(EventReason::FailedPostStartHook, "PostStartHook failed".to_owned()));
            Trouble { reason: WaitingReason::PostStartHookError, message: error.to_string() }
        })
    }

    /// Runs the preStop hook. The container is stopped however it ends.
    pub(in crate::pods) async fn pre_stop(&self, within: Duration) {
        let handler = self.container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
        match self.hook(handler, within).await {
            Ok(()) => {}
            Err(HookError::Failed(error)) => {
                tracing::debug!(pod = %self.name, container = self.container.name, error, "a preStop hook has failed");
                (self.tell)(self.warning(EventReason::FailedPreStopHook, "PreStopHook failed".to_owned()));
            }
            Err(error @ HookError::CutOff(_)) => {
                tracing::info!(pod = %self.name, container = self.container.name, %error, "going on without a preStop hook");
            }
        }
    }

    async fn hook(&self, handler: Option<&LifecycleHandler>, within: Duration) -> Result<(), HookError> {
        // It may be gone from the pod since it was asked for.
        let Some(handler) = handler else { return Ok(()) };
        if let Some(message) = hook(self.target(), handler, within).await? {
            (self.tell)(Note {
                container: None,
                ..self.warning(EventReason::LifecycleHTTPFallback, message)
            });
        }
        Ok(())
    }

    fn target(&self) -> Target<'_> {
        let host_network = self.pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
        Target {
            pod: &self.name,
            container: &self.container,
            addresses: Addresses { pod_ips: &self.addresses, host_network, exposed: self.exposed.as_deref() },
            id: &self.id,
            runtime: self.runtime.as_ref(),
        }
    }

    fn warning(&self, reason: EventReason, message: String) -> Note {
        Note { container: Some(self.container.name.clone()), warning: true, reason, message }
    }
}

/// Reason and message of the event about a probe; a plain success is none.
fn event(kind: ProbeKind, outcome: &ProbeOutcome) -> Option<(EventReason, String)> {
    let kind = kind.name();
    match outcome {
        ProbeOutcome::Success { warning: None } => None,
        ProbeOutcome::Success { warning: Some(text) } => {
            Some((EventReason::ProbeWarning, format!("{kind} probe warning: {text}")))
        }
        ProbeOutcome::Failure(output) => {
            Some((EventReason::Unhealthy, format!("{kind} probe failed: {output}")))
        }
        ProbeOutcome::Error(error) => Some((
            EventReason::Unhealthy,
            format!("{kind} probe errored and resulted in unknown state: {error}"),
        )),
    }
}
