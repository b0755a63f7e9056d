//! Which namespaces an Envoy may have extensions of: a pure rule.
//!
//! Its own, and those that are granted to it. What it may not have does not exist for it.

use std::{collections::BTreeSet, str::FromStr};

use crate::identity::EnvoyIdentity;

/// Which identities, as a text with at most one `*`, which stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityPattern {
    before: String,
    /// What comes after the `*`, where there is one.
    after: Option<String>,
}

/// A pattern that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a pattern of identities is a text with at most one *, such as spiffe://example.org/ns/gateways/sa/*"
)]
pub struct InvalidPattern;

impl FromStr for IdentityPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        match text.split_once('*') {
            _ if text.is_empty() => Err(InvalidPattern),
            None => Ok(Self { before: text.to_owned(), after: None }),
            Some((_, after)) if after.contains('*') => Err(InvalidPattern),
            Some((before, after)) => Ok(Self { before: before.to_owned(), after: Some(after.to_owned()) }),
        }
    }
}

impl IdentityPattern {
    fn matches(&self, name: &str) -> bool {
        match &self.after {
            None => name == self.before,
            Some(after) => {
                let rest = name.strip_prefix(&*self.before);
                rest.is_some_and(|rest| rest.ends_with(&**after))
            }
        }
    }
}

/// Namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// Every one.
    All,
    /// These.
    These(BTreeSet<String>),
}

/// Whose extensions some Envoys may have, apart from those of their own namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessGrant {
    /// Which Envoys.
    pub identities: IdentityPattern,
    /// Whose extensions.
    pub namespaces: Namespaces,
}

/// What one Envoy may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access(Namespaces);

impl Access {
    /// What this one may have with these grants. Where nobody is asked who they are, everybody may have everything.
    #[must_use]
    pub fn new(identity: &EnvoyIdentity, grants: &[AccessGrant]) -> Self {
        let (names, own) = match identity {
            EnvoyIdentity::Anyone => return Self(Namespaces::All),
            EnvoyIdentity::Known { names, namespaces } => (names, namespaces),
        };
        let mut allowed = own.clone();
        for grant in grants {
            if !names.iter().any(|name| grant.identities.matches(name)) {
                continue;
            }
            match &grant.namespaces {
                Namespaces::All => return Self(Namespaces::All),
                Namespaces::These(namespaces) => allowed.extend(namespaces.iter().cloned()),
            }
        }
        Self(Namespaces::These(allowed))
    }

    /// Whether it may have extensions of this namespace.
    #[must_use]
    pub fn may_read(&self, namespace: &str) -> bool {
        match &self.0 {
            Namespaces::All => true,
            Namespaces::These(namespaces) => namespaces.contains(namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(names: &[&str], namespaces: &[&str]) -> EnvoyIdentity {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
        EnvoyIdentity::Known { names: owned(names), namespaces: owned(namespaces) }
    }

    fn grant(pattern: &str, namespaces: Option<&[&str]>) -> AccessGrant {
        let these = |namespaces: &[&str]| {
            Namespaces::These(namespaces.iter().map(|name| (*name).to_owned()).collect())
        };
        AccessGrant {
            identities: pattern.parse().unwrap(),
            namespaces: namespaces.map_or(Namespaces::All, these),
        }
    }

    #[test]
    fn an_envoy_may_have_what_is_its_own_or_granted() {
        let grants = [
            grant("spiffe://td/ns/gateways/sa/*", Some(&["a", "b"])),
            grant("*.edge.example.org", Some(&["edge"])),
            grant("system:serviceaccount:infra:root", None),
        ];
        let gateway = known(&["spiffe://td/ns/gateways/sa/one"], &["gateways"]);
        let edge = known(&["x.edge.example.org", "unrelated"], &[]);
        let root = known(&["system:serviceaccount:infra:root"], &["infra"]);
        let stranger = known(&["edge.example.org", "spiffe://td/ns/gateways"], &["c"]);
        for (identity, expected) in [
            (&gateway, [true, true, true, false]),
            (&edge, [false, false, false, true]),
            (&root, [true, true, true, true]),
            (&stranger, [false, false, false, false]),
            (&EnvoyIdentity::Anyone, [true, true, true, true]),
        ] {
            let access = Access::new(identity, &grants);
            assert_eq!(
                ["gateways", "a", "b", "edge"].map(|name| access.may_read(name)),
                expected,
                "{identity:?}"
            );
        }
        assert!(Access::new(&stranger, &[]).may_read("c"));
    }

    #[test]
    fn a_pattern_has_one_star_at_most() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            // What is before and what is after do not overlap.
            ("ab*bc", "abc", false),
            ("a", "ab", false),
        ] {
            assert_eq!(
                pattern.parse::<IdentityPattern>().unwrap().matches(name),
                expected,
                "{pattern} {name}"
            );
        }
        for text in ["", "a*b*", "**"] {
            assert_eq!(text.parse::<IdentityPattern>(), Err(InvalidPattern), "{text}");
        }
    }
}
