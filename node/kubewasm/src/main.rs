//! The `kubewasm` program. See `kubewasm --help`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

#[cfg(feature = "policy")]
mod admission;
mod approver;
mod attached;
mod cli;
mod complete;
mod console;
mod doctor;
mod exec;
#[cfg(feature = "extension")]
mod extension;
mod folder;
mod home;
mod kubelet_flags;
mod log;
mod manifest;
mod manual;
mod module;
mod network_mode;
mod node;
mod outgoing_proxy;
#[cfg(feature = "plugin")]
mod plugin;
#[cfg(feature = "policy")]
mod policy;
mod processes;
#[cfg(any(feature = "extension", feature = "policy"))]
mod replica;
mod resolvers;
mod run;
mod run_socket;
mod runtime;
mod signals;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
