//! Events: what has happened to an extension, for `kubectl describe`.
//!
//! What there is to tell follows from the status before and the status after, so that a new leader tells nothing twice. What goes to
//! and fro is counted by one Event.

use std::{collections::HashMap, fmt, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
    core::ObjectMeta,
};
use tokio::time::Instant;

use super::{
    FIELD_MANAGER,
    status::{ACCEPTED, CONFIG_RESOLVED, FETCHED, PUBLISHED, VERIFIED},
};
use crate::wasm_extension::{KIND, WasmExtension, WasmExtensionStatus, api_resource};

/// Most bytes of a note: the API takes 1024.
const LONGEST_NOTE: usize = 1000;
/// How long an Event is counted on that happens again.
const SERIES: Duration = Duration::from_secs(600);
/// Events that are remembered for that.
const MOST_SERIES: usize = 4096;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtensionEvent {
    /// Whether it is a warning.
    pub is_warning: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub note: String,
}

impl ExtensionEvent {
    fn normal(reason: &str, note: impl Into<String>) -> Self {
        Self { is_warning: false, reason: reason.to_owned(), note: note.into() }
    }

    fn warning(reason: &str, note: impl Into<String>) -> Self {
        Self { is_warning: true, reason: reason.to_owned(), note: note.into() }
    }
}

/// What has happened between two statuses.
#[must_use]
pub fn events(before: Option<&WasmExtensionStatus>, now: &WasmExtensionStatus) -> Vec<ExtensionEvent> {
    let find = |status: Option<&WasmExtensionStatus>, kind: &str| {
        let mut conditions = status.into_iter().flat_map(|status| &status.conditions);
        conditions.find(|condition| condition.type_ == kind).cloned()
    };
    let mut events = Vec::new();
    if before.is_none() {
        events.push(ExtensionEvent::normal("Created", "the extension was seen"));
    }
    let is = |condition: &Option<Condition>, status: &str| {
        condition.as_ref().is_some_and(|it| it.status == status)
    };
    for (kind, failed, recovered) in [
        (FETCHED, "FetchFailed", None),
        (VERIFIED, "VerificationFailed", None),
        (CONFIG_RESOLVED, "ConfigurationFailed", Some("ConfigurationResolved")),
        (ACCEPTED, "Refused", Some("Accepted")),
    ] {
        let (old, new) = (find(before, kind), find(Some(now), kind));
        let Some(condition) = &new else { continue };
        let is_as_before = old.as_ref().is_some_and(|old| {
            old.status == condition.status && old.reason == condition.reason && same_cause(old, condition)
        });
        if condition.status == "False" && !is_as_before {
            events.push(ExtensionEvent::warning(
                failed,
                format!("{}: {}", condition.reason, condition.message),
            ));
        }
        if let Some(recovered) = recovered
            && condition.status == "True"
            && is(&old, "False")
        {
            events.push(ExtensionEvent::normal(recovered, condition.message.clone()));
        }
    }
    let had_module = before.is_some_and(|before| before.resolved_digest == now.resolved_digest);
    let has_module = is(&find(Some(now), VERIFIED), "True");
    let had_failed = is(&find(before, FETCHED), "False") || is(&find(before, VERIFIED), "False");
    if has_module && let Some(digest) = now.resolved_digest.as_ref().filter(|_| !had_module || had_failed) {
        let (size, abi) =
            (now.size_bytes.unwrap_or_default(), now.abi_version.as_deref().unwrap_or_default());
        events.push(ExtensionEvent::normal("Fetched", format!("{digest}, {size} bytes, ABI {abi}")));
    }
    let is_other_version = before.is_none_or(|before| before.version != now.version);
    let published = find(Some(now), PUBLISHED);
    if is(&published, "True") && (is_other_version || is(&find(before, PUBLISHED), "False")) {
        let version = now.version.as_deref().unwrap_or_default();
        events.push(ExtensionEvent::normal("Published", format!("Envoys get version {version}")));
    }
    events
}

/// Of Envoys that refuse something, one more or less is no news.
fn same_cause(old: &Condition, new: &Condition) -> bool {
    let cause = |condition: &Condition| {
        let message = &condition.message;
        match condition.type_.as_str() {
            ACCEPTED => message.split_once(" Envoys refuse ").map(|(_, rest)| rest.to_owned()),
            _ => Some(message.clone()),
        }
    };
    cause(old) == cause(new)
}

/// An Event that may be counted on.
struct Series {
    name: String,
    count: i32,
    last: Instant,
}

/// Writes Events.
pub struct EventRecorder {
    client: Client,
    identity: String,
    series: HashMap<(String, ExtensionEvent), Series>,
}

impl fmt::Debug for EventRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventRecorder").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl EventRecorder {
    /// One for the replica of this identity, which has told nothing yet.
    #[must_use]
    pub fn new(client: Client, identity: &str) -> Self {
        Self { client, identity: identity.to_owned(), series: HashMap::new() }
    }

    /// Tells something of an extension.
    ///
    /// # Errors
    /// Those of the API server: it is told no more then.
    pub async fn record(
        &mut self,
        extension: &WasmExtension,
        mut event: ExtensionEvent,
    ) -> Result<(), kube::Error> {
        if event.note.len() > LONGEST_NOTE {
            event.note.truncate(event.note.floor_char_boundary(LONGEST_NOTE));
            event.note.push('…');
        }
        let api: Api<Event> = Api::namespaced(self.client.clone(), extension.name.namespace());
        let now = MicroTime(Timestamp::now());
        self.series.retain(|_, series| series.last.elapsed() < SERIES);
        let key = (extension.uid.clone(), event);
        if let Some(series) = self.series.get_mut(&key) {
            series.count = series.count.saturating_add(1);
            series.last = Instant::now();
            let count = EventSeries { count: series.count, last_observed_time: now };
            let patch = Patch::Merge(serde_json::json!({ "series": count }));
            api.patch(&series.name, &PatchParams::default(), &patch).await?;
            return Ok(());
        }
        let event = &key.1;
        // Names of objects have 253 characters at most, and the time is what tells Events apart.
        let stem = extension.name.name();
        let stem = stem.get(..stem.floor_char_boundary(200)).unwrap_or(stem).trim_end_matches(['.', '-']);
        let name = format!("{stem}.{:x}", now.0.as_nanosecond());
        let object = Event {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            action: Some("Reconcile".to_owned()),
            reason: Some(event.reason.clone()),
            note: Some(event.note.clone()),
            type_: Some(if event.is_warning { "Warning" } else { "Normal" }.to_owned()),
            event_time: Some(now),
            regarding: Some(ObjectReference {
                api_version: Some(api_resource().api_version),
                kind: Some(KIND.to_owned()),
                namespace: Some(extension.name.namespace().to_owned()),
                name: Some(extension.name.name().to_owned()),
                uid: Some(extension.uid.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(FIELD_MANAGER.to_owned()),
            reporting_instance: Some(self.identity.clone()),
            ..Event::default()
        };
        api.create(&PostParams::default(), &object).await?;
        if self.series.len() < MOST_SERIES {
            self.series.insert(key, Series { name, count: 1, last: Instant::now() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
