//! Pulls that fail, and how that is told.

use super::{
    super::{Stage, spec::RestartPolicy},
    pod,
    script::{Deed, Script, exits},
    secs,
    world::World,
};

fn failing(reason: &'static str, times: usize) -> Script {
    let pulls = vec![(secs(1), Some(reason)); times].into_iter().chain([(secs(0), None)]);
    Script { pulls: pulls.collect(), ..Script::default() }
}

fn waiting(world: &World) -> (String, String) {
    let trouble = world.state.containers["c"].trouble.clone().unwrap();
    (trouble.reason.to_string(), trouble.message)
}

#[test]
fn pulls_are_tried_again_less_and_less_often() {
    let world =
        World::new(pod(RestartPolicy::Always, &["c"])).with("c", failing("ErrImagePull", 9)).run(1400);
    let times: Vec<_> =
        world.told("pull ").iter().filter_map(|l| l.split(' ').next()?.parse::<i64>().ok()).collect();
    let delays: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Each delay counts from the failure, which takes a second.
    assert_eq!(delays, [11, 21, 41, 81, 161, 301, 301, 301]);
}

/// Nodes that have failed together do not try again together; what the next delay grows from is not touched.
#[test]
fn the_next_pull_is_put_off_by_a_share_of_its_delay() {
    let script = failing("ErrImagePull", 3);
    let mut world = World::new(pod(RestartPolicy::Always, &["c"])).with("c", script).run(2);
    world.state.spread_pull("c", 0.5);
    let Stage::Held { since, until, .. } = world.state.containers["c"].stage else { panic!("it has failed") };
    assert_eq!(until.since(since), secs(15));
    assert_eq!(world.state.containers["c"].pull.delay(), secs(10));
    let mut running = World::new(pod(RestartPolicy::Always, &["c"])).run(5);
    let before = running.state.clone();
    running.state.spread_pull("c", 0.5);
    assert_eq!(running.state, before);
}

#[test]
fn a_pull_that_succeeds_is_the_end_of_the_delay() {
    let failure = (secs(0), Some("ErrImagePull"));
    let pulls = vec![failure, failure, (secs(0), None), failure, failure, (secs(0), None)];
    let script = Script { pulls, runs: vec![exits(10, 1), exits(900, 0)], ..Script::default() };
    let world = World::new(pod(RestartPolicy::Always, &["c"])).with("c", script).run(100);
    let expected =
        ["0 pull", "10 pull", "30 pull", "40 pull", "50 pull", "70 pull"].map(|l| format!("{l} c:v1"));
    assert_eq!(world.told("pull c"), expected);
}

#[test]
fn an_error_is_shown_for_a_while_and_then_the_back_off() {
    let world = |seconds| {
        World::new(pod(RestartPolicy::Always, &["c"])).with("c", failing("ErrImagePull", 2)).run(seconds)
    };
    assert_eq!(waiting(&world(2)), ("ErrImagePull".into(), "why".into()));
    let shown = ("ImagePullBackOff".into(), "Back-off pulling image \"c:v1\": ErrImagePull: why".into());
    assert_eq!(waiting(&world(4)), shown);
    let later = world(8);
    assert_eq!(waiting(&later), shown);
    let expected = [
        "0 pull c:v1",
        "3 Normal BackOff c: Back-off pulling image \"c:v1\"",
        "3 Warning Failed c: Error: ImagePullBackOff",
    ];
    assert_eq!(later.log(), expected);
    // The second error is told anew, and success clears it.
    assert_eq!(waiting(&world(13)), ("ErrImagePull".into(), "why".into()));
    assert_eq!(world(40).state.containers["c"].trouble, None);
}

/// What the registry has no part in stays as it is.
#[test]
fn other_troubles_are_no_image_back_off() {
    let table = [
        ("ErrImagePull", "ImagePullBackOff"),
        ("RegistryUnavailable", "ImagePullBackOff"),
        ("SignatureValidationFailed", "ImagePullBackOff"),
        ("InvalidImageName", "InvalidImageName"),
        ("ErrImageNeverPull", "ErrImageNeverPull"),
        ("ImageInspectError", "ImageInspectError"),
    ];
    for (reason, shown) in table {
        let world = World::new(pod(RestartPolicy::Always, &["c"])).with("c", failing(reason, 9)).run(8);
        assert_eq!(waiting(&world).0, shown);
    }
}

#[test]
fn another_image_is_pulled_at_once() {
    let script = failing("InvalidImageName", 1);
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .with("c", script)
        .at(4, Deed::Image("c".to_owned()))
        .run(9);
    assert_eq!(world.log(), ["0 pull c:v1", "4 pull c:v1+", "4 start c#0", "4 c#0 runs"]);
    assert_eq!(world.state.containers["c"].image.as_ref().unwrap().reference, "c:v1+");
}

/// The image changes while the old one is fetched: the old one does not run.
#[test]
fn an_image_that_is_out_of_date_when_it_comes_is_not_started() {
    let slow = Script { pulls: vec![(secs(5), None)], ..Script::default() };
    let world = World::new(pod(RestartPolicy::Always, &["c"]))
        .with("c", slow)
        .at(2, Deed::Image("c".to_owned()))
        .run(20);
    assert_eq!(world.log(), ["0 pull c:v1", "5 pull c:v1+", "10 start c#0", "10 c#0 runs"]);
}

#[test]
fn an_outcome_that_nobody_waits_for_is_ignored() {
    let mut world = World::new(pod(RestartPolicy::Always, &["c"])).run(5);
    let before = world.state.clone();
    let now = world.clocks();
    world.state.record_pull("c", Ok(crate::runtime::Image::default()), now);
    world.state.record_start(&world.spec, "c", Ok(now.wall), now);
    world.state.record_post_start("c", 0, Ok(()));
    world.state.record_pre_stop("c", 0);
    world.state.record_inherited_start(&world.spec, "c", &crate::runtime::Presence::Absent, true, now);
    assert_eq!(world.state, before);
    assert!(matches!(before.containers["c"].stage, Stage::Running(_)));
}
