//! The program that child processes are made of: this one, under another subcommand.

use std::{ffi::OsString, path::PathBuf};

use tokio::process::Command;

/// A program whose subcommand `compile` calls [`crate::compile::child_main`]; who embeds this crate may give it others.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// The running program itself, by a name that stays right when its file is replaced by an upgrade: the
    /// agent, its compilers and the workers it starts are always of one version.
    #[must_use]
    pub fn current() -> Self {
        Self::new("/proc/self/exe")
    }

    /// Another program.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), args: Vec::new() }
    }

    /// Puts an argument in front of the subcommand.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// A command for one of the subcommands, with nothing of this process' standard streams.
    #[must_use]
    pub fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).arg(subcommand);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        command
    }
}
