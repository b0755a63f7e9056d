//! `kubewasm extension`: Envoy extensions of a cluster, as a service.

mod pull_secrets;
mod serve;

use std::process::ExitCode;

use clap::Subcommand;
use kubewasm_extension::wasm_extension;

use crate::module::{self, print};

/// Arguments of `kubewasm extension`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExtensionArgs {
    #[command(subcommand)]
    command: ExtensionCommand,
}

#[derive(Debug, Subcommand)]
enum ExtensionCommand {
    /// Serve the extensions of a cluster (wasmextensions.wasmxds.tetrate.io) to its Envoys, and look after their statuses. Several
    /// replicas can: one of them is the leader.
    Serve(Box<serve::ServeArgs>),
    /// Print the definition of the resource, for kubectl apply.
    Crd,
}

/// Runs the command.
pub(crate) fn main(args: ExtensionArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ExtensionCommand::Serve(args) => module::tokio_runtime()?.block_on(serve::run(*args))?,
        ExtensionCommand::Crd => print(|out| write!(out, "{}", wasm_extension::DEFINITION))?,
    }
    Ok(ExitCode::SUCCESS)
}
