//! Everything a kubelet does that knows nothing of WebAssembly.
//!
//! ```text
//! config ──► identity ──► kube client ─┬─► node     registers the Node, renews its lease, keeps its status
//!                                      ├─► pods     source ─► manager ─► one task per pod ─► runtime::Runtime
//!                                      │                                  └─ lifecycle::step (pure), status::of (pure)
//!                                      ├─► static_pods  files ─► pods::manager, and their mirrors in the API
//!                                      ├─► eviction watches the disk, removes images, sends pods away
//!                                      ├─► shutdown delays the machine's end until pods have ended
//!                                      ├─► events   tells people
//!                                      ├─► policies follows NetworkPolicies, and tells the runtime what they allow
//! API server ──► server (HTTPS) ───────┴─► logs     reads what the containers wrote
//! ```
//!
//! The rules are those of the upstream kubelet; where a function follows one, its documentation says
//! which. What runs the containers is behind [`runtime::Runtime`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod admitter;
pub mod agent;
mod collection;
pub mod config;
mod duration;
pub mod events;
pub mod eviction;
mod explain;
mod exposition;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod held_metrics;
pub mod http_metrics;
pub mod identity;
pub mod logs;
mod lru;
mod mirror;
mod network_readiness;
pub mod node;
pub mod node_health;
pub mod node_metrics;
mod oom_events;
mod pod_ranges;
pub mod pods;
pub mod policies;
pub mod quantity;
mod rate;
pub mod registry_auth;
pub mod retry;
pub mod runtime;
pub mod server;
pub mod services;
pub mod shutdown;
pub mod static_pods;
pub mod stats;
pub mod supply;
mod system_oom;
pub mod traces;
