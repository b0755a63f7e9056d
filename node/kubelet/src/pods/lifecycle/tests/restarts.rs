//! What is started again after which exit, and when.

use std::time::Duration;

use super::{
    super::{AfterExit, Finished, Moment, spec::ContainerKind, spec::RestartPolicy, spec::RestartRule},
    container, find, pod, rule,
    script::{Deed, Run, Script, exits},
    secs,
    world::{World, epoch},
};
use crate::runtime::{Exit, ExitReason};

fn finished(code: i32, again: bool) -> Finished {
    let exit = Exit {
        started_at: epoch(),
        finished_at: epoch(),
        exit_code: code,
        reason: ExitReason::Exited,
        message: String::new(),
    };
    Finished {
        attempt: 0,
        round: 0,
        image: None,
        exit,
        ended: Moment::default(),
        message: String::new(),
        again,
        for_all: false,
    }
}

#[test]
fn exit_code_policy_and_part_decide() {
    use AfterExit::{Restart, RestartAll, Stay};
    use ContainerKind::{Init, Regular, Sidecar};
    use RestartPolicy::{Always, Never, OnFailure};
    let all = &[rule(&[42], true, true)][..];
    let one = &[rule(&[42], true, false)][..];
    let any = &[rule(&[], false, false)][..];
    type Row<'a> = (ContainerKind, RestartPolicy, &'a [RestartRule], i32, bool, AfterExit);
    let table: &[Row<'_>] = &[
        (Regular, Always, &[], 0, false, Restart),
        (Regular, Always, &[], 1, false, Restart),
        (Regular, OnFailure, &[], 0, false, Stay),
        (Regular, OnFailure, &[], 137, false, Restart),
        (Regular, Never, &[], 0, false, Stay),
        (Regular, Never, &[], 1, false, Stay),
        // Rules come before the policy.
        (Regular, Never, one, 42, false, Restart),
        (Regular, Never, one, 1, false, Stay),
        (Regular, Never, all, 42, false, RestartAll),
        (Regular, Never, any, 0, false, Restart),
        // What was stopped to be started again did not exit by itself.
        (Regular, Never, &[], 0, true, Restart),
        (Regular, OnFailure, &[], 0, true, Restart),
        (Regular, Never, all, 42, true, Restart),
        // An init container that has succeeded is done.
        (Init, OnFailure, &[], 0, false, Stay),
        (Init, OnFailure, &[], 1, false, Restart),
        (Init, Never, &[], 1, false, Stay),
        (Init, Never, any, 0, false, Stay),
        (Init, Never, any, 1, false, Restart),
        (Init, Never, all, 42, false, RestartAll),
        // A sidecar is restarted whatever happens.
        (Sidecar, Never, &[], 0, false, Restart),
        (Sidecar, Never, &[], 1, false, Restart),
        (Sidecar, Never, all, 42, false, RestartAll),
    ];
    for (kind, policy, rules, code, again, expected) in table {
        let mut container = container("c", *kind, *policy);
        // Whatever a sidecar is given, it counts as Always.
        container.restart.policy = *policy;
        container.restart.rules = rules.to_vec();
        let finished = finished(*code, *again);
        assert_eq!(container.after(&finished), *expected, "{container:?} after {finished:?}");
    }
}

