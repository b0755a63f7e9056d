//! Deletion, deadlines and verdicts: in what order and how long.

use std::time::Duration;

use super::{
    super::{
        Action, EndingCause, LifecycleLimits, Now, PodName, PodState, Stage, Verdict, spec::RestartPolicy,
        step,
    },
    find, pod,
    script::{Deed, Run, Script, exits},
    secs,
    world::{World, beginning, epoch},
};

fn ends(world: &World) -> Vec<&str> {
    world
        .log()
        .into_iter()
        .filter(|l| ["preStop", "stop ", "exits"].iter().any(|what| l.contains(what)))
        .collect()
}

/// All hooks begin at once; sidecars are stopped after the regular containers, the last one first.
#[test]
fn sidecars_are_stopped_last_and_in_reverse() {
    let mut spec = pod(RestartPolicy::Always, &["s1", "s2", "a", "b"]);
    for name in ["s1", "s2", "a"] {
        find(&mut spec, name).pre_stop = true;
    }
    let ending = |hook, takes| Run {
        pre_stop: Some((secs(hook), true)),
        obeys: Some((secs(takes), 143)),
        ..Run::default()
    };
    let world = World::new(spec)
        .runs("s1", &[ending(1, 1)])
        .runs("s2", &[ending(9, 2)])
        .runs("a", &[ending(2, 3)])
        .runs("b", &[ending(0, 1)])
        .at(10, Deed::Delete(secs(20)))
        .run(60);
    let expected = [
        "10 preStop a#0 within 20s",
        "10 stop b#0 within 20s",
        "10 preStop s2#0 within 20s",
        "10 preStop s1#0 within 20s",
        "11 b#0 exits 143",
        "12 stop a#0 within 18s",
        "15 a#0 exits 143",
        "19 stop s2#0 within 11s",
        "21 s2#0 exits 143",
        "21 stop s1#0 within 9s",
        "22 s1#0 exits 143",
    ];
    let mut seen = ends(&world);
    seen[..4].sort_by_key(|line| expected.iter().position(|other| other == line));
    assert_eq!(seen, expected);
    assert_eq!(world.told("Killing").len(), 4);
    assert!(world.state.is_over());
}

/// Neither a hook nor a container that comes before it keeps anybody from its end longer than the grace.
#[test]
fn the_grace_is_for_all_together_with_two_seconds_for_each_at_the_least() {
    let mut spec = pod(RestartPolicy::Always, &["s", "c"]);
    find(&mut spec, "c").pre_stop = true;
    let stubborn = Run { pre_stop: None, obeys: None, ..Run::default() };
    let world = World::new(spec)
        .runs("s", std::slice::from_ref(&stubborn))
        .runs("c", &[stubborn])
        .at(10, Deed::Delete(secs(5)))
        .run(60);
    let expected = [
        "10 preStop c#0 within 5s",
        "15 stop c#0 within 2s",
        "15 stop s#0 within 2s",
        "17 c#0 exits 137",
        "17 s#0 exits 137",
    ];
    let mut seen = ends(&world);
    seen.sort_by_key(|line| expected.iter().position(|other| other == line));
    assert_eq!(seen, expected);
    assert!(world.state.is_over());
}

#[test]
fn a_second_deletion_shortens_the_grace_and_none_lengthens_it() {
    let stubborn = Run { obeys: None, ..Run::default() };
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .runs("c", &[stubborn])
        .at(10, Deed::Delete(secs(30)))
        .at(12, Deed::Delete(secs(60)))
        .at(15, Deed::Delete(secs(4)))
        .at(16, Deed::Delete(secs(4)))
        .run(60);
    assert_eq!(ends(&world), ["10 stop c#0 within 30s", "15 stop c#0 within 4s", "19 c#0 exits 137"]);
}

