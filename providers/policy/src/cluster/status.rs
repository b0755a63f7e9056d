//! What a policy's status says of what has become of it.

#[cfg(test)]
mod tests;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    policy::{ClusterPolicy, PolicyVersion},
    resource::PolicyMode,
};

/// Whether the policy's webhook is there.
const ACTIVE: &str = "PolicyActive";
/// Whether the server has the newest version.
const UP_TO_DATE: &str = "PolicyServerConfigurationUpToDate";
/// Whether no replica answers with another version.
const REACHABLE: &str = "PolicyUniquelyReachable";
/// Most bytes of a message.
const LONGEST_MESSAGE: usize = 4 << 10;
/// Most replicas that a message names.
const MOST_REPLICAS: usize = 5;

/// How far a policy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyPhase {
    /// No server is named.
    Unscheduled,
    /// Its server has seen it.
    Scheduled,
    /// It is being loaded, or cannot be.
    Pending,
    /// API servers ask it.
    Active,
}

/// The status of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// How far it has come.
    pub policy_status: PolicyPhase,
    /// The mode in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<PolicyMode>,
    /// What is the case, and why.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// What is known of the newest version of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Newest {
    /// No load of it has begun.
    Unseen,
    /// It is being loaded.
    Loading,
    /// It cannot be served.
    Failed {
        /// What is the matter.
        message: String,
        /// It is tried again without anybody's doing.
        is_transient: bool,
    },
    /// It is served.
    Served,
}

/// What is known of the webhook of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookState {
    /// There is none.
    Absent,
    /// There is one, made of this version.
    Of(Option<PolicyVersion>),
}

/// What is known of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The newest version, here.
    pub newest: Newest,
    /// The generation that is served here.
    pub served: Option<i64>,
    /// The mode that is in force.
    pub mode: Option<PolicyMode>,
    /// Replicas that do not serve the newest version.
    pub behind: Vec<String>,
    /// Its webhook.
    pub webhook: WebhookState,
    /// Why the API server does not take the webhook that it is to have.
    pub refusal: Option<String>,
}

impl PolicyStatus {
    /// What there is to say of a policy for which no server is named.
    #[must_use]
    pub fn unscheduled() -> Self {
        Self {
            policy_status: PolicyPhase::Unscheduled,
            mode: Some(PolicyMode::Unknown),
            conditions: Vec::new(),
        }
    }

    /// What there is to say of a policy. What was said before keeps its time.
    #[must_use]
    pub fn new(policy: &ClusterPolicy, observed: &Observed, now: Timestamp) -> Self {
        let has_webhook = matches!(observed.webhook, WebhookState::Of(_));
        let policy_status = match (&observed.newest, has_webhook) {
            (_, true) => PolicyPhase::Active,
            (Newest::Unseen, false) => PolicyPhase::Scheduled,
            (_, false) => PolicyPhase::Pending,
        };
        let conditions = [active(policy, observed), up_to_date(observed), reachable(observed)];
        let before = policy.status.iter().flat_map(|status| &status.conditions);
        let before: Vec<&Condition> = before.collect();
        let conditions = conditions.into_iter().map(|said| said.condition(policy, &before, now));
        Self {
            policy_status,
            mode: Some(observed.mode.unwrap_or(PolicyMode::Unknown)),
            conditions: conditions.collect(),
        }
    }

    /// What is applied.
    #[must_use]
    pub fn manifest(&self, policy: &ClusterPolicy) -> Value {
        let resource = policy.name.kind.resource();
        let mut manifest = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": policy.name.name },
            "status": self,
        });
        if let Some(namespace) = &policy.name.namespace {
            manifest["metadata"]["namespace"] = json!(namespace);
        }
        manifest
    }
}

/// A condition, as yet without its times.
struct Said {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Said {
    fn condition(self, policy: &ClusterPolicy, before: &[&Condition], now: Timestamp) -> Condition {
        let status = if self.holds { "True" } else { "False" };
        let before = before.iter().find(|before| before.type_ == self.kind && before.status == status);
        Condition {
            type_: self.kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason.to_owned(),
            message: bounded(self.message),
            observed_generation: Some(policy.version.generation),
            last_transition_time: before
                .map_or_else(|| Time(now_in_seconds(now)), |before| before.last_transition_time.clone()),
        }
    }
}

/// The API has no fractions of seconds here: what is written is what is read.
fn now_in_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

fn bounded(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or_default());
        message.push('…');
    }
    message
}

fn active(policy: &ClusterPolicy, observed: &Observed) -> Said {
    let said = |holds, reason, message: String| Said { kind: ACTIVE, holds, reason, message };
    let refusal =
        observed.refusal.as_ref().map(|why| format!("the webhook of this generation is refused: {why}"));
    match &observed.webhook {
        WebhookState::Of(Some(version)) if *version == policy.version => {
            said(true, "WebhookCreated", "API servers ask the policy".to_owned())
        }
        WebhookState::Of(version) => {
            let generation = version.as_ref().map(|version| version.generation).unwrap_or_default();
            let mut message = format!("API servers ask the policy as generation {generation} has it");
            if let Some(refusal) = refusal {
                message = format!("{message}; {refusal}");
            }
            said(true, "WebhookOfFormerGeneration", message)
        }
        WebhookState::Absent => match refusal {
            Some(refusal) => said(false, "WebhookRefused", refusal),
            None => {
                let message = "API servers are told of the policy when all replicas serve it";
                said(false, "WebhookNotCreated", message.to_owned())
            }
        },
    }
}

fn up_to_date(observed: &Observed) -> Said {
    let goes_on = match observed.served {
        Some(generation) => format!("; generation {generation} goes on being served"),
        None => String::new(),
    };
    let (holds, reason, message) = match &observed.newest {
        Newest::Served => (true, "PolicyLoaded", "the policy server serves this generation".to_owned()),
        Newest::Unseen | Newest::Loading => {
            (false, "PolicyLoading", format!("this generation is being loaded{goes_on}"))
        }
        Newest::Failed { message, is_transient: true } => {
            (false, "LoadFailed", format!("{message}{goes_on}; it is tried again"))
        }
        Newest::Failed { message, is_transient: false } => {
            (false, "PolicyInvalid", format!("{message}{goes_on}"))
        }
    };
    Said { kind: UP_TO_DATE, holds, reason, message }
}

fn reachable(observed: &Observed) -> Said {
    let (holds, reason, message) = match (&observed.newest, &observed.behind[..]) {
        (Newest::Served, []) => (
            true,
            "AllReplicasUpToDate",
            "all replicas of the policy server serve this generation".to_owned(),
        ),
        (_, []) => (false, "NotServed", "no replica of the policy server serves this generation".to_owned()),
        (_, behind) => {
            let mut names =
                behind.iter().take(MOST_REPLICAS).map(String::as_str).collect::<Vec<_>>().join(", ");
            if behind.len() > MOST_REPLICAS {
                names.push_str(&format!(" and {} more", behind.len() - MOST_REPLICAS));
            }
            (false, "ReplicasBehind", format!("replicas that do not serve this generation: {names}"))
        }
    };
    Said { kind: REACHABLE, holds, reason, message }
}
