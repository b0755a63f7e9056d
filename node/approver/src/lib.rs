//! Approves the certificates of nodes that run as pods of the cluster that they join.
//!
//! Kubernetes signs what is approved, and leaves it to somebody to approve: its own controller approves a first certificate of a
//! node only where whoever asks may become *any* node, and a serving certificate never. A pod that is to become a node needs
//! neither right here. It asks with the token of its service account, which tells the API server which pod it was given to; what
//! the request says is held against that pod, and what does not fit is denied with the reason.
//!
//! ```text
//!  CertificateSigningRequest ─► [request] who asks, what for ─► [rules] ◄─ Pod that asks, or is the node; Node of that name
//!                                                                 │
//!                                     approve, deny with a reason, or leave it to others
//! ```
//!
//! [`request`] and [`rules`] are plain values; [`controller`] joins them to the API server.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod controller;
mod request;
mod rules;

pub use controller::{Scope, run};

/// The label of a pod that says which node it is to become.
pub const NODE_LABEL: &str = "kubewasm.dev/node";
