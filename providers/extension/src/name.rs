//! Names of extensions: `<namespace>/<name>`, which is also the name of the filter in an Envoy's configuration.

use std::{borrow::Borrow, fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest namespace: a label of DNS.
const LONGEST_NAMESPACE: usize = 63;
/// Longest name of an object: a subdomain of DNS.
const LONGEST_NAME: usize = 253;

/// Which extension. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExtensionName(Arc<str>);

/// A text that names no extension.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an extension is named <namespace>/<name>, both as Kubernetes has them")]
pub struct InvalidExtensionName;

impl ExtensionName {
    /// The extension that an object of this namespace and name is.
    ///
    /// # Errors
    /// [`InvalidExtensionName`] where no object can be named so.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidExtensionName> {
        let is_one = is_subdomain(namespace, LONGEST_NAMESPACE)
            && !namespace.contains('.')
            && is_subdomain(name, LONGEST_NAME);
        if is_one { Ok(Self(format!("{namespace}/{name}").into())) } else { Err(InvalidExtensionName) }
    }

    /// Reads `<namespace>/<name>`.
    ///
    /// # Errors
    /// [`InvalidExtensionName`].
    pub fn parse(text: &str) -> Result<Self, InvalidExtensionName> {
        let (namespace, name) = text.split_once('/').ok_or(InvalidExtensionName)?;
        Self::new(namespace, name)
    }

    /// `<namespace>/<name>`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name within the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

fn is_subdomain(text: &str, longest: usize) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().next_back()];
        ends.into_iter().all(|end| end.is_some_and(is_alphanumeric))
            && label.bytes().all(|byte| is_alphanumeric(byte) || byte == b'-')
    };
    text.len() <= longest && text.split('.').all(is_label)
}

impl Borrow<str> for ExtensionName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExtensionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ExtensionName {
    type Error = InvalidExtensionName;

    fn try_from(text: String) -> Result<Self, InvalidExtensionName> {
        Self::parse(&text)
    }
}

impl From<ExtensionName> for String {
    fn from(name: ExtensionName) -> Self {
        name.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_namespace_and_the_name_of_an_object() {
        let name = ExtensionName::parse("team-a/my.filter-1").unwrap();
        assert_eq!(
            (name.namespace(), name.name(), name.as_str()),
            ("team-a", "my.filter-1", "team-a/my.filter-1")
        );
        let long = format!("a/{}", "x".repeat(LONGEST_NAME + 1));
        for text in [
            "", "/", "a", "a/", "/a", "a/b/c", "A/b", "a.b/c", "a/b..c", "a/-b", "a/b-", "a/b c", "a/é",
            &long,
        ] {
            assert_eq!(ExtensionName::parse(text), Err(InvalidExtensionName), "{text}");
        }
    }
}
