//! Kubeconfig files for the cluster's users.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::pki::{Pair, write_private};

/// How a user proves who they are.
#[derive(Clone, Copy, Debug)]
pub enum Credentials<'a> {
    /// With a client certificate.
    Certificate(&'a Pair),
    /// With a bearer token.
    Token(&'a str),
}

/// The kubeconfig of one user, with paths instead of embedded data so that it stays readable.
#[must_use]
pub fn document(server: &str, ca: &Path, credentials: Credentials<'_>) -> Value {
    let user = match credentials {
        Credentials::Certificate(pair) => {
            json!({ "client-certificate": pair.certificate, "client-key": pair.key })
        }
        Credentials::Token(token) => json!({ "token": token }),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "kubewasm", "cluster": { "server": server, "certificate-authority": ca } }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": "kubewasm", "context": { "cluster": "kubewasm", "user": "user" } }],
        "current-context": "kubewasm",
    })
}

/// Writes [`document`] to `path`, readable by its owner only.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, server: &str, ca: &Path, credentials: Credentials<'_>) -> Result<()> {
    let text =
        serde_yaml_ng::to_string(&document(server, ca, credentials)).context("cannot encode a kubeconfig")?;
    write_private(path, &text).with_context(|| format!("cannot write {}", path.display()))
}
