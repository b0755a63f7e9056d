//! What a plugin says that it will ask of the API server, so that it can ask nothing else. Pure.
//!
//! The form is that of the rules of a Role, which people know: verbs, groups, resources and names, or paths. They narrow what
//! the user may do, and give nothing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::api_request::{ApiRequest, ResourceRequest};

/// Rules of one plugin.
const MOST_RULES: usize = 256;
/// Bytes of their text.
const LARGEST: usize = 64 << 10;
const ANY: &str = "*";

/// All that a plugin may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccessRules(Vec<AccessRule>);

/// One rule. What none of them permits is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessRule {
    /// `get`, `list`, `watch`, … or `*`
    pub verbs: Vec<String>,
    /// `""` for the core group, `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale` or `*`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// These objects alone, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths that are no resources: `/version`, `/openapi/*`
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// A text that is no list of rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAccess {
    /// It is something else.
    #[error(
        "it is no list of rules such as [{{verbs: [get], apiGroups: [\"\"], resources: [secrets]}}]: {0}"
    )]
    Malformed(String),
    /// A rule permits nothing, or not what it seems to.
    #[error("rule {number} {problem}")]
    Rule {
        /// Its place, from 1 on.
        number: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// There is too much of it.
    #[error("it has more than {MOST_RULES} rules or {LARGEST} bytes")]
    TooMany,
}

impl FromStr for AccessRules {
    type Err = InvalidAccess;

    /// Reads YAML, which JSON is as well.
    fn from_str(text: &str) -> Result<Self, InvalidAccess> {
        if text.len() > LARGEST {
            return Err(InvalidAccess::TooMany);
        }
        let rules: Vec<AccessRule> =
            serde_yaml_ng::from_str(text).map_err(|error| InvalidAccess::Malformed(error.to_string()))?;
        if rules.len() > MOST_RULES {
            return Err(InvalidAccess::TooMany);
        }
        for (index, rule) in rules.iter().enumerate() {
            let invalid = |problem| InvalidAccess::Rule { number: index + 1, problem };
            if rule.verbs.is_empty() {
                return Err(invalid("has no verbs"));
            }
            match (rule.resources.is_empty(), rule.non_resource_urls.is_empty()) {
                (true, true) => return Err(invalid("has neither resources nor nonResourceURLs")),
                (false, false) => return Err(invalid("has resources and nonResourceURLs: make two of it")),
                (false, true) if rule.api_groups.is_empty() => {
                    return Err(invalid("has resources and no apiGroups; the core group is \"\""));
                }
                (true, false) if !(rule.api_groups.is_empty() && rule.resource_names.is_empty()) => {
                    return Err(invalid(
                        "has nonResourceURLs, to which apiGroups and resourceNames say nothing",
                    ));
                }
                _ => {}
            }
        }
        Ok(Self(rules))
    }
}

impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verbs = self.verbs.join(", ");
        if !self.non_resource_urls.is_empty() {
            return write!(f, "{verbs} {}", self.non_resource_urls.join(", "));
        }
        write!(f, "{verbs} {}", self.resources.join(", "))?;
        if self.api_groups.iter().any(|group| !group.is_empty()) {
            let named = self.api_groups.iter().map(|group| if group.is_empty() { "core" } else { group });
            write!(f, " of {}", named.collect::<Vec<_>>().join(", "))?;
        }
        match self.resource_names.is_empty() {
            true => Ok(()),
            false => write!(f, " named {}", self.resource_names.join(", ")),
        }
    }
}

impl AccessRules {
    /// The rules.
    #[must_use]
    pub fn rules(&self) -> &[AccessRule] {
        &self.0
    }

    /// Whether a request is among what is permitted.
    pub(crate) fn permits(&self, request: &ApiRequest) -> bool {
        self.0.iter().any(|rule| match request {
            ApiRequest::Resource(request) => rule.permits_resource(request),
            ApiRequest::Path { verb, path } => rule.permits_path(verb, path),
        })
    }

    /// Whether everything that `other` permits is permitted here. Where that cannot be seen rule by rule, it is not.
    #[must_use]
    pub fn cover(&self, other: &Self) -> bool {
        other.0.iter().all(|wanted| self.0.iter().any(|rule| rule.covers(wanted)))
    }
}

impl AccessRule {
    fn has_verb(&self, verb: &str) -> bool {
        has(&self.verbs, verb)
    }

    fn permits_resource(&self, request: &ResourceRequest) -> bool {
        let ResourceRequest { verb, group, resource, subresource, name, .. } = request;
        let wanted = match subresource.as_str() {
            "" => resource.clone(),
            subresource => format!("{resource}/{subresource}"),
        };
        let of_any = format!("*/{subresource}");
        self.has_verb(verb)
            && has(&self.api_groups, group)
            && (has(&self.resources, &wanted)
                || (!subresource.is_empty() && self.resources.contains(&of_any)))
            && (self.resource_names.is_empty() || self.resource_names.contains(name))
    }

    fn permits_path(&self, verb: &str, path: &str) -> bool {
        let is_it = |pattern: &String| match pattern.strip_suffix('*') {
            Some(front) => path.starts_with(front),
            None => pattern.trim_end_matches('/') == path.trim_end_matches('/'),
        };
        self.has_verb(verb) && self.non_resource_urls.iter().any(is_it)
    }

