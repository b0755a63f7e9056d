//! Which volumes of pods are set up, for those who count and measure them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::Registry,
};

use super::{
    VolumePlace,
    source::{self, VolumeSource},
};

/// Seconds; upstream's for `storage_operation_duration_seconds`.
const BUCKETS: [f64; 11] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0];

/// The volumes that are set up, by pod and name, and how long that took. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct MountedVolumes {
    volumes: Arc<Mutex<BTreeMap<(String, String), MountedVolume>>>,
    durations: Family<StorageOperation, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug)]
struct MountedVolume {
    plugin: String,
    /// Where it is, if it is of a claim.
    claim: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StorageOperation {
    volume_plugin: String,
    operation_name: &'static str,
    status: &'static str,
    migrated: &'static str,
}

impl Default for MountedVolumes {
    fn default() -> Self {
        Self { volumes: Arc::default(), durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)) }
    }
}

impl MountedVolumes {
    /// Shows how long the set-up of volumes took among the metrics of `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Storage operation duration";
        registry.register("storage_operation_duration_seconds", help, self.durations.clone());
    }

    /// How many of each plugin are set up.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        count(self.lock().values().map(|volume| volume.plugin.clone()))
    }

    /// It was tried to set a volume up.
    pub(super) fn note(
        &self,
        uid: &str,
        name: &str,
        source: &VolumeSource,
        place: Result<&VolumePlace, ()>,
        took: Duration,
    ) {
        let plugin = plugin(source);
        let operation = StorageOperation {
            volume_plugin: plugin.clone(),
            operation_name: "volume_mount",
            status: if place.is_ok() { "success" } else { "fail-unknown" },
            migrated: "false",
        };
        self.durations.get_or_create(&operation).observe(took.as_secs_f64());
        let Ok(place) = place else { return };
        let claim = match (source, place) {
            (VolumeSource::Claim(_), VolumePlace::Path { path, .. }) => Some(path.clone()),
            _ => None,
        };
        self.lock().insert((uid.to_owned(), name.to_owned()), MountedVolume { plugin, claim });
    }

    /// The volumes of a pod are gone.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().retain(|(of, _), _| of != uid);
    }

    /// The claims of a pod, by name of the volume.
    pub(super) fn claims(&self, uid: &str) -> Vec<(String, PathBuf)> {
        let volumes = self.lock();
        let of_pod = volumes.iter().filter(|((of, _), _)| of == uid);
        of_pod.filter_map(|((_, name), volume)| Some((name.clone(), volume.claim.clone()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), MountedVolume>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of each plugin a pod wants set up.
pub(crate) fn desired(pod: &Pod) -> BTreeMap<String, usize> {
    count(source::used(pod).into_iter().map(|(_, source)| plugin(&source)))
}

fn count(plugins: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    plugins.fold(BTreeMap::new(), |mut counts, plugin| {
        *counts.entry(plugin).or_default() += 1;
        counts
    })
}

/// The name of the plugin that upstream has for volumes of this kind.
fn plugin(source: &VolumeSource) -> String {
    match source {
        VolumeSource::Projected(projected) => format!("kubernetes.io/{}", projected.plugin),
        VolumeSource::EmptyDir(_) => "kubernetes.io/empty-dir".to_owned(),
        VolumeSource::HostPath(_) => "kubernetes.io/host-path".to_owned(),
        VolumeSource::Claim(_) => "kubernetes.io/local-volume".to_owned(),
        VolumeSource::Image(_) => "kubernetes.io/image".to_owned(),
        VolumeSource::Unsupported(kind) => format!("kubernetes.io/{kind}"),
    }
}
