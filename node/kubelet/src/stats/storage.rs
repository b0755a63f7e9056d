//! What pods have written, measured when somebody asks, and then not again for a while.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Semaphore;

use super::usage::{ContainerStorage, PodStorage, VolumeStorage, Written};
use crate::{
    logs,
    pods::{Records, Volumes},
    supply::Disk,
};

/// Pods that are measured at once.
const AT_ONCE: usize = 4;
/// How long one who asks waits for measurements; what comes later is there the next time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Measures pods.
#[derive(Clone, Debug)]
pub(super) struct StorageMeter {
    records: Records,
    volumes: Arc<Volumes>,
    logs_dir: PathBuf,
    /// How long a measurement is good for; `None` measures nothing.
    lasts: Option<Duration>,
    slots: Arc<Semaphore>,
    measured: Arc<Mutex<HashMap<String, Measurement>>>,
}

/// The newest measurement of a pod.
#[derive(Clone, Debug)]
struct Measurement {
    begun: Instant,
    storage: Option<Arc<PodStorage>>,
    /// Another one is under way.
    is_busy: bool,
}

/// Which directories are a pod's.
struct PodDirs {
    uid: String,
    /// By name: what it writes outside volumes, and its logs.
    containers: Vec<(String, PathBuf, PathBuf)>,
}

impl StorageMeter {
    pub(super) fn new(
        records: Records,
        volumes: Arc<Volumes>,
        logs_dir: PathBuf,
        lasts: Option<Duration>,
    ) -> Self {
        Self {
            records,
            volumes,
            logs_dir,
            lasts,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            measured: Arc::default(),
        }
    }

    /// What these pods have written, by UID. They are all that there are; others are forgotten.
    pub(super) async fn of(&self, pods: &[Arc<Pod>]) -> HashMap<String, Arc<PodStorage>> {
        let begun = self.begin(pods, Instant::now());
        let _ = tokio::time::timeout(PATIENCE, futures::future::join_all(begun)).await;
        self.known()
    }

    /// What is known already.
    pub(super) fn known(&self) -> HashMap<String, Arc<PodStorage>> {
        let known = |(uid, measurement): (&String, &Measurement)| {
            Some((uid.clone(), Arc::clone(measurement.storage.as_ref()?)))
        };
        self.lock().iter().filter_map(known).collect()
    }

    /// Bytes that are in volumes of medium Memory of these pods, by UID. Blocking.
    pub(super) fn in_memory(&self, pods: &[Arc<Pod>]) -> HashMap<String, u64> {
        let of = |pod: &Arc<Pod>| Some((pod.metadata.uid.clone()?, self.volumes.bytes_in_memory(pod)));
        pods.iter().filter_map(of).filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// Begins to measure those whose measurement is old.
    fn begin(&self, pods: &[Arc<Pod>], now: Instant) -> Vec<tokio::task::JoinHandle<()>> {
        let Some(lasts) = self.lasts else { return Vec::new() };
        let mut measured = self.lock();
        let is_here = |uid: &String| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid));
        if measured.len() > pods.len() {
            measured.retain(|uid, _| is_here(uid));
        }
        let mut begun = Vec::new();
        for pod in pods {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            let known = measured.get(&uid);
            let is_fresh = known.is_some_and(|known| {
                known.is_busy || (known.storage.is_some() && now.duration_since(known.begun) < lasts)
            });
            if is_fresh {
                continue;
            }
            let storage = known.and_then(|known| known.storage.clone());
            measured.insert(uid, Measurement { begun: now, storage, is_busy: true });
            let (meter, pod) = (self.clone(), Arc::clone(pod));
            begun.push(tokio::spawn(async move { meter.measure(pod).await }));
        }
        begun
    }

    async fn measure(self, pod: Arc<Pod>) {
        let Ok(_permit) = self.slots.acquire().await else { return };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let dirs = self.dirs(&pod, &uid);
        let (volumes, records) = (Arc::clone(&self.volumes), self.records.clone());
        let look = move || measure(&pod, &dirs, &volumes, &records);
        let storage = tokio::task::spawn_blocking(look).await.ok();
        if let Some(measurement) = self.lock().get_mut(&uid) {
            measurement.is_busy = false;
            if let Some(storage) = storage {
                measurement.storage = Some(Arc::new(storage));
            }
        }
    }

    fn dirs(&self, pod: &Pod, uid: &str) -> PodDirs {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (namespace, name) = (text(&pod.metadata.namespace), text(&pod.metadata.name));
        let logs = logs::pod_dir(&self.logs_dir, &namespace, &name, uid);
        let spec = pod.spec.iter();
        let names = spec.flat_map(|spec| {
            let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.name);
            plain.map(|container| &container.name).chain(ephemeral)
        });
        let dirs = |name: &String| (name.clone(), self.records.container_dir(uid, name), logs.join(name));
        PodDirs { uid: uid.to_owned(), containers: names.map(dirs).collect() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Measurement>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Measures a pod. Blocking.
fn measure(pod: &Pod, dirs: &PodDirs, volumes: &Volumes, records: &Records) -> PodStorage {
    let containers = dirs.containers.iter().map(|(name, root, logs)| ContainerStorage {
        name: name.clone(),
        root: written(root),
        logs: written(logs),
    });
    let claim_of = |name: &str| {
        let mut named = pod.spec.as_ref()?.volumes.iter().flatten().filter(|volume| volume.name == name);
        named.next()?.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone())
    };
    let volumes = volumes.dirs(records, &dirs.uid).into_iter().filter_map(|dir| {
        let claim = claim_of(&dir.name);
        Some(VolumeStorage {
            disk: Disk::of(&dir.path).ok()?,
            // A claim has a file system, or a part of one, for itself: upstream does not walk it either.
            written: if claim.is_some() { of_disk(&dir.path) } else { written(&dir.path) },
            in_memory: dir.in_memory,
            name: dir.name,
            claim,
        })
    });
    PodStorage { at: Timestamp::now(), containers: containers.collect(), volumes: volumes.collect() }
}

