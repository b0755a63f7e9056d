//! What comes first: init containers, sidecars, regular containers.

use super::{
    super::spec::RestartPolicy,
    find, pod, probe,
    script::{Run, Script, exits},
    secs,
    world::World,
};

#[test]
fn init_containers_run_one_after_another_and_sidecars_stay() {
    let world = World::new(pod(RestartPolicy::Never, &["i1", "s", "i2", "a", "b"]))
        .runs("i1", &[exits(2, 0)])
        .runs("i2", &[exits(3, 0)])
        .runs("a", &[exits(1, 0)])
        .runs("b", &[exits(1, 0)])
        .run(20);
    let expected = [
        "0 i1#0 runs",
        "2 i1#0 exits 0",
        "2 s#0 runs",
        "2 i2#0 runs",
        "5 i2#0 exits 0",
        "5 a#0 runs",
        "5 b#0 runs",
        "6 a#0 exits 0",
        "6 b#0 exits 0",
        "6 s#0 exits 143",
    ];
    let seen: Vec<_> =
        world.log().into_iter().filter(|l| l.ends_with("runs") || l.contains("exits")).collect();
    assert_eq!(seen, expected);
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn a_sidecar_holds_back_the_others_until_it_is_started() {
    let mut spec = pod(RestartPolicy::Never, &["s", "c"]);
    find(&mut spec, "s").startup = Some(probe());
    find(&mut spec, "s").post_start = true;
    let slow = Run { healthy: (secs(7), secs(1000)), post_start: Some((secs(3), true)), ..Run::default() };
    find(&mut spec, "s").startup.as_mut().unwrap().failure_threshold = 100;
    let world = World::new(spec).runs("s", &[slow]).run(20);
    assert_eq!(world.told("runs"), ["0 s#0 runs", "7 c#0 runs"]);
}

/// A sidecar that was started once and crashes holds up neither the init containers after it nor the
/// news of their failure.
#[test]
fn a_sidecar_that_crashes_holds_up_nobody_a_second_time() {
    let crashing =
        || World::new(pod(RestartPolicy::Never, &["s", "i1", "i2", "c"])).runs("s", &[exits(1, 1)]);
    let world = crashing().runs("i1", &[exits(5, 0)]).runs("i2", &[exits(1, 0)]).run(8);
    let expected = ["0 s#0 runs", "0 i1#0 runs", "1 s#1 runs", "5 i2#0 runs", "6 c#0 runs"];
    assert_eq!(world.told("runs"), expected, "{:#?}", world.log());
    let world = crashing().runs("i1", &[exits(5, 1)]).run(8);
    assert_eq!((world.phase().as_str(), world.state.is_over()), ("Failed", true), "{:#?}", world.log());
}

#[test]
fn regular_containers_start_in_their_order_and_a_failure_holds_up_nobody() {
    let slow = Script { pulls: vec![(secs(4), None)], ..Script::default() };
    let broken = Script { pulls: vec![(secs(1), Some("ErrImagePull"))], ..Script::default() };
    let world =
        World::new(pod(RestartPolicy::Always, &["a", "b", "c"])).with("a", slow).with("b", broken).run(6);
    let seen: Vec<_> =
        world.log().into_iter().filter(|l| l.contains("pull ") || l.ends_with("runs")).collect();
    let expected = ["0 pull a:v1", "4 a#0 runs", "4 pull b:v1", "5 pull c:v1", "5 c#0 runs"];
    assert_eq!(seen, expected);
}

#[test]
fn a_hook_after_the_start_holds_back_the_next_container() {
    let mut spec = pod(RestartPolicy::Always, &["a", "b"]);
    find(&mut spec, "a").post_start = true;
    let hooked = Run { post_start: Some((secs(5), true)), ..Run::default() };
    let world = World::new(spec).runs("a", &[hooked]).run(10);
    assert_eq!(world.told("runs"), ["0 a#0 runs", "5 b#0 runs"]);
}

#[test]
fn a_sidecar_is_restarted_beside_regular_containers_and_holds_back_no_end() {
    let world = World::new(pod(RestartPolicy::Never, &["s", "c"]))
        .runs("s", &[exits(2, 0), exits(2, 1), exits(90, 0)])
        .runs("c", &[exits(8, 0)])
        .run(60);
    // The second wait is cut short by the end of the pod.
    assert_eq!(world.told("runs"), ["0 s#0 runs", "0 c#0 runs", "2 s#1 runs"]);
    assert_eq!((world.phase().as_str(), world.seconds()), ("Succeeded", 8));
}
