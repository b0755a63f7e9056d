//! What a policy may ask of its host.

use std::{fmt, str::FromStr};

/// Something that a policy asks its host for: a namespace and an operation, such as `oci` and `v1/verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability<'a> {
    /// Whose operation it is.
    pub namespace: &'a str,
    /// The operation.
    pub operation: &'a str,
}

impl fmt::Display for Capability<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.operation)
    }
}

/// The namespace that every policy may use: that of its log.
const TRACING: &str = "tracing";

/// What a policy is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(Vec<Pattern>);

/// `*`, `oci/*`, `oci/v1/*` or `oci/v1/verify`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
}

/// A pattern that cannot be one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no host capability: write one as `oci/v1/verify`, several as `oci/v1/*` or `oci/*`, all as `*`"
)]
pub struct InvalidPattern(String);

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let mut parts = text.split('/').rev();
        let last = parts.next().unwrap_or_default();
        let is_name = |part: &str| !part.is_empty() && !part.contains(['*', ' ']);
        let has_names = parts.clone().next().is_some() && parts.all(is_name);
        if text == "*" || has_names && (last == "*" || is_name(last)) {
            Ok(Self { text: text.to_owned() })
        } else {
            Err(InvalidPattern(text.to_owned()))
        }
    }
}

impl Pattern {
    fn covers(&self, capability: &str) -> bool {
        match self.text.strip_suffix('*') {
            Some(beginning) => capability.starts_with(beginning),
            None => self.text == capability,
        }
    }
}

impl FromIterator<Pattern> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Pattern>>(patterns: I) -> Self {
        Self(patterns.into_iter().collect())
    }
}

impl Capabilities {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![Pattern { text: "*".to_owned() }])
    }

    /// The same, and all that is asked of a cluster.
    #[must_use]
    pub fn with_cluster(mut self) -> Self {
        self.0.push(Pattern { text: "kubernetes/*".to_owned() });
        self
    }

    /// Whether this is granted.
    ///
    /// # Errors
    /// [`Denied`], whose text goes to the policy.
    pub fn check(&self, capability: Capability<'_>) -> Result<(), Denied> {
        let name = capability.to_string();
        if capability.namespace == TRACING || self.0.iter().any(|pattern| pattern.covers(&name)) {
            Ok(())
        } else {
            Err(Denied(name))
        }
    }
}

/// A policy has asked for what it is not granted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Policy has not been granted access to the '{0}' host capability. The violation has been reported.")]
pub struct Denied(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(patterns: &[&str], namespace: &str, operation: &str) -> bool {
        let granted: Capabilities =
            patterns.iter().map(|pattern| pattern.parse::<Pattern>().unwrap()).collect();
        granted.check(Capability { namespace, operation }).is_ok()
    }

    #[test]
    fn patterns_cover_what_begins_like_them() {
        for (patterns, operation, expected) in [
            (&[][..], "v1/verify", false),
            (&["*"], "v1/verify", true),
            (&["oci/*"], "v1/verify", true),
            (&["oci/v1/*"], "v1/verify", true),
            (&["oci/v1/*"], "v2/verify", false),
            (&["oci/v1/verify"], "v1/verify", true),
            (&["oci/v1/verify"], "v1/verify_more", false),
            (&["net/*", "oci/v2/verify"], "v2/verify", true),
            (&["ocid/*"], "v1/verify", false),
        ] {
            assert_eq!(granted(patterns, "oci", operation), expected, "{patterns:?} {operation}");
        }
    }

    #[test]
    fn a_cluster_is_granted_beside_the_rest() {
        let both: Capabilities = ["net/*".parse::<Pattern>().unwrap()].into_iter().collect();
        let both = both.with_cluster();
        for (namespace, operation, expected) in
            [("net", "v1/x", true), ("kubernetes", "can_i", true), ("oci", "v1/verify", false)]
        {
            assert_eq!(both.check(Capability { namespace, operation }).is_ok(), expected, "{namespace}");
        }
    }

    #[test]
    fn every_policy_has_a_log() {
        assert!(granted(&[], "tracing", "log"));
    }

    #[test]
    fn a_denial_names_what_was_asked_for() {
        let denied =
            Capabilities::default().check(Capability { namespace: "net", operation: "v1/dns_lookup_host" });
        let expected = "Policy has not been granted access to the 'net/v1/dns_lookup_host' host capability. The violation has been reported.";
        assert_eq!(denied.unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "oci", "oci/", "/v1", "oci*", "*/verify", "oci/*/verify", "oci/v1*", "**"] {
            assert_eq!(text.parse::<Pattern>(), Err(InvalidPattern(text.to_owned())), "{text}");
        }
    }
}
