//! Volumes of pods, from what a pod asks for to paths that a container can be given.
//!
//! ```text
//! pod ─► source: what each volume is made of (pure)
//!          │
//!          ▼
//!        Keeper, one per pod ─┬─ objects: config maps, secrets; token, trust: the rest
//!          │                  ├─ payload: objects ─► paths, bytes, modes (pure)
//!          │                  └─ atomic: paths, bytes, modes ─► files, replaced as a whole
//!          ├─ empty_dir, host_path, claim ─► folders of the node
//!          ▼
//!        Places ─► plan: which of them a container mounts where (pure) ─► resolve: sub-paths ─► runtime::Mount
//! ```
//!
//! No container of a pod begins before all volumes that its containers mount are there; a volume that cannot
//! be set up keeps the pod waiting, and an Event says why. A projected volume follows its objects for as long
//! as the pod lives. Everything goes when nothing of the pod runs any more.
//!
//! On disk: `<root>/pods/<uid>/volumes/kubernetes.io~<kind>/<name>`, as upstream has it, and below
//! `<root>/memory/<uid>` for what is kept in memory (see [`Memory`]).

mod atomic;
mod beneath;
mod claim;
mod empty_dir;
mod host_path;
mod keeper;
mod memory;
mod mounted;
mod mountinfo;
mod payload;
pub(super) mod plan;
mod protected;
mod resolve;
pub(super) mod source;
mod token;
mod trust;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;

pub(crate) use self::mounted::{MountedVolumes, desired};
pub use self::{host_path::AllowedHostPaths, memory::Memory, protected::ProtectedPaths};
pub(super) use self::{
    keeper::{Keeper, KeeperParts},
    resolve::{env_files, make_mount_points, mounts},
};
use super::{
    api::Cluster,
    files::resolv_conf,
    objects::{LocalObjects, ObjectSource},
    records::Records,
};
use crate::{
    runtime::Mount,
    stats::storage::{VolumeDir, volume_dirs},
    supply::Disk,
};

/// What the volumes and files of all pods of a node are made with.
#[derive(Clone, Debug, Default)]
pub struct VolumeSettings {
    /// Paths of the node that pods may mount.
    pub allowed_host_paths: AllowedHostPaths,
    /// How pods resolve names.
    pub dns: resolv_conf::DnsSettings,
    /// The node's own `resolv.conf`; empty is none.
    pub resolv_conf: PathBuf,
    /// Where volumes are kept in memory; `None` keeps them on disk.
    pub memory: Option<Memory>,
}

/// The volumes of a node.
#[derive(Debug)]
pub struct Volumes {
    settings: VolumeSettings,
    objects: Arc<dyn ObjectSource>,
    has_cluster: bool,
    mounted: MountedVolumes,
}

/// Where volumes are, by name.
pub(super) type VolumePlaces = Arc<BTreeMap<String, VolumePlace>>;

/// Where a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VolumePlace {
    /// A path of the node without links; `read_only` whatever a mount says.
    Path { path: PathBuf, read_only: bool },
    /// The files of an image, by its name.
    Image(String),
}

impl Volumes {
    /// Volumes of a node of a cluster.
    #[must_use]
    pub fn new(cluster: &Cluster, settings: VolumeSettings) -> Self {
        Self {
            settings,
            objects: cluster.object_source(),
            has_cluster: true,
            mounted: MountedVolumes::default(),
        }
    }

    /// Volumes of pods that no cluster knows, with the config maps and secrets that they may be made from.
    #[must_use]
    pub fn alone(settings: VolumeSettings, objects: LocalObjects) -> Self {
        Self { settings, objects: Arc::new(objects), has_cluster: false, mounted: MountedVolumes::default() }
    }

    /// Volumes made from these objects, for tests.
    #[cfg(test)]
    pub(super) fn with(objects: Arc<dyn ObjectSource>, settings: VolumeSettings) -> Self {
        Self { settings, objects, has_cluster: true, mounted: MountedVolumes::default() }
    }

    pub(super) fn settings(&self) -> &VolumeSettings {
        &self.settings
    }

    /// Which volumes are set up, and how long that took.
    pub(crate) fn mounted(&self) -> &MountedVolumes {
        &self.mounted
    }

    /// There are claims, tokens and trust bundles to make volumes from.
    pub(super) fn has_cluster(&self) -> bool {
        self.has_cluster
    }

