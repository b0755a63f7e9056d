//! What comes back from what a task has spawned, and how it is taken in.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::task::{AbortHandle, JoinError};

use super::{
    PodTask, has_log,
    report::{FINALIZE_RETRY, Finalize},
};
use crate::{
    admitter::Admission,
    pods::{
        api::ApiError,
        clock,
        container_id::container_id,
        container_resources::ContainerResources,
        lifecycle::{ContainerKind, ProbeKind, Trouble},
        panics::caught,
        reason::WaitingReason,
    },
    retry,
    runtime::{Image, Presence, SandboxAddresses, SandboxError},
};

/// By how much of its delay the next pull of an image that could not be had is put off at the most.
const PULL_JITTER: f64 = 0.2;

/// What a task has spawned, when it has ended.
pub(super) struct Spawned {
    outcome: TaskOutcome,
    /// What it was, and what its panic said, where it did not come to an end of its own.
    panic: Option<(&'static str, String)>,
}

/// What has come of something that the task had spawned.
pub(super) enum TaskOutcome {
    Pulled {
        container: String,
        result: Result<Image, Trouble>,
        begun: Instant,
    },
    Started {
        container: String,
        result: Result<Timestamp, Trouble>,
    },
    /// The provider may have begun it all the same.
    StartPanicked {
        container: String,
        attempt: u32,
        trouble: Trouble,
    },
    PostStarted {
        container: String,
        attempt: u32,
        result: Result<(), Trouble>,
    },
    PreStopped {
        container: String,
        attempt: u32,
    },
    /// An error is for people.
    Resized {
        container: String,
        attempt: u32,
        wanted: ContainerResources,
        result: Result<(), String>,
    },
    /// No success either way: it could not be carried out.
    Probed {
        container: String,
        attempt: u32,
        kind: ProbeKind,
        success: Option<bool>,
        took: Duration,
    },
    /// The UID is that of the object it was written to.
    Published {
        uid: Option<String>,
        result: Result<Box<Pod>, ApiError>,
    },
    Finalized(Result<(), ApiError>),
    /// The pod is the one that was judged.
    Judged(Arc<Pod>, Admission),
    SandboxSetUp(Result<SandboxAddresses, SandboxError>),
    Unmounted(Result<(), String>),
    Done,
}

/// Why something that panicked is to be tried again.
pub(super) fn panicked(panic: String) -> Trouble {
    Trouble { reason: WaitingReason::RunContainerError, message: format!("internal error: {panic}") }
}

impl PodTask {
    /// Does something beside the task; what comes of it is taken in by [`PodTask::take_in`]. Where it panics, the
    /// outcome is `failed` of what the panic said, so that whatever waits for it goes on.
    pub(super) fn spawn(
        &mut self,
        what: &'static str,
        failed: impl FnOnce(String) -> TaskOutcome + Send + 'static,
        work: impl Future<Output = TaskOutcome> + Send + 'static,
    ) -> AbortHandle {
        self.outcomes.spawn(async move {
            match caught(work).await {
                Ok(outcome) => Spawned { outcome, panic: None },
                Err(panic) => Spawned { outcome: failed(panic.clone()), panic: Some((what, panic)) },
            }
        })
    }

    pub(super) fn take_in(&mut self, ended: Result<Spawned, JoinError>) {
        match ended {
            Ok(Spawned { outcome, panic }) => {
                if let Some((what, panic)) = panic {
                    tracing::error!(pod = %self.name, panic, "{what} has panicked");
                    self.warn(format!("internal error: {what} has ended in a {panic}"));
                }
                self.record(outcome);
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(pod = %self.name, %error, "something done for a pod has panicked"),
        }
    }

    fn trace_failure(&mut self, trouble: Option<&Trouble>) {
        if let Some(Trouble { reason, message }) = trouble {
            self.trace.fail(&format!("{reason}: {message}"));
        }
    }

    fn record(&mut self, outcome: TaskOutcome) {
        let now = clock::now();
        match outcome {
            TaskOutcome::Pulled { container, result, begun } => {
                self.pulls.remove(&container);
                self.start_clock.pulled(begun, Instant::now());
                self.trace_failure(result.as_ref().err());
                self.state.record_pull(&container, result, now);
                self.state.spread_pull(&container, retry::share(PULL_JITTER));
            }
            TaskOutcome::Started { container, result } => {
                self.starting.remove(&container);
                if let Err(trouble) = &result {
                    self.doubt_sandbox();
                    self.trace_failure(Some(trouble));
                }
                let refusal = result.as_ref().err().filter(|t| t.reason == WaitingReason::PolicyViolation);
                // Somebody who looks into a pod is no reason to end it.
                let is_ephemeral =
                    self.spec.container(&container).is_some_and(|c| c.kind == ContainerKind::Ephemeral);
                let refusal = refusal.filter(|_| !is_ephemeral).map(|trouble| trouble.message.clone());
                self.state.record_start(&self.spec, &container, result, now);
                refusal.into_iter().for_each(|message| self.refuse(message));
            }
            TaskOutcome::StartPanicked { container, attempt, trouble } => {
                // What has become of it otherwise is seen by the next look.
                self.starting.remove(&container);
                let id = container_id(&self.name.uid, &container, attempt);
                let began = has_log(&self.shared, &self.name, &container, attempt);
                if self.shared.runtime.observe(&id) == Presence::Absent && !began {
                    self.state.record_start(&self.spec, &container, Err(trouble), now);
                }
            }
            TaskOutcome::PostStarted { container, attempt, result } => {
                self.state.record_post_start(&container, attempt, result);
            }
            TaskOutcome::PreStopped { container, attempt } => self.state.record_pre_stop(&container, attempt),
            TaskOutcome::Resized { container, attempt, wanted, result } => {
                self.record_resized(&container, attempt, wanted, result);
            }
            TaskOutcome::Probed { container, attempt, kind, success, took } => match success {
                Some(success) => {
                    self.shared.probes.record(&self.name, &container, kind, success, took);
                    self.state.record_probe(&self.spec, &container, attempt, kind, success);
                }
                None => self.state.record_probe_given_up(&container, attempt, kind),
            },
            // The mirror that it was written to is not the one of now.
            TaskOutcome::Published { uid, .. } if uid.as_deref() != self.object_uid() => {}
            TaskOutcome::Published { result: Ok(pod), .. } => {
                self.publisher.succeeded(&pod);
                self.note_settled();
            }
            TaskOutcome::Published { result: Err(ApiError::Gone), .. } => {
                // The source will say so too; until then there is nobody to tell.
                self.publisher.failed(now.steady);
            }
            TaskOutcome::Published { result: Err(ApiError::Later(error)), .. } => {
                tracing::debug!(pod = %self.name, error, "the status could not be written; trying again");
                self.publisher.failed(now.steady);
            }
            TaskOutcome::Finalized(Ok(()) | Err(ApiError::Gone)) => self.finalize = Finalize::Done,
            TaskOutcome::Finalized(Err(ApiError::Later(error))) => {
                tracing::debug!(pod = %self.name, error, "the pod could not be let go; trying again");
                self.finalize = Finalize::RetryAt(now.steady.after(FINALIZE_RETRY));
            }
            TaskOutcome::Judged(judged, admission) => self.record_admission(&judged, admission),
            TaskOutcome::SandboxSetUp(result) => self.record_sandbox(result, now.steady),
            TaskOutcome::Unmounted(result) => self.record_unmounted(result, now.steady),
            TaskOutcome::Done => {}
        }
    }
}
