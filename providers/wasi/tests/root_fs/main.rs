//! What guests see of files: real workers, real guests, real mounts.
//!
//! Workers are a small program, see [`support`]. Guests are `tests/guests/actor.c`, which does what its
//! arguments say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod components;
mod escapes;
mod image;
mod lifecycle;
mod no_mounts;
mod reserved;
#[path = "../support/mod.rs"]
mod support;
mod volumes;
mod world;
