//! A user with a home folder, kubectl and `kubewasm`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use kubewasm_tests::{
    cluster::programs::Programs,
    guests,
    home::Home,
    node,
    registry::{Registry, image::Content},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{desk::errors, suite::SOON};

/// Somebody who has nothing yet.
pub(super) struct User {
    folder: TempDir,
    kubectl: PathBuf,
    kubeconfig: Option<PathBuf>,
}

impl User {
    pub(super) async fn new() -> Self {
        kubewasm_tests::init();
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        let kubectl = Programs::find().await.unwrap().path("kubectl");
        Self { folder, kubectl, kubeconfig: None }
    }

    /// The same, with this kubeconfig.
    pub(super) fn with_kubeconfig(self, kubeconfig: PathBuf) -> Self {
        Self { kubeconfig: Some(kubeconfig), ..self }
    }

    pub(super) fn home(&self) -> &Path {
        self.folder.path()
    }

    /// The folder in which commands are run.
    pub(super) fn work(&self) -> PathBuf {
        self.home().join("work")
    }

    /// Where plugins' links are.
    pub(super) fn bin(&self) -> PathBuf {
        self.home().join("data/kubewasm/bin")
    }

    /// A command of this user's, with nothing else of the environment of the tests.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.work()).kill_on_drop(true).stdin(std::process::Stdio::null());
        command.env("HOME", self.home()).env("PATH", format!("{}:/usr/bin:/bin", self.bin().display()));
        command
            .env("XDG_DATA_HOME", self.home().join("data"))
            .env("XDG_CACHE_HOME", self.home().join("cache"));
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command
    }

    /// `kubewasm plugin`
    pub(super) async fn plugin(&self, args: &[&str]) -> Output {
        let mut command = self.command(&node::program().unwrap());
        command.arg("plugin").args(args);
        end(command).await
    }

    /// The same, of a command that succeeds.
    pub(super) async fn json(&self, args: &[&str]) -> Value {
        let output = self.plugin(&[args, &["-o", "json"]].concat()).await;
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What a command says that fails with 1, and prints nothing.
    pub(super) async fn fails(&self, args: &[&str]) -> String {
        let output = self.plugin(args).await;
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", errors(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{args:?}");
        errors(&output)
    }

    /// kubectl, which knows the plugins.
    pub(super) fn kubectl_command(&self) -> Command {
        self.command(&self.kubectl)
    }

    pub(super) async fn kubectl(&self, args: &[&str]) -> Output {
        let mut command = self.kubectl_command();
        command.args(args);
        end(command).await
    }

    /// What kubectl prints, when it succeeds.
    pub(super) async fn kubectl_prints(&self, args: &[&str]) -> String {
        let output = self.kubectl(args).await;
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a plugin of one of `tests/guests`.
    pub(super) async fn has(&self, guest: &str, name: &str, more: &[&str]) {
        let file = self.home().join(format!("{name}.wasm"));
        fs::write(&file, guests::guest(guest).await.unwrap()).unwrap();
        self.json(&[&["pull", file.to_str().unwrap()], more].concat()).await;
    }
}

/// Runs a command to its end.
pub(super) async fn end(mut command: Command) -> Output {
    tokio::time::timeout(SOON, command.output()).await.expect("an end").unwrap()
}

/// A registry of the test's own.
pub(super) async fn registry(home: &Home, name: &str) -> Registry {
    let mut registry = Registry::open(home, name).unwrap();
    registry.start().await.unwrap();
    registry
}

/// What a registry has of one of `tests/guests`.
pub(super) async fn content(guest: &str) -> Content {
    Content::program("actor", guests::guest(guest).await.unwrap())
}
