//! Runs workloads: components that are linked to each other, over host interfaces. Without Kubernetes, for whoever embeds it.
//!
//! ```text
//!   Engine: compiles and runs components
//!     │
//!   Host ◄── plugins (HostInterface): what components import, or who calls them; HttpServer, stores, components
//!     │
//!   Workload ─┬─ Component ◄──┐ a component's exports serve the imports of its siblings, each call in an instance of the
//!             ├─ Component ───┘ callee's own, under its limits and a deadline
//!             ├─ Service: runs for as long as the workload, listens on the workload's own loopback, is started again
//!             └─ volumes, hosts that may be connected to, settings of host interfaces
//! ```
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use kubewasm_workload::{
//!     engine::Engine,
//!     host::{HostApi, HostBuilder, http::{DynamicRouter, HttpServer}},
//!     interfaces::config::WasiConfig,
//!     types::{Component, Workload, WorkloadStartRequest},
//! };
//!
//! # async fn example(bytes: bytes::Bytes) -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::builder().build()?;
//! let http_handler = HttpServer::new(DynamicRouter::default(), "127.0.0.1:8080".parse()?);
//! let host = HostBuilder::new()
//!     .with_engine(engine)
//!     .with_http_handler(Arc::new(http_handler))
//!     .with_plugin(Arc::new(WasiConfig::default()))?
//!     .build()?;
//! let host = host.start().await?;
//! let workload = Workload {
//!     namespace: "test".to_owned(),
//!     name: "test-workload".to_owned(),
//!     components: vec![Component { bytes, ..Component::default() }],
//!     ..Workload::default()
//! };
//! host.workload_start(WorkloadStartRequest { workload_id: "1".to_owned(), workload }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Names are those of wash-runtime where there is the same, so that code moves over; [`types`] has what it calls so.
//! [`host_interface`] says how to add an interface, `link` who serves what, `call` how a component is called.
//!
//! Features, all of them on by default: `wasi-http` is the server ([`host::http`]), and `wasi-config`, `wasi-logging`,
//! `wasi-keyvalue`, `wasi-blobstore` and `wasmcloud-messaging` are the [`interfaces`] of these names, with the clients of their
//! back ends.
//!
//! Everything runs in this process, and components are compiled in it: who runs what others have made confines it
//! (`kubewasm_host::confine`), or lets a node do all of this.

#![cfg_attr(
    not(all(
        feature = "wasi-http",
        feature = "wasi-blobstore",
        feature = "wasi-config",
        feature = "wasi-keyvalue",
        feature = "wasi-logging",
        feature = "wasmcloud-messaging"
    )),
    allow(
        dead_code,
        reason = "some of what interfaces share is used by one of them alone, which is left out"
    )
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod assemble;
mod call;
mod egress;
pub mod engine;
pub mod error;
mod ground;
mod handles;
pub mod host;
pub mod host_interface;
mod instance;
pub mod interfaces;
mod link;
mod loopback;
pub mod output;
mod plugin_component;
mod record;
mod resolved;
mod service;
mod shape;
mod volumes;
pub mod wit;
pub mod workload;

pub use call::CallError;
pub use plugin_component::ComponentPlugin;
pub use resolved::{ExportedInterface, HttpExport, ResolvedWorkload};

/// The types of the workload API, by the name that they have in wash-runtime.
pub use workload as types;
