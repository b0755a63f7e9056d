//! The parts of an image, brought into a workspace: downloaded or linked, checked, unpacked.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{io::AsyncWriteExt as _, sync::watch};

use super::{
    RemoteImage, blocking,
    transfer::{TransferLimits, Transferred, transfer},
    transfers::{Downloaded, SharedBlob},
};
use crate::{
    error::{PullFailure, StoreError},
    layout::Workspace,
    manifest::{ImageConfig, PullPlan},
    media,
    progress::PullProgress,
    record::{Blob, Record},
    registry::DOCUMENT_LIMIT,
    source::{ModuleSource, Part},
    store::StoreInner,
    unpack::{UnpackLimits, Unpacker},
};

/// Layers of one image that are downloaded at the same time.
const PARALLEL_LAYERS: usize = 4;

/// An image that is complete in a workspace, or in a workspace and the store.
pub(super) struct Staged {
    /// Every blob is here under its hexadecimal digest, linked when the store had it.
    pub(super) workspace: Arc<Workspace>,
    pub(super) blobs: Vec<Blob>,
    pub(super) config: ImageConfig,
    /// The unpacked file system, unless the store has it.
    pub(super) rootfs: Option<PathBuf>,
    /// Bytes of the file system, here or in the store.
    pub(super) unpacked: u64,
    /// What other pulls may want, too, until it is in the store.
    _shared: Vec<Arc<SharedBlob>>,
}

/// Brings all parts of an image into a workspace.
pub(super) async fn stage(
    inner: &Arc<StoreInner>,
    from: &dyn ModuleSource,
    source: &RemoteImage,
    progress: &watch::Sender<PullProgress>,
) -> Result<Staged, PullFailure> {
    let workspace = Arc::new(inner.layout.workspace()?);
    let result = fill(inner, from, source, progress, &workspace).await;
    if result.is_err() {
        // A hostile image can leave many files, and this thread has other things to do.
        let _ = tokio::task::spawn_blocking(move || drop(workspace)).await;
    }
    result
}

async fn fill(
    inner: &Arc<StoreInner>,
    from: &dyn ModuleSource,
    source: &RemoteImage,
    progress: &watch::Sender<PullProgress>,
    workspace: &Arc<Workspace>,
) -> Result<Staged, PullFailure> {
    let wanted = check_sizes(inner, source)?;
    progress.send_modify(|state| state.total_bytes = wanted.iter().map(|blob| blob.size).sum());

    let mut blobs = Vec::new();
    for raw in source.chosen.iter().chain([&source.target]) {
        let path = workspace.path().join(raw.digest.hex());
        write_synced(&path, &raw.bytes).await.map_err(StoreError::io("write", &path))?;
        blobs.push(Blob { digest: raw.digest, size: raw.bytes.len() as u64 });
    }

    let config_blob = Blob { digest: source.manifest.config.digest, size: source.manifest.config.size };
    let mut shared = vec![download(inner, from, &source.registry, config_blob, workspace, |_| {}).await?];
    blobs.push(config_blob);
    let config = if media::is_image_config(&source.manifest.config.media_type) {
        let path = workspace.path().join(config_blob.digest.hex());
        ImageConfig::parse(&tokio::fs::read(&path).await.map_err(StoreError::io("read", &path))?)?
    } else {
        ImageConfig::default()
    };
    if source.last_resort && config.starts_other_than_module() {
        return Err(PullFailure::Unsupported(
            "it is built for Linux, and what it starts is no .wasm file; build it with --platform wasi/wasm"
                .to_owned(),
        ));
    }

    let count = |bytes| progress.send_modify(|state| state.done_bytes += bytes);
    let downloads = wanted
        .clone()
        .into_iter()
        .map(|blob| download(inner, from, &source.registry, blob, workspace, count));
    let layers: Vec<_> = stream::iter(downloads).buffer_unordered(PARALLEL_LAYERS).try_collect().await?;
    shared.extend(layers);
    blobs.extend(wanted);
    blobs.sort_by_key(|blob| blob.digest);
    blobs.dedup();

    let (rootfs, unpacked) = unpack(inner, source, workspace).await?;
    Ok(Staged { workspace: Arc::clone(workspace), blobs, config, rootfs, unpacked, _shared: shared })
}

/// The layers, each once, when they may be downloaded.
fn check_sizes(inner: &StoreInner, source: &RemoteImage) -> Result<Vec<Blob>, PullFailure> {
    let options = &inner.options;
    if source.manifest.config.size > DOCUMENT_LIMIT {
        return Err(PullFailure::TooLarge(format!(
            "its configuration has {} bytes, and {DOCUMENT_LIMIT} is the limit",
            source.manifest.config.size
        )));
    }
    let mut wanted: Vec<Blob> = Vec::new();
    for layer in source.plan.layers() {
        if layer.size == 0 {
            return Err(PullFailure::EmptyLayer(layer.digest));
        }
        if layer.size > options.layer_limit {
            return Err(PullFailure::TooLarge(format!(
                "its layer {} has {} bytes, and this node's limit for a layer is {}",
                layer.digest, layer.size, options.layer_limit
            )));
        }
        let blob = Blob { digest: layer.digest, size: layer.size };
        if !wanted.iter().any(|known| known.digest == blob.digest) {
            wanted.push(blob);
        }
    }
    let total = wanted.iter().fold(0u64, |total, blob| total.saturating_add(blob.size));
    if total > options.image_limit {
        return Err(PullFailure::TooLarge(format!(
            "its layers have {total} bytes, and this node's limit for an image is {}",
            options.image_limit
        )));
    }
    Ok(wanted)
}

