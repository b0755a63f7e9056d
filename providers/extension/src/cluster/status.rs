//! What an extension's status says of what has become of it: a pure function.

#[cfg(test)]
mod tests;

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use serde_json::{Value, json};

use super::loader::{ConfigurationProgress, ExtensionProgress, ModuleProgress};
use crate::{
    fetch::FetchFailure,
    subscribers::ExtensionSubscribers,
    wasm_extension::{KIND, WasmExtension, WasmExtensionStatus, api_resource, in_seconds},
};

/// Whether the module has come.
pub const FETCHED: &str = "Fetched";
/// Whether it is what was asked for, and a filter.
pub const VERIFIED: &str = "Verified";
/// Whether the configurations have their texts.
pub const CONFIG_RESOLVED: &str = "ConfigResolved";
/// Whether Envoys get the newest generation.
pub const PUBLISHED: &str = "Published";
/// Whether Envoys have accepted the newest generation.
pub const ACCEPTED: &str = "Accepted";

/// Most bytes of a message.
const LONGEST_MESSAGE: usize = 4 << 10;
/// Most replicas that a message names.
const MOST_REPLICAS: usize = 5;

/// Whether something is the case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    True,
    False,
    Unknown,
}

/// A condition, as yet without its times.
struct Said {
    kind: &'static str,
    verdict: Verdict,
    reason: &'static str,
    message: String,
}

impl Said {
    fn new(kind: &'static str, verdict: Verdict, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, verdict, reason, message: message.into() }
    }

    /// What was said before keeps its time.
    fn condition(self, generation: i64, before: &[Condition], now: Timestamp) -> Condition {
        let status = match self.verdict {
            Verdict::True => "True",
            Verdict::False => "False",
            Verdict::Unknown => "Unknown",
        };
        let before = before.iter().find(|before| before.type_ == self.kind && before.status == status);
        Condition {
            type_: self.kind.to_owned(),
            status: status.to_owned(),
            reason: self.reason.to_owned(),
            message: bounded(self.message),
            observed_generation: Some(generation),
            last_transition_time: before
                .map_or_else(|| in_seconds(now), |before| before.last_transition_time.clone()),
        }
    }
}

fn bounded(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        message.push('…');
    }
    message
}

/// The status of an extension: what has become of it here, what all Envoys make of it, and which replicas publish another version.
#[must_use]
pub fn status(
    before: Option<&WasmExtensionStatus>,
    progress: &ExtensionProgress,
    subscribers: &ExtensionSubscribers,
    behind: &[&str],
    now: Timestamp,
) -> WasmExtensionStatus {
    let published = progress.published.as_ref();
    let conditions = [
        fetched(progress),
        verified(progress),
        config_resolved(progress),
        published_condition(progress, behind),
        accepted(progress, subscribers),
    ];
    let said = before.map(|before| before.conditions.as_slice()).unwrap_or_default();
    let of_version = published.and_then(|published| subscribers.versions.get(&published.version));
    let of_version = of_version.copied().unwrap_or_default();
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    WasmExtensionStatus {
        observed_generation: progress.generation,
        resolved_digest: published.map(|published| published.digest.to_string()),
        size_bytes: published.map(|published| published.size),
        last_fetched: progress.last_fetched.map(in_seconds),
        version: published.map(|published| published.version.to_string()),
        abi_version: published.map(|published| published.abi.to_string()),
        subscribers: count(subscribers.count()),
        acks: count(of_version.accepted),
        nacks: count(of_version.refused),
        conditions: conditions
            .into_iter()
            .map(|condition| condition.condition(progress.generation, said, now))
            .collect(),
    }
}

/// What is applied.
#[must_use]
pub fn manifest(extension: &WasmExtension, status: &WasmExtensionStatus) -> Value {
    json!({
        "apiVersion": api_resource().api_version,
        "kind": KIND,
        "metadata": { "name": extension.name.name(), "namespace": extension.name.namespace(), "uid": extension.uid },
        "status": status,
    })
}

fn fetched(progress: &ExtensionProgress) -> Said {
    match &progress.module {
        ModuleProgress::Fetching => {
            Said::new(FETCHED, Verdict::Unknown, "Fetching", "the module is being fetched")
        }
        ModuleProgress::Failed(failure) if failure.reason.is_of_verification() => {
            Said::new(FETCHED, Verdict::True, "Fetched", "what is there was fetched, and is not kept")
        }
        ModuleProgress::Failed(failure) => {
            Said::new(FETCHED, Verdict::False, failure.reason.as_str(), again(failure))
        }
        ModuleProgress::Fetched(None) => Said::new(FETCHED, Verdict::True, "Fetched", "the module is here"),
        ModuleProgress::Fetched(Some(failure)) => Said::new(
            FETCHED,
            Verdict::True,
            "FetchedBefore",
            format!("the module is here; whether there is a newer one is not known: {}", again(failure)),
        ),
    }
}

