//! What holds for pods at random. The invariants of every moment are in [`super::checks`]; here is what
//! they come to in the end.
//!
//! `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for more, or other, cases than those of every build.

use std::time::Duration;

use proptest::{prelude::*, test_runner::RngSeed};

use super::{
    super::{AfterExit, EndingCause, spec::ContainerKind},
    scenario::{Scenario, tame, wild},
    script::Deed,
    secs,
    world::{EVICTED, World},
};

/// The same cases on every run, unless the environment says otherwise.
fn config(cases: u32) -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let set = |name| std::env::var_os(name).is_some();
    ProptestConfig {
        cases: if set("PROPTEST_CASES") { default.cases } else { cases },
        rng_seed: if set("PROPTEST_RNG_SEED") { default.rng_seed } else { RngSeed::Fixed(7) },
        ..default
    }
}

/// The phase that a pod that has ended should have, by the ends of its containers and what was done to it.
fn expected(world: &World) -> &'static str {
    let succeeded =
        |name: &str| world.checks.last(name).is_some_and(|e| e.code == 0 && e.round == world.state.round);
    let init = world.spec.init.iter().filter(|c| c.kind == ContainerKind::Init).all(|c| succeeded(&c.name));
    let regular = world.spec.containers.iter().all(|c| succeeded(&c.name));
    if world.state.verdict.is_none() && init && regular { "Succeeded" } else { "Failed" }
}

/// What becomes of the container now, by the way it ended last.
fn after(world: &World, name: &str) -> Option<AfterExit> {
    let record = world.state.containers.get(name).filter(|record| !record.is_active())?;
    Some(world.spec.container(name)?.after(record.finished.last()?))
}

proptest! {
    #![proptest_config(config(500))]

    /// Whatever happens before, and whoever makes a pod end, it does so within its grace, and what becomes of it is
    /// told by how its containers ended.
    #[test]
    fn every_pod_ends_within_its_grace(scenario in wild(), grace in 1..40u64, cause in 0..4u8) {
        let mut world = scenario.world();
        world.go_on(secs(300));
        world.calm();
        let own = world.spec.grace.as_secs();
        let (deed, grace) = match cause {
            0 => (Deed::Delete(secs(grace)), grace),
            1 => (Deed::Vanish, own),
            2 => (Deed::Verdict, own.min(EVICTED)),
            _ => (Deed::Deadline(secs(0)), own),
        };
        world.plan(Duration::ZERO, deed);
        // A start may be under way; and each stop gets two seconds at the least.
        world.go_on(secs(6 + grace + 3));
        prop_assert!(world.state.is_over(), "goes on: {:#?}", world.log());
        prop_assert_eq!(world.phase(), expected(&world), "{:#?}", world.log());
    }

    /// So it does where nothing can be saved any more: what is deleted is let go of all the same, what ends for another
    /// reason is not told to be over before that is on disk.
    #[test]
    fn every_pod_ends_though_nothing_can_be_saved(scenario in wild(), grace in 1..40u64, cause in 0..4u8) {
        let mut world = scenario.world();
        world.go_on(secs(300));
        world.calm();
        if world.state.ending.is_some() {
            return Ok(());
        }
        let own = world.spec.grace.as_secs();
        let (deed, grace) = match cause {
            0 => (Deed::Delete(secs(grace)), grace),
            1 => (Deed::Vanish, own),
            2 => (Deed::Verdict, own.min(EVICTED)),
            _ => (Deed::Deadline(secs(0)), own),
        };
        world.plan(Duration::ZERO, deed);
        world.plan(Duration::ZERO, Deed::FailSaves(u32::MAX));
        world.go_on(secs(6 + grace + 3));
        prop_assert!(world.state.is_over(), "goes on: {:#?}", world.log());
        prop_assert_eq!(world.state.is_settled(world.is_saved()), cause < 2, "{:#?}", world.log());
        world.calm();
        world.plan(Duration::ZERO, Deed::Nudge);
        world.go_on(secs(20));
        prop_assert!(world.is_saved() && world.state.is_settled(true), "{:#?}", world.log());
        prop_assert_eq!(world.phase(), expected(&world), "{:#?}", world.log());
    }

    /// A restart of the agent, at whatever point, changes nothing about the end of a pod; nor do writes of its record
    /// that fail, nor a wall clock that is set.
    #[test]
    fn a_restarted_agent_comes_to_the_same_end(scenario in tame()) {
        let [plain, restarted] = [scenario.without(|_| true), scenario.clone()].map(|s: Scenario| {
            let mut world = s.world();
            world.go_on(secs(10_000));
            world
        });
        let codes = |world: &World| -> Vec<_> {
            world.spec.containers.iter().map(|c| world.checks.last(&c.name).map(|e| e.code)).collect()
        };
        let logs = || format!("{:#?}\n{:#?}", plain.log(), restarted.log());
        prop_assert!(plain.state.is_over() && restarted.state.is_over(), "goes on: {}", logs());
        prop_assert_eq!(codes(&plain), codes(&restarted), "{}", logs());
        prop_assert_eq!(plain.phase(), restarted.phase(), "{}", logs());
        prop_assert_eq!(plain.phase(), expected(&plain), "{}", logs());
    }

    /// A pod ends when nothing of it is to be started again, and not before.
    #[test]
    fn a_pod_goes_on_as_long_as_a_container_is_to_run(scenario in tame(), seconds in 0..300u64) {
        let mut world = scenario.world();
        world.go_on(secs(seconds));
        let stays = |name: &str| after(&world, name) == Some(AfterExit::Stay);
        let complete = world.spec.containers.iter().all(|c| stays(&c.name));
        let failed = world.spec.init.iter().any(|c| {
            c.kind == ContainerKind::Init && stays(&c.name) && world.checks.last(&c.name).is_some_and(|e| e.code != 0)
        });
        let cause = if failed { Some(EndingCause::InitFailed) } else { complete.then_some(EndingCause::Completed) };
        prop_assert_eq!(world.state.ending.as_ref().map(|e| e.cause), cause, "{:#?}", world.log());
    }
}