/// How much time each way to end leaves a container, out of the 30 s of the pod.
#[test]
fn grace_by_cause() {
    let table: &[(Deed, u64)] = &[
        (Deed::Delete(secs(5)), 5),
        (Deed::Delete(secs(90)), 90),
        (Deed::Vanish, 30),
        // An eviction has a grace of its own, here of 5 s.
        (Deed::Verdict, 5),
        (Deed::Deadline(secs(10)), 30),
    ];
    for (deed, grace) in table {
        let world = World::new(pod(RestartPolicy::Always, &["c"])).at(10, deed.clone()).run(60);
        assert_eq!(ends(&world)[0], format!("10 stop c#0 within {grace}s"), "{deed:?}");
        assert!(world.state.is_over(), "{deed:?}");
    }
    // A verdict hurries a pod that is being deleted, and leaves it no more than it has.
    let hurried = ["10 stop c#0 within 30s", "12 stop c#0 within 5s"];
    for (deletion, told) in [(30, hurried.as_slice()), (4, &["10 stop c#0 within 4s"])] {
        let stubborn = Run { obeys: None, ..Run::default() };
        let world = World::new(pod(RestartPolicy::Always, &["c"]))
            .runs("c", &[stubborn])
            .at(10, Deed::Delete(secs(deletion)))
            .at(12, Deed::Verdict)
            .run(60);
        assert_eq!(world.told("stop "), told);
    }
    // A pod that was being deleted when its object went keeps what the deletion left it.
    let stubborn = Run { obeys: None, ..Run::default() };
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .runs("c", &[stubborn])
        .at(10, Deed::Delete(secs(8)))
        .at(12, Deed::Vanish)
        .run(60);
    assert_eq!(ends(&world), ["10 stop c#0 within 8s", "18 c#0 exits 137"]);
}

#[test]
fn what_is_under_way_when_a_pod_ends_is_given_up_or_waited_for() {
    let pulling = Script { pulls: vec![(secs(20), None)], ..Script::default() };
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .with("c", pulling)
        .at(5, Deed::Delete(secs(30)))
        .run(60);
    assert_eq!(world.log(), ["0 pull c:v1", "5 deletion within 30s", "5 abort pull c"]);
    assert_eq!((world.phase().as_str(), world.state.is_over()), ("Failed", true));

    let starting = Script { starts: vec![(secs(20), None)], ..Script::default() };
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .with("c", starting)
        .at(5, Deed::Delete(secs(30)))
        .run(60);
    let expected = [
        "0 pull c:v1",
        "0 start c#0",
        "5 deletion within 30s",
        "20 c#0 runs",
        "20 Normal Killing c: Stopping container c",
        "20 stop c#0 within 30s",
        "20 c#0 exits 143",
    ];
    assert_eq!(world.log(), expected);
}

/// What takes half as long again as it may, and ten seconds at the least, is told of, and told once, whoever is
/// there to tell.
#[test]
fn a_pod_that_does_not_end_is_told_of() {
    let exceeded =
        "Warning ExceededGracePeriod: Container runtime did not kill the pod within specified grace period.";
    for (grace, at) in [(4, 15), (60, 95)] {
        // A start that hangs is the one thing that neither hook nor grace can end.
        let hangs = Script { starts: vec![(secs(200), None)], ..Script::default() };
        let world = World::new(pod(RestartPolicy::Always, &["c"]))
            .with("c", hangs)
            .at(5, Deed::Delete(secs(grace)))
            .at(120, Deed::Restart { away: secs(1), starts_happen: true })
            .run(300);
        assert_eq!(world.told("Exceeded"), [format!("{at} {exceeded}")]);
        assert!(world.state.is_over(), "{:#?}", world.log());
    }
    // Whoever ends in time is not told of, and neither is a grace that is all used up.
    let stubborn = Run { obeys: None, ..Run::default() };
    let world = World::new(pod(RestartPolicy::Always, &["s", "c"]))
        .runs("s", std::slice::from_ref(&stubborn))
        .runs("c", &[stubborn])
        .at(5, Deed::Delete(secs(30)))
        .run(300);
    assert_eq!(world.told("Exceeded"), [""; 0]);
}

#[test]
fn a_deletion_that_meets_a_back_off_ends_it() {
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .runs("c", &[exits(0, 0)])
        .at(3, Deed::Delete(secs(30)))
        .run(60);
    assert_eq!((world.phase().as_str(), world.seconds()), ("Succeeded", 3));
}

#[test]
fn a_restarted_agent_goes_on_with_a_stop() {
    let stubborn = Run { obeys: None, ..Run::default() };
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .runs("c", &[stubborn])
        .at(10, Deed::Delete(secs(20)))
        .at(12, Deed::Restart { away: secs(3), starts_happen: false })
        .run(60);
    let expected = ["10 stop c#0 within 20s", "15 stop c#0 within 15s", "30 c#0 exits 137"];
    assert_eq!(ends(&world), expected);
}

