//! Who gets how much of the processors.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kubewasm_host::CpuShare;
use kubewasm_wasi::spec::InstanceSpec;

use crate::{guests, size, world::World};

/// Threads of a worker that guests run on.
const GUESTS: &str = "guests";

/// Guests that may use a tenth and a half of a processor, beside one that may use all it gets.
#[tokio::test]
async fn limits_are_held_as_shares_and_used_up() {
    let world = World::new().await;
    let spins = world.guest("spins", &guests::spins());
    let cases = [("tenth", 100), ("half", 500), ("all", 0)];
    for (id, limit_millis) in cases {
        let cpu = CpuShare { limit_millis, request_millis: limit_millis };
        world.start(id, &InstanceSpec { cpu, ..spins.clone() }).await;
    }
    let began = Timestamp::now();
    let kernel_before = world.worker().time(GUESTS);
    let started = Instant::now();
    let mut before = Vec::new();
    for (id, _) in cases {
        before.push(world.stats(id).await.usage);
    }
    tokio::time::sleep(size(Duration::from_secs(5), Duration::from_secs(30))).await;
    let mut used = Vec::new();
    for ((id, _), before) in cases.iter().zip(&before) {
        let usage = world.stats(id).await.usage;
        used.push((usage.cpu - before.cpu, usage.throttled - before.throttled));
    }
    let wall = started.elapsed();
    let kernel = world.worker().time(GUESTS);
    let (ran, waited) = (kernel.ran - kernel_before.ran, kernel.waited - kernel_before.waited);

    for ((id, limit), (cpu, throttled)) in cases.iter().zip(&used) {
        let share = cpu.as_secs_f64() / wall.as_secs_f64();
        println!("{id}: {:.1} % of a processor, throttled for {throttled:?} of {wall:?}", share * 100.0);
        if *limit == 0 {
            assert!(throttled.is_zero(), "{id} has no limit");
            continue;
        }
        let limit = Duration::from_millis(*limit).as_secs_f64();
        assert!(share < limit * 1.1, "{id} got {share} of a processor, and may have {limit}");
        // What the rest of the machine took while guests were ready to run, they could not have.
        let missed = waited.as_secs_f64() / wall.as_secs_f64();
        assert!(share > limit * 0.9 - missed, "{id} got {share} of a processor, and {missed} was missed");
        // Who gets all that it may has wanted more.
        assert!(!throttled.is_zero() || share < limit * 0.9, "{id} is not said to be held back");
    }
    // The kernel's account of these threads has besides guests' turns only the taking of turns.
    let accounted: Duration = used.iter().map(|(cpu, _)| *cpu).sum();
    assert!(accounted <= ran + Duration::from_millis(100), "accounted {accounted:?} of {ran:?}");
    assert!(accounted >= ran.mul_f64(0.9), "accounted {accounted:?} of {ran:?}");
    world.neighbour_is_well(began).await;
    world.end().await;
}

/// A hundred guests that compute get the same.
#[tokio::test]
async fn a_hundred_that_compute_share_equally() {
    let world = World::new().await;
    let spins = world.guest("spins", &guests::spins());
    let ids: Vec<_> = (0..100).map(|number| format!("spins-{number}")).collect();
    for id in &ids {
        world.start(id, &spins).await;
    }
    let used = async || {
        let mut stats = world.agent.stats().await;
        stats.retain(|stats| ids.contains(&stats.id));
        stats.sort_by(|a, b| a.id.cmp(&b.id));
        stats.into_iter().map(|stats| stats.usage.cpu).collect::<Vec<_>>()
    };
    let kernel_before = world.worker().time(GUESTS);
    let before = used().await;
    // Some turns for each.
    let enough = Duration::from_millis(50) * 100;
    let since = loop {
        let since: Vec<_> = used().await.iter().zip(&before).map(|(now, before)| *now - *before).collect();
        if since.iter().sum::<Duration>() > enough {
            break since;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (least, most) = (since.iter().min().unwrap(), since.iter().max().unwrap());
    // What the rest of the machine took while one had its turn, that one could not have.
    let missed = world.worker().time(GUESTS).waited - kernel_before.waited;
    println!("from {least:?} to {most:?}, {missed:?} missed");
    // A turn is ten milliseconds, and nobody is more than two behind.
    assert!(
        *most <= *least + Duration::from_millis(30) + missed,
        "from {least:?} to {most:?}, {missed:?} missed"
    );
    world.end().await;
}

/// Memory is on the account while it is had.
#[tokio::test]
async fn memory_is_accounted() {
    let world = World::new().await;
    let sleeps =
        guests::sleeps().replace("(memory (export \"memory\") 1)", "(memory (export \"memory\") 160)");
    world.start("sleeps", &world.guest("sleeps", &sleeps)).await;
    world.until("its first line", || world.log("sleeps").ends_with("asleep\n")).await;
    let used = world.stats("sleeps").await.usage.memory_bytes;
    assert!((10 << 20..11 << 20).contains(&used), "{used} bytes for a guest of 10 MiB");
    let ids: Vec<_> = world.agent.stats().await.into_iter().map(|stats| stats.id).collect();
    assert_eq!(ids.len(), 2, "the neighbour and the guest: {ids:?}");
    world.stop(&["sleeps".to_owned()], Duration::from_secs(30)).await;
    assert_eq!(world.agent.stats().await.len(), 1, "what has ended uses nothing");
    world.end().await;
}
