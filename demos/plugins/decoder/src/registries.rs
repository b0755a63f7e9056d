//! Logins to registries, as `kubectl create secret docker-registry` writes them. Pure.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

/// Of Secrets of the types `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`.
const KEYS: [&str; 2] = [".dockerconfigjson", ".dockercfg"];

/// A login to a registry.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RegistryLogin {
    pub(crate) registry: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity_token: Option<String>,
}

#[derive(Deserialize)]
struct ConfigFile {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// The logins in the value of a key, if that is where some are.
pub(crate) fn read(key: &str, text: &str) -> Vec<RegistryLogin> {
    if !KEYS.contains(&key) {
        return Vec::new();
    }
    let entries = match serde_json::from_str::<ConfigFile>(text) {
        Ok(file) => file.auths,
        // The older form has no `auths` around it.
        Err(_) => serde_json::from_str(text).unwrap_or_default(),
    };
    entries.into_iter().map(|(registry, entry)| login(registry, entry)).collect()
}

/// User and password may be said apart, or together and encoded; apart, they count.
fn login(registry: String, entry: Entry) -> RegistryLogin {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let both = given(entry.auth).and_then(|auth| BASE64_STANDARD.decode(auth.trim()).ok());
    let both = both.and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = match both.as_deref().and_then(|both| both.split_once(':')) {
        // Some programs pad it.
        Some((username, password)) => {
            (Some(username.to_owned()), Some(password.trim_end_matches('\0').to_owned()))
        }
        None => (None, None),
    };
    RegistryLogin {
        registry,
        username: given(entry.username).or(username),
        password: given(entry.password).or(given(password)),
        identity_token: given(entry.identitytoken),
    }
}
