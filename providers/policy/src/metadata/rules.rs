//! Which requests a policy is for, by the API server's rules for webhooks.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is deleted.
    Delete,
    /// Somebody connects to it.
    Connect,
    /// Any of these.
    #[serde(rename = "*")]
    All,
}

/// Requests that a policy is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Groups of the API; the empty one is that of pods.
    #[serde(default)]
    pub api_groups: Vec<String>,
    /// Their versions.
    #[serde(default)]
    pub api_versions: Vec<String>,
    /// Resources, with subresources as `pods/log`, `pods/*` or `*/scale`.
    #[serde(default)]
    pub resources: Vec<String>,
    /// What is done to them.
    #[serde(default)]
    pub operations: Vec<Operation>,
}

/// A rule that no API server would take.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRules {
    /// A list is empty.
    #[error("{0}: at least one is needed; \"*\" is all")]
    Empty(&'static str),
    /// An entry is the empty string.
    #[error("{0}: an entry is empty")]
    Blank(&'static str),
    /// The wildcard is not alone.
    #[error("{0}: where \"*\" is, nothing else may be")]
    NotAlone(&'static str),
    /// A resource is covered by another entry.
    #[error("resources: where {wildcard:?} is, {covered:?} must not be")]
    Covered {
        /// The entry that covers it.
        wildcard: String,
        /// The entry that is covered.
        covered: String,
    },
}

impl Rule {
    /// Holds a rule against those that the API server has for webhooks.
    ///
    /// # Errors
    /// [`InvalidRules`]: the first that is broken.
    pub fn validate(&self) -> Result<(), InvalidRules> {
        alone("apiGroups", &self.api_groups)?;
        alone("apiVersions", &self.api_versions)?;
        if self.api_versions.iter().any(String::is_empty) {
            return Err(InvalidRules::Blank("apiVersions"));
        }
        match &*self.operations {
            [] => return Err(InvalidRules::Empty("operations")),
            [_] => {}
            several if several.contains(&Operation::All) => return Err(InvalidRules::NotAlone("operations")),
            _ => {}
        }
        resources(&self.resources)
    }
}

fn alone(list: &'static str, entries: &[String]) -> Result<(), InvalidRules> {
    if entries.is_empty() {
        return Err(InvalidRules::Empty(list));
    }
    if entries.len() > 1 && entries.iter().any(|entry| entry == "*") {
        return Err(InvalidRules::NotAlone(list));
    }
    Ok(())
}

/// `*/*` stands alone; `*` covers every resource without subresource; `x/*` covers `x/y`, and `*/y` too.
fn resources(entries: &[String]) -> Result<(), InvalidRules> {
    const LIST: &str = "resources";
    if entries.is_empty() {
        return Err(InvalidRules::Empty(LIST));
    }
    if entries.iter().any(String::is_empty) {
        return Err(InvalidRules::Blank(LIST));
    }
    let all: BTreeSet<&str> = entries.iter().map(String::as_str).collect();
    for entry in entries {
        let covers: Vec<String> = match entry.split_once('/') {
            None => vec!["*".to_owned(), "*/*".to_owned()],
            Some((resource, subresource)) => {
                vec!["*/*".to_owned(), format!("{resource}/*"), format!("*/{subresource}")]
            }
        };
        if let Some(wildcard) = covers.into_iter().find(|cover| cover != entry && all.contains(&**cover)) {
            return Err(InvalidRules::Covered { wildcard, covered: entry.clone() });
        }
    }
    Ok(())
}
