//! A real Kubernetes control plane, a real registry and a real node, for the end-to-end tests and for
//! the demo.
//!
//! Nothing here is a stand-in: [`cluster`] starts Kubernetes' own programs, [`registry`] Debian's
//! `docker-registry`, [`node`] the `kubewasm` binary as a user would start it. What the tests and the demo
//! need of the world goes through these three, so that both see the same thing.
//!
//! ```text
//!  guests ──► registry::push ──► docker-registry ◄── pull ── kubewasm node ──► workers
//!                                                               ▲  │
//!  cluster ──► etcd ◄── kube-apiserver ◄── watch, status ───────┘  │
//!                 kube-controller-manager      │                   │
//!                 kube-scheduler               └── logs, exec ─────┘
//! ```
//!
//! All files of one set-up live under one folder, a [`home::Home`], and every program started here carries
//! a path below that folder on its command line. That is what ends them: whoever knows the folder can
//! find all processes that belong to it ([`process::end_all_under`]), the workers of a killed node among
//! them. A temporary home is watched by a process of its own, which cleans up when its owner is gone,
//! however it went.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod beside;
pub mod certificates;
pub mod cluster;
pub mod documented;
pub mod envoy;
pub mod guests;
pub mod home;
pub mod metrics_server;
pub mod node;
pub mod ports;
pub mod process;
pub mod progress;
pub mod registry;
pub mod subscriber;
pub mod wait;
pub mod web;

/// Makes the cryptography that this workspace uses (ring) the default of the process. Every user of this
/// crate calls it once before anything that speaks TLS; later calls do nothing.
pub fn init() {
    // An error says that a provider is installed already, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
