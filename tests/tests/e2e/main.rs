//! End-to-end tests: a user's view of a node, on a real control plane and a real registry.
//!
//! One control plane, one registry and one node serve all tests of a run; [`suite`] starts them when the
//! first test asks. Every test has a namespace of its own, and where it kills or configures a node, a node
//! of its own. One module per behaviour.
//!
//! The `kubewasm` binary must have been built (`make test` does); see [`kubewasm_tests::node::program`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod bad_input;
mod crash;
mod deletion;
mod images;
mod lifecycle;
mod logs;
mod outage;
mod pods;
mod registration;
mod run_command;
mod scale;
mod suite;
