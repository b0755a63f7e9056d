//! Docker's `config.json`, of which pull secrets hold one form or another.
//!
//! Errors say where something is wrong and never what stands there: serde's own texts would repeat it.

use std::{collections::BTreeMap, fmt};

use base64::Engine as _;
use serde::Deserialize;

use super::keyring::{self, Keyring};
use crate::runtime::Credential;

/// What Docker calls its own registry where it asks a helper for it.
const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// The part of a `config.json` that is about credentials.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DockerConfig {
    auths: BTreeMap<String, AuthEntry>,
    /// Names of helpers, by registry.
    cred_helpers: BTreeMap<String, String>,
    /// Name of the helper for all other registries.
    creds_store: Option<String>,
}

/// One entry of `auths`. It has no `Debug`, so that nothing prints it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    username: Option<String>,
    password: Option<String>,
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// What is wrong with a file, or with one entry of it. The text goes after the name of what holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConfigProblem {
    /// It is not the JSON that it should be.
    Malformed { line: usize, column: usize, form: &'static str },
    /// An entry cannot be decoded.
    Entry { key: String },
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed { line, column, form } => {
                write!(f, "is not {form}: look at line {line}, column {column}")
            }
            Self::Entry { key } => write!(
                f,
                "has an entry for {key:?} whose auth is not user:password in base64; log in to it again"
            ),
        }
    }
}

impl DockerConfig {
    /// Reads a `config.json` (`.dockerconfigjson`).
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ConfigProblem> {
        serde_json::from_slice(bytes).map_err(|error| malformed(&error, "Docker's config.json"))
    }

    /// Reads a `.dockercfg`, which is the `auths` of the other form alone.
    pub(crate) fn parse_legacy(bytes: &[u8]) -> Result<Self, ConfigProblem> {
        let auths = serde_json::from_slice(bytes).map_err(|error| malformed(&error, "a .dockercfg"))?;
        Ok(Self { auths, ..Self::default() })
    }

    /// The entries by key; `None` for one that holds nothing.
    pub(crate) fn entries(
        &self,
    ) -> impl Iterator<Item = (&String, Result<Option<Credential>, ConfigProblem>)> {
        self.auths.iter().map(|(key, entry)| {
            let problem = || ConfigProblem::Entry { key: key.clone() };
            (key, entry.credential().ok_or_else(problem))
        })
    }

    /// Whether entries may be empty because a helper has what belongs there.
    pub(crate) fn names_helpers(&self) -> bool {
        self.creds_store.as_ref().is_some_and(|name| !name.is_empty()) || !self.cred_helpers.is_empty()
    }

    /// The helper to ask for a repository, and the server to ask it for.
    pub(super) fn helper(&self, repository: &str) -> Option<(&str, String)> {
        let host = repository.split('/').next().unwrap_or_default();
        let mut ring = Keyring::default();
        for (key, name) in &self.cred_helpers {
            let server = if keyring::is_pattern(key) { host } else { key };
            ring.add(key, (name.as_str(), server.to_owned()));
        }
        if let Some(found) = ring.into_matching(repository).into_iter().find(|(name, _)| !name.is_empty()) {
            return Some(found);
        }
        let store = self.creds_store.as_deref().filter(|name| !name.is_empty())?;
        let server = if keyring::matches("docker.io", repository) { HUB_SERVER } else { host };
        Some((store, server.to_owned()))
    }
}

impl AuthEntry {
    /// `Some(None)` for an entry that says nothing, `None` for one that cannot be decoded.
    fn credential(&self) -> Option<Option<Credential>> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Some(Some(Credential { username: String::new(), password: token }));
        }
        if let Some(username) = filled(&self.username)
            && let Some(password) = &self.password
        {
            return Some(Some(Credential { username, password: password.clone() }));
        }
        let Some(auth) = filled(&self.auth) else { return Some(None) };
        let decoded = base64::engine::general_purpose::STANDARD.decode(auth.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (username, password) = text.split_once(':')?;
        let password = password.trim_end_matches('\0').to_owned();
        Some(Some(Credential { username: username.to_owned(), password }))
    }
}

fn malformed(error: &serde_json::Error, form: &'static str) -> ConfigProblem {
    ConfigProblem::Malformed { line: error.line(), column: error.column(), form }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(config: &DockerConfig) -> Vec<(String, Option<(String, String)>)> {
        let plain = |c: Credential| (c.username, c.password);
        config.entries().map(|(key, entry)| (key.clone(), entry.unwrap().map(plain))).collect()
    }

    #[test]
    fn every_form_of_entry() {
        let text = r#"{"auths": {
            "a": {"auth": "dTpwOnE="}, "b": {"username": "u", "password": ""}, "c": {"identitytoken": "T"},
            "d": {}, "e": {"auth": "", "email": "x@y"}}, "HttpHeaders": {"x": "y"}}"#;
        let expected = |key: &str, pair: Option<(&str, &str)>| {
            (key.to_owned(), pair.map(|(user, password)| (user.to_owned(), password.to_owned())))
        };
        assert_eq!(
            pairs(&DockerConfig::parse(text.as_bytes()).unwrap()),
            [
                expected("a", Some(("u", "p:q"))),
                expected("b", Some(("u", ""))),
                expected("c", Some(("", "T"))),
                expected("d", None),
                expected("e", None),
            ]
        );
        let legacy = DockerConfig::parse_legacy(br#"{"a": {"username": "u", "password": "p"}}"#).unwrap();
        assert_eq!(pairs(&legacy), [expected("a", Some(("u", "p")))]);
    }

    #[test]
    fn problems_name_the_place_and_not_what_stands_there() {
        for text in [r#"{"auths": "hunter2"}"#, r#"{"auths": {"r.io": "hunter2"}}"#, "hunter2"] {
            let problem = DockerConfig::parse(text.as_bytes()).err().unwrap().to_string();
            assert!(problem.contains("look at line 1") && !problem.contains("hunter2"), "{problem}");
        }
        for auth in ["hunter2!", "aHVudGVyMg=="] {
            let text = format!(r#"{{"auths": {{"r.io": {{"auth": "{auth}"}}}}}}"#);
            let config = DockerConfig::parse(text.as_bytes()).unwrap();
            let problem = config.entries().next().unwrap().1.unwrap_err().to_string();
            assert!(problem.contains("\"r.io\"") && !problem.contains(auth), "{problem}");
        }
    }

    #[test]
    fn helpers_by_registry_and_the_store_for_the_rest() {
        let text = r#"{"credHelpers": {"a.io": "one", "*.b.io": "two", "c.io": ""}, "credsStore": "rest"}"#;
        let config = DockerConfig::parse(text.as_bytes()).unwrap();
        for (repository, name, server) in [
            ("a.io/x", "one", "a.io"),
            ("r.b.io/x", "two", "r.b.io"),
            ("c.io/x", "rest", "c.io"),
            ("127.0.0.1:5000/x", "rest", "127.0.0.1:5000"),
            ("docker.io/library/x", "rest", HUB_SERVER),
        ] {
            assert_eq!(config.helper(repository), Some((name, server.to_owned())), "{repository}");
        }
        assert_eq!(DockerConfig::parse(b"{}").unwrap().helper("a.io/x"), None);
    }
}
