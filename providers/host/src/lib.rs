//! A WASI host to embed: plain values in, an [`Exit`](exit::Exit) out.
//!
//! ```text
//!   bytes ─[inspect]─► Kind ─► Generation (which engine)
//!   file  ─[compile]─► child process under limits ─► machine code on disk
//!                                                      │ Host::load (mapped once, linked once)
//!                                                      ▼
//!   Setup: argv, environment, preopens, network, output, account ──► Host::prepare ──► Guest::run().await ──► Exit
//! ```
//!
//! It knows of no pod, no path of a log and no process but the compiling one. Who embeds it brings files as
//! [`Preopen`]s, takes output through the trait [`Output`], opens an [`Account`] for whatever is to share limits, and
//! adds host interfaces of its own as [`Plugin`]s; `examples/counter.rs` does all of that.
//!
//! A guest runs as an async task that yields at every tick of its engine, so that one that computes can be
//! stopped and one that sleeps can be dropped. Tasks run in turns, by weight and limit: `cpu` says how.
//! [`engine`] says what the engines have in common, [`capacity`] what ends the number of guests in one process.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod account;
mod backtrace;
mod bounds;
mod cache;
mod called;
pub mod capacity;
mod cause;
pub mod clock;
mod common;
pub mod compile;
mod component;
pub mod confine;
mod cpu;
mod directory;
pub mod engine;
mod errno;
pub mod exit;
mod features;
mod file_streams;
mod guest;
mod host;
pub mod http;
mod imports;
mod input;
pub mod inspect;
mod kind;
pub mod line_discipline;
mod listen;
mod lookup;
mod memory;
mod names;
pub mod network;
mod outcome;
mod outgoing;
mod output;
mod owned_setup;
mod p3;
mod pipe;
mod plugin;
mod pool;
mod precompiled;
mod preview1;
pub mod program;
mod setup;
mod silence;
mod sockets;
mod stack;
mod state;
mod stdin;
mod stdio;
mod text;
mod traffic;
mod waiting;

pub use account::{Account, BelowUse, GuestLimits, Usage};
pub use cache::{LoadError, Loaded};
pub use called::{CallableInstance, InstanceMaker, NotInstantiated};
pub use component::{ComponentUse, LoadedComponent};
pub use cpu::{CpuShare, INSTANTIATION_BUCKETS_MICROS, InstantiationStats};
pub use guest::{CalledInstance, Guest, GuestCall, exited_with};
pub use host::{DEFAULT_MEMORY_LIMIT, Host, HostError, HostOptions};
pub use input::{Chunk, InputSource};
pub use kind::{Generation, ModuleKind, UnknownKind};
pub use listen::ListenPort;
pub use lookup::{NameFiles, Resolver};
pub use network::{
    DeniedNetwork, DeniedNetworks, EgressEntry, EgressList, ExposedPort, ExposedPorts, Firewall, Firewalls,
    InvalidEgress, Network, NetworkTables, PodAddresses, PodPorts, PodRuleKeys, PortPath, Refusals,
    RuleChanges, SocketRules,
};
pub use outgoing::{
    HttpConnections, HttpOutcome, HttpProxy, HttpRule, HttpSender, InvalidAuthorities, InvalidHttpProxy,
    PastProxy, PrivateAuthorities, ProxyCredentials,
};
pub use output::{Capture, LARGEST_WRITE, Output, Stream};
pub use pipe::InputPipe;
pub use plugin::{AnyPlugin, Plugin, PluginState};
pub use setup::{GuestExtension, Input, Preopen, PrepareError, Setup};
pub use stack::Stack;
pub use state::GuestState;
pub use traffic::{Traffic, TrafficUsage};
/// The types of `wasi:http` that an [`HttpSender`] speaks.
pub use wasmtime_wasi_http::{Error as HttpError, RequestOptions as HttpOptions, WasiBody};

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
