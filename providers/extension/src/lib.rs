//! Serves Envoy extensions that are WebAssembly modules.
//!
//! ```text
//!   WasmExtension objects ─[cluster]─► plain values, modules [fetch]
//!   plain values ─[resource]─► EncodedResource ─► PublishedExtension ─► ExtensionTable [table] ─► streams [xds] ─► Envoys
//!                                                        Subscribers [subscribers] ◄────────────────────┘ [server]
//! ```
//!
//! Whoever fills the [table] knows nothing of streams, and streams know nothing of clusters: what is published, and what Envoys
//! make of it, is all that goes between them.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod access;
pub mod cluster;
pub mod fetch;
pub mod identity;
pub mod name;
mod no_op;
pub mod resource;
pub mod selector;
pub mod server;
pub mod subscribers;
pub mod table;
pub mod wasm_extension;
mod xds;
