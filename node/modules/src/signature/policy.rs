//! Which images must be signed, and by whom: the policy of a node, from a file.
//!
//! ```yaml
//! default:
//!   action: accept                         # accept, reject or verify
//! rules:
//!   - prefix: registry.example/team        # a registry, or a repository with all below it; the longest wins
//!     action: verify
//!     keys:                                # a signature of any of them will do
//!       - file: team.pub                   # relative to this file's folder
//!       - pem: |
//!           -----BEGIN PUBLIC KEY-----
//!     precompiledKeys:                     # who may compile modules of these images for this node; nobody by default
//!       - file: builder.pub
//! ```
//!
//! The file is the operator's; it is read strictly all the same, because a rule that is misspelt is a rule that is
//! not there.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use reqwest::Url;
use serde::Deserialize;

use super::key::TrustedKey;
use crate::reference::Reference;

/// Bytes of a policy, and of a file of keys.
const FILE_LIMIT: u64 = 1 << 20;
/// Keys of one rule: each costs a verification per signature.
const KEYS_LIMIT: usize = 64;

/// Names by which people and tools call Docker Hub.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_ALIASES: [&str; 3] = ["index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

/// What images must be signed by. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignaturePolicy {
    default: SignatureDemands,
    /// The longest prefix first.
    rules: Vec<SignatureRule>,
}

/// Why a policy cannot be used: the file, the field and what is wrong with it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the signature policy {path} cannot be used: {detail}", path = path.display())]
pub struct InvalidSignaturePolicy {
    path: PathBuf,
    detail: String,
}

/// What is asked of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Requirement {
    /// Nothing.
    #[default]
    Accept,
    /// No image will do.
    Reject,
    /// A signature by one of these.
    SignedBy(Vec<TrustedKey>),
}

/// What a section of the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SignatureDemands {
    requirement: Requirement,
    precompiled_keys: Vec<TrustedKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct SignatureRule {
    /// As the file has it, for messages.
    written: String,
    /// [`scope`] of it.
    prefix: String,
    demands: SignatureDemands,
}

