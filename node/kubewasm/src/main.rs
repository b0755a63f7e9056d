//! The `kubewasm` program. See `kubewasm --help`.

mod approver;
mod cli;
mod complete;
mod folder;
mod home;
mod log;
mod manifest;
mod module;
mod network_mode;
mod node;
mod outgoing_proxy;
mod processes;
mod resolvers;
mod run;
mod runtime;
mod signals;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
