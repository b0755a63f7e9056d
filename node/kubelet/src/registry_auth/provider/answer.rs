//! What a provider is asked and answers: `CredentialProviderRequest` and `CredentialProviderResponse`.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::json;

use super::cache::CachedFor;
use crate::{duration, runtime::Credential};

/// A provider's answer.
#[derive(Debug)]
pub(super) struct ProviderAnswer {
    /// Credentials by key, as the keys of a `config.json`.
    pub(super) auth: Vec<(String, Credential)>,
    pub(super) cached_for: CachedFor,
    /// How long it is good; `None` leaves the word to the configuration.
    pub(super) duration: Option<Duration>,
}

/// The question about the images of a repository.
pub(super) fn question(api_version: &str, repository: &str) -> Vec<u8> {
    json!({"kind": "CredentialProviderRequest", "apiVersion": api_version, "image": repository})
        .to_string()
        .into_bytes()
}

/// Reads an answer. The error says nothing of its content, and goes after the provider's name.
pub(super) fn read(api_version: &str, output: &[u8]) -> Result<ProviderAnswer, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Response {
        kind: String,
        api_version: String,
        cache_key_type: String,
        #[serde(default)]
        cache_duration: Option<String>,
        #[serde(default)]
        auth: Option<BTreeMap<String, AuthConfig>>,
    }
    #[derive(Deserialize)]
    struct AuthConfig {
        #[serde(default)]
        username: String,
        #[serde(default)]
        password: String,
    }
    // serde's error may repeat what it has read.
    let response: Response = serde_json::from_slice(output).map_err(|error| {
        format!(
            "answered something that is no CredentialProviderResponse: look at line {}, column {}",
            error.line(),
            error.column()
        )
    })?;
    if response.kind != "CredentialProviderResponse" || response.api_version != api_version {
        return Err(format!("answered something other than a CredentialProviderResponse of {api_version}"));
    }
    let cached_for = match response.cache_key_type.as_str() {
        "Image" => CachedFor::Image,
        "Registry" => CachedFor::Registry,
        "Global" => CachedFor::Global,
        _ => return Err("answered with a cacheKeyType that is none of Image, Registry, Global".to_owned()),
    };
    let duration = response
        .cache_duration
        .map(|text| duration::parse(&text))
        .transpose()
        .map_err(|_| "answered with a cacheDuration that is no duration".to_owned())?;
    let auth = response.auth.unwrap_or_default();
    let credential = |auth: AuthConfig| Credential { username: auth.username, password: auth.password };
    let auth = auth.into_iter().map(|(key, auth)| (key, credential(auth))).collect();
    Ok(ProviderAnswer { auth, cached_for, duration })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "credentialprovider.kubelet.k8s.io/v1";

    fn response(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut value = json!({
            "kind": "CredentialProviderResponse", "apiVersion": V1, "cacheKeyType": "Registry", "cacheDuration": "5m0s",
            "auth": {"r.io": {"username": "u", "password": "hunter2"}},
        });
        change(&mut value);
        value.to_string().into_bytes()
    }

    #[test]
    fn an_answer() {
        let answer = read(V1, &response(|_| {})).unwrap();
        assert_eq!((answer.cached_for, answer.duration), (CachedFor::Registry, Some(Duration::from_mins(5))));
        let expected = Credential { username: "u".into(), password: "hunter2".into() };
        assert_eq!(answer.auth, [("r.io".to_owned(), expected)]);
        let none = read(V1, &response(|value| value["auth"] = json!(null))).unwrap();
        assert!(none.auth.is_empty());
    }

    #[test]
    fn answers_that_are_none_are_told_apart_without_their_content() {
        type Change = fn(&mut serde_json::Value);
        let cases: [(Change, &str); 6] = [
            (|v| v["kind"] = json!("hunter2"), "something other than"),
            (|v| v["apiVersion"] = json!("hunter2"), "something other than"),
            (|v| v["cacheKeyType"] = json!("hunter2"), "cacheKeyType"),
            (|v| v["cacheDuration"] = json!("hunter2"), "cacheDuration"),
            (|v| v["cacheDuration"] = json!("-5s"), "cacheDuration"),
            (|v| v["auth"] = json!("hunter2"), "line 1"),
        ];
        for (change, expected) in cases {
            let error = read(V1, &response(change)).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }
}
