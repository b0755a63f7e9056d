//! What the signals of thresholds stand for, after upstream's `pkg/kubelet/eviction/helpers.go`.

use crate::config::thresholds::Signal;

/// What runs short, and what pods are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Bytes of memory.
    Memory,
    /// Bytes on disk.
    EphemeralStorage,
    /// Files, directories and links.
    Inodes,
}

impl Resource {
    /// As messages name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EphemeralStorage => "ephemeral-storage",
            Self::Inodes => "inodes",
        }
    }
}

/// A condition of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PressureCondition {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
}

/// The resource that pods are evicted for; `None` for what costs no pod its place here.
pub(crate) fn resource(signal: Signal) -> Option<Resource> {
    match signal {
        Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable => Some(Resource::Memory),
        Signal::NodefsAvailable | Signal::ImagefsAvailable => Some(Resource::EphemeralStorage),
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree => Some(Resource::Inodes),
        Signal::ContainerfsAvailable | Signal::ContainerfsInodesFree | Signal::PidAvailable => None,
    }
}

/// The condition that the node tells of.
pub(crate) fn condition(signal: Signal) -> Option<PressureCondition> {
    Some(match resource(signal)? {
        Resource::Memory => PressureCondition::Memory,
        Resource::EphemeralStorage | Resource::Inodes => PressureCondition::Disk,
    })
}
