//! `/stats/summary`, in the form of
//! [`k8s.io/kubelet/pkg/apis/stats/v1alpha1`](https://pkg.go.dev/k8s.io/kubelet/pkg/apis/stats/v1alpha1). What is not known
//! is left out, rather than 0.

use jiff::Timestamp;
use serde::Serialize;

use super::usage::{
    ContainerUsage, CpuUsage, Interface, MachineUsage, NodeDisks, NodeUsage, PodStorage, PodUsage, Pressure,
    Stall, VolumeStorage, Written,
};
use crate::supply::Disk;

/// The whole answer.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    node: NodeSummary,
    pods: Vec<PodSummary>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeSummary {
    node_name: String,
    system_containers: Vec<SystemContainer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Seconds>,
    cpu: CpuSummary,
    memory: MemorySummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<IoSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<NetworkSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fs: Option<FsSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<RuntimeSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rlimit: Option<ProcessLimit>,
    swap: SwapSummary,
}

/// A part of the node that is no pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SystemContainer {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Seconds>,
    cpu: CpuSummary,
    memory: MemorySummary,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodSummary {
    pod_ref: PodReference,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Seconds>,
    containers: Vec<ContainerSummary>,
    cpu: CpuSummary,
    memory: MemorySummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<NetworkSummary>,
    #[serde(rename = "volume", skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<VolumeSummary>,
    #[serde(rename = "ephemeral-storage", skip_serializing_if = "Option::is_none")]
    ephemeral_storage: Option<FsSummary>,
}

