//! `kubewasm completions`.

use std::process::ExitCode;

use crate::cli;

/// Arguments of `kubewasm completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    /// The shell to print completions for.
    shell: clap_complete::Shell,
}

/// Prints the completions to standard output.
pub(crate) fn main(args: &CompletionArgs) -> anyhow::Result<ExitCode> {
    clap_complete::generate(args.shell, &mut cli::command(), "kubewasm", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
