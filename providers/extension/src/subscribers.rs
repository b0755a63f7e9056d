//! What Envoys make of extensions: who has which version, who refuses it and why.
//!
//! Streams write it, the controller makes statuses of it. Only extensions that exist are in it, so whoever subscribes to names that
//! are not there takes no memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{name::ExtensionName, table::PublishedVersion};

/// Longest text of an Envoy's error that is kept, in bytes.
const LONGEST_ERROR: usize = 1024;

/// How far an Envoy has come with the version that it was sent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It has not answered.
    Sent,
    Accepted,
    Refused,
}

/// Streams that were sent one version last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionSubscribers {
    /// Have not answered.
    pub sent: usize,
    /// Have accepted it (ACK).
    pub accepted: usize,
    /// Have refused it (NACK) and keep what they had.
    pub refused: usize,
}

/// What an Envoy said against a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Id of the node, as it says.
    pub node: String,
    /// Against which version.
    pub version: PublishedVersion,
    /// Its text, shortened when it is very long, without control characters.
    pub message: String,
    /// When it came.
    pub at: Timestamp,
}

/// What the Envoys of this replica make of one extension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionSubscribers {
    /// Streams that were sent it, by version. Versions of nobody are not in it.
    pub versions: BTreeMap<PublishedVersion, VersionSubscribers>,
    /// Acceptances since the start.
    pub acks: u64,
    /// Refusals since the start.
    pub nacks: u64,
    /// The last one.
    pub last_refusal: Option<Refusal>,
}

impl ExtensionSubscribers {
    /// Streams that have the extension.
    #[must_use]
    pub fn count(&self) -> usize {
        self.versions.values().map(|version| version.sent + version.accepted + version.refused).sum()
    }

    /// Adds what another replica's Envoys make of it.
    pub fn merge(&mut self, other: &Self) {
        for (version, counts) in &other.versions {
            let sum = self.versions.entry(version.clone()).or_default();
            sum.sent += counts.sent;
            sum.accepted += counts.accepted;
            sum.refused += counts.refused;
        }
        self.acks += other.acks;
        self.nacks += other.nacks;
        let at = |refusal: &Option<Refusal>| refusal.as_ref().map(|refusal| refusal.at);
        if at(&other.last_refusal) > at(&self.last_refusal) {
            self.last_refusal.clone_from(&other.last_refusal);
        }
    }

    fn slot(&mut self, version: &PublishedVersion, progress: Progress) -> &mut usize {
        let counts = self.versions.entry(version.clone()).or_default();
        match progress {
            Progress::Sent => &mut counts.sent,
            Progress::Accepted => &mut counts.accepted,
            Progress::Refused => &mut counts.refused,
        }
    }

    fn leave(&mut self, version: &PublishedVersion, progress: Progress) {
        let slot = self.slot(version, progress);
        *slot = slot.saturating_sub(1);
        if self.versions.get(version) == Some(&VersionSubscribers::default()) {
            self.versions.remove(version);
        }
    }
}

/// What all Envoys of this replica make of all extensions. Clones are the same.
#[derive(Clone, Debug)]
pub struct Subscribers {
    extensions: Arc<Mutex<HashMap<ExtensionName, ExtensionSubscribers>>>,
    changes: watch::Sender<()>,
}

impl Default for Subscribers {
    fn default() -> Self {
        Self { extensions: Arc::default(), changes: watch::Sender::new(()) }
    }
}

impl Subscribers {
    /// What is known of this extension: nothing where nobody ever got it.
    #[must_use]
    pub fn get(&self, name: &ExtensionName) -> ExtensionSubscribers {
        self.lock().get(name).cloned().unwrap_or_default()
    }

