//! What a kubectl plugin of WASI 0.2 is made of.
//!
//! ```text
//!   argv ─[plugin, flags]─► Plugin::run ─► Client ─► Api<K>: get, list, watch, create, patch, apply, delete, logs
//!                               │                       │
//!   stdout ◄─[table, output, age]                       ▼ Transport
//!   exit code, stderr ◄─[error]          wasi:http ─► host ─TLS, credentials─► API server
//! ```
//!
//! A plugin has no kubeconfig, no credentials and no sockets. It sends requests to a name that stands for the API server of its
//! user's context, and the host adds the rest; so it works with every way to log in that kubectl knows. All calls block: there
//! is one thread, and a watch is an iterator.
//!
//! ```no_run
//! use kubectl_plugin::{Call, ListOptions, Plugin, Result};
//! use k8s_openapi::api::core::v1::Node;
//!
//! struct Nodes;
//!
//! impl Plugin for Nodes {
//!     const HELP: &'static str = "Print the names of all nodes.\n";
//!
//!     fn run(&self, call: &mut Call<'_>) -> Result<()> {
//!         for node in call.client.of_cluster::<Node>().list(&ListOptions::default())?.items {
//!             writeln!(call.out, "{}", node.metadata.name.unwrap_or_default())?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     kubectl_plugin::main(&Nodes)
//! }
//! ```
//!
//! What needs no cluster is tested without one, on the machine that a plugin is written on: [`testing`] has an API server of a
//! few answers.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod age;
mod api;
mod client;
mod error;
mod flags;
mod frames;
mod output;
mod path;
mod plugin;
mod table;
pub mod testing;
mod transport;
#[cfg(target_os = "wasi")]
mod wasi;
mod watch;

pub use jiff::Timestamp;
pub use k8s_openapi;

pub use age::{age, human_duration};
pub use api::{Api, List, ListOptions, LogOptions, PatchKind};
pub use client::Client;
pub use error::{Error, Result};
pub use flags::{Argument, Arguments, CommonFlag, CommonFlags};
pub use output::{Output, json, yaml};
pub use path::ResourcePath;
pub use plugin::{Call, Plugin, main};
pub use table::{Table, visible};
pub use transport::{Method, Request, Response, Transport, TransportError};
pub use watch::{Event, Identity, Watcher};
