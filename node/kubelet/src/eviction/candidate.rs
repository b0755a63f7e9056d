//! Pods as eviction sees them: what they have asked for, where they write, and how much they have written.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// A pod that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// UID.
    pub uid: String,
    /// `namespace/name`, for messages.
    pub name: String,
    /// `spec.priority`.
    pub priority: i32,
    /// The node's own matter, static or of a system priority: it is never evicted.
    pub critical: bool,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// Bytes of ephemeral storage that the pod asks for in all.
    pub request: u64,
    /// What it may have in all.
    pub limit: Option<StorageLimit>,
    /// Its containers.
    pub containers: Vec<ContainerStorage>,
    /// Directories of its volumes on disk.
    pub volumes: Vec<PathBuf>,
}

/// A limit of ephemeral storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageLimit {
    /// Bytes.
    pub bytes: u64,
    /// As messages write it.
    pub text: String,
}

/// A container as eviction sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStorage {
    /// Its name.
    pub name: String,
    /// Bytes that it asks for.
    pub request: u64,
    /// Its request as messages write it.
    pub request_text: String,
    /// What it may have.
    pub limit: Option<StorageLimit>,
    /// Directory of what it writes outside its volumes.
    pub written: PathBuf,
    /// Directory of its logs.
    pub logs: PathBuf,
}

impl Candidate {
    /// Something bounds what it may write.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.limit.is_some() || self.containers.iter().any(|container| container.limit.is_some())
    }
}

/// What something takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of whole blocks.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

impl DiskUsage {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// What a pod takes on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// What its containers have written outside volumes, and their logs, by name.
    pub containers: BTreeMap<String, DiskUsage>,
    /// Its volumes.
    pub volumes: DiskUsage,
}

impl PodUsage {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> DiskUsage {
        self.containers.values().fold(self.volumes, |sum, usage| sum.plus(*usage))
    }
}
