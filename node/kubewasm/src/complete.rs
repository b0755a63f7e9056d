//! `kubewasm completions`, and the answers to the shells that have read what it prints.
//!
//! What is printed makes the shell run this program, with a variable set, each time that something is to be completed: so
//! names of images can be, which no script knows.

use std::process::ExitCode;

use anyhow::Context as _;
use clap_complete::{CompleteEnv, env::Shells};

use crate::cli;

/// The variable that tells this program that it is to complete a line.
const VARIABLE: &str = "KUBEWASM_COMPLETE";

/// Arguments of `kubewasm completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    /// The shell to print completions for.
    shell: clap_complete::Shell,
}

/// Answers a shell and ends the process, if this process is for that.
pub(crate) fn answer() {
    CompleteEnv::with_factory(cli::command).var(VARIABLE).complete();
}

/// Prints the completions to standard output.
pub(crate) fn main(args: &CompletionArgs) -> anyhow::Result<ExitCode> {
    let name = args.shell.to_string();
    let shells = Shells::builtins();
    let shell = shells.completer(&name).with_context(|| format!("there are no completions for {name}"))?;
    let mut out = std::io::stdout();
    shell.write_registration(VARIABLE, "kubewasm", "kubewasm", "kubewasm", &mut out)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_that_can_be_named_has_completions() {
        for shell in clap_complete::Shell::value_variants() {
            assert!(Shells::builtins().completer(&shell.to_string()).is_some(), "{shell}");
        }
    }
}
