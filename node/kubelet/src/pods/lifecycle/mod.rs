//! The life of a pod: an explicit state machine with no I/O.
//!
//! ```text
//!   Spec (what is wanted) ─┐
//!   State (what was seen) ─┼─► step ─► actions, and when to look again
//!   now ───────────────────┘    │
//!            ▲                  ▼
//!            └── record_* ◄── outcomes of the actions, exits, probe results
//! ```
//!
//! [`step`] is level-triggered: it looks at everything each time and asks for what is missing, so a lost
//! event costs a delay, never a stuck pod. An action that is under way is part of the state
//! ([`Stage::Pulling`], [`Stage::Starting`], …), which is why calling `step` twice in a row asks for
//! nothing twice. A [`PodTurn`] makes a transaction of it: decide on a copy, save it, then act.
//!
//! Times are of two kinds, see [`clock`]: what is timed, nobody can set.
//!
//! The order of things follows upstream's `SyncPod` (init containers one after another, sidecars in
//! between, then the regular containers in their order, each holding up the next until its postStart
//! hook is done) and `killPodWithSyncResult` (all at once, sidecars last and in reverse).

pub mod action;
pub mod backoff;
pub mod clock;
pub mod probe;
pub mod resize;
mod resume;
mod run;
pub mod spec;
pub mod state;
mod stop;
#[cfg(test)]
mod tests;
pub mod turn;

use std::time::Duration;

pub use self::{
    action::{Action, Note, Step},
    clock::{Moment, Now},
    probe::ProbeKind,
    run::restarts_all,
    spec::{AfterExit, ContainerKind, Spec},
    state::{
        ContainerRecord, Ending, EndingCause, Finished, Hook, PodState, Running, Stage, Trouble, Verdict,
    },
    turn::PodTurn,
};

use super::reason::{EventReason, PodReason};

/// What the node's configuration says about every pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifecycleLimits {
    /// Longest delay between two restarts of a container (`crashLoopBackOff.maxContainerRestartPeriod`).
    pub crash_backoff_max: Duration,
}

impl Default for LifecycleLimits {
    fn default() -> Self {
        Self { crash_backoff_max: backoff::MAXIMUM }
    }
}

/// A pod as messages name it: `name_namespace(uid)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}

/// Decides what is to be done for the pod now, notes in `state` that it is under way, and tells when to
/// look again.
pub fn step(pod: &PodName, spec: &Spec, state: &mut PodState, limits: LifecycleLimits, now: Now) -> Step {
    let mut step = Step::default();
    let start_time = *state.start_time.get_or_insert(spec.start_time.unwrap_or(now.wall));
    let began = *state.began.get_or_insert_with(|| now.moment_of(start_time));

    if spec.deletion.is_some() {
        state.end(EndingCause::Deleted, now);
    }
    // What has ended by itself is not undone by a deadline that has passed since.
    if state.ending.is_none()
        && let Some(cause) = run::conclusion(spec, state)
    {
        state.end(cause, now);
    }
    if let Some(deadline) = spec.active_deadline.map(|d| began.after(d))
        && state.ending.is_none()
    {
        if deadline <= now.steady {
            let message = "Pod was active on the node longer than the specified deadline";
            step.event(None, EventReason::DeadlineExceeded, message);
            let reason = PodReason::DeadlineExceeded.as_str();
            state.record_verdict(Verdict::new(reason, message), now);
        } else {
            step.wake(deadline);
        }
    }
    if state.ending.is_none() {
        run::run(pod, spec, state, limits, now.steady, &mut step);
        resize::advance(spec, state, now.steady, &mut step);
    }
    if state.ending.is_some() {
        stop::end(spec, state, now.steady, &mut step);
    }
    probes(spec, state, now.steady, &mut step);
    step
}

/// Asks for the probes that are due.
fn probes(spec: &Spec, state: &mut PodState, now: Moment, step: &mut Step) {
    let ending = state.ending.is_some();
    for container in spec.all() {
        let Some(record) = state.containers.get_mut(&container.name) else { continue };
        let Stage::Running(running) = &mut record.stage else { continue };
        // Until postStart is done the container does not count as started.
        if running.post_start != Hook::Done {
            continue;
        }
        let stopping = ending || running.stop.is_some();
        for kind in ProbeKind::ALL {
            match running.probes.due(kind, container, running.since, stopping, now) {
                probe::Due::Now => {
                    running.probes.begin(kind, now);
                    step.push(Action::Probe { container: container.name.clone(), kind });
                }
                probe::Due::At(at) => step.wake(at),
                probe::Due::No => {}
            }
        }
    }
}
