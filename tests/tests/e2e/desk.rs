//! A desk to work at with `kubewasm module`: no cluster, a registry, and a user with a folder.

use std::{fs, path::Path, process::Output};

use base64::Engine as _;
use kubewasm_tests::{
    guests,
    home::Home,
    node,
    registry::{PASSWORD, Registry, USER},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::suite::SOON;

/// A user with a folder of his own, a registry that knows its users, and a module.
pub(crate) struct Desk {
    folder: TempDir,
    pub(crate) registry: Registry,
    _home: Home,
}

impl Desk {
    pub(crate) async fn new() -> Self {
        // Another test may have chosen already; both choices are fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let home = Home::temporary().unwrap();
        let mut registry = Registry::private(&home, "registry").unwrap();
        registry.start().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("actor.wasm"), guests::guest("actor.c").await.unwrap()).unwrap();
        Self { folder, registry, _home: home }
    }

    /// The folder that commands run in.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Logs in, as `docker login` notes it down.
    pub(crate) fn log_in(&self) {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        self.docker_config(&json!({ "auths": { self.registry.host(): { "auth": auth } } }));
    }

    /// Replaces the user's `config.json`.
    pub(crate) fn docker_config(&self, config: &Value) {
        fs::create_dir_all(self.path().join("docker")).unwrap();
        fs::write(self.path().join("docker/config.json"), config.to_string()).unwrap();
    }

    /// The outcome of a command of `kubewasm module`.
    pub(crate) async fn module(&self, args: &[&str]) -> Output {
        let mut command = Command::new(node::program().unwrap());
        command.arg("module").args(args).arg("--root-dir=root").current_dir(self.path()).kill_on_drop(true);
        command.env("DOCKER_CONFIG", self.path().join("docker")).env("PATH", self.path());
        tokio::time::timeout(SOON, command.output()).await.expect("an end").unwrap()
    }

    /// The JSON of a command that succeeds.
    pub(crate) async fn json(&self, args: &[&str]) -> Value {
        let output = self.module(&[args, &["-o", "json"]].concat()).await;
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The message of a command that fails with this code.
    pub(crate) async fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.module(args).await;
        let text = errors(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(!text.contains(PASSWORD), "{text}");
        text
    }
}

/// What a command has said of its failure.
pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