/// Brings one blob into the workspace: by a link when the store or another pull has it, else from its source.
async fn download(
    inner: &StoreInner,
    from: &dyn ModuleSource,
    registry: &str,
    blob: Blob,
    workspace: &Arc<Workspace>,
    count: impl Fn(u64) + Sync,
) -> Result<Arc<SharedBlob>, PullFailure> {
    let path = workspace.path().join(blob.digest.hex());
    let shared = inner.transfers.blob(registry, blob.digest);
    let mut downloaded = shared.lock().await;
    // A configuration and a layer may be one blob: it is in the workspace then, and may not be written again, because
    // others have links to it.
    let is_here = path.exists()
        || downloaded.as_ref().is_some_and(|other| other.link(&path))
        || blob.is_in(&inner.layout) && fs::hard_link(inner.layout.blob(&blob.digest), &path).is_ok();
    if is_here {
        check(blob, fs::metadata(&path).map_err(StoreError::io("read", &path))?.len())?;
        count(blob.size);
    } else {
        let limits = TransferLimits { size: blob.size, stall: inner.options.stall_timeout, is_module: false };
        let transfer = transfer(from, Part::Blob(blob.digest), None, &path, &limits, count);
        let came = inner.transfers.counted(transfer).await?;
        check_transfer(blob, &came)?;
        *downloaded = Some(Downloaded::new(path, Arc::clone(workspace)));
    }
    drop(downloaded);
    Ok(shared)
}

/// Compares what came with what a manifest tells of it.
pub(super) fn check_transfer(blob: Blob, came: &Transferred) -> Result<(), PullFailure> {
    check(blob, came.size)?;
    if came.digest == blob.digest {
        return Ok(());
    }
    let (wanted, came) = (blob.digest, came.digest);
    Err(PullFailure::Mismatch(format!("blob {wanted} has the digest {came}")))
}

/// Compares the size that a manifest tells with that of what is here.
fn check(blob: Blob, size: u64) -> Result<(), PullFailure> {
    if size == blob.size {
        return Ok(());
    }
    let came = if size > blob.size { "more".to_owned() } else { format!("{size}") };
    Err(PullFailure::Mismatch(format!("blob {} should have {} bytes and has {came}", blob.digest, blob.size)))
}

async fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tokio::fs::File::create(path).await?;
    file.write_all(bytes).await?;
    file.sync_all().await
}

/// Unpacks the layers of a container image, unless the store has done so before.
async fn unpack(
    inner: &Arc<StoreInner>,
    source: &RemoteImage,
    workspace: &Arc<Workspace>,
) -> Result<(Option<PathBuf>, u64), PullFailure> {
    let PullPlan::Filesystem { layers } = &source.plan else {
        return Ok((None, 0));
    };
    let known = inner.layout.read::<Record>(&inner.layout.image(&source.target.digest))?;
    if let Some(record) = known.filter(|record| record.is_complete(&inner.layout)) {
        return Ok((None, record.unpacked));
    }
    /// Ends the blocking thread when the pull is given up.
    struct Cancel(Arc<AtomicBool>);
    impl Drop for Cancel {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    // The semaphore is never closed, so that acquiring cannot fail.
    let _permit = inner.unpacking.acquire().await.ok();
    let cancel = Cancel(Arc::default());
    let cancelled = Arc::clone(&cancel.0);
    let limits = UnpackLimits { bytes: inner.options.image_limit, entries: inner.options.entry_limit };
    // The thread keeps the workspace alive: it may outlive the pull by a moment.
    let (layers, workspace) = (layers.clone(), Arc::clone(workspace));
    blocking(move || {
        let rootfs = workspace.path().join("rootfs");
        fs::create_dir(&rootfs).map_err(StoreError::io("write", &rootfs))?;
        let mut unpacker = Unpacker::new(rootfs.clone(), limits, &cancelled);
        for (layer, packing) in &layers {
            let path = workspace.path().join(layer.digest.hex());
            let file = fs::File::open(&path).map_err(StoreError::io("read", &path))?;
            unpacker.layer(*packing, io::BufReader::new(file))?;
        }
        // All files at once; one by one would take a flush for each.
        let directory = fs::File::open(&rootfs).map_err(StoreError::io("read", &rootfs))?;
        rustix::fs::syncfs(&directory).map_err(|error| StoreError::io("write", &rootfs)(error.into()))?;
        Ok((Some(rootfs), unpacker.bytes()))
    })
    .await
}
