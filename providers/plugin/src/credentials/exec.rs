//! Programs that know credentials:
//! <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>.

use std::{
    io::{self, IsTerminal as _},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, process::Command};

use super::{NoCredentials, certificate::ClientIdentity, token::bearer};
use crate::kubeconfig::{ClusterEntry, ExecEntry, InteractiveMode, Secret};

/// Versions of the API that a program may speak.
const VERSIONS: [&str; 2] = ["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"];
/// Extension of a cluster that is handed to the program.
const CONFIG_EXTENSION: &str = "client.authentication.k8s.io/exec";
/// How the program learns what is wanted.
const VARIABLE: &str = "KUBERNETES_EXEC_INFO";
/// Bytes of an answer.
const LARGEST: u64 = 1 << 20;
/// A program that says nothing for so long is not waited for. Some open a browser and wait for their user.
const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// One such program.
#[derive(Debug)]
pub(super) struct ExecProgram {
    entry: ExecEntry,
    mode: InteractiveMode,
    /// What is told of the cluster, where the entry asks for that.
    cluster: Option<Value>,
}

/// What a program has said.
#[derive(Clone, Debug)]
pub(super) struct ExecAnswer {
    pub(super) token: Option<HeaderValue>,
    pub(super) identity: Option<Arc<ClientIdentity>>,
    /// From when on it is to be asked again.
    pub(super) expires: Option<SystemTime>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    status: Option<ExecStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecStatus {
    #[serde(default)]
    expiration_timestamp: Option<Timestamp>,
    #[serde(default)]
    token: Option<Secret>,
    #[serde(default)]
    client_certificate_data: Option<String>,
    #[serde(default)]
    client_key_data: Option<Secret>,
}

impl ExecProgram {
    /// Reads an entry, whose paths are absolute.
    pub(super) fn new(entry: ExecEntry, cluster: &ClusterEntry) -> Result<Self, String> {
        let ExecEntry { api_version, command, .. } = &entry;
        if command.is_empty() {
            return Err("its exec has no command".to_owned());
        }
        if !VERSIONS.contains(&api_version.as_str()) {
            return Err(format!(
                "its exec plugin {command} speaks {api_version:?}; {} are spoken here",
                VERSIONS.join(" and ")
            ));
        }
        let mode = match entry.interactive_mode {
            Some(mode) => mode,
            None if api_version == VERSIONS[1] => InteractiveMode::IfAvailable,
            None => {
                return Err(format!(
                    "its exec plugin {command} has no interactiveMode, which {} wants: Never, IfAvailable or Always",
                    VERSIONS[0]
                ));
            }
        };
        let told = entry.provide_cluster_info.then(|| told(cluster)).transpose()?;
        Ok(Self { entry, mode, cluster: told })
    }

    /// Runs it, and reads what it says.
    pub(super) async fn run(&self) -> Result<ExecAnswer, NoCredentials> {
        let command = &self.entry.command;
        let failed = |reason: String| NoCredentials(format!("the exec plugin {command} {reason}"));
        let is_interactive = match (self.mode, io::stdin().is_terminal()) {
            (InteractiveMode::Never, _) | (InteractiveMode::IfAvailable, false) => false,
            (_, true) => true,
            (InteractiveMode::Always, false) => {
                return Err(failed(
                    "wants to ask its user something, and standard input is no terminal".to_owned(),
                ));
            }
        };
        let mut program = Command::new(command);
        program.args(&self.entry.args).kill_on_drop(true);
        for variable in &self.entry.env {
            program.env(&variable.name, variable.value.reveal());
        }
        program.env(VARIABLE, self.question(is_interactive).to_string());
        program.stdin(if is_interactive { Stdio::inherit() } else { Stdio::null() });
        program.stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = program.spawn().map_err(|error| {
            let hint = self.entry.install_hint.as_deref().map(|hint| format!("\n\n{}", hint.trim()));
            failed(format!("cannot be run: {error}{}", hint.unwrap_or_default()))
        })?;
        let mut answer = Vec::new();
        let reading = async {
            if let Some(stdout) = child.stdout.take() {
                stdout.take(LARGEST + 1).read_to_end(&mut answer).await?;
            }
            child.wait().await
        };
        let status = tokio::time::timeout(PATIENCE, reading).await;
        let status = status
            .map_err(|_| failed(format!("has said nothing for {} minutes", PATIENCE.as_secs() / 60)))?
            .map_err(|error| failed(format!("was lost: {error}")))?;
        if !status.success() {
            return Err(failed(format!("has failed ({status})")));
        }
        if answer.len() as u64 > LARGEST {
            return Err(failed(format!("has said more than {LARGEST} bytes")));
        }
        self.read(&answer).map_err(failed)
    }

