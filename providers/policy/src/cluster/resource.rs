//! The specs of policies, as the API has them.
//!
//! The API server has held them against the schema of their CRD. It may be another one than ours, and older objects than the schema
//! are not held against it again: everything that is not needed may be missing.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::admissionregistration::v1::{MatchCondition, RuleWithOperations},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{metadata::ContextAwareResource, spec::Mode};

/// The server of policies that name none.
pub const DEFAULT_SERVER: &str = "default";
/// Seconds that an API server waits for a verdict, where nothing else is said.
const DEFAULT_TIMEOUT: i32 = 10;

/// What becomes of a policy's verdicts, and what is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    /// They hold.
    #[default]
    Protect,
    /// They are logged.
    Monitor,
    /// Nothing is known; in a status alone.
    Unknown,
}

impl From<PolicyMode> for Mode {
    fn from(mode: PolicyMode) -> Self {
        match mode {
            PolicyMode::Monitor => Self::Monitor,
            PolicyMode::Protect | PolicyMode::Unknown => Self::Protect,
        }
    }
}

impl From<Mode> for PolicyMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Protect => Self::Protect,
            Mode::Monitor => Self::Monitor,
        }
    }
}

/// What of a spec says when a policy is asked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HookFields {
    /// What becomes of its verdicts.
    #[serde(default)]
    pub mode: PolicyMode,
    /// Which requests it judges.
    pub rules: Vec<RuleWithOperations>,
    /// What becomes of a request where it does not answer.
    pub failure_policy: Option<String>,
    /// Whether rules match other versions of their resources.
    pub match_policy: Option<String>,
    /// Conditions of CEL.
    #[serde(default)]
    pub match_conditions: Vec<MatchCondition>,
    /// Labels of objects.
    pub object_selector: Option<LabelSelector>,
    /// Labels of namespaces; of policies for all of them.
    pub namespace_selector: Option<LabelSelector>,
    /// Whether it judges what is in the server's own namespace.
    #[serde(default)]
    pub allow_inside_admission_controller_namespace: bool,
    /// Side effects, as a webhook says it.
    pub side_effects: Option<String>,
    /// Seconds that an API server waits.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: i32,
}

fn default_timeout() -> i32 {
    DEFAULT_TIMEOUT
}

/// A module and what it is run with.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramFields {
    /// Where it comes from.
    pub module: String,
    /// What it is told.
    pub settings: Option<Map<String, Value>>,
    /// Seconds of one verdict.
    pub timeout_eval_seconds: Option<u32>,
    /// What it may ask the cluster for; of policies for all namespaces.
    #[serde(default)]
    pub context_aware_resources: Vec<ContextAwareResource>,
}

/// What a policy that is one has besides.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyFields {
    /// What is run.
    #[serde(flatten)]
    pub program: ProgramFields,
    /// Whether it may change objects.
    #[serde(default)]
    pub mutating: bool,
    /// Said in place of its own message.
    pub message: Option<String>,
}

/// What a policy that is several has besides.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupFields {
    /// The members.
    pub policies: BTreeMap<String, ProgramFields>,
    /// What of them has to accept.
    pub expression: String,
    /// Said where a request is refused.
    pub message: String,
}
