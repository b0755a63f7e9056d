//! The WASI host: everything that runs WebAssembly.
//!
//! ```text
//!   agent process                             worker process (one per group of pods)
//!   ─────────────                             ────────────────────────────────────────
//!   [provider] ── module ready? ──►           [worker] ──► [host] ──► wasmtime ──► guest
//!      │            [inspect], [compile]         ▲  │                               │
//!      ▼                                         │  └── instance states             ▼
//!   [supervisor] ◄═══ Unix socket, gRPC ═════════╝                         [logs] (CRI files)
//!      └── view of all instances, wake-ups
//! ```
//!
//! A module comes in as a file. [`inspect`] reads what it is and refuses, with reasons, what cannot run.
//! [`compile`] turns it into machine code in a child process under limits. The [`supervisor`] starts or
//! finds the worker process of a group and hands it an [`spec::InstanceSpec`]; the [`worker`] loads the
//! machine code ([`engine`]), runs it as an async task ([`host`]) and remembers how it ended until it is told
//! to forget. What a guest prints goes from the guest's stream straight to its log file ([`logs`]).
//!
//! An agent that ends takes nothing down: workers go on, and the next agent finds their sockets. A worker
//! that ends takes down its own instances only, and the supervisor reports them as lost.
//!
//! Without the feature `pods` the crate knows nothing of Kubernetes. With it, `provider` implements the
//! kubelet's runtime interface.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod capacity;
mod cgroup;
mod clock;
pub mod compile;
pub mod confine;
pub mod engine;
pub mod exit;
pub mod files;
pub mod host;
pub mod inspect;
pub mod instance;
#[cfg(feature = "pods")]
pub mod isolation;
pub mod logs;
pub mod mounter;
mod precompiled;
pub mod program;
pub mod protocol;
#[cfg(feature = "pods")]
pub mod provider;
pub mod spec;
pub mod supervisor;
pub mod worker;

/// Version of wasmtime that guests run on: part of the runtime version that a node reports.
pub const WASMTIME_VERSION: &str = "48.0.8";

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_that_of_the_lock_file() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")).unwrap();
        let locked = lock
            .split("[[package]]")
            .find(|package| package.contains("\nname = \"wasmtime\"\n"))
            .and_then(|package| package.split("version = \"").nth(1))
            .and_then(|rest| rest.split('"').next())
            .unwrap();
        assert_eq!(locked, super::WASMTIME_VERSION);
    }
}
