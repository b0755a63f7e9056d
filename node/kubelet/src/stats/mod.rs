//! What the node, its pods and their containers use, for `/stats/summary`, `/metrics/resource` and `/metrics/cadvisor`.
//!
//! ```text
//! Runtime::stats ──► Sampler (pure: sums, rates) ─┐
//! /proc ───────────► machine                      ├─► NodeUsage ─┬─► summary   (pure)
//! directories ─────► StorageMeter (when asked)  ──┘              ├─► resource  (pure)
//!                                                                └─► cadvisor  (pure)
//! ```
//!
//! Providers are asked every ten seconds, which rates are made of, and when somebody asks here; several who ask within a
//! second get one answer. What containers use is their own account with their worker: there is no process, and no cgroup,
//! of one container.

mod cadvisor;
mod machine;
mod resource;
mod sampler;
pub(crate) mod storage;
mod summary;
mod usage;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::Mutex;

pub(crate) use self::machine::{ProcessTimes, booted_at, kibibytes};
use self::{
    sampler::{Rate, Sampler},
    storage::StorageMeter,
    summary::Summary,
    usage::{NodeDisks, NodeUsage, PodUsage, Written},
};
use crate::{
    eviction::PodMemoryUsage,
    exposition::{Family, Kind},
    oom_events::OomEvents,
    pods::{PodIndex, Records, Volumes},
    runtime::Runtime,
    supply::Disk,
};

/// How often providers are asked without anybody else asking.
const LOOK: Duration = Duration::from_secs(10);
/// For how long an answer is good for others who ask.
const FRESH: Duration = Duration::from_secs(1);

/// What the statistics of a node are made from.
#[derive(Debug)]
pub struct StatsParts {
    /// The node's name.
    pub node_name: String,
    /// What runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Which pods there are.
    pub index: PodIndex,
    /// Where pods write.
    pub records: Records,
    /// Their volumes.
    pub volumes: Arc<Volumes>,
    /// How often their containers have ended by their memory limit.
    pub oom_events: OomEvents,
    /// Where their logs are.
    pub logs_dir: PathBuf,
    /// Where the node keeps all else.
    pub root_dir: PathBuf,
    /// How long a measurement of what a pod has written is good for (`volumeStatsAggPeriod`); `None` measures nothing.
    pub storage_period: Option<Duration>,
}

/// The statistics of a node. Clones share what was seen.
#[derive(Clone, Debug)]
pub struct NodeStats {
    node_name: String,
    runtime: Arc<dyn Runtime>,
    index: PodIndex,
    logs_dir: PathBuf,
    root_dir: PathBuf,
    storage: StorageMeter,
    oom_events: OomEvents,
    seen: Arc<Mutex<Seen>>,
}

/// What was seen last.
#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    sampler: Sampler,
    node: Rate,
    agent: Rate,
    usage: NodeUsage,
}

impl NodeStats {
    /// Puts them together; nothing is measured yet.
    #[must_use]
    pub fn new(parts: StatsParts) -> Self {
        let StatsParts {
            node_name,
            runtime,
            index,
            records,
            volumes,
            oom_events,
            logs_dir,
            root_dir,
            storage_period,
        } = parts;
        let storage = StorageMeter::new(records, volumes, logs_dir.clone(), storage_period);
        Self { node_name, runtime, index, logs_dir, root_dir, storage, oom_events, seen: Arc::default() }
    }