#[derive(Debug, Serialize)]
struct PodReference {
    name: String,
    namespace: String,
    uid: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerSummary {
    name: String,
    start_time: Seconds,
    cpu: CpuSummary,
    memory: MemorySummary,
    #[serde(skip_serializing_if = "Option::is_none")]
    rootfs: Option<FsSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<FsSummary>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CpuSummary {
    time: Seconds,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_nano_cores: Option<u64>,
    usage_core_nano_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<PsiSummary>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MemorySummary {
    time: Seconds,
    #[serde(skip_serializing_if = "Option::is_none")]
    available_bytes: Option<u64>,
    usage_bytes: u64,
    working_set_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    psi: Option<PsiSummary>,
}

#[derive(Debug, Serialize)]
struct IoSummary {
    time: Seconds,
    psi: PsiSummary,
}

#[derive(Debug, Serialize)]
struct PsiSummary {
    full: StallSummary,
    some: StallSummary,
}

#[derive(Debug, Serialize)]
struct StallSummary {
    total: u64,
    avg10: f64,
    avg60: f64,
    avg300: f64,
}

#[derive(Debug, Serialize)]
struct NetworkSummary {
    time: Seconds,
    #[serde(flatten)]
    default: Option<InterfaceSummary>,
    interfaces: Vec<InterfaceSummary>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InterfaceSummary {
    name: String,
    rx_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rx_errors: Option<u64>,
    tx_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx_errors: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FsSummary {
    time: Seconds,
    available_bytes: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    inodes_free: u64,
    inodes: u64,
    inodes_used: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VolumeSummary {
    #[serde(flatten)]
    fs: FsSummary,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pvc_ref: Option<ClaimReference>,
}

#[derive(Debug, Serialize)]
struct ClaimReference {
    name: String,
    namespace: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeSummary {
    image_fs: FsSummary,
    container_fs: FsSummary,
}

#[derive(Debug, Serialize)]
struct ProcessLimit {
    time: Seconds,
    maxpid: u64,
    curproc: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SwapSummary {
    time: Seconds,
    swap_available_bytes: u64,
    swap_usage_bytes: u64,
}

/// A time as Kubernetes writes it: whole seconds of UTC.
#[derive(Clone, Copy, Debug)]
struct Seconds(Timestamp);

impl Serialize for Seconds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.strftime("%Y-%m-%dT%H:%M:%SZ"))
    }
}

impl Summary {
    /// The summary of what was seen; without all that is neither processor time nor memory, where only these are asked for.
    pub(super) fn of(usage: &NodeUsage, only_cpu_and_memory: bool) -> Self {
        let disks = usage.disks.as_ref().filter(|_| !only_cpu_and_memory);
        Self {
            node: node(usage, disks, only_cpu_and_memory),
            pods: usage.pods.iter().map(|pod| pod_summary(pod, disks, !only_cpu_and_memory)).collect(),
        }
    }
}

fn node(usage: &NodeUsage, disks: Option<&NodeDisks>, only_cpu_and_memory: bool) -> NodeSummary {
    let MachineUsage { at, memory, .. } = usage.machine;
    let machine = &usage.machine;
    let whole = !only_cpu_and_memory;
    let psi = |pressure: Option<Pressure>| pressure.filter(|_| whole).map(psi);
    NodeSummary {
        node_name: usage.name.clone(),
        system_containers: vec![
            SystemContainer {
                name: "kubelet",
                start_time: usage.agent.started_at.map(Seconds),
                cpu: cpu(usage.agent.cpu, at),
                memory: MemorySummary {
                    rss_bytes: Some(usage.agent.resident),
                    ..memory_summary(usage.agent.resident, at)
                },
            },
            SystemContainer {
                name: "pods",
                start_time: usage.agent.started_at.map(Seconds),
                cpu: cpu(usage.pods_cpu, at),
                memory: memory_summary(usage.pods_memory(), at),
            },
        ],
        start_time: machine.booted_at.map(Seconds),
        cpu: CpuSummary { psi: psi(machine.cpu_pressure), ..cpu(machine.cpu, at) },
        memory: MemorySummary {
            time: Seconds(at),
            available_bytes: Some(memory.available()),
            usage_bytes: memory.used,
            working_set_bytes: memory.working_set,
            rss_bytes: Some(memory.anonymous),
            psi: psi(machine.memory_pressure),
        },
        io: psi(machine.io_pressure).map(|psi| IoSummary { time: Seconds(at), psi }),
        network: whole.then(|| network(machine)),
        fs: disks.map(|disks| fs(&disks.root, of_disk(&disks.root), disks.at)),
        runtime: disks.map(|disks| RuntimeSummary {
            image_fs: fs(
                &disks.images,
                Written { bytes: disks.image_bytes, ..of_disk(&disks.images) },
                disks.at,
            ),
            container_fs: fs(&disks.root, disks.written, disks.at),
        }),
        rlimit: machine.processes.filter(|_| whole).map(|processes| ProcessLimit {
            time: Seconds(at),
            maxpid: processes.limit,
            curproc: processes.current,
        }),
        swap: SwapSummary {
            time: Seconds(at),
            swap_available_bytes: memory.swap_free,
            swap_usage_bytes: memory.swap_total.saturating_sub(memory.swap_free),
        },
    }
}

fn pod_summary(pod: &PodUsage, disks: Option<&NodeDisks>, whole: bool) -> PodSummary {
    let at = pod.at();
    let limits = pod.containers.iter().map(|container| container.memory_limit);
    // A pod has a limit where all of its containers have one.
    let limit = limits.clone().all(|limit| limit > 0).then(|| limits.fold(0, u64::saturating_add));
    let storage = pod.storage.as_ref().zip(disks);
    let ephemeral = storage.map(|(storage, disks)| fs(&disks.root, storage.ephemeral(), storage.at));
    PodSummary {
        pod_ref: PodReference {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            uid: pod.uid.clone(),
        },
        start_time: pod.started_at.map(Seconds),
        containers: pod.containers.iter().map(|container| container_summary(container, storage)).collect(),
        cpu: cpu(pod.cpu, at),
        memory: limited(pod.memory(), limit, at),
        network: if whole { pod_network(pod, at) } else { None },
        volumes: storage.map_or_else(Vec::new, |(storage, _)| {
            storage.volumes.iter().map(|volume| volume_summary(volume, pod, storage.at)).collect()
        }),
        ephemeral_storage: ephemeral,
    }
}

fn container_summary(
    container: &ContainerUsage,
    storage: Option<(&PodStorage, &NodeDisks)>,
) -> ContainerSummary {
    let written =
        storage.and_then(|(storage, disks)| Some((storage.of(&container.name)?, storage.at, disks)));
    let limit = Some(container.memory_limit).filter(|limit| *limit > 0);
    ContainerSummary {
        name: container.name.clone(),
        start_time: Seconds(container.started_at),
        cpu: cpu(container.cpu, container.at),
        memory: limited(container.memory, limit, container.at),
        rootfs: written.map(|(written, at, disks)| fs(&disks.root, written.root, at)),
        logs: written.map(|(written, at, disks)| fs(&disks.logs, written.logs, at)),
    }
}

fn volume_summary(volume: &VolumeStorage, pod: &PodUsage, at: Timestamp) -> VolumeSummary {
    VolumeSummary {
        fs: fs(&volume.disk, volume.written, at),
        name: volume.name.clone(),
        pvc_ref: volume
            .claim
            .as_ref()
            .map(|claim| ClaimReference { name: claim.clone(), namespace: pod.namespace.clone() }),
    }
}

fn cpu(cpu: CpuUsage, at: Timestamp) -> CpuSummary {
    CpuSummary {
        time: Seconds(at),
        usage_nano_cores: cpu.nano_cores,
        usage_core_nano_seconds: u64::try_from(cpu.used.as_nanos()).unwrap_or(u64::MAX),
        psi: None,
    }
}

fn memory_summary(bytes: u64, at: Timestamp) -> MemorySummary {
    MemorySummary {
        time: Seconds(at),
        available_bytes: None,
        usage_bytes: bytes,
        working_set_bytes: bytes,
        rss_bytes: None,
        psi: None,
    }
}

fn limited(bytes: u64, limit: Option<u64>, at: Timestamp) -> MemorySummary {
    let available_bytes = limit.map(|limit| limit.saturating_sub(bytes));
    MemorySummary { available_bytes, ..memory_summary(bytes, at) }
}

fn psi(pressure: Pressure) -> PsiSummary {
    let stall = |stall: Stall| {
        let Stall { avg10, avg60, avg300, total_nanos } = stall;
        StallSummary { total: total_nanos, avg10, avg60, avg300 }
    };
    PsiSummary { full: stall(pressure.full), some: stall(pressure.some) }
}

fn network(machine: &MachineUsage) -> NetworkSummary {
    let interface = |interface: &Interface| InterfaceSummary {
        name: interface.name.clone(),
        rx_bytes: interface.received.bytes,
        rx_errors: Some(interface.received.errors),
        tx_bytes: interface.sent.bytes,
        tx_errors: Some(interface.sent.errors),
    };
    let is_default = |interface: &&Interface| Some(&interface.name) == machine.default_interface.as_ref();
    NetworkSummary {
        time: Seconds(machine.at),
        default: machine.interfaces.iter().find(is_default).map(interface),
        interfaces: machine.interfaces.iter().map(interface).collect(),
    }
}

/// Of a pod, errors are the kernel's matter and not known.
fn pod_network(pod: &PodUsage, at: Timestamp) -> Option<NetworkSummary> {
    let traffic = pod.counted_traffic()?;
    let interface = || InterfaceSummary {
        name: PodUsage::INTERFACE.to_owned(),
        rx_bytes: traffic.received_bytes,
        rx_errors: None,
        tx_bytes: traffic.sent_bytes,
        tx_errors: None,
    };
    Some(NetworkSummary { time: Seconds(at), default: Some(interface()), interfaces: vec![interface()] })
}

fn of_disk(disk: &Disk) -> Written {
    Written {
        bytes: disk.capacity.saturating_sub(disk.free),
        inodes: disk.inodes.saturating_sub(disk.inodes_free),
    }
}

fn fs(disk: &Disk, used: Written, at: Timestamp) -> FsSummary {
    FsSummary {
        time: Seconds(at),
        available_bytes: disk.available,
        capacity_bytes: disk.capacity,
        used_bytes: used.bytes,
        inodes_free: disk.inodes_free,
        inodes: disk.inodes,
        inodes_used: used.inodes,
    }
}

#[cfg(test)]
mod tests;
