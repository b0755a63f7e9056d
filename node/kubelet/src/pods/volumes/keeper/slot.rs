//! One volume of a pod, and how far it is.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, HostPathVolumeSource, PersistentVolumeClaimVolumeSource, Pod,
};
use tokio::time::Instant;

use super::{
    KeeperParts, VolumePlace, empty_dir,
    needs::{Missing, Needs},
};
use crate::{
    pods::{
        api_error::ApiError,
        objects::ObjectSource,
        volumes::{
            Memory, Volumes, atomic, claim, host_path, make_dir,
            payload::Payload,
            plan::{self, MountPoints},
            source::VolumeSource,
        },
    },
    retry::Backoff,
};

/// Waits between tries of a volume that cannot be set up; upstream's numbers.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(122);

/// How long the files from before an update are kept for those who have just begun to open one.
const SWEEP_AFTER: Duration = Duration::from_secs(2);

pub(super) struct VolumeSlot {
    pub(super) name: String,
    pub(super) source: VolumeSource,
    /// Where it is, once it has been set up.
    pub(super) place: Option<VolumePlace>,
    /// What was told last, and when it is tried or told again.
    error: Option<(String, Instant)>,
    backoff: Backoff,
    sweep: Option<Instant>,
}

/// What came of a round.
pub(super) enum SetUpOutcome {
    /// There is nothing to tell.
    Nothing,
    /// It failed, and people should know.
    Failed(String),
}

impl VolumeSlot {
    pub(super) fn new(name: String, source: VolumeSource) -> Self {
        let backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        Self { name, source, place: None, error: None, backoff, sweep: None }
    }

    pub(super) fn is_projected(&self) -> bool {
        matches!(self.source, VolumeSource::Projected(_))
    }

    /// Sets the volume up, or brings it up to date.
    pub(super) async fn set_up(
        &mut self,
        pod: &Arc<Pod>,
        parts: &KeeperParts,
        needs: &mut Needs,
    ) -> SetUpOutcome {
        if self.place.is_some() && !self.is_projected() {
            return SetUpOutcome::Nothing;
        }
        let now = Instant::now();
        self.sweep(now);
        let is_due = self.error.as_ref().is_none_or(|(_, until)| *until <= now);
        let begun = std::time::Instant::now();
        let made = match &self.source {
            VolumeSource::Projected(projected) => {
                let dir = self.dir(pod, parts, projected.plugin, projected.secret);
                match needs.payload(projected, pod, &parts.node.borrow().clone()) {
                    Err(Missing::Unanswered) => {
                        self.error = None;
                        return SetUpOutcome::Nothing;
                    }
                    Err(Missing::Trouble(error)) => Err(error),
                    Ok(payload) => self.write(dir, &payload, &plan::mount_points(pod, &self.name)),
                }
            }
            _ if !is_due => return SetUpOutcome::Nothing,
            VolumeSource::EmptyDir(source) => self.empty_dir(source, pod, parts),
            VolumeSource::HostPath(source) => host_path(source.clone(), Arc::clone(&parts.volumes)).await,
            VolumeSource::Claim(source) => of_claim(source, pod, parts).await,
            VolumeSource::Image(source) => {
                Ok(VolumePlace::Image(source.reference.clone().unwrap_or_default()))
            }
            // It is not given a slot.
            VolumeSource::Unsupported(kind) => Err(format!("volumes of type {kind} cannot be mounted")),
        };
        if self.place.is_none() {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let place = made.as_ref().map_err(|_| ());
            parts.volumes.mounted().note(uid, &self.name, &self.source, place, begun.elapsed());
        }
        match made {
            Ok(place) => {
                self.place = Some(place);
                self.error = None;
                self.backoff.reset();
                SetUpOutcome::Nothing
            }
            Err(error) => {
                // A round may have had another reason: the same is not told again before its time.
                if !is_due && self.error.as_ref().is_some_and(|(told, _)| *told == error) {
                    return SetUpOutcome::Nothing;
                }
                self.error = Some((error.clone(), now + self.backoff.next()));
                SetUpOutcome::Failed(error)
            }
        }
    }