/// Which pods end, how, and after how many attempts of which container.
#[test]
fn pods_end_by_the_policies_of_their_containers() {
    use RestartPolicy::{Always, Never, OnFailure};
    type Row<'a> = (RestartPolicy, &'a [(&'a str, &'a [i32])], &'a str, &'a [&'a str]);
    let table: &[Row<'_>] = &[
        (Never, &[("c", &[0])], "Succeeded", &["c#0"]),
        (Never, &[("c", &[3])], "Failed", &["c#0"]),
        (Never, &[("a", &[0]), ("b", &[1])], "Failed", &["a#0", "b#0"]),
        (Never, &[("a", &[0]), ("b", &[0])], "Succeeded", &["a#0", "b#0"]),
        (OnFailure, &[("c", &[1, 0])], "Succeeded", &["c#0", "c#1"]),
        (OnFailure, &[("a", &[0]), ("b", &[2, 0])], "Succeeded", &["a#0", "b#0", "b#1"]),
        (OnFailure, &[("i", &[1, 0]), ("c", &[0])], "Succeeded", &["i#0", "i#1", "c#0"]),
        (Never, &[("i", &[1]), ("c", &[0])], "Failed", &["i#0"]),
        (Never, &[("i", &[0]), ("c", &[0])], "Succeeded", &["i#0", "c#0"]),
        (Always, &[("i", &[1, 0]), ("c", &[0, 0])], "Running", &["i#0", "i#1", "c#0", "c#1"]),
        (Always, &[("c", &[0])], "Running", &["c#0", "c#1"]),
        (Always, &[("c", &[1])], "Running", &["c#0", "c#1"]),
    ];
    for (policy, containers, phase, attempts) in table {
        let names: Vec<_> = containers.iter().map(|(name, _)| *name).collect();
        let mut world = World::new(pod(*policy, &names));
        for (name, codes) in *containers {
            let runs: Vec<_> = codes.iter().map(|code| exits(1, *code)).collect();
            world = world.runs(name, &runs);
        }
        // The first restart is at once; nothing is said here of those that come after the back-off.
        let world = world.run(9);
        let seen: Vec<_> = world.told("runs").iter().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(
            (world.phase().as_str(), seen.as_slice()),
            (*phase, *attempts),
            "{policy:?} {containers:?}"
        );
    }
}

#[test]
fn a_crash_loop_is_slowed_down_to_five_minutes() {
    let world = World::new(pod(RestartPolicy::Always, &["c"])).runs("c", &[exits(0, 1)]).run(1800);
    let starts: Vec<_> =
        world.told("runs").iter().filter_map(|l| l.split(' ').next()?.parse::<i64>().ok()).collect();
    let delays: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300, 300, 300]);
    assert_eq!(world.told("Warning BackOff").len(), delays.len(), "one event for each wait that began");
    assert_eq!(
        world.told("BackOff").first(),
        Some(&"0 Warning BackOff c: Back-off restarting failed container c in pod p_ns(u)")
    );
}

#[test]
fn the_two_newest_ends_are_remembered() {
    let runs = [exits(0, 1), exits(0, 2), exits(0, 3), exits(90, 0)];
    let world = World::new(pod(RestartPolicy::Always, &["c"])).runs("c", &runs).run(15);
    let kept: Vec<_> =
        world.state.containers["c"].finished.iter().map(|f| (f.attempt, f.exit.exit_code)).collect();
    assert_eq!(kept, [(1, 2), (2, 3)]);
}

#[test]
fn a_long_run_is_forgiven() {
    let runs = [exits(0, 1), exits(0, 1), exits(0, 1), exits(601, 1), exits(0, 1)];
    let world = World::new(pod(RestartPolicy::Always, &["c"])).runs("c", &runs).run(700);
    let times: Vec<_> =
        world.told("runs").iter().filter_map(|l| l.split(' ').next()?.parse::<i64>().ok()).collect();
    assert_eq!(times, [0, 0, 10, 30, 631, 641, 661]);
}

#[test]
fn a_restart_of_the_agent_shortens_no_delay() {
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .runs("c", &[exits(0, 1), exits(0, 1), exits(0, 0), exits(90, 0)])
        .at(3, Deed::Restart { away: secs(2), starts_happen: false })
        .run(60);
    let expected = ["0 c#0 runs", "0 c#1 runs", "10 c#2 runs", "30 c#3 runs"];
    assert_eq!(world.told("runs"), expected);
}

