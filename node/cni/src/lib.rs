//! Network sandboxes of pods, laid by the plugins of a cluster's own network: the runtime's side of the
//! [CNI specification](https://www.cni.dev/docs/spec/), versions 0.3.0 to 1.1.0.
//!
//! ```text
//! <conf dir>/*.conflist ─► conf_dir, config ─► chain ─► exec ─► bridge, calico-ipam, portmap, …
//!                                               ▲  │
//!  SandboxRequest ─► Sandboxes ─► attachment ───┘  └─► result ─► the pod's addresses
//!                       │
//!                       └─► records: what each sandbox was made with, on disk before it is made
//! ```
//!
//! A *sandbox* is a network namespace of one pod, mounted on a file, with what plugins have put into it. [`Sandboxes`] makes
//! and removes them. It writes down what it is about to do before it does it, with the configuration of the time, so that
//! what was begun by an agent that is gone is removed by the next one, as it was made.
//!
//! [`config`], [`result`], [`attachment`] and [`version`] are pure. [`exec`] runs one plugin, within bounds; [`chain`] runs
//! those of a network in their order.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod attachment;
mod chain;
mod conf_dir;
mod config;
mod error;
mod exec;
mod records;
mod result;
mod sandboxes;
mod version;

pub use attachment::{Bandwidth, PodDns, PodName, PortMapping, SandboxRequest};
pub use error::SandboxError;
pub use sandboxes::{SandboxOptions, Sandboxes};
