//! What was seen of the node, its pods and their containers at some moment: plain values, which the summary and the
//! expositions are made of.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    runtime::{ContainerFileIo, ContainerTraffic},
    supply::{Disk, MemoryInfo},
};

/// The node and all of its pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeUsage {
    pub(crate) name: String,
    pub(crate) machine: MachineUsage,
    /// The agent's own process.
    pub(crate) agent: ProcessUsage,
    /// Of all containers that ever ran here, as far as this agent has seen them.
    pub(crate) pods_cpu: CpuUsage,
    pub(crate) pods: Vec<PodUsage>,
    pub(crate) disks: Option<NodeDisks>,
}

impl NodeUsage {
    /// Bytes of memory that all pods take.
    pub(crate) fn pods_memory(&self) -> u64 {
        self.pods.iter().map(PodUsage::memory).fold(0, u64::saturating_add)
    }
}

/// The machine as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct MachineUsage {
    pub(crate) at: Timestamp,
    pub(crate) booted_at: Option<Timestamp>,
    pub(crate) processors: usize,
    pub(crate) cpu: CpuUsage,
    pub(crate) memory: MemoryInfo,
    pub(crate) cpu_pressure: Option<Pressure>,
    pub(crate) memory_pressure: Option<Pressure>,
    pub(crate) io_pressure: Option<Pressure>,
    pub(crate) interfaces: Vec<Interface>,
    /// The interface of the default route.
    pub(crate) default_interface: Option<String>,
    pub(crate) processes: Option<Processes>,
}

/// Processor time, and how fast it grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuUsage {
    pub(crate) used: Duration,
    /// Billionths of a core; unknown until it was looked at twice.
    pub(crate) nano_cores: Option<u64>,
}

/// For how long tasks have waited for something, as the kernel tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pressure {
    pub(crate) some: Stall,
    pub(crate) full: Stall,
}

/// Shares of time in percent, and all of it in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stall {
    pub(crate) avg10: f64,
    pub(crate) avg60: f64,
    pub(crate) avg300: f64,
    pub(crate) total_nanos: u64,
}

/// What went through an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received: Traffic,
    pub(crate) sent: Traffic,
}

/// One direction of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// How many processes and threads there are, and may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Processes {
    pub(crate) current: u64,
    pub(crate) limit: u64,
}

/// A process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessUsage {
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) cpu: CpuUsage,
    pub(crate) resident: u64,
}

/// The file systems that the node writes to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NodeDisks {
    pub(crate) at: Timestamp,
    pub(crate) root: Disk,
    pub(crate) images: Disk,
    pub(crate) logs: Disk,
    /// Bytes that images take.
    pub(crate) image_bytes: u64,
    /// What containers have written outside their volumes.
    pub(crate) written: Written,
}

/// What a directory tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Written {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// A pod of which something runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodUsage {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) started_at: Option<Timestamp>,
    /// Of all of its containers, those that have ended included; it never falls.
    pub(crate) cpu: CpuUsage,
    /// What has gone through its sockets, those of containers that have ended included; it never falls.
    pub(crate) traffic: ContainerTraffic,
    /// Those that run.
    pub(crate) containers: Vec<ContainerUsage>,
    /// Bytes that its volumes of medium Memory hold.
    pub(crate) volumes_in_memory: u64,
    pub(crate) storage: Option<PodStorage>,
}

impl PodUsage {
    /// The name by which a pod's traffic is told: what a network plugin usually calls its interface.
    pub(crate) const INTERFACE: &str = "eth0";

    /// What has gone through its sockets, where all of it is known.
    pub(crate) fn counted_traffic(&self) -> Option<ContainerTraffic> {
        Some(self.traffic).filter(|traffic| !traffic.has_uncounted)
    }

    /// Bytes of all containers, and of its volumes of medium Memory: pages of a tmpfs are charged to the pod that has written
    /// them. Which of its containers that was, nobody knows.
    pub(crate) fn memory(&self) -> u64 {
        let containers = self.containers.iter().map(|container| container.memory);
        containers.fold(self.volumes_in_memory, u64::saturating_add)
    }

    /// When the newest of what is said of its containers was so.
    pub(crate) fn at(&self) -> Timestamp {
        self.containers.iter().map(|container| container.at).max().unwrap_or_default()
    }
}

/// A container that runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerUsage {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) started_at: Timestamp,
    pub(crate) at: Timestamp,
    pub(crate) cpu: CpuUsage,
    pub(crate) throttled: Duration,
    pub(crate) yields: u64,
    /// Bytes.
    pub(crate) memory: u64,
    /// What its guests have read from files and written to them.
    pub(crate) files: ContainerFileIo,
    /// Bytes; 0 where it has none.
    pub(crate) memory_limit: u64,
    /// Thousandths of a core; 0 where it has none.
    pub(crate) cpu_limit: u64,
    pub(crate) cpu_request: u64,
}

/// What a pod has written.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodStorage {
    pub(crate) at: Timestamp,
    pub(crate) containers: Vec<ContainerStorage>,
    pub(crate) volumes: Vec<VolumeStorage>,
}

impl PodStorage {
    pub(crate) fn of(&self, container: &str) -> Option<&ContainerStorage> {
        self.containers.iter().find(|storage| storage.name == container)
    }

    /// Its ephemeral storage: what its containers have written, their logs, and its volumes on disk.
    pub(crate) fn ephemeral(&self) -> Written {
        let containers = self.containers.iter().map(|storage| storage.root.plus(storage.logs));
        let volumes = self.volumes.iter().filter(|volume| volume.claim.is_none() && !volume.in_memory);
        containers.chain(volumes.map(|volume| volume.written)).fold(Written::default(), Written::plus)
    }
}

/// What a container has written.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerStorage {
    pub(crate) name: String,
    pub(crate) root: Written,
    pub(crate) logs: Written,
}

/// A volume.
#[derive(Clone, Debug, Default)]
pub(crate) struct VolumeStorage {
    pub(crate) name: String,
    /// The claim that it is of.
    pub(crate) claim: Option<String>,
    pub(crate) in_memory: bool,
    pub(crate) disk: Disk,
    pub(crate) written: Written,
}
