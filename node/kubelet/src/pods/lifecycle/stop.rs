//! A pod that is to end: stopping its containers in order, inside their grace.

use std::time::Duration;

use super::{
    action::{Action, Step},
    clock::Moment,
    spec::{Container, ContainerKind, Spec},
    state::{EndingCause, Hook, PodState, Running, Stage},
};
use crate::pods::reason::EventReason;

/// What a container gets at the least when its grace was used up before its turn came.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// What a pod that nobody asked to end gracefully gets: its object is gone.
const VANISHED_GRACE: Duration = Duration::from_secs(1);

/// A pod that takes half as long again as its grace is told of, and this long at the least; upstream's numbers.
const OVERDUE: Duration = Duration::from_secs(10);

/// Stops whatever runs: regular and init containers at once, sidecars after them in reverse order, with
/// all preStop hooks begun at once.
pub(super) fn end(spec: &Spec, state: &mut PodState, now: Moment, step: &mut Step) {
    let Some(ending) = state.ending.clone() else { return };
    let grace = match ending.cause {
        EndingCause::Vanished => spec.deletion.unwrap_or(spec.grace).min(spec.grace).max(VANISHED_GRACE),
        EndingCause::Deleted => spec.deletion.unwrap_or(spec.grace),
        EndingCause::Completed | EndingCause::InitFailed | EndingCause::Verdict => spec.grace,
    };
    // Who ends it for the node's sake may leave it less, and nobody more.
    let grace = state.verdict.as_ref().and_then(|v| v.grace).map_or(grace, |less| less.min(grace));
    let deadline = now.after(grace);
    for container in spec.all().chain(&spec.ephemeral) {
        let Some(record) = state.containers.get_mut(&container.name) else { continue };
        match &mut record.stage {
            Stage::Running(running) => {
                if running.stop.is_none() {
                    step.event(
                        Some(&container.name),
                        EventReason::Killing,
                        format!("Stopping container {}", container.name),
                    );
                }
                // A later request may shorten what an earlier one left, so the deadline is looked at anew.
                running.stop(deadline, container.pre_stop, false);
            }
            Stage::Pulling => {
                record.stage = Stage::Idle;
                step.push(Action::AbortPull { container: container.name.clone() });
            }
            Stage::BackOff { .. } | Stage::Pulled | Stage::Held { .. } => record.stage = Stage::Idle,
            // A start under way is waited for, and then stopped.
            Stage::Idle | Stage::Starting => {}
        }
    }

    for container in &spec.ephemeral {
        let Some(record) = state.containers.get_mut(&container.name) else { continue };
        let attempt = record.newest_attempt();
        if let Stage::Running(running) = &mut record.stage {
            advance(container, attempt, running, true, now, step);
        }
    }

    // From the back: the regular containers, then the sidecars in reverse; each of these waits for all
    // that come after it, as long as its grace lasts.
    let mut later_active = false;
    for container in spec.containers.iter().rev().chain(spec.init.iter().rev()) {
        let Some(record) = state.containers.get_mut(&container.name) else { continue };
        let attempt = record.newest_attempt();
        let turn = container.kind != ContainerKind::Sidecar || !later_active;
        if record.is_active() {
            later_active = true;
        }
        if let Stage::Running(running) = &mut record.stage {
            advance(container, attempt, running, turn, now, step);
        }
    }
    tell_if_overdue(state, ending.since.after(OVERDUE.max(grace + grace / 2)), now, step);
}

/// Tells once of a pod that has not ended at `limit`: what runs it does not do what it is asked to.
fn tell_if_overdue(state: &mut PodState, limit: Moment, now: Moment, step: &mut Step) {
    let ended = state.all_stopped();
    let Some(ending) = state.ending.as_mut().filter(|ending| !(ended || ending.overdue)) else { return };
    if limit > now {
        step.wake(limit);
        return;
    }
    ending.overdue = true;
    let message = "Container runtime did not kill the pod within specified grace period.";
    step.warning(None, EventReason::ExceededGracePeriod, message);
}

/// Takes the stop of one container further: hook first, then the request, once it is its turn.
pub(super) fn advance(
    container: &Container,
    attempt: u32,
    running: &mut Running,
    turn: bool,
    now: Moment,
    step: &mut Step,
) {
    let Some(stop) = &mut running.stop else { return };
    let left = stop.deadline.since(now);
    if !left.is_zero() {
        if stop.pre_stop == Hook::Due {
            stop.pre_stop = Hook::Running;
            step.push(Action::PreStop { container: container.name.clone(), within: left });
        }
        // Neither the hook nor those whose turn comes first may use up more than the grace.
        if !turn || stop.pre_stop == Hook::Running {
            step.wake(stop.deadline);
            return;
        }
    }
    stop.pre_stop = Hook::Done;
    if stop.told.is_none_or(|told| stop.deadline < told) {
        stop.told = Some(stop.deadline);
        step.push(Action::Stop { container: container.name.clone(), attempt, grace: left.max(LEAST_GRACE) });
    }
}
