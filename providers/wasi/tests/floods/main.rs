//! Clients that want to wear a server out, and bodies that are larger than memory. These tests look at the memory of their own
//! process, so that each is alone in it while it runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bodies;
mod frames;
mod streams;
#[allow(dead_code, reason = "it is that of other tests, too")]
#[path = "../http/world.rs"]
mod world;

use tokio::sync::{Mutex, MutexGuard};

/// More memory than this is what a flood, or a body on its way, must not take.
const LITTLE: usize = 48 << 20;

/// Waits for the other tests of this process.
async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Bytes of memory that this process has.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
