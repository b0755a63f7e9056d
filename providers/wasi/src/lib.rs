//! The pod provider: runs the containers of pods as WebAssembly, in worker processes.
//!
//! ```text
//!   agent process                             worker process (one per group of pods)
//!   ─────────────                             ──────────────────────────────────────────────
//!   [provider] ── module ready? ──►           [worker] ──► kubewasm_host ──► wasmtime ──► guest
//!      │            module store                 ▲  │                                      │
//!      ▼                                         │  └── instance states                    ▼
//!   [supervisor] ◄═══ Unix socket, gRPC ═════════╝                                [logs] (CRI files)
//!      └── view of all instances, wake-ups
//! ```
//!
//! [`provider`] implements the kubelet's runtime interface. It asks the module store for machine code, which
//! [`kubewasm_host::compile`] makes in a child process. The [`supervisor`] starts or finds the worker process of a group
//! and hands it an [`spec::InstanceSpec`]; the [`worker`] makes the guest's file system ([`files`]), has the host run the
//! guest, and remembers how it ended until it is told to forget. What a guest prints goes from the guest's stream straight
//! to its log file ([`logs`]).
//!
//! An agent that ends takes nothing down: workers go on, and the next agent finds their sockets. A worker
//! that ends takes down its own instances only, and the supervisor reports them as lost.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod cgroup;
pub mod confine;
pub mod files;
pub mod instance;
pub mod isolation;
pub mod logs;
pub mod mounter;
pub mod protocol;
pub mod provider;
pub mod spec;
pub mod supervisor;
pub mod worker;