/// What a policy says of one image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ruling<'a> {
    pub(crate) requirement: &'a Requirement,
    /// Whose compiled code of its modules is as good as this node's own.
    pub(crate) precompiled_keys: &'a [TrustedKey],
    /// The rule that says so: its prefix, or `default`.
    pub(crate) rule: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    default: DefaultSection,
    #[serde(default)]
    rules: Vec<RuleSection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DefaultSection {
    action: Action,
    #[serde(default)]
    keys: Vec<KeySection>,
    #[serde(default)]
    precompiled_keys: Vec<KeySection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleSection {
    prefix: String,
    action: Action,
    #[serde(default)]
    keys: Vec<KeySection>,
    #[serde(default)]
    precompiled_keys: Vec<KeySection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Accept,
    Reject,
    Verify,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeySection {
    file: Option<PathBuf>,
    pem: Option<String>,
}

impl SignaturePolicy {
    /// Reads a policy, in YAML or JSON, and the files of keys that it names.
    ///
    /// # Errors
    /// When a file cannot be read, or says something that is not understood.
    pub fn read(path: &Path) -> Result<Self, InvalidSignaturePolicy> {
        let invalid = |detail| InvalidSignaturePolicy { path: path.to_owned(), detail };
        let bytes = read_bounded(path).map_err(|error| invalid(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8".to_owned()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, |file| read_bounded(&folder.join(file))).map_err(invalid)
    }

    /// Reads the text of a policy; `read` gets the files of keys.
    fn parse(text: &str, read: impl Fn(&Path) -> io::Result<Vec<u8>>) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("it is empty; say at least what the default is".to_owned());
        }
        let file: PolicyFile = serde_yaml_ng::from_str(text).map_err(|error| error.to_string())?;
        let DefaultSection { action, keys, precompiled_keys } = &file.default;
        let default = demands("default", *action, keys, precompiled_keys, &read)?;
        let mut rules: Vec<SignatureRule> = Vec::with_capacity(file.rules.len());
        for (position, section) in file.rules.into_iter().enumerate() {
            let field = format!("rules[{position}]");
            let prefix = scope(&section.prefix).map_err(|problem| format!("{field}.prefix: {problem}"))?;
            if let Some(same) = rules.iter().find(|rule| rule.prefix == prefix) {
                return Err(format!(
                    "{field}.prefix: {:?} means the same images as {:?}, which has a rule already",
                    section.prefix, same.written
                ));
            }
            let demands = demands(&field, section.action, &section.keys, &section.precompiled_keys, &read)?;
            rules.push(SignatureRule { written: section.prefix, prefix, demands });
        }
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        Ok(Self { default, rules })
    }

    /// What is asked of `reference`. Its tag and its digest do not matter.
    pub(crate) fn ruling(&self, reference: &Reference) -> Ruling<'_> {
        let name = format!("{}/{}", canonical_registry(reference.registry()), reference.repository());
        let covers = |rule: &&SignatureRule| {
            name.strip_prefix(rule.prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match self.rules.iter().find(covers) {
            Some(rule) => rule.demands.ruling(&rule.written),
            None => self.otherwise(),
        }
    }

    /// What is asked of an image that no rule covers.
    pub(crate) fn otherwise(&self) -> Ruling<'_> {
        self.default.ruling("default")
    }

    /// Whether compiled code of anybody is trusted, for any image.
    #[must_use]
    pub fn trusts_compiled_code(&self) -> bool {
        let sections = self.rules.iter().map(|rule| &rule.demands).chain([&self.default]);
        sections.into_iter().any(|demands| !demands.precompiled_keys.is_empty())
    }
}

impl SignatureDemands {
    fn ruling<'a>(&'a self, rule: &'a str) -> Ruling<'a> {
        Ruling { requirement: &self.requirement, precompiled_keys: &self.precompiled_keys, rule }
    }
}

/// Reads the text of a policy that names no files.
#[cfg(fuzzing)]
pub(crate) fn read_policy(text: &str) {
    let _ = SignaturePolicy::parse(text, |_| Err(io::Error::other("there are no files")));
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(io::Error::other(format!("it is larger than {FILE_LIMIT} bytes")));
    }
    Ok(bytes)
}

/// What the section at `field` of a file says.
fn demands(
    field: &str,
    action: Action,
    keys: &[KeySection],
    precompiled_keys: &[KeySection],
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<SignatureDemands, String> {
    let requirement = match (action, keys) {
        (Action::Accept, []) => Requirement::Accept,
        (Action::Reject, []) => Requirement::Reject,
        (Action::Accept | Action::Reject, _) => {
            return Err(format!("{field}.keys: keys are for the action verify, and do nothing here"));
        }
        (Action::Verify, []) => {
            return Err(format!("{field}.keys: the action verify needs one key at least, with file or pem"));
        }
        (Action::Verify, _) => Requirement::SignedBy(trusted(&format!("{field}.keys"), keys, &read)?),
    };
    if action == Action::Reject && !precompiled_keys.is_empty() {
        return Err(format!(
            "{field}.precompiledKeys: the action reject takes no image, and compiled code of none"
        ));
    }
    let precompiled_keys = trusted(&format!("{field}.precompiledKeys"), precompiled_keys, &read)?;
    Ok(SignatureDemands { requirement, precompiled_keys })
}

/// The keys of the list at `field` of a file.
fn trusted(
    field: &str,
    keys: &[KeySection],
    read: impl Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Vec<TrustedKey>, String> {
    let mut trusted = Vec::new();
    for (position, key) in keys.iter().enumerate() {
        let field = format!("{field}[{position}]");
        let found = match key {
            KeySection { file: Some(file), pem: None } => {
                let field = format!("{field}.file");
                let bytes = read(file)
                    .map_err(|error| format!("{field}: cannot read {}: {error}", file.display()))?;
                let origin = file.display().to_string();
                TrustedKey::read_all(&bytes, &origin)
                    .map_err(|problem| format!("{field}: {origin} {problem}"))
            }
            KeySection { file: None, pem: Some(pem) } => {
                let field = format!("{field}.pem");
                TrustedKey::read_all(pem.as_bytes(), &field)
                    .map_err(|problem| format!("{field}: it {problem}"))
            }
            _ => Err(format!("{field}: a key has either file or pem")),
        };
        trusted.extend(found?);
    }
    if trusted.len() > KEYS_LIMIT {
        return Err(format!("{field}: {} keys are more than {KEYS_LIMIT}", trusted.len()));
    }
    Ok(trusted)
}

/// A prefix in the form that names of images are compared in: `registry` or `registry/path`.
fn scope(written: &str) -> Result<String, String> {
    let (registry, path) = match written.split_once('/') {
        Some((registry, path)) => (registry, Some(path)),
        None => (written, None),
    };
    if registry != "localhost" && !registry.contains(['.', ':']) {
        return Err(format!(
            "{written:?} does not begin with a registry; images without one are docker.io/library/…"
        ));
    }
    // A repository of that name must be possible, or no image would ever be meant.
    let sample = format!("{registry}/{}", path.unwrap_or("sample"));
    let parsed: Option<Reference> = sample.parse().ok();
    let is_repository = |reference: &Reference| {
        reference.digest().is_none() && !path.unwrap_or_default().contains([':', '@'])
    };
    match parsed {
        Some(reference) if is_repository(&reference) => {
            let registry = canonical_registry(registry);
            Ok(path.map_or_else(|| registry.clone(), |path| format!("{registry}/{path}")))
        }
        _ => Err(format!(
            "{written:?} is no registry (registry.example, registry.example:5000) and no repository in one \
             (registry.example/team/app); it has no tag, no digest and no wildcards, and covers all below it"
        )),
    }
}

/// One spelling for all names of a registry that lead to the same host and port: a rule must not be evaded by
/// capitals, by a port that is the default anyhow, or by another notation of an address.
fn canonical_registry(registry: &str) -> String {
    let lower = registry.to_ascii_lowercase();
    let url = Url::parse(&format!("https://{lower}")).ok();
    let canonical = url.as_ref().and_then(|url| {
        let host = url.host_str()?;
        Some(match url.port() {
            // Where TLS is not spoken, the registry without a port is at 80.
            None | Some(80) => host.to_owned(),
            Some(port) => format!("{host}:{port}"),
        })
    });
    let canonical = canonical.unwrap_or(lower);
    if DOCKER_HUB_ALIASES.contains(&canonical.as_str()) { DOCKER_HUB.to_owned() } else { canonical }
}

#[cfg(test)]
mod tests;