fn again(failure: &FetchFailure) -> String {
    match failure.reason.is_final() {
        true => failure.message.clone(),
        false => format!("{}; it is tried again", failure.message),
    }
}

fn verified(progress: &ExtensionProgress) -> Said {
    match &progress.module {
        ModuleProgress::Failed(failure) if failure.reason.is_of_verification() => {
            Said::new(VERIFIED, Verdict::False, failure.reason.as_str(), again(failure))
        }
        ModuleProgress::Fetching | ModuleProgress::Failed(_) => {
            Said::new(VERIFIED, Verdict::Unknown, "NotFetched", "there is no module yet to look at")
        }
        ModuleProgress::Fetched(_) => Said::new(
            VERIFIED,
            Verdict::True,
            "Verified",
            "the module is a filter, and has the digest that is asked for, if any",
        ),
    }
}

fn config_resolved(progress: &ExtensionProgress) -> Said {
    match &progress.configuration {
        ConfigurationProgress::Resolved => {
            Said::new(CONFIG_RESOLVED, Verdict::True, "Resolved", "the configurations have their texts")
        }
        ConfigurationProgress::Failed(failure) if failure.is_pending() => {
            Said::new(CONFIG_RESOLVED, Verdict::Unknown, failure.reason(), failure.to_string())
        }
        ConfigurationProgress::Failed(failure) => {
            Said::new(CONFIG_RESOLVED, Verdict::False, failure.reason(), failure.to_string())
        }
        ConfigurationProgress::Invalid(problem) => {
            Said::new(CONFIG_RESOLVED, Verdict::False, "InvalidSpec", problem.clone())
        }
    }
}

/// Whether all that the newest generation asks for is there.
fn is_complete(progress: &ExtensionProgress) -> bool {
    matches!(
        (&progress.module, &progress.configuration),
        (ModuleProgress::Fetched(_), ConfigurationProgress::Resolved)
    )
}

fn published_condition(progress: &ExtensionProgress, behind: &[&str]) -> Said {
    let said = |verdict, reason, message: String| Said::new(PUBLISHED, verdict, reason, message);
    match &progress.published {
        Some(published) if is_complete(progress) => {
            let mut message = format!("Envoys get version {}", published.version);
            if behind.is_empty() {
                return said(Verdict::True, "Published", message);
            }
            let names: Vec<&str> = behind.iter().copied().take(MOST_REPLICAS).collect();
            message.push_str(&format!("; these replicas have another one as yet: {}", names.join(", ")));
            if behind.len() > MOST_REPLICAS {
                message.push_str(&format!(" and {} more", behind.len() - MOST_REPLICAS));
            }
            said(Verdict::True, "ReplicasBehind", message)
        }
        Some(published) => said(
            Verdict::False,
            "FormerVersion",
            format!(
                "Envoys go on getting version {} of generation {}, because there is not all that it takes for this one",
                published.version, published.generation
            ),
        ),
        None => said(
            Verdict::False,
            "NotPublished",
            "Envoys get nothing, because there is not all that it takes; see the other conditions".to_owned(),
        ),
    }
}

fn accepted(progress: &ExtensionProgress, subscribers: &ExtensionSubscribers) -> Said {
    let said = |verdict, reason, message: String| Said::new(ACCEPTED, verdict, reason, message);
    let Some(published) = &progress.published else {
        return said(
            Verdict::Unknown,
            "NotPublished",
            "Envoys get nothing that they could accept".to_owned(),
        );
    };
    // What they have accepted of an earlier generation says nothing of the newest.
    if !is_complete(progress) {
        let message = format!("Envoys go on getting version {}, and have not been asked", published.version);
        return said(Verdict::Unknown, "FormerVersion", message);
    }
    let version = &published.version;
    let counts = subscribers.versions.get(version).copied().unwrap_or_default();
    let all = subscribers.count();
    if counts.refused > 0 {
        let text = match subscribers.last_refusal.as_ref().filter(|refusal| refusal.version == *version) {
            Some(refusal) => format!(": {} (node {:?})", refusal.message.trim(), refusal.node),
            None => String::new(),
        };
        return said(
            Verdict::False,
            "Refused",
            format!(
                "{} of {all} Envoys refuse version {version}, and go on with what they had before{text}",
                counts.refused
            ),
        );
    }
    if all == 0 {
        return said(Verdict::Unknown, "NoSubscribers", "no Envoy asks for it".to_owned());
    }
    if counts.accepted == all {
        return said(Verdict::True, "Accepted", format!("{all} Envoys have accepted version {version}"));
    }
    said(
        Verdict::Unknown,
        "Progressing",
        format!("{} of {all} Envoys have accepted version {version} so far", counts.accepted),
    )
}
