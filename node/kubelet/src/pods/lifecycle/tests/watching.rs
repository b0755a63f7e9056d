//! Probes and hooks of containers that run.

use super::{
    super::{Hook, ProbeKind, spec::ContainerKind, spec::Probe, spec::RestartPolicy},
    find, pod, probe,
    script::{Deed, Run, Script, exits},
    secs,
    world::World,
};

/// Healthy for so many seconds.
fn healthy(seconds: u64) -> Run {
    Run { healthy: (secs(0), secs(seconds)), ..Run::default() }
}

fn set(world_spec: &mut super::super::Spec, name: &str, kind: ProbeKind, probe: Probe) {
    let container = find(world_spec, name);
    match kind {
        ProbeKind::Startup => container.startup = Some(probe),
        ProbeKind::Readiness => container.readiness = Some(probe),
        ProbeKind::Liveness => container.liveness = Some(probe),
    }
}

#[test]
fn a_failed_probe_restarts_its_container() {
    use ProbeKind::{Liveness, Startup};
    use RestartPolicy::{Always, Never, OnFailure};
    let table: &[(ProbeKind, RestartPolicy, &str, &str, bool)] = &[
        (Liveness, Always, "c", "Container c failed liveness probe, will be restarted", true),
        (Liveness, OnFailure, "c", "Container c failed liveness probe, will be restarted", true),
        (Liveness, Never, "c", "Container c failed liveness probe", false),
        (Startup, Always, "c", "Container c failed startup probe, will be restarted", true),
        (Startup, Never, "c", "Container c failed startup probe", false),
        (Liveness, Never, "s", "Init container s failed liveness probe", true),
        (Startup, Never, "s", "Init container s failed startup probe", true),
    ];
    for (kind, policy, name, message, restarted) in table {
        let mut spec = pod(*policy, &["s", "c"]);
        set(&mut spec, name, *kind, probe());
        // It ends well when it is asked to: that is no reason not to start it again.
        let run = Run { obeys: Some((secs(0), 0)), ..healthy(if *kind == Startup { 0 } else { 5 }) };
        let world = World::new(spec).runs(name, &[run, Run::default()]).run(9);
        let killing = world.told("Killing").first().map(|l| l.split(": ").nth(1).unwrap());
        assert_eq!(killing, Some(*message), "{kind:?} {policy:?} {name}");
        let runs = world.told(&format!("{name}#1 runs")).len();
        assert_eq!(runs == 1, *restarted, "{kind:?} {policy:?} {name}: {:#?}", world.log());
        let kind = world.spec.container(name).unwrap().kind;
        assert_eq!(world.state.is_over(), !restarted && kind == ContainerKind::Regular);
    }
}

/// A probe's own grace holds for what it kills, but not when the pod is deleted.
#[test]
fn grace_of_a_probe() {
    let mut spec = pod(RestartPolicy::Always, &["c"]);
    set(&mut spec, "c", ProbeKind::Liveness, Probe { grace: Some(secs(7)), ..probe() });
    let stubborn = Run { obeys: None, ..healthy(5) };
    let world = World::new(spec.clone()).runs("c", std::slice::from_ref(&stubborn)).run(9);
    assert_eq!(world.told("stop "), ["5 stop c#0 within 7s"]);
    let world = World::new(spec.clone())
        .runs("c", std::slice::from_ref(&stubborn))
        .at(6, Deed::Delete(secs(3)))
        .run(9);
    assert_eq!(world.told("stop "), ["5 stop c#0 within 7s", "6 stop c#0 within 3s"]);
    let world = World::new(spec).runs("c", &[stubborn]).at(2, Deed::Delete(secs(20))).run(9);
    assert_eq!(world.told("stop "), ["2 stop c#0 within 20s"], "no liveness probe any more");
}

#[test]
fn a_container_that_a_probe_kills_is_asked_first() {
    let mut spec = pod(RestartPolicy::Always, &["c"]);
    set(&mut spec, "c", ProbeKind::Liveness, probe());
    find(&mut spec, "c").pre_stop = true;
    let run = Run { pre_stop: Some((secs(3), true)), ..healthy(5) };
    let world = World::new(spec).runs("c", &[run, Run::default()]).run(9);
    assert_eq!(world.told("preStop"), ["5 preStop c#0 within 30s"]);
    assert_eq!(world.told("stop "), ["8 stop c#0 within 27s"]);
}

#[test]
fn a_restarted_agent_goes_on_with_its_probes() {
    let mut spec = pod(RestartPolicy::Always, &["c"]);
    set(&mut spec, "c", ProbeKind::Readiness, probe());
    // The agent is torn off when it has noted down that a probe is under way.
    let run = Run { healthy: (secs(5), secs(1000)), ..Run::default() };
    let world = World::new(spec).runs("c", &[run]).at(2, Deed::Tear { away: secs(1) }).run(20);
    assert_eq!(world.told("the agent is away").len(), 1);
    let container = world.spec.container("c").unwrap();
    assert!(world.state.containers["c"].running().unwrap().probes.ready(container));
}

