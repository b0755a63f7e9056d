//! A real OCI registry on this machine: Debian's `docker-registry`, on a loopback port, its storage in the
//! run's folder.

pub mod image;
pub mod requests;

use std::{fs, net::Ipv4Addr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol, ImageLayer},
    secrets::RegistryAuth,
};
use serde_json::json;

use self::{image::Content, requests::Request};
use crate::{
    home::Home,
    ports,
    process::{self, Process},
};

/// Time for the registry to take connections.
const READY: Duration = Duration::from_secs(30);

/// The one user of a registry that wants to know its users.
pub const USER: &str = "alice";

/// Her password.
pub const PASSWORD: &str = "wonderland";

/// [`USER`] and [`PASSWORD`] as `htpasswd -B` writes them; the registry takes nothing but bcrypt.
const HTPASSWD: &str = "alice:$2y$05$szv2b6W6DAp2E0z5BjP0WeAqApLTMqMOg3TqQ3i9Ub7xgTddjjhGy\n";

/// A running registry. It goes on when this value is dropped; the end of its [`Home`] ends it.
#[derive(Debug)]
pub struct Registry {
    port: u16,
    config: PathBuf,
    log: PathBuf,
    auth: RegistryAuth,
    process: Option<Process>,
}

impl Registry {
    /// Prepares a registry that everybody may read and write, without starting it.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn open(home: &Home, name: &str) -> Result<Self> {
        Self::prepare(home, name, RegistryAuth::Anonymous)
    }

    /// Prepares a registry for [`USER`] alone, without starting it.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn private(home: &Home, name: &str) -> Result<Self> {
        Self::prepare(home, name, RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned()))
    }

    fn prepare(home: &Home, name: &str, auth: RegistryAuth) -> Result<Self> {
        let folder = home.folder(name)?;
        let port = ports::free()?;
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "warn", "accesslog": { "disabled": false } },
            "storage": {
                "filesystem": { "rootdirectory": folder.join("storage") },
                "delete": { "enabled": true },
            },
            "http": { "addr": format!("127.0.0.1:{port}") },
        });
        if auth != RegistryAuth::Anonymous {
            let users = folder.join("htpasswd");
            fs::write(&users, HTPASSWD).with_context(|| format!("cannot write {}", users.display()))?;
            config["auth"] = json!({ "htpasswd": { "realm": "kubewasm", "path": users } });
        }
        let path = folder.join("config.yml");
        let text = serde_yaml_ng::to_string(&config).context("cannot encode the registry's configuration")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { port, config: path, log: home.log(name), auth, process: None })
    }

    /// Starts it, or starts it again, and waits until it takes connections.
    ///
    /// # Errors
    /// When it is not installed or does not become ready.
    pub async fn start(&mut self) -> Result<()> {
        let program = process::find_program("docker-registry")
            .context("docker-registry is not installed: run `make setup`, which installs Debian's package")?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&self.config);
        let mut process = Process::start("docker-registry", &mut command, &self.log)?;
        let port = self.port;
        process
            .await_ready(READY, async || {
                let connection = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
                connection.map(drop).map_err(|error| error.to_string())
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Takes the registry away; what was pushed stays. Fine when it does not run.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// `127.0.0.1:PORT`, the first part of every image name in it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Full name of `name` (`repository:tag`) in this registry.
    #[must_use]
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Pushes `content` as `name` (`repository:tag`), and says under which names it can be pulled.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub async fn push(&self, name: &str, content: &Content) -> Result<Pushed> {
        let tagged = self.name(name);
        let reference: Reference = tagged.parse().with_context(|| format!("{tagged} is no image name"))?;
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let (layers, config) = content.encode()?;
        let base = format!("http://{}/v2/{}/blobs", self.host(), reference.repository());
        let blob = |layer: &ImageLayer| Blob {
            url: format!("{base}/{}", layer.sha256_digest()),
            size_bytes: layer.data.len(),
        };
        let blobs = layers.iter().map(blob).collect();
        client
            .push(&reference, &layers, config, &self.auth, None)
            .await
            .with_context(|| format!("cannot push {tagged}"))?;
        let digest = client
            .fetch_manifest_digest(&reference, &self.auth)
            .await
            .with_context(|| format!("cannot ask for the digest of {tagged}"))?;
        let repository = format!("{}/{}", self.host(), reference.repository());
        Ok(Pushed { by_digest: format!("{repository}@{digest}"), tagged, layers: blobs })
    }

    /// What the registry was asked for, from its beginning on. A request is listed when it has been answered whole.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn requests(&self) -> Result<Vec<Request>> {
        let log = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(requests::parse(&String::from_utf8_lossy(&log)))
    }
}

/// Names of an image that was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// `host/repository:tag`.
    pub tagged: String,
    /// `host/repository@sha256:…`.
    pub by_digest: String,
    /// Its layers, in their order.
    pub layers: Vec<Blob>,
}

/// A blob in a registry.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Where anybody who may read the registry gets it.
    pub url: String,
    /// Its size.
    pub size_bytes: usize,
}