#[test]
fn a_deadline_counts_from_the_start_of_the_pod_and_may_change() {
    let world = World::new(pod(RestartPolicy::Always, &["c"])).at(0, Deed::Deadline(secs(40))).run(60);
    let expected = [
        "40 Normal DeadlineExceeded: Pod was active on the node longer than the specified deadline",
        "40 Normal Killing c: Stopping container c",
        "40 stop c#0 within 30s",
        "40 c#0 exits 143",
    ];
    assert_eq!(world.log()[3..], expected);
    let verdict = world.state.verdict.clone().unwrap();
    assert_eq!(verdict.reason, "DeadlineExceeded");
    assert_eq!(verdict.message, "Pod was active on the node longer than the specified deadline");
    assert_eq!(world.phase(), "Failed");

    // Lowered below what has passed already; and counted from the time that the API has.
    let mut spec = pod(RestartPolicy::Always, &["c"]);
    spec.start_time = Some(epoch() - Duration::from_secs(100));
    let world = World::new(spec).at(0, Deed::Deadline(secs(500))).at(20, Deed::Deadline(secs(110))).run(60);
    assert_eq!((world.phase().as_str(), world.seconds()), ("Failed", 20));
}

/// The agent is away when the pod completes and when the deadline passes: it completed.
#[test]
fn a_deadline_does_not_undo_what_has_ended_by_itself() {
    let mut spec = pod(RestartPolicy::Never, &["s", "c"]);
    spec.active_deadline = Some(secs(20));
    let world = World::new(spec)
        .runs("c", &[exits(10, 0)])
        .at(5, Deed::Restart { away: secs(40), starts_happen: false })
        .run(60);
    assert_eq!(
        (world.phase().as_str(), world.state.verdict.is_none()),
        ("Succeeded", true),
        "{:#?}",
        world.log()
    );
}

#[test]
fn the_first_verdict_stays_and_none_comes_after_the_end() {
    let verdict = |reason: &str| Verdict::new(reason, "");
    let mut state = PodState::default();
    state.record_verdict(verdict("Evicted"), beginning());
    state.record_verdict(verdict("NodeShutdown"), beginning());
    assert_eq!(state.verdict, Some(verdict("Evicted")));

    let mut world = World::new(pod(RestartPolicy::Never, &["c"])).runs("c", &[exits(1, 0)]).run(5);
    assert_eq!(world.phase(), "Succeeded");
    world.plan(Duration::ZERO, Deed::Verdict);
    let world = world.run(5);
    assert_eq!((world.phase().as_str(), world.state.verdict), ("Succeeded", None));
}

#[test]
fn a_stronger_cause_overtakes_a_weaker_one() {
    let causes = [
        EndingCause::Completed,
        EndingCause::InitFailed,
        EndingCause::Verdict,
        EndingCause::Deleted,
        EndingCause::Vanished,
    ];
    for (first, one) in causes.iter().enumerate() {
        for (second, other) in causes.iter().enumerate() {
            let mut state = PodState::default();
            state.end(*one, beginning());
            let later = Now { steady: beginning().steady.after(Duration::from_secs(1)), ..beginning() };
            state.end(*other, later);
            let ending = state.ending.unwrap();
            assert_eq!((ending.cause, ending.since), (causes[first.max(second)], beginning().steady));
        }
    }
}

/// Whatever else has ended a pod, it stays ended; what its machine has ended begins again with that, if nobody makes another.
#[test]
fn a_static_pod_begins_again_after_a_shutdown_and_only_then() {
    for (reason, begins) in [("Terminated", true), ("Evicted", false)] {
        let spec = pod(RestartPolicy::Always, &["i", "a"]);
        let world = World::new(spec.clone()).with("i", exits_at_once()).run(10);
        let mut state = world.state.clone();
        state.record_verdict(Verdict::new(reason, "why"), world.clocks());
        state.begin_after_shutdown();
        assert!(state.verdict.is_some(), "it has not ended yet");
        state.container("a").stage = Stage::Idle;
        assert!(state.is_over());
        state.begin_after_shutdown();
        assert_eq!(state.is_over(), !begins, "{reason}");
        let name = PodName { name: "p".into(), namespace: "ns".into(), uid: "u".into() };
        let step = step(&name, &spec, &mut state, LifecycleLimits::default(), world.clocks());
        let pulls = |action: &Action| matches!(action, Action::Pull { container, .. } if container == "i");
        assert_eq!(step.actions.iter().any(pulls), begins, "{reason}: {step:?}");
        assert_eq!(state.container("a").attempts, 1, "it goes on counting");
    }
}

fn exits_at_once() -> Script {
    Script { runs: vec![exits(0, 0)], ..Script::default() }
}
