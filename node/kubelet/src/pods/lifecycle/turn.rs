//! One turn of a pod as a transaction: decide on a copy, save it, and only then take it over and act.
//!
//! What is decided says that things have been asked for ([`Stage::Pulling`](super::Stage::Pulling), a stop that was
//! told, …). Were that remembered while the record cannot be written, it would be neither done nor asked for again;
//! were it done all the same, the next agent would not know of it, and do it twice. So a turn that cannot be saved
//! has not taken place: the next one comes to the same, and to what has changed since.
//!
//! A pod that is to end is the exception, because its end is what makes room. It begins nothing: its containers are
//! stopped, which may be asked for any number of times, and what an agent that did not get to write it down has
//! decided, the next one decides anew, from the deletion, the exits that the provider keeps, and the deadline. (A
//! preStop hook may run once more then, as hooks may.) What may come after that, such as the removal of volumes, has
//! to wait for the record: see [`PodState::is_settled`].

use super::{Action, EndingCause, LifecycleLimits, Now, PodName, PodState, Spec, Step, step};

/// What is decided, and not done yet.
#[derive(Clone, Debug)]
pub struct PodTurn {
    next: PodState,
    step: Step,
}

impl PodTurn {
    /// Decides what is to be done now. `state` stays as it is.
    #[must_use]
    pub fn of(pod: &PodName, spec: &Spec, state: &PodState, limits: LifecycleLimits, now: Now) -> Self {
        let mut next = state.clone();
        let step = step(pod, spec, &mut next, limits, now);
        Self { next, step }
    }

    /// What is to be on disk before it is acted on: [`PodState::durable`] of what is decided.
    #[must_use]
    pub fn record(&self) -> PodState {
        self.next.durable()
    }

    /// The pod is to end: nothing of it is begun any more.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.next.ending.is_some()
    }

    /// It ends something. The node keeps room for saving that.
    #[must_use]
    pub fn ends_something(&self) -> bool {
        let ends = |action: &Action| matches!(action, Action::Stop { .. } | Action::AbortPull { .. });
        self.is_ending() || self.step.actions.iter().any(ends)
    }

    /// It is on disk: takes it over. What is returned is to be done.
    pub fn saved(self, state: &mut PodState) -> Step {
        *state = self.next;
        self.step
    }

    /// It could not be saved, or must not be done yet. What is returned is to be done all the same: it is nothing unless the pod is to end.
    pub fn unsaved(self, state: &mut PodState) -> Step {
        if !self.is_ending() {
            return Step::default();
        }
        self.saved(state)
    }
}

impl PodState {
    /// The pod is over, and stays so even if this agent ends now: that is `on_disk`, or the API server will say so
    /// again.
    #[must_use]
    pub fn is_settled(&self, on_disk: bool) -> bool {
        let by_the_api = matches!(
            self.ending.as_ref().map(|ending| ending.cause),
            Some(EndingCause::Deleted | EndingCause::Vanished)
        );
        self.is_over() && (on_disk || by_the_api)
    }
}
