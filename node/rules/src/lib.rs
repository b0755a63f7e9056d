//! What may reach a pod and what a pod may reach, as plain values: sets of addresses, ports, and the rules that are made
//! of them. It knows neither Kubernetes nor Wasm, and does no I/O: whoever reads policies makes rules, whoever has a
//! socket asks them.
//!
//! A rule that is behind a selector of thousands of pods is one set of ranges. Sets are normal (sorted, disjoint, and
//! apart), so that equal sets are equal values, and a look into one is a binary search.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod addresses;
mod pod;

pub use addresses::Addresses;
pub use pod::{Peers, PodRules, PortRange, Ports, Protocol, Rule, UnknownProtocol};
