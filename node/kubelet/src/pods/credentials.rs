//! Registry credentials of a pod: what its image pull secrets hold.
//!
//! A Secret says by what it holds what it is: `.dockerconfigjson`, `.dockercfg`, or `username` and `password`, as those of
//! type `kubernetes.io/basic-auth` do and Opaque ones may. The last are for all images of the pod that names the Secret,
//! unless a third key, `registry`, says for which, in the form of a key of a `config.json`.
//!
//! Credentials of all Secrets are tried in one order, the most specific first: see [`Keyring`].

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use crate::{
    registry_auth::{DockerConfig, Keyring, keyring},
    runtime::Credential,
};

/// Most credentials of a pod that are tried for one image: each is a request, and a Secret has room for thousands.
const TRIED: usize = 32;

const DOCKER_CONFIG_JSON: &str = ".dockerconfigjson";
const DOCKER_CFG: &str = ".dockercfg";
const USERNAME: &str = "username";
const PASSWORD: &str = "password";
/// For which images a user name and a password are.
const REGISTRY: &str = "registry";

/// A credential, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct PullCredential {
    pub(super) credential: Credential,
    /// The Secret that it is from; `None`: it is the node's, and good for all pods.
    pub(super) secret: Option<SecretCoordinates>,
}

/// A Secret by all its names.
#[derive(Clone, Debug)]
pub(super) struct SecretCoordinates {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl SecretCoordinates {
    fn of(secret: &Secret) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let meta = &secret.metadata;
        Self { uid: text(&meta.uid), namespace: text(&meta.namespace), name: text(&meta.name) }
    }
}

/// What a pod's Secrets have for one image.
#[derive(Clone, Debug, Default)]
pub(super) struct PodCredentials {
    /// Best first.
    pub(super) found: Vec<PullCredential>,
    /// Secrets that are there and cannot be used, each in a sentence with its name, the key in it, and nothing of what it
    /// holds.
    pub(super) problems: Vec<String>,
}

impl PodCredentials {
    /// What `secrets` hold for `image`.
    pub(super) fn for_image(image: &str, secrets: &[Arc<Secret>]) -> Self {
        if !keyring::is_of_registry(image) {
            return Self::default();
        }
        let (mut ring, mut problems) = (Keyring::default(), Vec::new());
        for secret in secrets {
            match entries(secret) {
                Ok(entries) => {
                    let secret = SecretCoordinates::of(secret);
                    for (key, credential) in entries {
                        ring.add(&key, PullCredential { credential, secret: Some(secret.clone()) });
                    }
                }
                Err(problem) => {
                    let name = secret.metadata.name.as_deref().unwrap_or_default();
                    problems.push(format!("the image pull secret {name:?} cannot be used: {problem}"));
                }
            }
        }
        let mut found = ring.into_matching(&keyring::repository(image));
        found.truncate(TRIED);
        Self { found, problems }
    }
}

/// What a Secret has for an image, for those who pull images without a pod: best first.
///
/// # Errors
/// Why the Secret cannot be used, in words that go after its name and hold nothing of what is in it.
pub fn pull_secret_credentials(image: &str, secret: &Arc<Secret>) -> Result<Vec<Credential>, String> {
    entries(secret)?;
    let found = PodCredentials::for_image(image, std::slice::from_ref(secret)).found;
    Ok(found.into_iter().map(|found| found.credential).collect())
}

/// The credentials of a Secret, by key.
fn entries(secret: &Secret) -> Result<Vec<(String, Credential)>, String> {
    let data =
        |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    if let Some(bytes) = data(DOCKER_CONFIG_JSON) {
        let config = DockerConfig::parse(bytes).map_err(|problem| in_key(DOCKER_CONFIG_JSON, &problem))?;
        return of_config(DOCKER_CONFIG_JSON, &config);
    }
    if let Some(bytes) = data(DOCKER_CFG) {
        let config = DockerConfig::parse_legacy(bytes).map_err(|problem| in_key(DOCKER_CFG, &problem))?;
        return of_config(DOCKER_CFG, &config);
    }
    if data(USERNAME).is_none() && data(PASSWORD).is_none() {
        return Err(format!(
            "it is of type {:?} and has neither {DOCKER_CONFIG_JSON}, nor {DOCKER_CFG}, nor {USERNAME} and {PASSWORD}; \
             make one with `kubectl create secret docker-registry`",
            secret.type_.as_deref().unwrap_or("Opaque")
        ));
    }
    let text = |key: &str| {
        let bytes = data(key).ok_or_else(|| format!("it has no key {key:?}"))?;
        let text = std::str::from_utf8(bytes).map_err(|_| format!("its key {key:?} is not UTF-8"))?;
        // What `echo` and editors leave at the end.
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() { Err(format!("its key {key:?} is empty")) } else { Ok(text.to_owned()) }
    };
    let registry = if data(REGISTRY).is_some() { text(REGISTRY)? } else { String::new() };
    Ok(vec![(registry, Credential { username: text(USERNAME)?, password: text(PASSWORD)? })])
}

fn of_config(key: &str, config: &DockerConfig) -> Result<Vec<(String, Credential)>, String> {
    let mut found = Vec::new();
    for (registry, entry) in config.entries() {
        match entry.map_err(|problem| in_key(key, &problem))? {
            Some(credential) => found.push((registry.clone(), credential)),
            // What `docker login` writes where the credentials themselves go into a keychain.
            None if config.names_helpers() => {
                return Err(format!(
                    "its key {key:?} has no credentials for {registry:?}, because a credential helper of the machine that it \
                     was made on has them; make it with `kubectl create secret docker-registry`"
                ));
            }
            None => {}
        }
    }
    Ok(found)
}

fn in_key(key: &str, problem: &dyn std::fmt::Display) -> String {
    format!("its key {key:?} {problem}")
}

#[cfg(test)]
mod tests;