    /// All of it.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<ExtensionName, ExtensionSubscribers> {
        self.lock().iter().map(|(name, subscribers)| (name.clone(), subscribers.clone())).collect()
    }

    /// Is told of every change. Whoever follows it lets a moment pass before the next look: a thousand Envoys answer one by one.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Forgets what was said of an extension that is deleted, apart from who still has it.
    pub fn forget(&self, name: &ExtensionName) {
        self.change(name, |extension| {
            let versions = std::mem::take(&mut extension.versions);
            *extension = ExtensionSubscribers { versions, ..ExtensionSubscribers::default() };
        });
    }

    /// Notes that a stream was sent this version.
    pub(crate) fn sent(&self, name: &ExtensionName, version: &PublishedVersion) -> Subscription {
        self.subscription(name, version, Progress::Sent)
    }

    /// Notes that a stream has had this version before it came.
    pub(crate) fn held(&self, name: &ExtensionName, version: &PublishedVersion) -> Subscription {
        self.subscription(name, version, Progress::Accepted)
    }

    fn subscription(
        &self,
        name: &ExtensionName,
        version: &PublishedVersion,
        progress: Progress,
    ) -> Subscription {
        self.change(name, |extension| *extension.slot(version, progress) += 1);
        Subscription { name: name.clone(), version: version.clone(), progress, subscribers: self.clone() }
    }

    fn change(&self, name: &ExtensionName, change: impl FnOnce(&mut ExtensionSubscribers)) {
        let mut extensions = self.lock();
        change(extensions.entry(name.clone()).or_default());
        if extensions.get(name) == Some(&ExtensionSubscribers::default()) {
            extensions.remove(name);
        }
        drop(extensions);
        self.changes.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExtensionName, ExtensionSubscribers>> {
        self.extensions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one stream has of one extension. Dropped, it has it no more.
#[derive(Debug)]
pub(crate) struct Subscription {
    name: ExtensionName,
    version: PublishedVersion,
    progress: Progress,
    subscribers: Subscribers,
}

impl Subscription {
    /// The Envoy has accepted it.
    pub(crate) fn accepted(&mut self) {
        self.turn(Progress::Accepted, |extension| extension.acks = extension.acks.saturating_add(1));
    }

    /// The Envoy has refused it.
    pub(crate) fn refused(&mut self, node: &str, message: &str, at: Timestamp) {
        let refusal =
            Refusal { node: node.to_owned(), version: self.version.clone(), message: shown(message), at };
        self.turn(Progress::Refused, |extension| {
            extension.nacks = extension.nacks.saturating_add(1);
            extension.last_refusal = Some(refusal);
        });
    }

    fn turn(&mut self, progress: Progress, note: impl FnOnce(&mut ExtensionSubscribers)) {
        let before = std::mem::replace(&mut self.progress, progress);
        self.subscribers.change(&self.name, |extension| {
            // In this order: the version must not be forgotten in between.
            *extension.slot(&self.version, progress) += 1;
            extension.leave(&self.version, before);
            note(extension);
        });
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscribers.change(&self.name, |extension| extension.leave(&self.version, self.progress));
    }
}

/// A text of an Envoy's that can be shown: an end to it, and nothing that a terminal would obey.
pub(crate) fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(LONGEST_ERROR);
    let cut = text.get(..end).unwrap_or_default();
    let mut text_shown: String = cut.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if end < text.len() {
        text_shown.push('…');
    }
    text_shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ExtensionName {
        ExtensionName::parse("ns/a").unwrap()
    }

    fn version(text: &str) -> PublishedVersion {
        PublishedVersion::claimed(text).unwrap()
    }

    fn counts(sent: usize, accepted: usize, refused: usize) -> VersionSubscribers {
        VersionSubscribers { sent, accepted, refused }
    }

    #[test]
    fn streams_are_counted_by_version_and_by_what_they_say() {
        let subscribers = Subscribers::default();
        let mut one = subscribers.sent(&name(), &version("1"));
        let mut other = subscribers.sent(&name(), &version("1"));
        let third = subscribers.held(&name(), &version("0"));
        one.accepted();
        other.refused("n2", "Unable to create\nWasm plugin", Timestamp::UNIX_EPOCH);
        let known = subscribers.get(&name());
        assert_eq!(known.versions, [(version("0"), counts(0, 1, 0)), (version("1"), counts(0, 1, 1))].into());
        assert_eq!((known.count(), known.acks, known.nacks), (3, 1, 1));
        let refusal = known.last_refusal.unwrap();
        assert_eq!(
            (&*refusal.node, &*refusal.message, refusal.version),
            ("n2", "Unable to create Wasm plugin", version("1"))
        );
        drop((one, third));
        assert_eq!(subscribers.get(&name()).versions, [(version("1"), counts(0, 0, 1))].into());
        drop(other);
        assert_eq!(subscribers.get(&name()).count(), 0);
        assert_eq!(subscribers.get(&name()).nacks, 1);
        subscribers.forget(&name());
        assert!(subscribers.snapshot().is_empty());
    }

    #[test]
    fn what_is_forgotten_is_still_held() {
        let subscribers = Subscribers::default();
        let mut one = subscribers.sent(&name(), &version("1"));
        one.accepted();
        subscribers.forget(&name());
        let known = subscribers.get(&name());
        assert_eq!((known.count(), known.acks), (1, 0));
        drop(one);
        assert!(subscribers.snapshot().is_empty());
    }

    #[test]
    fn every_change_is_told() {
        let subscribers = Subscribers::default();
        let mut changes = subscribers.changes();
        let mut subscription = subscribers.sent(&name(), &version("1"));
        for turn in 0..3 {
            assert!(changes.has_changed().unwrap(), "{turn}");
            changes.mark_unchanged();
            match turn {
                0 => subscription.accepted(),
                _ => subscribers.forget(&name()),
            }
        }
    }

    #[test]
    fn replicas_are_summed_up() {
        let [one, other] = [Subscribers::default(), Subscribers::default()];
        let mut subscriptions = [one.sent(&name(), &version("1")), other.sent(&name(), &version("1"))];
        subscriptions[0].accepted();
        subscriptions[1].refused("n", "no", Timestamp::UNIX_EPOCH);
        let mut sum = one.get(&name());
        sum.merge(&other.get(&name()));
        assert_eq!(sum.versions, [(version("1"), counts(0, 1, 1))].into());
        assert_eq!((sum.acks, sum.nacks, sum.last_refusal.unwrap().node), (1, 1, "n".to_owned()));
    }

    #[test]
    fn an_endless_error_is_cut() {
        let subscribers = Subscribers::default();
        subscribers.sent(&name(), &version("1")).refused(
            "n",
            &"é\u{1b}".repeat(10_000),
            Timestamp::UNIX_EPOCH,
        );
        let message = subscribers.get(&name()).last_refusal.unwrap().message;
        assert!(
            message.len() < LONGEST_ERROR + 8 && message.starts_with("é é") && message.ends_with('…'),
            "{message}"
        );
    }
}
