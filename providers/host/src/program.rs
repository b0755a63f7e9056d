//! The program that child processes are made of: this one, under another subcommand.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use tokio::process::Command;

/// A program whose subcommand `compile` calls [`crate::compile::child_main`]; who embeds this crate may give it others.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    /// What the process calls itself, where that is not the path.
    name: Option<OsString>,
    args: Vec<OsString>,
}

impl Program {
    /// The running program itself, by a name that stays right when its file is replaced by an upgrade: the
    /// agent, its compilers and the workers it starts are always of one version. Its processes call themselves by the
    /// name of that file as this one was started by, since `/proc/self/exe` tells nobody who looks at `ps` anything.
    #[must_use]
    pub fn current() -> Self {
        let started_as = std::env::args_os().next().map(PathBuf::from);
        let name = started_as.as_deref().and_then(Path::file_name).map(OsStr::to_owned);
        Self { name, ..Self::new("/proc/self/exe") }
    }

    /// Another program.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), name: None, args: Vec::new() }
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
        if let Some(name) = &self.name {
            command.arg0(name);
        }
        command.args(&self.args).arg(subcommand);
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_go_by_the_name_of_this_program() {
        let command = Program::current().command("worker");
        let shown = format!("{command:?}");
        let own = std::env::args_os().next().map(PathBuf::from).unwrap();
        // The standard library shows the path and, where it differs, the name.
        assert!(shown.contains("/proc/self/exe"), "{shown}");
        assert!(shown.contains(own.file_name().unwrap().to_str().unwrap()), "{shown}");
    }
}
