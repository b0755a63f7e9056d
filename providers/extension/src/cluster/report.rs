//! What each replica says of itself, in its Lease: which versions it publishes, and what its Envoys make of them.

use std::collections::BTreeMap;

use kubewasm_control::{elector::LeaseName, replicas};
use serde::{Deserialize, Serialize};

use super::{labels, loader::LoadProgress};
use crate::{name::ExtensionName, subscribers::ExtensionSubscribers, table::PublishedVersion};

/// Bytes of a report: all annotations of an object have 256 KiB at most.
const LONGEST_REPORT: usize = 200 << 10;
/// Bytes of an Envoy's text in a report.
const LONGEST_ERROR: usize = 256;

/// A replica, as the leader sees it.
pub type Replica = replicas::Replica<ReplicaReport>;

/// What a replica says of an extension.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExtensionReport {
    /// The version that it publishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<PublishedVersion>,
    /// What its Envoys make of it.
    #[serde(skip_serializing_if = "is_nobody")]
    pub subscribers: ExtensionSubscribers,
}

fn is_nobody(subscribers: &ExtensionSubscribers) -> bool {
    *subscribers == ExtensionSubscribers::default()
}

/// What a replica says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaReport {
    /// By extension.
    pub extensions: BTreeMap<ExtensionName, ExtensionReport>,
    /// Extensions of which nothing is said, because there is no room for it.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl replicas::Report for ReplicaReport {
    const ANNOTATION: &'static str = "kubewasm.dev/extension-report";
}

impl ReplicaReport {
    /// Sums up what is known here. What has no room in a Lease is left out: first the texts of Envoys are shortened, then those
    /// extensions are left out that nobody has.
    #[must_use]
    pub fn new(progress: &LoadProgress, subscribers: &BTreeMap<ExtensionName, ExtensionSubscribers>) -> Self {
        let mut extensions: BTreeMap<ExtensionName, ExtensionReport> = BTreeMap::new();
        for (name, progress) in &progress.extensions {
            let version = progress.published.as_ref().map(|published| published.version.clone());
            let mut subscribers = subscribers.get(name).cloned().unwrap_or_default();
            if let Some(refusal) = &mut subscribers.last_refusal {
                refusal.message.truncate(refusal.message.floor_char_boundary(LONGEST_ERROR));
            }
            extensions.insert(name.clone(), ExtensionReport { version, subscribers });
        }
        let mut left = LONGEST_REPORT;
        let mut report = Self::default();
        let (had, free): (Vec<_>, Vec<_>) =
            extensions.into_iter().partition(|(_, extension)| !is_nobody(&extension.subscribers));
        for (name, extension) in had.into_iter().chain(free) {
            // The name, two quotation marks, a colon and a comma.
            let length =
                serde_json::to_string(&extension).map_or(0, |text| text.len()) + name.as_str().len() + 4;
            match left.checked_sub(length) {
                Some(rest) => {
                    left = rest;
                    report.extensions.insert(name, extension);
                }
                None => report.left_out += 1,
            }
        }
        report
    }
}

/// The Lease of a replica.
#[must_use]
pub fn lease(namespace: &str, identity: &str) -> LeaseName {
    LeaseName {
        namespace: namespace.to_owned(),
        name: format!("kubewasm-extension.{identity}"),
        labels: labels(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::loader::{ConfigurationProgress, ExtensionProgress, ModuleProgress};

    fn progress(count: usize) -> LoadProgress {
        let extension = ExtensionProgress {
            uid: "u".into(),
            generation: 1,
            module: ModuleProgress::Fetched(None),
            last_fetched: None,
            configuration: ConfigurationProgress::Resolved,
            published: None,
        };
        let names = (0..count).map(|number| ExtensionName::new("team", &format!("e{number}")).unwrap());
        LoadProgress { is_ready: true, extensions: names.map(|name| (name, extension.clone())).collect() }
    }

    fn refusing() -> ExtensionSubscribers {
        let subscribers = serde_json::json!({
            "versions": { "v": { "sent": 0, "accepted": 1, "refused": 2 } }, "acks": 1, "nacks": 2,
            "last_refusal": { "node": "n", "version": "v", "message": "é".repeat(500), "at": "2026-01-01T00:00:00Z" },
        });
        serde_json::from_value(subscribers).unwrap()
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let names = [(ExtensionName::parse("team/e0").unwrap(), refusing())].into();
        let report = ReplicaReport::new(&progress(2), &names);
        let read: ReplicaReport = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(read, report);
        let extension = &report.extensions["team/e0"];
        assert_eq!((extension.subscribers.count(), extension.subscribers.nacks), (3, 2));
        assert_eq!(extension.subscribers.last_refusal.as_ref().unwrap().message.len(), LONGEST_ERROR);
    }

    #[test]
    fn a_report_has_room_in_an_annotation_and_says_what_is_left_out() {
        let last = ExtensionName::parse("team/e999").unwrap();
        let all: BTreeMap<_, _> =
            progress(1000).extensions.into_keys().map(|name| (name, refusing())).collect();
        let report = ReplicaReport::new(&progress(1000), &all);
        assert!(serde_json::to_string(&report).unwrap().len() < LONGEST_REPORT + 100);
        assert!(report.left_out > 0 && report.left_out + report.extensions.len() == 1000);
        // Those that somebody has come first.
        let mut large = progress(20_000);
        large.extensions.insert(last.clone(), large.extensions["team/e0"].clone());
        let report = ReplicaReport::new(&large, &[(last.clone(), refusing())].into());
        assert!(report.left_out > 0 && report.extensions.contains_key(&last));
    }
}