#[test]
fn what_has_ended_for_good_is_not_run_again_after_a_restart_of_the_agent() {
    for policy in [RestartPolicy::OnFailure, RestartPolicy::Never] {
        let world = World::new(pod(policy, &["i", "a", "b"]))
            .runs("i", &[exits(1, 0)])
            .runs("a", &[exits(1, 0)])
            .runs("b", &[exits(20, 0)])
            .at(10, Deed::Restart { away: secs(30), starts_happen: false })
            .at(50, Deed::Restart { away: secs(1), starts_happen: false })
            .run(100);
        assert_eq!(world.told("runs").len(), 3, "{:#?}", world.log());
        assert_eq!(world.phase(), "Succeeded");
    }
}

/// Its image changes after it has ended for good: there is nothing to restart.
#[test]
fn a_new_image_restarts_what_runs_and_not_what_has_ended() {
    let world = World::new(pod(RestartPolicy::Never, &["a", "b"]))
        .runs("a", &[exits(1, 0)])
        .at(5, Deed::Image("a".to_owned()))
        .at(6, Deed::Image("b".to_owned()))
        .run(20);
    let expected = [
        "0 pull a:v1",
        "0 start a#0",
        "0 a#0 runs",
        "0 pull b:v1",
        "0 start b#0",
        "0 b#0 runs",
        "1 a#0 exits 0",
        "6 Normal Killing b: Container b definition changed, will be restarted",
        "6 stop b#0 within 30s",
        "6 b#0 exits 143",
        "6 pull b:v1+",
        "6 start b#1",
        "6 b#1 runs",
    ];
    assert_eq!(world.log(), expected);
}

#[test]
fn a_new_image_ends_the_back_off() {
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .runs("c", &[exits(0, 1), exits(0, 1), exits(0, 1), exits(90, 0)])
        .at(12, Deed::Image("c".to_owned()))
        .run(60);
    assert_eq!(world.told("runs"), ["0 c#0 runs", "0 c#1 runs", "10 c#2 runs", "12 c#3 runs"]);
}

#[test]
fn an_init_container_that_runs_is_left_alone_by_a_new_image() {
    let world = World::new(pod(RestartPolicy::Never, &["i", "c"]))
        .runs("i", &[exits(5, 0)])
        .at(2, Deed::Image("i".to_owned()))
        .run(10);
    assert_eq!(world.told("runs"), ["0 i#0 runs", "5 c#0 runs"]);
    assert_eq!(world.told("Killing"), [""; 0]);
}

#[test]
fn containers_that_are_lost_are_restarted_by_policy() {
    for (policy, phase, attempts) in
        [(RestartPolicy::OnFailure, "Running", 2), (RestartPolicy::Never, "Failed", 1)]
    {
        let world = World::new(pod(policy, &["c"])).at(5, Deed::Lose).at(5, Deed::Nudge).run(20);
        assert_eq!((world.phase().as_str(), world.told("runs").len()), (phase, attempts), "{policy:?}");
    }
}

#[test]
fn one_exit_can_restart_the_whole_pod_in_place() {
    let mut spec = pod(RestartPolicy::Never, &["i", "s", "a", "b"]);
    find(&mut spec, "a").restart.rules = vec![rule(&[42], true, true)];
    find(&mut spec, "b").pre_stop = true;
    let stubborn = Run { obeys: None, ..Run::default() };
    let world = World::new(spec)
        .runs("i", &[exits(1, 0)])
        .runs("a", &[exits(5, 42), exits(5, 0)])
        .runs("b", &[stubborn, exits(5, 0)])
        .run(60);
    let expected = [
        "0 pull i:v1",
        "0 start i#0",
        "0 i#0 runs",
        "1 i#0 exits 0",
        "1 pull s:v1",
        "1 start s#0",
        "1 s#0 runs",
        "1 pull a:v1",
        "1 start a#0",
        "1 a#0 runs",
        "1 pull b:v1",
        "1 start b#0",
        "1 b#0 runs",
        "6 a#0 exits 42",
        // No hooks, and no more than the least grace.
        "6 Normal Killing s: Stopping container s",
        "6 stop s#0 within 2s",
        "6 Normal Killing b: Stopping container b",
        "6 stop b#0 within 2s",
        "6 s#0 exits 143",
        "8 b#0 exits 137",
        "8 pull i:v1",
        "8 start i#1",
        "8 i#1 runs",
        "9 i#1 exits 0",
        "9 pull s:v1",
        "9 start s#1",
        "9 s#1 runs",
        "9 pull a:v1",
        "9 start a#1",
        "9 a#1 runs",
        "9 pull b:v1",
        "9 start b#1",
        "9 b#1 runs",
        "14 a#1 exits 0",
        "14 b#1 exits 0",
        "14 Normal Killing s: Stopping container s",
        "14 stop s#1 within 30s",
        "14 s#1 exits 143",
    ];
    assert_eq!(world.log(), expected);
    assert_eq!(world.phase(), "Succeeded");
    let stopped =
        |name: &str| world.state.containers[name].finished.iter().map(|f| f.for_all).collect::<Vec<_>>();
    assert_eq!((stopped("b"), stopped("a")), (vec![true, false], vec![false, false]));
}

