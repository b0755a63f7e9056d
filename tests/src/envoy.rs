//! A stock Envoy, whose filters come from a discovery server. `tests/tools/envoy` installs the program.

mod configuration;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

pub use self::configuration::{Credentials, EnvoyOptions, FilterKind, Variant};
use crate::{
    cluster::programs,
    home::Home,
    ports,
    process::Process,
    wait,
    web::{self, Answer},
};

/// Time for it to start, and to do what it was told.
const READY: Duration = Duration::from_secs(60);
/// Envoys of one folder have different names.
const NAME: &str = "envoy";

/// A running Envoy. It ends when it is dropped, unless it is [left](Envoy::leave).
#[derive(Debug)]
pub struct Envoy {
    port: u16,
    admin: u16,
    process: Process,
    left: bool,
}

impl Envoy {
    /// Starts it with files below `home`, and returns when its own port of administration answers. It may still wait for filters.
    ///
    /// # Errors
    /// When it cannot be installed, or refuses its configuration.
    pub async fn start(home: &Home, options: &EnvoyOptions) -> Result<Self> {
        let (port, admin) = (ports::free()?, ports::free()?);
        let file = home.folder(NAME)?.join(format!("{port}.json"));
        write(&file, &configuration::configuration(options, port, admin).to_string())?;
        Self::start_with(home, &file, port, admin).await
    }

    /// Starts it with a configuration of somebody's, which says that it is to listen on these ports.
    ///
    /// # Errors
    /// See [`Envoy::start`].
    pub async fn start_with(home: &Home, configuration: &Path, port: u16, admin: u16) -> Result<Self> {
        let mut command = Command::new(program().await?);
        command.arg("-c").arg(configuration);
        // Many of them are on one machine, and none is restarted.
        command.args(["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"]);
        command.args(["--component-log-level", "wasm:info", "--file-flush-interval-msec", "100"]);
        let process = Process::start(NAME, &mut command, &home.log(&format!("{NAME}-{port}")))?;
        let mut envoy = Self { port, admin, process, left: false };
        let answers =
            async || web::get(admin, "/server_info").await.map(drop).map_err(|error| format!("{error:#}"));
        envoy.process.await_ready(READY, answers).await?;
        Ok(envoy)
    }

    /// The port that its listener has; nobody listens there before its filters are known, or have not come in time.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Id of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Asks what is behind its filters.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self) -> Result<Answer> {
        web::get(self.port, "/").await
    }

    /// Waits until it answers so.
    ///
    /// # Errors
    /// When it does not; the last answer is told.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Answer) -> bool) -> Result<Answer> {
        let probe = async || match self.get().await {
            Ok(answer) if is_so(&answer) => Ok(answer),
            Ok(answer) => Err(format!("{} {:?}", answer.status, answer.headers)),
            Err(error) => Err(format!("{error:#}")),
        };
        let waited = wait::until(&format!("{what} from Envoy"), READY, probe).await;
        waited.with_context(|| self.process.log_tail())
    }

    /// A page of its administration.
    ///
    /// # Errors
    /// When there is no such page.
    pub async fn page(&self, path: &str) -> Result<String> {
        let answer = web::get(self.admin, path).await?;
        anyhow::ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        Ok(answer.text())
    }

    /// A number or a text that it keeps of the discovery of a filter, such as `config_reload`; empty where it keeps none.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn of_discovery(&self, kind: FilterKind, filter: &str, name: &str) -> Result<String> {
        let kind = match kind {
            FilterKind::Http => "http_filter",
            FilterKind::Network => "network_filter",
        };
        let whole = format!("extension_config_discovery.{kind}.{filter}.{name}: ");
        let page = self.page("/stats").await?;
        let line = page.lines().find_map(|line| line.strip_prefix(&whole));
        Ok(line.unwrap_or_default().trim_matches('"').to_owned())
    }

    /// What it says of the filters that it has been sent.
    ///
    /// # Errors
    /// When it does not answer, or with something else.
    pub async fn filters(&self) -> Result<Value> {
        let page = self.page("/config_dump?resource=ecds_filters").await?;
        serde_json::from_str(&page).context("a dump of filters is no JSON")
    }

    /// Lets it go on without us, until its home ends.
    pub fn leave(mut self) {
        self.left = true;
    }

    /// What it has logged last.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        if !self.left {
            // Nothing can be reported from here.
            let _ = self.process.kill();
        }
    }
}

/// The program, which is installed where it is not there.
///
/// # Errors
/// When it cannot be installed; the script has said why.
pub async fn program() -> Result<PathBuf> {
    Ok(programs::build("tools/envoy/build.sh").await?.join(NAME))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{certificates::Authority, process};

    /// A stock Envoy takes what it is configured with here, all of it.
    #[tokio::test]
    async fn every_configuration_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            write(&path, text).unwrap();
            path
        };
        let authority = Authority::new().unwrap();
        let identity = authority.client("envoy", &["spiffe://cluster.local/ns/a/sa/b"]).unwrap();
        let trusted = file("ca.crt", &authority.certificate);
        let (certificate, key) = (file("a.crt", &identity.chain), file("a.key", &identity.key));
        let program = program().await.unwrap();
        for variant in Variant::ALL {
            let plain = EnvoyOptions::new(variant, 1, "a/b").filter("a/c").server(2);
            let of_connections =
                plain.clone().kind(FilterKind::Network).node("a", "b", serde_json::json!({ "c": "d" }));
            let token =
                plain.clone().authority(trusted.clone()).credentials(Credentials::Token("t".to_owned()));
            let shown = Credentials::Certificate(certificate.clone(), key.clone());
            let mutual = plain.clone().authority(trusted.clone()).credentials(shown);
            for (name, options) in
                [("plain", plain), ("connections", of_connections), ("token", token), ("mutual", mutual)]
            {
                let path = file("envoy.json", &configuration::configuration(&options, 3, 4).to_string());
                let checked = ["--mode", "validate", "--log-level", "error", "-c", path.to_str().unwrap()];
                let outcome = process::run(&program, &checked).await;
                outcome.unwrap_or_else(|error| panic!("{variant:?} {name}: {error:#}"));
            }
        }
    }
}
