//! kubectl plugins as WebAssembly: kept, granted what they ask for, and let to the API server of the current context alone.
//!
//! ```text
//!   argv, KUBECONFIG ─[kubeconfig]─► [cluster] ClusterChoice ─────────────┐
//!   <data>/plugins/<name>.json ─[home]─► PluginRecord: grants, access ────┤
//!   module store ─► PluginProgram ────────────────────────────────────────┴─[run]─► kubewasm-host ─► exit code
//!                                                                                       │ wasi:http
//!                               API server ◄─[client, credentials]─ [sender] ◄──────────┘
//! ```
//!
//! A plugin is a command of WASI. It has its user's standard streams, arguments and a few variables; directories and other
//! variables if they were granted; no sockets. Its HTTP requests are sent by [`sender`], to one server, with credentials that it
//! never sees: the crate reads kubeconfigs itself, by client-go's rules, and knows nothing else of Kubernetes but the shape of
//! its paths.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod access;
mod api_request;
mod api_server;
mod client;
mod cluster;
mod console;
mod credentials;
mod directories;
mod environment;
mod grants;
mod home;
mod kubeconfig;
mod name;
mod outbound_http;
mod record;
mod run;
pub mod scaffold;
mod sender;
mod terminal;
#[cfg(test)]
mod testing;
mod virtual_kubeconfig;
mod wishes;

pub use access::{AccessRule, AccessRules, InvalidAccess};
pub use api_server::VIRTUAL_AUTHORITY;
pub use cluster::{ClusterChoice, ClusterEnvironment};
pub use directories::DirectoryError;
pub use environment::{NAMESPACE, TerminalSize};
pub use grants::{Grant, Grants, InvalidGrant};
pub use home::{FoundPlugin, HomeError, Linked, PluginHome};
pub use kubeconfig::{KubeconfigError, KubeconfigOverrides};
pub use name::{InvalidName, PluginName, StartedAs};
pub use record::PluginRecord;
pub use run::{PluginProgram, PluginSetup, RunError, run};
pub use wishes::{ConsentNeeded, InvalidWish, PluginWishes};