    /// True for a path that is in a volume which the node has made for this pod.
    pub(super) fn is_own(&self, records: &Records, uid: &str, path: &Path) -> bool {
        let memory = self.settings.memory.as_ref().map(|memory| memory.pod_dir(uid));
        std::iter::once(disk(records, uid)).chain(memory).any(|dir| path.starts_with(dir))
    }

    /// Where a container mounts volumes of medium Memory that it may fill.
    pub(super) fn memory_paths(&self, pod: &Pod, mounts: &[Mount]) -> Vec<String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let Some(memory) = &self.settings.memory else { return Vec::new() };
        let dir = volume_dir(memory.pod_dir(uid), empty_dir::PLUGIN, "");
        let paths = mounts.iter().filter(|mount| !mount.read_only && mount.host_path.starts_with(&dir));
        paths.map(|mount| mount.guest_path.clone()).collect()
    }

    /// What the node's own `resolv.conf` says.
    ///
    /// # Errors
    /// The message for the user.
    pub(super) fn node_dns(&self) -> Result<resolv_conf::Dns, String> {
        resolv_conf::read(&self.settings.resolv_conf)
    }

    /// The folder of a volume: `memory` asks for one in memory, where there is such a place.
    fn dir(&self, records: &Records, uid: &str, plugin: &str, name: &str, memory: bool) -> PathBuf {
        let memory = self.settings.memory.as_ref().filter(|_| memory);
        let root = memory.map_or_else(|| disk(records, uid), |memory| memory.pod_dir(uid));
        volume_dir(root, plugin, name)
    }

    /// The volumes of a pod that are directories of this node, claims included. Blocking.
    pub(crate) fn dirs(&self, records: &Records, uid: &str) -> Vec<VolumeDir> {
        let memory = self.settings.memory.as_ref().map(|memory| volume_dirs(&memory.pod_dir(uid), true));
        let claims = self.mounted.claims(uid).into_iter();
        let claims = claims.map(|(name, path)| VolumeDir { name, path, in_memory: false });
        let own = volume_dirs(&disk(records, uid), false).into_iter().chain(memory.unwrap_or_default());
        own.chain(claims).collect()
    }

    /// Bytes that are in a pod's volumes of medium Memory. Each is a file system, so that nothing is walked. Blocking.
    pub(crate) fn bytes_in_memory(&self, pod: &Pod) -> u64 {
        let (Some(memory), Some(spec)) = (&self.settings.memory, &pod.spec) else { return 0 };
        let root = memory.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
        let volumes = spec.volumes.iter().flatten();
        let in_memory = volumes.filter(|volume| volume.empty_dir.as_ref().is_some_and(empty_dir::is_memory));
        let dirs = in_memory.map(|volume| volume_dir(root.clone(), empty_dir::PLUGIN, &volume.name));
        let disks = dirs.filter(|dir| dir.exists()).filter_map(|dir| Disk::of(&dir).ok());
        disks.map(|disk| disk.capacity.saturating_sub(disk.free)).fold(0, u64::saturating_add)
    }

    /// Removes all volumes of a pod; nothing of it may run any more. What its hostPath volumes and claims
    /// point to is not touched: it was never below the pod's folders. Blocking.
    ///
    /// # Errors
    /// What the system says; to be tried again.
    pub(super) fn remove(&self, records: &Records, uid: &str) -> io::Result<()> {
        for dir in [Some(disk(records, uid)), self.settings.memory.as_ref().map(|m| m.pod_dir(uid))] {
            let Some(dir) = dir.filter(|dir| dir.exists()) else { continue };
            memory::unmount_below(&dir)?;
            kubewasm_trees::remove(&dir)?;
        }
        self.mounted.forget(uid);
        Ok(())
    }

    /// UIDs of all pods that have volumes in memory.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn uids(&self) -> io::Result<BTreeSet<String>> {
        let uids = self.settings.memory.as_ref().map_or_else(|| Ok(Vec::new()), Memory::uids)?;
        Ok(uids.into_iter().collect())
    }
}

/// The folder of a volume below that of its pod's volumes.
fn volume_dir(root: PathBuf, plugin: &str, name: &str) -> PathBuf {
    root.join(format!("kubernetes.io~{plugin}")).join(name)
}

fn disk(records: &Records, uid: &str) -> PathBuf {
    records.dir(uid).join("volumes")
}

/// Makes a folder below the pod's own, which nobody else can enter.
fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(volumes) = path.parent().and_then(Path::parent) {
        memory::make_private(volumes)?;
    }
    fs::create_dir_all(path)?;
    // The process's umask has no say.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}