    /// Looks again and again, for ever.
    pub(crate) async fn follow(self) {
        loop {
            self.usage().await;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The answer of `/stats/summary`; without what takes a walk through directories, where only the processors and
    /// memory are asked for.
    pub(crate) async fn summary(&self, only_cpu_and_memory: bool) -> Summary {
        let mut usage = self.usage().await;
        if !only_cpu_and_memory {
            let pods = self.index.pods();
            let mut storage = self.storage.of(&pods).await;
            for pod in &mut usage.pods {
                pod.storage = storage.remove(&pod.uid).map(Arc::unwrap_or_clone);
            }
            usage.disks = self.disks(&usage.pods).await;
        }
        Summary::of(&usage, only_cpu_and_memory)
    }

    /// The families of `/metrics/resource`.
    pub(crate) async fn resource(&self) -> Vec<Family> {
        resource::families(&self.usage().await)
    }

    /// The families of `/metrics/cadvisor`.
    pub(crate) async fn cadvisor(&self) -> Vec<Family> {
        let mut usage = self.usage().await;
        let mut storage = self.storage.of(&self.index.pods()).await;
        for pod in &mut usage.pods {
            pod.storage = storage.remove(&pod.uid).map(Arc::unwrap_or_clone);
        }
        let pods = self.index.pods();
        cadvisor::families(&usage)
            .into_iter()
            .chain([cadvisor::oom_events(&pods, &self.oom_events)])
            .collect()
    }

    /// Those of `/metrics` that are of pods: what their claims and logs take, and what holds their containers up.
    pub(crate) async fn of_pods(&self) -> Vec<Family> {
        let usage = self.usage().await;
        let storage = self.storage.of(&self.index.pods()).await;
        let mut families = claims_and_logs(&usage.pods, &storage);
        families.extend(turns(&usage.pods));
        families
    }

    /// What each pod takes of memory now, by UID; pods of which nobody says anything are missing. Providers are asked,
    /// whoever has asked a moment ago: a pod that has just been started is not to be taken for one that nobody knows.
    pub(crate) async fn memory(&self) -> HashMap<String, PodMemoryUsage> {
        let usage = self.look(&mut *self.seen.lock().await).await;
        let of = |pod: PodUsage| {
            let containers = pod.containers.into_iter().map(|container| (container.name, container.memory));
            (pod.uid, PodMemoryUsage { containers: containers.collect(), volumes: pod.volumes_in_memory })
        };
        usage.pods.into_iter().map(of).collect()
    }

    /// Bytes of memory that all pods take together, now or a moment ago.
    pub(crate) async fn pods_memory(&self) -> u64 {
        self.usage().await.pods_memory()
    }

    /// What is used now, or was a moment ago.
    async fn usage(&self) -> NodeUsage {
        let mut seen = self.seen.lock().await;
        if seen.at.is_some_and(|at| at.elapsed() < FRESH) {
            return seen.usage.clone();
        }
        self.look(&mut seen).await
    }

    async fn look(&self, seen: &mut Seen) -> NodeUsage {
        let stats = self.runtime.stats().await;
        let (storage, all) = (self.storage.clone(), self.index.pods());
        let kernel = move || (machine::machine(), machine::agent(), storage.in_memory(&all));
        let (mut machine, mut agent, mut volumes) =
            tokio::task::spawn_blocking(kernel).await.unwrap_or_default();
        let now = Timestamp::now();
        seen.sampler.take_in(stats);
        let (mut pods, pods_cpu) = seen.sampler.usage(&self.index.pods(), now);
        for pod in &mut pods {
            pod.volumes_in_memory = volumes.remove(&pod.uid).unwrap_or(0);
        }
        machine.cpu = seen.node.observe(machine.at, machine.cpu.used);
        agent.cpu = seen.agent.observe(now, agent.cpu.used);
        let name = self.node_name.clone();
        seen.usage = NodeUsage { name, machine, agent, pods_cpu, pods, disks: None };
        seen.at = Some(Instant::now());
        seen.usage.clone()
    }

    async fn disks(&self, pods: &[PodUsage]) -> Option<NodeDisks> {
        let images =
            self.runtime.images().await.iter().map(|image| image.size_bytes).fold(0, u64::saturating_add);
        let containers =
            pods.iter().filter_map(|pod| pod.storage.as_ref()).flat_map(|storage| &storage.containers);
        let written = containers.map(|container| container.root).fold(Written::default(), Written::plus);
        let image_dir = self.runtime.image_dir().unwrap_or_else(|| self.root_dir.clone());
        let (root, logs) = (self.root_dir.clone(), self.logs_dir.clone());
        let look = move || {
            Some(NodeDisks {
                at: Timestamp::now(),
                root: Disk::of(&root).ok()?,
                images: Disk::of(&image_dir).ok()?,
                logs: Disk::of(&logs).ok()?,
                image_bytes: images,
                written,
            })
        };
        tokio::task::spawn_blocking(look).await.ok().flatten()
    }
}

/// How containers have shared the processors.
fn turns(pods: &[PodUsage]) -> Vec<Family> {
    let help = "Seconds for which a container was held back by its limit of the processors; of several guests at a time, the sum";
    let mut throttled = Family::new("kubewasm_container_cpu_throttled_seconds_total", Kind::Counter, help);
    let help = "Times that a guest was made to let others go on: at a tick that it had computed through";
    let mut yields = Family::new("kubewasm_container_epoch_yields_total", Kind::Counter, help);
    let help = "Bytes that a container has on its account: linear memories and tables, and what the host holds for it";
    let mut memory = Family::new("kubewasm_container_memory_bytes", Kind::Gauge, help);
    for pod in pods {
        for container in &pod.containers {
            let labels =
                [("namespace", &*pod.namespace), ("pod", &*pod.name), ("container", &*container.name)];
            throttled.add(&labels, container.throttled.as_secs_f64(), None);
            yields.add(&labels, as_f64(container.yields), None);
            memory.add(&labels, as_f64(container.memory), None);
        }
    }
    vec![throttled, yields, memory]
}

/// What upstream's collectors of volumes and logs show.
fn claims_and_logs(pods: &[PodUsage], storage: &HashMap<String, Arc<usage::PodStorage>>) -> Vec<Family> {
    type Field = fn(&usage::VolumeStorage) -> u64;
    let fields: [(&'static str, &'static str, Field); 6] = [
        ("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume", |v| v.disk.capacity),
        ("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume", |v| {
            v.disk.available
        }),
        ("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume", |v| v.written.bytes),
        ("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume", |v| v.disk.inodes),
        ("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume", |v| v.disk.inodes_free),
        ("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume", |v| v.written.inodes),
    ];
    let mut families: Vec<(Family, Field)> =
        fields.into_iter().map(|(name, help, field)| (Family::new(name, Kind::Gauge, help), field)).collect();
    let help = "Bytes used by the container's logs on the filesystem.";
    let mut logs = Family::new("kubelet_container_log_filesystem_used_bytes", Kind::Gauge, help);
    // A claim that several pods use is told of once.
    let mut told = HashSet::new();
    for pod in pods {
        let Some(storage) = storage.get(&pod.uid) else { continue };
        for volume in &storage.volumes {
            let Some(claim) = &volume.claim else { continue };
            if !told.insert((pod.namespace.clone(), claim.clone())) {
                continue;
            }
            for (family, field) in &mut families {
                let labels = [("namespace", &*pod.namespace), ("persistentvolumeclaim", claim)];
                family.add(&labels, as_f64(field(volume)), None);
            }
        }
        for container in &pod.containers {
            let Some(storage) = storage.of(&container.name) else { continue };
            let labels = [
                ("uid", &*pod.uid),
                ("namespace", &*pod.namespace),
                ("pod", &*pod.name),
                ("container", &*container.name),
            ];
            logs.add(&labels, as_f64(storage.logs.bytes), None);
        }
    }
    families.into_iter().map(|(family, _)| family).chain([logs]).collect()
}

/// A count as samples have it: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "samples are floating-point numbers")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
