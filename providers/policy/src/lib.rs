//! Admission policies as WebAssembly: programs that judge the requests to an API server, or any JSON.
//!
//! ```text
//!   request, settings ─[request]─► one document ─► Evaluator: a fresh instance, under bounds ─► what it answers
//!                                                        ▲ host.call [host_call], waPC [wapc], WIT [typed]  │
//!   module ─[metadata]─► what it says of itself          │                                                  ▼
//!             may it ask that? [asked, capabilities, context_aware] ─► HostCapabilities [host]            Ended
//!                                       AdmissionResponse ◄─[response]─ Verdict ◄─[verdict]─────────────────┘
//! ```
//!
//! [`server`] puts policies and groups of them ([`expression`]) to work behind HTTPS, as a file ([`policies`]) or whoever embeds it
//! says ([`spec`]); [`cluster`] brings those of a cluster to it.
//!
//! The protocols are those of Kubewarden's policies, plain WASI and waPC, so that these run unchanged, and one of our own with
//! types. What a policy may ask of a cluster and of registries is in [`host`]; whose they are is for whoever embeds this.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod answer;
mod asked;
pub mod capabilities;
pub mod cluster;
mod context_aware;
pub mod evaluator;
pub mod expression;
pub mod host;
pub mod host_call;
mod input;
mod memory;
pub mod metadata;
pub mod modules;
pub mod policies;
pub mod request;
pub mod response;
pub mod server;
pub mod spec;
mod typed;
pub mod verdict;
mod wapc;
