//! Guests that grab what they can get.

use std::time::Duration;

use jiff::Timestamp;
use kubewasm_host::exit::ExitReason;
use kubewasm_wasi::spec::InstanceSpec;

use crate::{guests, size, world::World};

const MIB: u64 = 1 << 20;
const GRACE: Duration = Duration::from_secs(30);

/// Names of this many instances of one guest.
fn names(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

#[tokio::test]
async fn endless_loops() {
    let world = World::new().await;
    let spins = world.guest("spins", &guests::spins());
    let began = Timestamp::now();
    let spinning = names("spins", size(50, 1000));
    for id in &spinning {
        world.start(id, &spins).await;
    }
    world.neighbour_is_well(began).await;
    // One that is asleep among them is stopped at once, and so are they.
    world.start("sleeps", &world.guest("sleeps", &guests::sleeps())).await;
    world.until("its first line", || world.log("sleeps").ends_with("asleep\n")).await;
    world.stop(&["sleeps".to_owned()], GRACE).await;
    world.stop(&spinning, GRACE).await;
    world.neighbour_is_well(began).await;
    world.end().await;
}

#[tokio::test]
async fn endless_recursion() {
    let world = World::new().await;
    let began = Timestamp::now();
    world.start("recurses", &world.guest("recurses", &guests::recurses())).await;
    assert_eq!(world.exit("recurses").await, (134, ExitReason::Trapped));
    assert!(
        world
            .log("recurses")
            .contains("stderr F wasm trap: call stack exhausted: the guest has a stack of 512 KiB; ")
    );
    world.neighbour_is_well(began).await;
    world.end().await;
}

#[tokio::test]
async fn memory_to_the_end() {
    let world = World::new().await;
    let before = world.worker().most_resident();
    let began = Timestamp::now();
    world.start("grows", &world.guest("grows", &guests::grows())).await;
    assert_eq!(world.exit("grows").await, (137, ExitReason::OutOfMemory));
    let message = world.agent.observe("grows").unwrap().end.unwrap().exit.message;
    assert!(message.contains(&format!("the limit is {} bytes", 64 * MIB)), "{message}");
    let grown = world.worker().most_resident() - before;
    assert!(grown < 80 * MIB, "{grown} bytes for a guest that may have 64 MiB");
    world.neighbour_is_well(began).await;
    world.end().await;
}

#[tokio::test]
async fn a_burst_of_output() {
    let world = World::new().await;
    let before = world.worker().most_resident();
    let began = Timestamp::now();
    let burst = size(64 * MIB, 1024 * MIB);
    world.start("floods", &world.guest("floods", &guests::floods(burst / 4096))).await;
    world.neighbour_is_well(began).await;
    assert_eq!(world.exit("floods").await, (7, ExitReason::Exited), "every write was taken");
    let grown = world.worker().most_resident() - before;
    assert!(grown < 16 * MIB, "{grown} bytes for output on its way to the disk");
    let log = world.log_path("floods");
    let files = std::fs::read_dir(log.parent().unwrap()).unwrap().map(Result::unwrap);
    let of_it = files.filter(|file| file.file_name().to_str().unwrap().starts_with("floods.log"));
    let kept: u64 = of_it.map(|file| file.metadata().unwrap().len()).sum();
    assert!(kept <= 51 * MIB, "{kept} bytes of logs are kept");
    world.neighbour_is_well(began).await;
    world.end().await;
}

#[tokio::test]
async fn ten_thousand_open_files() {
    let world = World::new().await;
    let before = world.worker().files();
    let began = Timestamp::now();
    let opens = InstanceSpec { memory_limit_bytes: 128 * MIB, ..world.guest("opens", &guests::opens()) };
    world.start("opens", &opens).await;
    world.until("it to have all it gets", || world.log("opens").ends_with("opened\n")).await;
    let opened = world.worker().files() - before;
    assert!((900..1100).contains(&opened), "{opened} files");
    world.neighbour_is_well(began).await;
    world.stop(&["opens".to_owned()], GRACE).await;
    world.until("its files to be closed", || world.worker().files() <= before + 4).await;
    world.end().await;
}

#[tokio::test]
async fn a_storm_of_traps_and_restarts() {
    let world = World::new().await;
    let began = Timestamp::now();
    let traps = world.guest("traps", &guests::traps());
    let round = async || {
        let ids = names("traps", 50);
        for id in &ids {
            world.start(id, &traps).await;
        }
        for id in &ids {
            assert_eq!(world.exit(id).await, (134, ExitReason::Trapped));
            world.agent.remove(id).await.unwrap();
        }
    };
    round().await;
    let (files, mappings) = (world.worker().files(), world.worker().mappings());
    for _ in 0..size(4, 40) {
        round().await;
    }
    assert!(world.worker().files() <= files + 8, "files are left over");
    assert!(world.worker().mappings() <= mappings + 100, "memory is left over");
    world.neighbour_is_well(began).await;
    world.end().await;
}

#[tokio::test]
async fn closed_standard_streams() {
    let world = World::new().await;
    let began = Timestamp::now();
    world.start("closes", &world.guest("closes", &guests::closes_stdio())).await;
    assert_eq!(world.exit("closes").await, (16, ExitReason::Exited), "EBADF, twice");
    assert!(world.log("closes").ends_with("stdout F last words\n"), "{}", world.log("closes"));
    world.neighbour_is_well(began).await;
    world.end().await;
}

#[tokio::test]
async fn polls_on_everything_and_random_bytes_without_end() {
    let world = World::new().await;
    let began = Timestamp::now();
    let mut ids = Vec::new();
    for (name, wat) in [("polls", guests::polls()), ("draws", guests::draws())] {
        let guest = world.guest(name, &wat);
        for id in names(name, 4) {
            world.start(&id, &guest).await;
            ids.push(id);
        }
    }
    world.neighbour_is_well(began).await;
    world.stop(&ids, GRACE).await;
    world.end().await;
}