    fn covers(&self, wanted: &Self) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|wanted| has(own, wanted));
        let names = self.resource_names.is_empty()
            || (!wanted.resource_names.is_empty()
                && wanted.resource_names.iter().all(|name| self.resource_names.contains(name)));
        all(&self.verbs, &wanted.verbs)
            && all(&self.api_groups, &wanted.api_groups)
            && all(&self.resources, &wanted.resources)
            && wanted.non_resource_urls.iter().all(|path| self.non_resource_urls.contains(path))
            && names
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == ANY || entry == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> AccessRules {
        text.parse().unwrap()
    }

    fn permits(rules: &AccessRules, method: &str, target: &str) -> bool {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        rules.permits(&ApiRequest::read(&method.parse().unwrap(), path, query).unwrap())
    }

    #[test]
    fn what_no_rule_permits_is_not_permitted() {
        let secrets = rules(r#"[{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}]"#);
        assert!(permits(&secrets, "GET", "/api/v1/namespaces/ns/secrets/s"));
        for (method, target) in [
            ("GET", "/api/v1/namespaces/ns/secrets"),
            ("GET", "/api/v1/namespaces/ns/secrets?watch=1"),
            ("DELETE", "/api/v1/namespaces/ns/secrets/s"),
            ("GET", "/api/v1/namespaces/ns/pods/s"),
            ("GET", "/apis/example.com/v1/namespaces/ns/secrets/s"),
            ("GET", "/api/v1/namespaces/ns/secrets/s/status"),
            ("GET", "/version"),
            ("GET", "/api/v1"),
        ] {
            assert!(!permits(&secrets, method, target), "{method} {target}");
        }
        assert!(!permits(&AccessRules::default(), "GET", "/version"));
    }

    #[test]
    fn stars_names_subresources_and_paths_are_those_of_roles() {
        let many = rules(
            "- {verbs: ['*'], apiGroups: ['*'], resources: ['*/scale', pods/log]}\n\
             - {verbs: [get], apiGroups: [''], resources: [configmaps], resourceNames: [a, b]}\n\
             - {verbs: [get], nonResourceURLs: [/version, /openapi/*]}\n",
        );
        for (method, target, expected) in [
            ("PATCH", "/apis/apps/v1/namespaces/ns/deployments/d/scale", true),
            ("GET", "/api/v1/namespaces/ns/pods/p/log", true),
            ("GET", "/api/v1/namespaces/ns/pods/p", false),
            ("GET", "/api/v1/namespaces/ns/configmaps/a", true),
            ("GET", "/api/v1/namespaces/ns/configmaps/c", false),
            ("GET", "/api/v1/namespaces/ns/configmaps", false),
            ("GET", "/version", true),
            ("GET", "/openapi/v3/apis", true),
            ("GET", "/openapi", false),
            ("POST", "/version", false),
        ] {
            assert_eq!(permits(&many, method, target), expected, "{method} {target}");
        }
    }

    #[test]
    fn more_than_before_is_seen() {
        let before = "[{verbs: [get, list], apiGroups: [''], resources: [pods, secrets]}]";
        for (wanted, expected) in [
            (before, true),
            ("[]", true),
            ("[{verbs: [get], apiGroups: [''], resources: [pods]}]", true),
            ("[{verbs: [get], apiGroups: [''], resources: [pods], resourceNames: [p]}]", true),
            ("[{verbs: [get, watch], apiGroups: [''], resources: [pods]}]", false),
            ("[{verbs: [get], apiGroups: ['', apps], resources: [pods]}]", false),
            ("[{verbs: [get], apiGroups: [''], resources: ['*']}]", false),
            ("[{verbs: [get], nonResourceURLs: [/version]}]", false),
        ] {
            assert_eq!(rules(before).cover(&rules(wanted)), expected, "{wanted}");
        }
        let named = rules("[{verbs: [get], apiGroups: [''], resources: [pods], resourceNames: [p]}]");
        assert!(!named.cover(&rules("[{verbs: [get], apiGroups: [''], resources: [pods]}]")));
    }

    #[test]
    fn rules_that_say_nothing_or_two_things_are_refused() {
        for (text, expected) in [
            ("secrets", "it is no list of rules"),
            ("[{verb: [get]}]", "it is no list of rules"),
            ("[{apiGroups: [''], resources: [pods]}]", "rule 1 has no verbs"),
            ("[{verbs: [get]}]", "rule 1 has neither"),
            ("[{verbs: [get], resources: [pods]}]", "rule 1 has resources and no apiGroups"),
            ("[{verbs: [get], apiGroups: [''], resources: [a], nonResourceURLs: [/x]}]", "make two of it"),
        ] {
            let error = text.parse::<AccessRules>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert_eq!(" ".repeat(LARGEST + 1).parse::<AccessRules>(), Err(InvalidAccess::TooMany));
    }

    #[test]
    fn rules_are_told_as_people_say_them() {
        let told = |text: &str| rules(text).rules()[0].to_string();
        assert_eq!(told("[{verbs: [get], apiGroups: [''], resources: [secrets]}]"), "get secrets");
        assert_eq!(
            told("[{verbs: [get, list], apiGroups: ['', apps], resources: [pods], resourceNames: [a]}]"),
            "get, list pods of core, apps named a"
        );
        assert_eq!(told("[{verbs: [get], nonResourceURLs: [/version]}]"), "get /version");
    }
}