/// What was stopped for the restart of all would stay as it is by its own policy; that is no end of the pod.
#[test]
fn a_pod_does_not_end_on_its_way_to_a_restart_in_place() {
    let mut spec = pod(RestartPolicy::Never, &["s", "c"]);
    find(&mut spec, "s").restart.rules = vec![rule(&[42], true, true)];
    let world = World::new(spec).runs("s", &[exits(5, 42), Run::default()]).run(20);
    assert_eq!(world.told("runs"), ["0 s#0 runs", "0 c#0 runs", "5 s#1 runs", "5 c#1 runs"]);
    assert_eq!((world.phase().as_str(), world.state.round), ("Running", 1));
}

/// A pull that is under way is given up once, and made again in the next round.
#[test]
fn a_restart_in_place_gives_up_pulls() {
    let mut spec = pod(RestartPolicy::Never, &["a", "b", "c"]);
    find(&mut spec, "a").restart.rules = vec![rule(&[42], true, true)];
    let stubborn = Run { obeys: None, ..Run::default() };
    let slow = Script { pulls: vec![(secs(20), None), (Duration::ZERO, None)], ..Script::default() };
    let world = World::new(spec)
        .runs("a", &[exits(5, 42), exits(5, 0)])
        .runs("b", &[stubborn])
        .with("c", slow)
        .run(8);
    let expected = ["0 pull c:v1", "5 abort pull c", "7 pull c:v1", "7 start c#0", "7 c#0 runs"];
    let seen: Vec<_> = world.told("c").into_iter().filter(|line| !line.contains("Killing")).collect();
    assert_eq!(seen, expected);
}

/// A pod that restarts itself all the time is slowed down as a container would be.
#[test]
fn in_place_restarts_are_slowed_down_too() {
    let mut spec = pod(RestartPolicy::Never, &["c"]);
    find(&mut spec, "c").restart.rules = vec![rule(&[0], false, true)];
    let world = World::new(spec).runs("c", &[exits(0, 1)]).run(100);
    assert_eq!(world.state.round, 5);
    assert_eq!(world.told("runs"), ["0 c#0 runs", "0 c#1 runs", "10 c#2 runs", "30 c#3 runs", "70 c#4 runs"]);
}

#[test]
fn a_start_that_fails_takes_no_number_and_is_tried_again() {
    let broken = Script {
        starts: vec![(Duration::ZERO, Some("CreateContainerError")); 3]
            .into_iter()
            .chain([(Duration::ZERO, None)])
            .collect(),
        ..Script::default()
    };
    let world = World::new(pod(RestartPolicy::Always, &["c"])).with("c", broken).run(100);
    assert_eq!(world.told("start "), ["0 start c#0", "10 start c#0", "30 start c#0", "70 start c#0"]);
    // What a configuration names may be there the next moment.
    let missing =
        Script { starts: vec![(Duration::ZERO, Some("CreateContainerConfigError"))], ..Script::default() };
    let world = World::new(pod(RestartPolicy::Always, &["c"])).with("c", missing).run(35);
    assert_eq!(world.told("start "), ["0 start c#0", "10 start c#0", "20 start c#0", "30 start c#0"]);
}
