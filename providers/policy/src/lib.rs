//! Admission policies as WebAssembly: programs that judge the requests to an API server, or any JSON.
//!
//! ```text
//!   request, settings ─[request]─► one document ─► Evaluator: a fresh instance, under bounds ─► stdout, exit
//!                                                        ▲ host.call [host_call, capabilities]      │
//!   module ─[metadata]─► what it says of itself          └─ HostCapabilities                        ▼
//!                                       AdmissionResponse ◄─[response]─ Verdict ◄─[verdict]──────── Ended
//! ```
//!
//! [`server`] puts policies and groups of them ([`expression`]) to work behind HTTPS, as a file ([`policies`]) or whoever embeds it
//! says ([`spec`]); [`cluster`] brings those of a cluster to it.
//!
//! The protocol is that of Kubewarden's policies of plain WASI, so that those run unchanged. What a policy may ask its host for is
//! for whoever embeds this.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod answer;
pub mod capabilities;
pub mod cluster;
pub mod evaluator;
pub mod expression;
pub mod host;
pub mod host_call;
mod input;
pub mod metadata;
pub mod modules;
pub mod policies;
pub mod request;
pub mod response;
pub mod server;
pub mod spec;
pub mod verdict;
