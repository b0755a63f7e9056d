//! Resources that change while a pod runs: what is decided about them elsewhere, and the asking of the provider.

use std::{sync::Arc, time::Instant};

use super::{PodTask, ResizeDecision, TaskOutcome, tell};
use crate::{
    pods::{
        clock,
        container_id::container_id,
        container_resources::ContainerResources,
        lifecycle::{
            Note, Spec,
            resize::{PendingResize, summary},
        },
        reason::EventReason,
    },
    runtime::ResizeError,
};

impl PodTask {
    /// Takes in whether the node agrees to what the pod asks for, and tells people where it does not.
    pub(super) fn take_resize(&mut self, decision: ResizeDecision) {
        let pending = match decision {
            ResizeDecision::NotYet => return,
            ResizeDecision::Settled => None,
            ResizeDecision::Pending(pending) => Some(pending),
        };
        if !self.state.record_pending_resize(pending.clone()) || self.state.ending.is_some() {
            return;
        }
        let Some(PendingResize { is_infeasible, message, generation }) = pending else { return };
        let (reason, what) = match is_infeasible {
            true => (EventReason::ResizeInfeasible, "Pod resize Infeasible"),
            false => (EventReason::ResizeDeferred, "Pod resize Deferred"),
        };
        // What it asks for, not what it has.
        let wanted = self.object.as_deref().map_or_else(|| self.spec.clone(), Spec::of);
        self.tell_of_resize(reason, summary(what, &wanted, generation, Some(&message)));
    }

    /// Has the provider give a container other limits.
    pub(super) fn resize(&mut self, container: String, attempt: u32, wanted: ContainerResources) {
        let shared = Arc::clone(&self.shared);
        let id = container_id(&self.name.uid, &container, attempt);
        let failed = {
            let (container, wanted) = (container.clone(), wanted.clone());
            move |panic| TaskOutcome::Resized { container, attempt, wanted, result: Err(panic) }
        };
        self.spawn("a resize", failed, async move {
            let begun = Instant::now();
            let resized = shared.runtime.resize(&id, &container, wanted.limits).await;
            shared.metrics.resized(resized.is_ok(), begun.elapsed());
            let result = resized.map_err(|error| match error {
                below @ ResizeError::BelowUse { .. } => format!("cannot decrease memory limits: {below}"),
                other => other.to_string(),
            });
            TaskOutcome::Resized { container, attempt, wanted, result }
        });
    }

    /// Takes in what has come of it.
    pub(super) fn record_resized(
        &mut self,
        container: &str,
        attempt: u32,
        wanted: ContainerResources,
        result: Result<(), String>,
    ) {
        let news = self.state.record_resized(container, attempt, wanted, result, clock::now());
        let Some(error) = news else { return };
        tracing::warn!(pod = %self.name, container, error, "a container could not be given other limits; trying again");
        let generation = self.state.resize.in_progress.as_ref().and_then(|progress| progress.generation);
        let message = summary("Pod resize error", &self.spec, generation, Some(&error));
        self.tell_of_resize(EventReason::ResizeError, message);
    }

    fn tell_of_resize(&self, reason: EventReason, message: String) {
        let note = Note { container: None, warning: true, reason, message };
        tell(&self.shared.recorder, &self.reference, &self.spec, &note);
    }
}