/// The hook has failed: the container never counted as running, is stopped, and restarted by policy.
#[test]
fn a_failed_hook_after_the_start_ends_its_container() {
    for (policy, restarted) in
        [(RestartPolicy::Always, true), (RestartPolicy::OnFailure, true), (RestartPolicy::Never, false)]
    {
        let mut spec = pod(policy, &["c"]);
        find(&mut spec, "c").post_start = true;
        let failing =
            Run { post_start: Some((secs(2), false)), obeys: Some((secs(3), 143)), ..Run::default() };
        let mut world = World::new(spec).runs("c", &[failing, Run::default()]).run(3);
        let record = &world.state.containers["c"];
        assert_eq!(record.running().unwrap().post_start, Hook::Failed);
        assert_eq!(record.up(), None);
        assert_eq!(record.trouble.as_ref().unwrap().reason.as_str(), "PostStartHookError");
        assert_eq!(world.phase(), "Pending");
        world.go_on(secs(10));
        assert_eq!(world.told("stop "), ["2 stop c#0 within 30s"]);
        assert_eq!(world.told("c#1 runs").len() == 1, restarted, "{policy:?}");
        assert_eq!(world.phase(), if restarted { "Running" } else { "Failed" });
    }
}

/// Its image has changed while it was started: it is stopped, and no hook is run in it first.
#[test]
fn no_hook_after_the_start_of_what_is_stopped_at_once() {
    let mut spec = pod(RestartPolicy::Always, &["c"]);
    find(&mut spec, "c").post_start = true;
    let slow = Script {
        starts: vec![(secs(5), None)],
        runs: vec![Run { obeys: None, ..Run::default() }],
        ..Script::default()
    };
    let world = World::new(spec).with("c", slow).at(5, Deed::Image("c".to_owned())).run(20);
    assert_eq!(world.told("stop "), ["5 stop c#0 within 30s"]);
    assert_eq!(world.told("postStart"), [""; 0]);
}

/// A hook that outlives its container says nothing about the next attempt.
#[test]
fn a_hook_counts_for_its_own_attempt() {
    let mut spec = pod(RestartPolicy::Always, &["c"]);
    find(&mut spec, "c").post_start = true;
    let first = Run { post_start: Some((secs(4), false)), ..exits(1, 1) };
    let second = Run { post_start: Some((secs(20), true)), ..Run::default() };
    let world = World::new(spec).runs("c", &[first, second]).run(15);
    assert_eq!(world.told("runs"), ["0 c#0 runs", "1 c#1 runs"]);
    assert_eq!(world.state.containers["c"].running().unwrap().post_start, Hook::Running);
}

#[test]
fn a_restarted_agent_runs_the_hook_after_the_start_again() {
    let mut spec = pod(RestartPolicy::Always, &["c"]);
    find(&mut spec, "c").post_start = true;
    let slow = Run { post_start: Some((secs(5), true)), ..Run::default() };
    let restart = Deed::Restart { away: secs(1), starts_happen: false };
    let world = World::new(spec).runs("c", &[slow]).at(2, restart).run(20);
    assert_eq!(world.told("postStart"), ["0 postStart c#0", "3 postStart c#0"]);
    assert_eq!(world.phase(), "Running");
}

/// A start that came about while nobody looked, of a container that is gone when somebody looks again: it has run,
/// and counts.
#[test]
fn a_restarted_agent_does_not_run_an_attempt_twice() {
    for (policy, phase, attempts) in
        [(RestartPolicy::Always, "Running", 2), (RestartPolicy::Never, "Failed", 1)]
    {
        let slow = Script { starts: vec![(secs(5), None)], ..Script::default() };
        let world = World::new(pod(policy, &["c"]))
            .with("c", slow)
            .at(2, Deed::Restart { away: secs(4), starts_happen: true })
            .at(3, Deed::Lose)
            .run(60);
        assert_eq!((world.phase().as_str(), world.told("runs").len()), (phase, attempts), "{policy:?}");
        assert_eq!(world.state.containers["c"].finished[0].exit.reason, crate::runtime::ExitReason::Lost);
    }
}

/// A start that came about while nobody looked is found; one that did not is made again under its number.
#[test]
fn a_restarted_agent_finds_out_what_has_become_of_a_start() {
    for (starts_happen, expected) in [
        (true, &["0 start c#0", "2 c#0 runs"][..]),
        (false, &["0 start c#0", "3 start c#0", "8 c#0 runs"][..]),
    ] {
        let slow = Script { starts: vec![(secs(5), None)], ..Script::default() };
        let restart = Deed::Restart { away: secs(1), starts_happen };
        let world = World::new(pod(RestartPolicy::Always, &["c"])).with("c", slow).at(2, restart).run(20);
        let seen: Vec<_> =
            world.log().into_iter().filter(|l| l.contains("start c") || l.ends_with("runs")).collect();
        assert_eq!(seen, expected);
    }
}
