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
    /// One of its containers runs, as far as its status says.
    pub runs: bool,
    /// Bytes of ephemeral storage that the pod asks for in all.
    pub storage_request: u64,
    /// What it may have of ephemeral storage in all.
    pub storage_limit: Option<StatedAmount>,
    /// Bytes of memory that the pod asks for in all.
    pub memory_request: u64,
    /// What it asks for of memory as a whole, beside what its containers do: `spec.resources`.
    pub memory_request_as_a_whole: Option<StatedAmount>,
    /// Its containers.
    pub containers: Vec<ContainerClaims>,
    /// Directories of its volumes on disk.
    pub volumes: Vec<PathBuf>,
}

/// An amount of a resource that a pod has in its specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatedAmount {
    /// Bytes.
    pub bytes: u64,
    /// As messages write it.
    pub text: String,
}

impl Default for StatedAmount {
    fn default() -> Self {
        Self { bytes: 0, text: "0".to_owned() }
    }
}

/// A container as eviction sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerClaims {
    /// Its name.
    pub name: String,
    /// It was added to a pod that ran already. It cannot ask for anything, and is not blamed for that.
    pub is_ephemeral: bool,
    /// What it asks for of ephemeral storage.
    pub storage_request: StatedAmount,
    /// What it may have of ephemeral storage.
    pub storage_limit: Option<StatedAmount>,
    /// What it asks for of memory.
    pub memory_request: StatedAmount,
    /// Directory of what it writes outside its volumes.
    pub written: PathBuf,
    /// Directory of its logs.
    pub logs: PathBuf,
}

impl Candidate {
    /// Something bounds what it may write.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.storage_limit.is_some()
            || self.containers.iter().any(|container| container.storage_limit.is_some())
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
pub struct PodDiskUsage {
    /// What its containers have written outside volumes, and their logs, by name.
    pub containers: BTreeMap<String, DiskUsage>,
    /// Its volumes.
    pub volumes: DiskUsage,
}

impl PodDiskUsage {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> DiskUsage {
        self.containers.values().fold(self.volumes, |sum, usage| sum.plus(*usage))
    }
}

/// What a pod takes of memory, by the accounts of its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodMemoryUsage {
    /// Bytes of its containers that run, by name.
    pub containers: BTreeMap<String, u64>,
    /// Bytes that are in its volumes of medium Memory.
    pub volumes: u64,
}

impl PodMemoryUsage {
    /// Bytes in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.containers.values().fold(self.volumes, |sum, bytes| sum.saturating_add(*bytes))
    }
}