fn of_disk(dir: &Path) -> Written {
    let disk = Disk::of(dir).unwrap_or_default();
    Written {
        bytes: disk.capacity.saturating_sub(disk.free),
        inodes: disk.inodes.saturating_sub(disk.inodes_free),
    }
}

fn written(dir: &Path) -> Written {
    match kubewasm_trees::measure(dir) {
        Ok(kubewasm_trees::TreeUsage { bytes, inodes }) => Written { bytes, inodes },
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!(dir = %dir.display(), %error, "cannot measure what a pod has written");
            }
            Written::default()
        }
    }
}

/// A volume of a pod on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeDir {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) in_memory: bool,
}

/// The volumes below a pod's folder of them: `kubernetes.io~<kind>/<name>`. Blocking.
pub(crate) fn volume_dirs(root: &Path, in_memory: bool) -> Vec<VolumeDir> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries(root).flat_map(|kind| entries(&kind.path()).collect::<Vec<_>>());
    let dir = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        Some(VolumeDir { name, path: entry.path(), in_memory })
    };
    named.filter_map(dir).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::{api::LocalObjects, volumes::VolumeSettings};

    fn pod() -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [{"name": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[tokio::test]
    async fn containers_have_files_and_logs_and_volumes_a_file_system() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path()).unwrap();
        let volumes = Arc::new(Volumes::alone(VolumeSettings::default(), LocalObjects::default()));
        let file = |path: PathBuf| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![1; 1 << 20]).unwrap();
        };
        file(records.container_dir("u", "a").join("0/upper/file"));
        file(root.path().join("logs/ns_p_u/a/0.log"));
        file(records.dir("u").join("volumes/kubernetes.io~empty-dir/v/file"));
        let meter = StorageMeter::new(
            records.clone(),
            volumes,
            root.path().join("logs"),
            Some(Duration::from_secs(60)),
        );
        let found = meter.of(&[pod()]).await;
        let storage = &found["u"];
        let mebibytes = |written: Written| written.bytes >> 20;
        let container = storage.of("a").unwrap();
        assert_eq!((mebibytes(container.root), mebibytes(container.logs)), (1, 1));
        assert_eq!(mebibytes(storage.ephemeral()), 3);
        let volume = &storage.volumes[0];
        assert_eq!((volume.name.as_str(), mebibytes(volume.written)), ("v", 1));
        assert!(volume.disk.capacity > 0 && !volume.in_memory && volume.claim.is_none());

        file(root.path().join("logs/ns_p_u/a/1.log"));
        assert_eq!(mebibytes(meter.of(&[pod()]).await["u"].ephemeral()), 3, "it was measured just now");
        assert!(meter.begin(&[pod()], Instant::now() + Duration::from_secs(60)).len() == 1, "not for ever");
        assert!(meter.of(&[]).await.is_empty());

        let off =
            StorageMeter::new(records.clone(), Arc::clone(&meter.volumes), root.path().join("logs"), None);
        assert!(off.of(&[pod()]).await.is_empty(), "it is turned off");
    }
}