    /// When it is to be looked at again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let retry = self.error.as_ref().map(|(_, until)| *until);
        [retry, self.sweep].into_iter().flatten().min()
    }

    /// The limit that it has, and where to look.
    pub(super) fn limited(&self) -> Option<LimitedVolume> {
        let (VolumeSource::EmptyDir(source), Some(VolumePlace::Path { path, .. })) =
            (&self.source, &self.place)
        else {
            return None;
        };
        Some(LimitedVolume {
            name: self.name.clone(),
            path: path.clone(),
            bytes: empty_dir::size_limit(source)?,
            text: source.size_limit.as_ref().map(|limit| limit.0.clone()).unwrap_or_default(),
        })
    }

    fn dir(&self, pod: &Pod, parts: &KeeperParts, plugin: &str, memory: bool) -> PathBuf {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        parts.volumes.dir(&parts.records, uid, plugin, &self.name, memory)
    }

    /// Removes the files from before an update, when it is time.
    fn sweep(&mut self, now: Instant) {
        if self.sweep.is_none_or(|due| due > now) {
            return;
        }
        self.sweep = None;
        if let Some(VolumePlace::Path { path, .. }) = &self.place
            && let Err(error) = atomic::sweep(path)
        {
            tracing::debug!(volume = self.name, %error, "old files stay until the next update");
        }
    }

    /// Writes a projected volume. Files from before go a while later.
    fn write(
        &mut self,
        dir: PathBuf,
        payload: &Payload,
        mount_points: &MountPoints,
    ) -> Result<VolumePlace, String> {
        let now = Instant::now();
        let mut write = || {
            make_dir(&dir, 0o755)?;
            if atomic::write(&dir, payload, mount_points)? == atomic::Written::Files && self.place.is_some() {
                self.sweep = Some(now + SWEEP_AFTER);
            }
            Ok(())
        };
        write().map_err(|error: io::Error| format!("cannot write its files: {error}"))?;
        Ok(VolumePlace::Path { path: dir, read_only: true })
    }

    fn empty_dir(
        &self,
        source: &EmptyDirVolumeSource,
        pod: &Pod,
        parts: &KeeperParts,
    ) -> Result<VolumePlace, String> {
        let in_memory = empty_dir::is_memory(source);
        let path = self.dir(pod, parts, empty_dir::PLUGIN, in_memory);
        let make = || {
            make_dir(&path, 0o777)?;
            if in_memory && parts.volumes.settings().memory.is_some() {
                let bytes = empty_dir::memory_bytes(source, pod, &parts.node.borrow());
                Memory::mount_volume(&path, bytes)?;
            }
            Ok(())
        };
        make().map_err(|error: io::Error| format!("cannot make its folder: {error}"))?;
        Ok(VolumePlace::Path { path, read_only: false })
    }
}

/// A volume that may only grow so far.
pub(super) struct LimitedVolume {
    name: String,
    path: PathBuf,
    bytes: u64,
    /// As the pod writes it.
    text: String,
}

impl LimitedVolume {
    /// What to say when it has grown beyond its limit; upstream's words.
    pub(super) fn excess(&self) -> Option<String> {
        let used = kubewasm_trees::measure(&self.path).map_or_else(
            |error| {
                tracing::warn!(volume = self.name, %error, "the size of a volume cannot be measured");
                0
            },
            |usage| usage.bytes,
        );
        let Self { name, text, .. } = self;
        (used > self.bytes)
            .then(|| format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{text}\". "))
    }
}

/// Paths of the node may be on file systems that do not answer: nobody else waits for them.
async fn host_path(source: HostPathVolumeSource, volumes: Arc<Volumes>) -> Result<VolumePlace, String> {
    let prepared =
        tokio::task::spawn_blocking(move || volumes.settings().allowed_host_paths.prepare(&source));
    let host_path::Prepared { path, read_only } = prepared.await.map_err(|error| error.to_string())??;
    Ok(VolumePlace::Path { path, read_only })
}

async fn of_claim(
    source: &PersistentVolumeClaimVolumeSource,
    pod: &Pod,
    parts: &KeeperParts,
) -> Result<VolumePlace, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = &source.claim_name;
    let wrong = |error: String| format!("error processing PVC {namespace}/{name}: {error}");
    let unread = |error: ApiError| match error {
        ApiError::Gone => "not found".to_owned(),
        ApiError::Later(message) => message,
    };
    let objects: &dyn ObjectSource = parts.volumes.objects.as_ref();
    let claim = objects.claim(namespace, name).await;
    let claim = claim
        .map_err(unread)
        .and_then(|claim| claim.ok_or_else(|| format!("persistentvolumeclaims \"{name}\" not found")))
        .map_err(|error| wrong(format!("failed to fetch PVC from API server: {error}")))?;
    let volume_name = claim::volume_name(&claim).map_err(wrong)?;
    let volume = objects.volume(volume_name).await;
    let volume = volume
        .map_err(unread)
        .and_then(|volume| volume.ok_or_else(|| format!("persistentvolumes \"{volume_name}\" not found")))
        .map_err(|error| wrong(format!("failed to fetch PV {volume_name} from API server: {error}")))?;
    let view = parts.view.as_ref().map(|view| view.borrow().clone());
    let bound = claim::resolve(&claim, &volume, view.as_ref()).map_err(wrong)?;
    let volumes = Arc::clone(&parts.volumes);
    let prepared = move || volumes.settings().allowed_host_paths.prepare_trusted(&bound.path);
    let prepared = tokio::task::spawn_blocking(prepared);
    let path = prepared.await.map_err(|error| error.to_string())??;
    Ok(VolumePlace::Path { path, read_only: source.read_only == Some(true) })
}
