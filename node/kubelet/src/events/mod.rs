//! Events: what `kubectl describe` tells people at the end.
//!
//! ```text
//! Recorder (any task, never blocks) ─ bounded queue ─► sender task: Correlator (pure) ─► POST or PATCH
//! ```
//!
//! Recording is fire-and-forget: an event that finds the queue full, or that the API server does not take
//! after many tries, is dropped and logged. The correlator keeps repetition off the API server, by the same
//! three rules and the same numbers as [client-go's][1]: what is identical is counted, what differs in its
//! message only is combined, and an object about which too much is said is silenced for a while.
//!
//! [1]: https://pkg.go.dev/k8s.io/client-go/tools/record#EventCorrelator

mod correlator;
mod recorder;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;

pub use self::recorder::{EventLimits, Recorder};

/// Something that happened to an object, before anything is made of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurrence {
    /// The object. Without a namespace, the event lands in `default`.
    pub about: ObjectReference,
    /// Whether people should worry.
    pub level: Level,
    /// A word in CamelCase that programs match on.
    pub reason: String,
    /// A sentence for people, at most 1024 characters.
    pub message: String,
    /// Annotations of the Event, for programs.
    pub annotations: BTreeMap<String, String>,
}

/// The two types of events that Kubernetes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Things go as they should.
    Normal,
    /// Something is wrong.
    Warning,
}

impl Level {
    /// As in an Event's `type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Refers to a Node. `kubectl describe node` finds events by a UID that is the node's name.
#[must_use]
pub fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}
