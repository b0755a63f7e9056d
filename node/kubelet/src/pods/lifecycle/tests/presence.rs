//! What the provider says of a container, and what it cannot say.

use jiff::Timestamp;

use super::{
    super::{LifecycleLimits, Now, PodState, Spec, Stage, spec::RestartPolicy},
    pod, secs,
    world::{World, beginning, epoch},
};
use crate::runtime::{ContainerState, Exit, ExitReason, Presence};

fn at(seconds: u64) -> Timestamp {
    epoch() + secs(seconds)
}

fn now() -> Now {
    Now { steady: beginning().steady.after(secs(9)), wall: at(9) }
}

fn exited(started_at: Timestamp) -> Presence {
    let (exit_code, reason, message) = (3, ExitReason::Exited, String::new());
    let exit = Exit { started_at, finished_at: at(9), exit_code, reason, message };
    Presence::Known(ContainerState::Exited(exit))
}

/// The state of a pod whose only container was being started, for the second time, when its agent was killed.
fn starting() -> (Spec, PodState) {
    let mut state = PodState::default();
    let record = state.container("c");
    (record.attempts, record.stage) = (2, Stage::Starting);
    (pod(RestartPolicy::Always, &["c"]), state)
}

#[test]
fn what_cannot_be_told_changes_nothing() {
    let mut running = World::new(pod(RestartPolicy::Always, &["c"])).run(5);
    let before = running.state.clone();
    running.state.record_observation("c", &Presence::CannotTell, None, now());
    assert_eq!(running.state, before);
    let (spec, mut state) = starting();
    let before = state.clone();
    state.record_inherited_start(&spec, "c", &Presence::CannotTell, true, now());
    state.resume(&spec, LifecycleLimits::default(), |_, _| Presence::CannotTell, |_, _| true, now());
    assert_eq!(state, before);
}

/// An agent that comes back to a start that it did not see the end of waits for it, takes it as begun or as never
/// begun; under no number there is a second attempt while the first may still come.
#[test]
fn a_start_of_an_earlier_agent_is_taken_as_it_is_found() {
    let running = Presence::Known(ContainerState::Running { started_at: at(1) });
    let table = [
        (Presence::CannotTell, true, None, 2),
        (Presence::Known(ContainerState::Starting), true, None, 2),
        (running, true, Some(at(1)), 2),
        (exited(at(1)), true, Some(at(1)), 2),
        // It may have run, and its process is gone: it counts, and its number is used up.
        (Presence::Absent, true, Some(at(9)), 2),
        (Presence::Absent, false, None, 1),
    ];
    for (presence, began, started_at, attempts) in table {
        let (spec, mut state) = starting();
        state.resume(&spec, LifecycleLimits::default(), |_, _| presence.clone(), |_, _| began, now());
        let (spec, mut later) = starting();
        later.record_inherited_start(&spec, "c", &presence, began, now());
        assert_eq!(later, state, "at once or later: {presence:?}");
        let record = &state.containers["c"];
        let seen = record.running().map(|running| running.started_at);
        let lost = record.finished.last().map(|finished| finished.exit.started_at);
        assert_eq!((seen.or(lost), record.attempts), (started_at, attempts), "{presence:?} {began}");
        let waits = matches!(presence, Presence::CannotTell | Presence::Known(ContainerState::Starting));
        assert_eq!(record.stage == Stage::Starting, waits, "{presence:?}");
    }
}
