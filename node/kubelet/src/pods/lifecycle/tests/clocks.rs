//! A wall clock that is set forward and back. Timers do not go by it.

use super::{
    super::{Stage, spec::RestartPolicy},
    find, pod, probe,
    script::{Deed, Run, exits},
    secs,
    world::World,
};

const HOUR: i64 = 3600;

/// What is done and happens is the same, at the same time, whatever the wall clock shows.
#[test]
fn nothing_is_sooner_or_later_for_a_clock_that_is_set() {
    let mut spec = pod(RestartPolicy::Always, &["c"]);
    find(&mut spec, "c").liveness = Some(probe());
    find(&mut spec, "c").pre_stop = true;
    let stubborn = Run { obeys: None, pre_stop: Some((secs(2), true)), ..Run::default() };
    let unhealthy = Run { healthy: (secs(0), secs(7)), ..Run::default() };
    let runs = [exits(1, 1), exits(1, 1), unhealthy, stubborn];
    let world = |steps: &[(u64, i64)]| {
        let mut world = World::new(spec.clone()).runs("c", &runs).at(100, Deed::Delete(secs(20)));
        for (at, step) in steps {
            world = world.at(*at, Deed::SetClock(*step));
        }
        world.run(300)
    };
    let steady = world(&[]);
    assert!(steady.state.is_over(), "{:#?}", steady.log());
    for steps in [
        &[(3, HOUR)][..],
        &[(3, -HOUR)],
        // In a back-off, while a probe is waited for, in the grace of its failure, in that of the deletion.
        &[(5, HOUR), (15, -HOUR), (20, -HOUR), (105, HOUR)],
        &[(5, -HOUR), (15, HOUR), (20, HOUR), (105, -HOUR)],
    ] {
        assert_eq!(world(steps).log(), steady.log(), "{steps:?}");
    }
}

/// A clock that was set while an agent ran is as good as any to the next one.
#[test]
fn a_restarted_agent_goes_on_with_its_timers_after_a_step() {
    for step in [HOUR, -HOUR] {
        let world = World::new(pod(RestartPolicy::Always, &["c"]))
            .runs("c", &[exits(0, 1), exits(0, 1), Run::default()])
            .at(3, Deed::SetClock(step))
            .at(4, Deed::Restart { away: secs(2), starts_happen: false })
            .run(60);
        assert_eq!(world.told("runs"), ["0 c#0 runs", "0 c#1 runs", "10 c#2 runs"], "{step}");
        let world = World::new(pod(RestartPolicy::Always, &["c"]))
            .runs("c", &[Run { obeys: None, ..Run::default() }])
            .at(2, Deed::Delete(secs(20)))
            .at(3, Deed::SetClock(step))
            .at(4, Deed::Restart { away: secs(2), starts_happen: false })
            .run(60);
        assert_eq!(world.told("stop "), ["2 stop c#0 within 20s", "6 stop c#0 within 16s"], "{step}");
    }
}

/// It cannot be told how far a clock was set while nobody looked: no wait is longer than the longest that there can be.
#[test]
fn a_clock_that_was_set_while_the_agent_was_away_makes_nobody_wait_for_ever() {
    for (step, last) in [(HOUR, 7), (-HOUR, 306)] {
        let mut world = World::new(pod(RestartPolicy::Always, &["c"]))
            .runs("c", &[exits(0, 1), exits(0, 1), Run::default()])
            .run(4);
        assert!(matches!(world.state.containers["c"].stage, Stage::BackOff { .. }));
        world.set_clock(step);
        world.plan(secs(0), Deed::Restart { away: secs(2), starts_happen: false });
        world.go_on(secs(1000));
        let runs = world.told("c#2 runs");
        let at: u64 = runs[0].split(' ').next().unwrap().parse().unwrap();
        assert!(at <= last, "{step}: {runs:?}");

        let mut world = World::new(pod(RestartPolicy::Always, &["c"]))
            .runs("c", &[Run { obeys: None, ..Run::default() }])
            .at(2, Deed::Delete(secs(20)))
            .run(4);
        world.set_clock(step);
        world.plan(secs(0), Deed::Restart { away: secs(2), starts_happen: false });
        world.go_on(secs(1000));
        let within: Vec<_> = world.told("stop ").iter().filter_map(|l| l.split("within ").nth(1)).collect();
        let least = if step > 0 { "2s" } else { "20s" };
        assert_eq!(within, ["20s", least], "{step}");
    }
}
