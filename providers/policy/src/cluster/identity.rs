//! Which policy is which: kinds, names, and the name that a webhook has for it.

use std::fmt;

use kube::core::ApiResource;

/// The group of policies.
pub const GROUP: &str = "policies.kubewarden.io";
/// Its version.
pub const VERSION: &str = "v1";

/// A kind of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// One policy for all namespaces.
    ClusterAdmissionPolicy,
    /// One for its own namespace.
    AdmissionPolicy,
    /// Several as one, for all namespaces.
    ClusterAdmissionPolicyGroup,
    /// Several as one, for their own namespace.
    AdmissionPolicyGroup,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::ClusterAdmissionPolicy,
        Self::AdmissionPolicy,
        Self::ClusterAdmissionPolicyGroup,
        Self::AdmissionPolicyGroup,
    ];

    /// As the API has it.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::ClusterAdmissionPolicy => "ClusterAdmissionPolicy",
            Self::AdmissionPolicy => "AdmissionPolicy",
            Self::ClusterAdmissionPolicyGroup => "ClusterAdmissionPolicyGroup",
            Self::AdmissionPolicyGroup => "AdmissionPolicyGroup",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::ClusterAdmissionPolicy => "clusteradmissionpolicies",
            Self::AdmissionPolicy => "admissionpolicies",
            Self::ClusterAdmissionPolicyGroup => "clusteradmissionpolicygroups",
            Self::AdmissionPolicyGroup => "admissionpolicygroups",
        }
    }

    /// As kubectl abbreviates it.
    fn short(self) -> &'static str {
        match self {
            Self::ClusterAdmissionPolicy => "cap",
            Self::AdmissionPolicy => "ap",
            Self::ClusterAdmissionPolicyGroup => "capg",
            Self::AdmissionPolicyGroup => "apg",
        }
    }

    /// Whether its policies are for one namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        matches!(self, Self::AdmissionPolicy | Self::AdmissionPolicyGroup)
    }

    /// Whether its policies have members.
    #[must_use]
    pub fn is_group(self) -> bool {
        matches!(self, Self::ClusterAdmissionPolicyGroup | Self::AdmissionPolicyGroup)
    }

    /// The resource of the API.
    #[must_use]
    pub fn resource(self) -> ApiResource {
        ApiResource {
            group: GROUP.to_owned(),
            version: VERSION.to_owned(),
            api_version: format!("{GROUP}/{VERSION}"),
            kind: self.kind().to_owned(),
            plural: self.plural().to_owned(),
        }
    }
}

/// Names a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// What it is.
    pub kind: PolicyKind,
    /// Where it is; none for those of the whole cluster.
    pub namespace: Option<String>,
    /// Its name there.
    pub name: String,
}

impl PolicyName {
    /// The one name for it under which it is served, and which its webhook configuration has.
    ///
    /// It is Kubewarden's of today, `kw.ap.NAMESPACE.NAME`. Dashes between the parts, as before, let one tenant's policy pass for
    /// another's, because names have dashes too ([GHSA-m5vp-9g65-pv6v]); no namespace has a dot.
    ///
    /// [GHSA-m5vp-9g65-pv6v]: https://github.com/kubewarden/adm-controller/security/advisories/GHSA-m5vp-9g65-pv6v
    #[must_use]
    pub fn unique(&self) -> String {
        let Self { kind, namespace, name } = self;
        match namespace {
            Some(namespace) => format!("kw.{}.{namespace}.{name}", kind.short()),
            None => format!("kw.{}.{name}", kind.short()),
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.kind(), self.name),
            None => write!(f, "{} {}", self.kind.kind(), self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn name(kind: PolicyKind, namespace: Option<&str>, name: &str) -> PolicyName {
        PolicyName { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }

    #[test]
    fn no_two_policies_have_one_name() {
        use PolicyKind::{
            AdmissionPolicy, AdmissionPolicyGroup, ClusterAdmissionPolicy, ClusterAdmissionPolicyGroup,
        };
        let names = [
            (name(ClusterAdmissionPolicy, None, "a"), "kw.cap.a"),
            (name(ClusterAdmissionPolicyGroup, None, "a"), "kw.capg.a"),
            (name(AdmissionPolicy, Some("team"), "prod-a"), "kw.ap.team.prod-a"),
            (name(AdmissionPolicy, Some("team-prod"), "a"), "kw.ap.team-prod.a"),
            (name(AdmissionPolicy, Some("team"), "prod.a"), "kw.ap.team.prod.a"),
            (name(AdmissionPolicyGroup, Some("team"), "a"), "kw.apg.team.a"),
        ];
        for (name, unique) in &names {
            assert_eq!(name.unique(), *unique);
        }
        assert_eq!(names.iter().map(|(name, _)| name.unique()).collect::<BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn a_policy_is_named_as_kubectl_has_it() {
        assert_eq!(
            name(PolicyKind::AdmissionPolicy, Some("team"), "a").to_string(),
            "AdmissionPolicy team/a"
        );
        assert_eq!(
            name(PolicyKind::ClusterAdmissionPolicy, None, "a").to_string(),
            "ClusterAdmissionPolicy a"
        );
    }
}
