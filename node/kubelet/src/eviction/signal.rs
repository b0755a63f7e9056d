//! What the signals of thresholds stand for, after upstream's `pkg/kubelet/eviction/helpers.go`.

use crate::config::thresholds::Signal;

/// What runs short, and what pods are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// Bytes on disk.
    EphemeralStorage,
    /// Files, directories and links.
    Inodes,
}

impl Resource {
    /// As messages name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
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

/// The resource that pods are evicted for; `None` for what costs no pod its place here. A worker bounds the memory of
/// its guests itself.
pub(crate) fn resource(signal: Signal) -> Option<Resource> {
    match signal {
        Signal::NodefsAvailable | Signal::ImagefsAvailable => Some(Resource::EphemeralStorage),
        Signal::NodefsInodesFree | Signal::ImagefsInodesFree => Some(Resource::Inodes),
        Signal::MemoryAvailable
        | Signal::AllocatableMemoryAvailable
        | Signal::ContainerfsAvailable
        | Signal::ContainerfsInodesFree
        | Signal::PidAvailable => None,
    }
}

/// The condition that the node tells of.
pub(crate) fn condition(signal: Signal) -> Option<PressureCondition> {
    match signal {
        Signal::MemoryAvailable => Some(PressureCondition::Memory),
        _ => resource(signal).map(|_| PressureCondition::Disk),
    }
}
