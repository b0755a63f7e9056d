//! Guests that want it all, each beside one that behaves, in a worker as it really is: a process of its own.
//!
//! The neighbour prints a line every few milliseconds, which the log stamps with the time. A test checks that
//! it goes on doing so, and that it was never held up for longer than a moment; how long a moment is on a busy
//! machine is generous, and still orders of magnitude below what a guest that is not held to its turn does.
//!
//! `KUBEWASM_TEST_SIZE=full` makes the sizes those of the real thing: a burst of a gigabyte, shares measured
//! over half a minute, a thousand guests that spin.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod grabs;
mod guests;
mod process;
mod shares;
mod world;

/// One size for every day, another one where the real thing is asked for.
fn size<T>(usual: T, full: T) -> T {
    if std::env::var("KUBEWASM_TEST_SIZE").as_deref() == Ok("full") { full } else { usual }
}
