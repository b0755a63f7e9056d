//! Ephemeral containers: each is run once, beside whatever its pod is at.

use super::{
    super::spec::RestartPolicy,
    find, pod, rule,
    script::{Deed, Run, Script, exits},
    secs,
    world::World,
};

fn of_e(world: &World) -> Vec<&str> {
    world.told("e#").into_iter().filter(|line| line.ends_with("runs") || line.contains("exits")).collect()
}

#[test]
fn it_waits_for_nobody_and_is_run_once() {
    let world = World::new(pod(RestartPolicy::Always, &["i", "c", "e"]))
        .runs("i", &[exits(1, 1)])
        .runs("e", &[exits(2, 3)])
        .run(60);
    assert_eq!(of_e(&world), ["0 e#0 runs", "2 e#0 exits 3"]);
    assert_eq!(world.phase(), "Pending");
}

/// What is still being pulled holds up neither the start nor the end of the pod.
#[test]
fn nobody_waits_for_it() {
    let slow = Script { pulls: vec![(secs(40), None)], ..Script::default() };
    let world =
        World::new(pod(RestartPolicy::Never, &["c", "e"])).with("e", slow).runs("c", &[exits(5, 0)]).run(60);
    assert_eq!(world.told("runs"), ["0 c#0 runs"]);
    assert_eq!(world.phase(), "Succeeded");
}

/// It ends with its pod, which is over when it has.
#[test]
fn it_ends_with_its_pod() {
    let stubborn = Run { obeys: None, ..Run::default() };
    let world = World::new(pod(RestartPolicy::Never, &["c", "e"]))
        .runs("c", &[exits(5, 0)])
        .runs("e", std::slice::from_ref(&stubborn))
        .run(60);
    assert_eq!(of_e(&world), ["0 e#0 runs", "35 e#0 exits 137"]);
    assert_eq!(world.phase(), "Succeeded");
    let deleted =
        World::new(pod(RestartPolicy::Always, &["s", "c", "e"])).at(3, Deed::Delete(secs(9))).run(60);
    assert_eq!(of_e(&deleted), ["0 e#0 runs", "3 e#0 exits 143"]);
    assert!(deleted.state.is_over());
}

/// A restart of the whole pod leaves it alone, running or not.
#[test]
fn it_is_no_part_of_a_restart_in_place() {
    for (run, expected) in
        [(Run::default(), vec!["0 e#0 runs"]), (exits(2, 0), vec!["0 e#0 runs", "2 e#0 exits 0"])]
    {
        let mut spec = pod(RestartPolicy::Never, &["c", "e"]);
        find(&mut spec, "c").restart.rules = vec![rule(&[42], true, true)];
        let world = World::new(spec).runs("c", &[exits(5, 42), Run::default()]).runs("e", &[run]).run(30);
        assert_eq!(world.told("c#1 runs").len(), 1);
        assert_eq!((of_e(&world), world.state.round), (expected, 1));
    }
}

#[test]
fn a_restarted_agent_does_not_run_it_again() {
    let world = World::new(pod(RestartPolicy::Always, &["c", "e"]))
        .runs("e", &[exits(2, 0)])
        .at(5, Deed::Restart { away: secs(5), starts_happen: true })
        .run(60);
    assert_eq!(of_e(&world), ["0 e#0 runs", "2 e#0 exits 0"]);
}
