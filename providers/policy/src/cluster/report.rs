//! What each replica says of itself, in its Lease: which versions of policies it serves, and which certificate it shows.
//!
//! The leader tells API servers of a policy when all replicas serve it, whichever of them a request comes to.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use kubewasm_control::{elector::LeaseName, replicas};
use serde::{Deserialize, Serialize};

use super::{labels, policy::PolicyVersion};

/// A replica, as the leader sees it.
pub type Replica = replicas::Replica<ReplicaReport>;

/// What a replica says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The versions that it serves, `UID/GENERATION` by the name under which it serves them.
    #[serde(default)]
    pub policies: BTreeMap<String, String>,
    /// Fingerprint of the certificate that it shows.
    #[serde(default)]
    pub certificate: Option<String>,
}

impl replicas::Report for ReplicaReport {
    const ANNOTATION: &'static str = "kubewasm.dev/policy-report";
}

impl ReplicaReport {
    /// Notes a version.
    pub fn note(&mut self, unique: String, version: &PolicyVersion) {
        self.policies.insert(unique, text(version));
    }

    /// Whether the replica serves this version.
    #[must_use]
    pub fn serves(&self, unique: &str, version: &PolicyVersion) -> bool {
        self.policies.get(unique) == Some(&text(version))
    }
}

fn text(version: &PolicyVersion) -> String {
    format!("{}/{}", version.uid, version.generation)
}

/// The Lease of a replica.
#[must_use]
pub fn lease(namespace: &str, server: &str, identity: &str) -> LeaseName {
    LeaseName {
        namespace: namespace.to_owned(),
        name: format!("kubewasm-policy-{server}.{identity}"),
        labels: labels(server),
    }
}
