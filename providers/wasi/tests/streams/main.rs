//! Callers that are connected to containers, in workers as they really are: processes of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attach;
mod exec;
mod forward;
mod programs;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
mod world;
