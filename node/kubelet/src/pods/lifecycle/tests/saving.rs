//! Records that cannot be written: nothing is begun meanwhile, nothing is lost, and what is to end ends.

use super::{
    super::{Stage, spec::RestartPolicy},
    find, pod,
    script::{Deed, Run, Script, exits},
    secs,
    world::World,
};

/// The start is asked for once, when what says so is on disk.
#[test]
fn what_cannot_be_saved_is_not_done_until_it_can() {
    let world = World::new(pod(RestartPolicy::Always, &["c"])).fail_saves(5).run(20);
    assert_eq!(world.log(), ["5 pull c:v1", "5 start c#0", "5 c#0 runs"]);
    // The same with a record that could be written until then.
    let slow = Script { pulls: vec![(secs(2), None)], ..Script::default() };
    let world =
        World::new(pod(RestartPolicy::Always, &["c"])).with("c", slow).at(1, Deed::FailSaves(4)).run(20);
    assert_eq!(world.told("start "), ["6 start c#0"], "{:#?}", world.log());
}

/// The provider keeps an exit until it is on disk, and an agent that is torn off before that asks again.
#[test]
fn an_exit_is_not_lost_with_its_record() {
    let run = exits(3, 7);
    let world = World::new(pod(RestartPolicy::Never, &["c"]))
        .runs("c", &[run])
        .at(2, Deed::FailSaves(3))
        .at(5, Deed::Restart { away: secs(2), starts_happen: false })
        .run(20);
    let finished = &world.state.containers["c"].finished;
    assert_eq!(finished.iter().map(|f| f.exit.exit_code).collect::<Vec<_>>(), [7]);
    assert_eq!((world.phase().as_str(), world.told("runs").len()), ("Failed", 1));
}

/// A back-off is counted once, however often it takes to write it down.
#[test]
fn a_restart_that_is_saved_late_is_one_restart() {
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .runs("c", &[exits(3, 1), exits(3, 1), Run::default()])
        .at(3, Deed::FailSaves(4))
        .run(60);
    assert_eq!(world.told("runs"), ["0 c#0 runs", "7 c#1 runs", "20 c#2 runs"]);
    assert_eq!(world.told("BackOff").len(), 1, "{:#?}", world.log());
}

/// It is told to stop, its hook is run, and its deadline passes, as if all that were on disk.
#[test]
fn a_pod_is_stopped_that_cannot_be_saved() {
    let mut spec = pod(RestartPolicy::Always, &["c"]);
    find(&mut spec, "c").pre_stop = true;
    let stubborn = Run { obeys: None, pre_stop: Some((secs(3), true)), ..Run::default() };
    let world = World::new(spec)
        .runs("c", &[stubborn])
        .at(4, Deed::FailSaves(u32::MAX))
        .at(5, Deed::Delete(secs(10)))
        .run(30);
    assert_eq!(world.told("preStop"), ["5 preStop c#0 within 10s"]);
    assert_eq!(world.told("stop "), ["8 stop c#0 within 7s"]);
    assert_eq!(world.told("exits"), ["15 c#0 exits 137"]);
    assert!(!world.is_saved() && world.state.is_settled(false));
}

/// Why a container is stopped decides whether it is started again: that is on disk before it is told to stop.
#[test]
fn a_stop_that_is_to_be_followed_by_a_start_waits_for_the_record() {
    let mut spec = pod(RestartPolicy::OnFailure, &["c"]);
    find(&mut spec, "c").liveness = Some(super::probe());
    let run = Run { healthy: (secs(0), secs(5)), obeys: Some((secs(0), 0)), ..Run::default() };
    let world = World::new(spec)
        .runs("c", &[run, Run::default()])
        .at(4, Deed::FailSaves(6))
        .at(8, Deed::Restart { away: secs(0), starts_happen: false })
        .run(30);
    assert_eq!(world.told("c#1 runs").len(), 1, "{:#?}", world.log());
    assert!(matches!(world.state.containers["c"].stage, Stage::Running(_)));
}

/// The bookkeeping of probes writes nothing: every save would fail, and none is missed.
#[test]
fn probes_go_on_without_being_written_down() {
    let mut spec = pod(RestartPolicy::Always, &["c"]);
    find(&mut spec, "c").readiness = Some(super::probe());
    find(&mut spec, "c").liveness = Some(super::probe());
    let world = World::new(spec).at(5, Deed::FailSaves(u32::MAX)).run(60);
    assert!(world.is_saved());
    let container = world.spec.container("c").unwrap();
    assert!(world.state.containers["c"].running().unwrap().probes.ready(container));
}