    fn question(&self, is_interactive: bool) -> Value {
        let mut spec = json!({ "interactive": is_interactive });
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = cluster.clone();
        }
        json!({ "kind": "ExecCredential", "apiVersion": self.entry.api_version, "spec": spec })
    }

    /// Reads an answer. What is wrong in it is not told with what is in it.
    fn read(&self, answer: &[u8]) -> Result<ExecAnswer, String> {
        let answer: ExecCredential = serde_json::from_slice(answer).map_err(|error| {
            format!("has not said an ExecCredential: line {} of it is wrong", error.line())
        })?;
        if answer.kind != "ExecCredential" || answer.api_version != self.entry.api_version {
            return Err(format!("has not said an ExecCredential of {}", self.entry.api_version));
        }
        let status = answer.status.ok_or("has said no status")?;
        let token = status.token.filter(|token| !token.is_empty());
        let token = token
            .map(|token| bearer(token.reveal()).ok_or("has said a token with characters that no token has"));
        let certificate = status.client_certificate_data.filter(|data| !data.is_empty());
        let key = status.client_key_data.filter(|data| !data.is_empty());
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let identity = ClientIdentity::from_pem(certificate.as_bytes(), key.reveal().as_bytes());
                Some(Arc::new(identity.map_err(|error| format!("has said what cannot be used: {error}"))?))
            }
            (None, None) => None,
            _ => {
                return Err(
                    "has said a certificate without its key, or a key without its certificate".to_owned()
                );
            }
        };
        if token.is_none() && identity.is_none() {
            return Err("has said neither a token nor a certificate".to_owned());
        }
        Ok(ExecAnswer {
            token: token.transpose()?,
            identity,
            expires: status.expiration_timestamp.map(SystemTime::from),
        })
    }
}

/// What a program is told of the cluster.
fn told(cluster: &ClusterEntry) -> Result<Value, String> {
    let mut told = json!({ "server": cluster.server });
    let mut add = |name: &str, value: Value| told[name] = value;
    if let Some(name) = cluster.tls_server_name.as_deref().filter(|name| !name.is_empty()) {
        add("tls-server-name", json!(name));
    }
    if cluster.insecure_skip_tls_verify {
        add("insecure-skip-tls-verify", json!(true));
    }
    if cluster.disable_compression {
        add("disable-compression", json!(true));
    }
    let data = cluster.certificate_authority_data.as_deref().filter(|data| !data.is_empty());
    match (data, &cluster.certificate_authority) {
        (Some(data), _) => add("certificate-authority-data", json!(data)),
        (None, Some(path)) => {
            use base64::Engine as _;
            let pem = std::fs::read(path).map_err(|error| {
                format!("the certificate-authority {} of its cluster cannot be read: {error}", path.display())
            })?;
            add("certificate-authority-data", json!(base64::engine::general_purpose::STANDARD.encode(pem)));
        }
        (None, None) => {}
    }
    if let Some(proxy) = cluster.proxy_url.as_deref().filter(|url| !url.is_empty()) {
        add("proxy-url", json!(proxy));
    }
    let config = cluster.extensions.iter().find(|extension| extension.name == CONFIG_EXTENSION);
    if let Some(config) = config {
        add("config", config.extension.clone());
    }
    Ok(told)
}
