//! What belongs to the user of this process: a store, and logins.

use std::{env, ffi::OsString, path::PathBuf};

use anyhow::Context as _;
use kubewasm_kubelet::{
    config::{HOME_REGISTRY_CONFIG, REGISTRY_CONFIG},
    registry_auth::{CredentialProviders, NodeCredentials},
};

/// Where modules are kept when nobody says.
pub(crate) fn default_root() -> anyhow::Result<PathBuf> {
    if let Some(cache) = set("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(cache).join("kubewasm"));
    }
    let home = set("HOME")
        .context("neither HOME nor XDG_CACHE_HOME is set; say with --root-dir where modules are kept")?;
    Ok(PathBuf::from(home).join(".cache/kubewasm"))
}

/// What the user is logged in to, as Docker's command line keeps it.
pub(crate) fn credentials() -> NodeCredentials {
    let file = match set("DOCKER_CONFIG") {
        Some(directory) => Some(PathBuf::from(directory).join(REGISTRY_CONFIG)),
        None => env::home_dir().map(|home| home.join(HOME_REGISTRY_CONFIG)),
    };
    NodeCredentials::new(file.into_iter().collect(), CredentialProviders::default())
}

fn set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
