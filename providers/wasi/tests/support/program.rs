//! Worker and compiler of the tests.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "mod.rs"]
mod support;

fn main() {
    support::process();
}
