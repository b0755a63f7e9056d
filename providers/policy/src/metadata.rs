//! What a policy says of itself: a custom section of its module, in JSON.

pub mod rules;
pub mod section;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::rules::{InvalidRules, Operation, Rule};
pub use self::section::{SECTION, SectionError};

/// Version of the protocol by which a policy is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProtocolVersion {
    /// That of policies called by waPC.
    #[serde(rename = "v1")]
    V1,
    /// None: the policy is a program, or of another engine.
    #[default]
    Unknown,
}

/// How a policy is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutionMode {
    /// By waPC. It is the one of a policy that does not say.
    #[default]
    KubewardenWapc,
    /// By Open Policy Agent's convention.
    Opa,
    /// By that of Gatekeeper.
    Gatekeeper,
    /// As a program of WASI.
    Wasi,
}

impl ExecutionMode {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KubewardenWapc => "kubewarden-wapc",
            Self::Opa => "opa",
            Self::Gatekeeper => "gatekeeper",
            Self::Wasi => "wasi",
        }
    }
}

/// What a policy judges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyType {
    /// Requests to a Kubernetes API server.
    #[default]
    Kubernetes,
    /// Any JSON.
    Raw,
}

/// A kind of object that a policy may ask the cluster for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContextAwareResource {
    /// Group and version, such as `apps/v1`.
    pub api_version: String,
    /// The kind.
    pub kind: String,
}

/// What a policy says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Version of the protocol by which it is called.
    #[serde(default)]
    pub protocol_version: ProtocolVersion,
    /// Which requests it is for.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// Whatever else there is to say, by name.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Whether it changes objects.
    #[serde(default)]
    pub mutating: bool,
    /// Whether it can judge objects that are there already.
    #[serde(default = "yes")]
    pub background_audit: bool,
    /// How it is called.
    #[serde(default)]
    pub execution_mode: ExecutionMode,
    /// What it judges.
    #[serde(default)]
    pub policy_type: PolicyType,
    /// What it may ask the cluster for.
    #[serde(default)]
    pub context_aware_resources: Vec<ContextAwareResource>,
    /// What it asks of its host besides, such as `oci/v1/verify`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_capabilities: Vec<String>,
    /// Fields of versions to come, as they were.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

fn yes() -> bool {
    true
}

/// Metadata that contradicts itself.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    /// A policy called by waPC says by which version of the protocol.
    #[error(
        "protocolVersion: a policy of executionMode kubewarden-wapc names the version of its protocol, \"v1\""
    )]
    Protocol,
    /// A policy for Kubernetes says which requests it is for.
    #[error(
        "rules: a policy of policyType kubernetes has at least one rule; a policy of any JSON says `policyType: raw`"
    )]
    NoRules,
    /// A rule that no API server would take.
    #[error("rules[{index}].{0}", index = .1)]
    Rules(#[source] InvalidRules, usize),
    /// A policy of any JSON has no rules.
    #[error("rules: a policy of policyType raw judges any JSON and has none")]
    RawWithRules,
}

impl Metadata {
    /// Holds this against what the API server and the protocols ask for.
    ///
    /// # Errors
    /// [`InvalidMetadata`]: the first contradiction.
    pub fn validate(&self) -> Result<(), InvalidMetadata> {
        if self.execution_mode == ExecutionMode::KubewardenWapc
            && self.protocol_version == ProtocolVersion::Unknown
        {
            return Err(InvalidMetadata::Protocol);
        }
        match (self.policy_type, self.rules.is_empty()) {
            (PolicyType::Kubernetes, true) => return Err(InvalidMetadata::NoRules),
            (PolicyType::Raw, false) => return Err(InvalidMetadata::RawWithRules),
            (PolicyType::Kubernetes, false) | (PolicyType::Raw, true) => {}
        }
        for (index, rule) in self.rules.iter().enumerate() {
            rule.validate().map_err(|error| InvalidMetadata::Rules(error, index))?;
        }
        Ok(())
    }

    /// The annotations that go with a module to a registry: those of one line, of which the source has a name of OCI's own.
    #[must_use]
    pub fn manifest_annotations(&self) -> BTreeMap<String, String> {
        let of_one_line = self.annotations.iter().filter(|(_, value)| !value.trim().contains('\n'));
        of_one_line
            .map(|(name, value)| {
                let name = if name == SOURCE { OCI_SOURCE } else { name };
                (name.to_owned(), value.trim().to_owned())
            })
            .collect()
    }
}

/// The annotation that tells where a policy's source is, and its name on a manifest.
const SOURCE: &str = "io.kubewarden.policy.source";
const OCI_SOURCE: &str = "org.opencontainers.image.source";
/// The annotation of the text that tells how a policy is used.
pub const USAGE: &str = "io.kubewarden.policy.usage";
