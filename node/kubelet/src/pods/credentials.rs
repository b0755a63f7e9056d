//! Registry credentials from image pull secrets and from the node's own file.
//!
//! Both are Docker's configuration format; keys are matched against an image as upstream's
//! `pkg/credentialprovider` does: by host, which may hold `*` in its parts, port, and leading path, the
//! longest key first.

use std::{collections::HashMap, sync::Arc};

use base64::Engine as _;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use crate::runtime::Credential;

/// Docker's name for its own registry in configuration files.
const DOCKER_HUB: &str = "index.docker.io";

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: HashMap<String, AuthEntry>,
}

#[derive(Deserialize)]
struct AuthEntry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
}

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

/// The credentials that apply to `image`, best first: from `secrets` in their order, then from `file`, the
/// text of the node's `config.json`. What cannot be understood is left out, and said without its content.
#[must_use]
pub(super) fn for_image(image: &str, secrets: &[Arc<Secret>], file: Option<&str>) -> Vec<PullCredential> {
    let of = |secret: Option<&Secret>, auths: &HashMap<String, AuthEntry>| {
        let secret = secret.map(SecretCoordinates::of);
        matching(image, auths)
            .into_iter()
            .map(move |credential| PullCredential { credential, secret: secret.clone() })
    };
    let mut found = Vec::new();
    for secret in secrets {
        match entries(secret) {
            Some(auths) => found.extend(of(Some(secret.as_ref()), &auths)),
            None => {
                let name = secret.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(
                    secret = name,
                    "an image pull secret holds no .dockerconfigjson or .dockercfg that can be understood"
                );
            }
        }
    }
    if let Some(text) = file {
        match serde_json::from_str::<ConfigFile>(text) {
            Ok(config) => found.extend(of(None, &config.auths)),
            Err(_) => tracing::warn!("the node's config.json with registry credentials cannot be understood"),
        }
    }
    found
}

fn entries(secret: &Secret) -> Option<HashMap<String, AuthEntry>> {
    let data = secret.data.as_ref()?;
    if let Some(bytes) = data.get(".dockerconfigjson") {
        return Some(serde_json::from_slice::<ConfigFile>(&bytes.0).ok()?.auths);
    }
    serde_json::from_slice(&data.get(".dockercfg")?.0).ok()
}

fn matching(image: &str, auths: &HashMap<String, AuthEntry>) -> Vec<Credential> {
    let (host, path) = location(image);
    let mut keys: Vec<&String> = auths.keys().filter(|key| applies(key, &host, &path)).collect();
    keys.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| b.cmp(a)));
    keys.into_iter().filter_map(|key| auths.get(key).and_then(credential)).collect()
}

fn credential(entry: &AuthEntry) -> Option<Credential> {
    if let Some(token) = entry.identitytoken.as_ref().filter(|t| !t.is_empty()) {
        return Some(Credential { username: String::new(), password: token.clone() });
    }
    if let (Some(username), Some(password)) = (&entry.username, &entry.password)
        && !username.is_empty()
    {
        return Some(Credential { username: username.clone(), password: password.clone() });
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(entry.auth.as_ref()?.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credential { username: username.to_owned(), password: password.trim_end_matches('\0').to_owned() })
}

/// Host with port, and path, of an image reference.
fn location(image: &str) -> (String, String) {
    let image = image.strip_prefix("oci://").unwrap_or(image);
    match image.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            let host = if host == "docker.io" { DOCKER_HUB } else { host };
            (host.to_owned(), path.to_owned())
        }
        _ => (DOCKER_HUB.to_owned(), image.to_owned()),
    }
}

fn applies(key: &str, host: &str, path: &str) -> bool {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://");
    let (key_host, key_path) = bare.split_once('/').unwrap_or((bare, ""));
    let key_host = if key_host == "docker.io" { DOCKER_HUB } else { key_host };
    // `/v1/` and `/v2/` are what Docker itself writes behind a host.
    let key_path = match key_path.trim_end_matches('/') {
        "v1" | "v2" => "",
        path => path,
    };
    host_matches(key_host, host) && path.starts_with(key_path)
}

/// Part by part; a `*` stands for any run of characters within its part.
fn host_matches(pattern: &str, host: &str) -> bool {
    let port = |host: &str| host.rsplit_once(':').map(|(_, port)| port.to_owned());
    if port(pattern) != port(host) {
        return false;
    }
    let (patterns, parts): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    patterns.len() == parts.len() && patterns.iter().zip(&parts).all(|(pattern, part)| glob(pattern, part))
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).filter(|i| rest.is_char_boundary(*i)).any(|i| glob(after, rest.split_at(i).1))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_apply_by_host_port_and_path() {
        let table = [
            ("127.0.0.1:5000", "127.0.0.1:5000/a:v1", true),
            ("127.0.0.1:5000", "127.0.0.1:5001/a:v1", false),
            ("127.0.0.1", "127.0.0.1:5000/a", false),
            ("https://reg.example.com/v1/", "reg.example.com/team/a", true),
            ("reg.example.com/team", "reg.example.com/team/a", true),
            ("reg.example.com/team", "reg.example.com/other/a", false),
            ("*.example.com", "reg.example.com/a", true),
            ("*.example.com", "a.reg.example.com/a", false),
            ("r*g.example.com", "reg.example.com/a", true),
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "docker.io/library/nginx", true),
            ("reg.example.com", "nginx", false),
        ];
        for (key, image, expected) in table {
            let (host, path) = location(image);
            assert_eq!(applies(key, &host, &path), expected, "{key} {image}");
        }
    }

    #[test]
    fn longest_key_first_secrets_before_the_file_and_every_form_of_entry() {
        let secret: Secret = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "s", "namespace": "ns", "uid": "u-1"},
            "data": {".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(
                r#"{"auths": {"r.io": {"auth": "dTpwOnE="}, "r.io/team": {"username": "t", "password": "s"}}}"#)},
        }))
        .unwrap();
        let old: Secret = serde_json::from_value(serde_json::json!({
            "data": {".dockercfg": base64::engine::general_purpose::STANDARD.encode(r#"{"r.io": {"identitytoken": "tok"}}"#)},
        }))
        .unwrap();
        let broken: Secret =
            serde_json::from_value(serde_json::json!({"data": {".dockerconfigjson": "e30xMjM="}})).unwrap();
        let file = r#"{"auths": {"r.io": {"username": "node", "password": "n"}, "x.io": {"username": "x", "password": "x"}}}"#;
        let found = for_image("r.io/team/a:v1", &[broken, secret, old].map(Arc::new), Some(file));
        let pairs: Vec<_> = found
            .iter()
            .map(|PullCredential { credential: c, .. }| (c.username.as_str(), c.password.as_str()))
            .collect();
        assert_eq!(pairs, [("t", "s"), ("u", "p:q"), ("", "tok"), ("node", "n")]);
        let source = found[0].secret.as_ref().unwrap();
        assert_eq!(
            (source.uid.as_str(), source.namespace.as_str(), source.name.as_str()),
            ("u-1", "ns", "s")
        );
        assert!(found[3].secret.is_none(), "the file is the node's");
        assert!(!format!("{found:?}").contains("p:q"));
    }
}
