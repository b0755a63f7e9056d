//! One pull from end to end: resolve, download, unpack, put in place.
//!
//! ```text
//! registry ─ manifest ─► choose ─► plan ─► blobs (checked while they are written) ─► unpack ─► commit
//!                                          └──────────── workspace below tmp ────────────┘      │
//!                                                                        blobs, rootfs, record, names
//! ```
//!
//! Until the commit nothing is visible to anybody. The commit only renames, under the store's lock; what it
//! counted on and somebody removed in between makes it start over.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, sync::watch};

use crate::{
    digest::{Digest, Hasher},
    error::{PullFailure, StoreError},
    image::{Credential, Image, ImageKind, ImageName},
    manifest::{self, Document, ImageConfig, Manifest, ManifestError, Plan},
    media,
    progress::PullProgress,
    record::{Blob, Record},
    reference::Reference,
    registry::{DOCUMENT_LIMIT, RawManifest, Session, next_chunk},
    store::Inner,
    unpack::{Limits, Unpacker},
};

/// Layers of one image that are downloaded at the same time.
const PARALLEL_LAYERS: usize = 4;
/// How often a pull starts over because somebody removed, meanwhile, what it was going to share.
const ATTEMPTS: usize = 3;

impl From<ManifestError> for PullFailure {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Malformed(_) => Self::Malformed(error.to_string()),
            ManifestError::Unsupported(text) => Self::Unsupported(text),
        }
    }
}

/// Pulls `reference`; see [`crate::Store::pull`].
pub(crate) async fn fetch(
    inner: &Arc<Inner>,
    reference: &Reference,
    credentials: &[Credential],
    progress: &watch::Sender<PullProgress>,
) -> Result<Image, PullFailure> {
    if let Some(digest) = reference.digest() {
        digest.parse::<Digest>().map_err(|error| PullFailure::Unsupported(format!("{error}: use a sha256 digest")))?;
    }
    let (session, target) = inner.registry.resolve(reference, credentials).await?;
    let source = Source::read(session, target).await?;
    for _ in 0..ATTEMPTS {
        progress.send_replace(PullProgress::default());
        let staged = stage(inner, &source, progress).await?;
        let record = source.record(reference, &staged);
        let (inner, reference) = (Arc::clone(inner), reference.clone());
        let committed = blocking(move || commit(&inner, &reference, record, &staged)).await?;
        if let Some(image) = committed {
            return Ok(image);
        }
    }
    Err(PullFailure::Unavailable("parts of the image were removed again and again while it was pulled".to_owned()))
}

/// An image as its registry describes it.
struct Source {
    session: Session,
    /// What the reference names.
    target: RawManifest,
    /// The manifest chosen from an index, when the target is one.
    chosen: Option<RawManifest>,
    manifest: Manifest,
    plan: Plan,
    /// The manifest is for Linux: its configuration must name a module.
    last_resort: bool,
}

impl Source {
    async fn read(session: Session, target: RawManifest) -> Result<Self, PullFailure> {
        let (chosen, manifest, last_resort) = match manifest::parse(&target.bytes)? {
            Document::Manifest(manifest) => (None, manifest, false),
            Document::Index(index) => {
                let choice = manifest::choose(&index)?;
                let raw = session.manifest_by_digest(&choice.descriptor.digest).await?;
                let Document::Manifest(manifest) = manifest::parse(&raw.bytes)? else {
                    return Err(PullFailure::Unsupported("its index leads to another index".to_owned()));
                };
                (Some(raw), manifest, choice.last_resort)
            }
        };
        let plan = manifest::plan(&manifest)?;
        Ok(Self { session, target, chosen, manifest, plan, last_resort })
    }

    /// Digest of the manifest that is used.
    fn manifest_digest(&self) -> Digest {
        self.chosen.as_ref().unwrap_or(&self.target).digest
    }

    fn record(&self, reference: &Reference, staged: &Staged) -> Record {
        let config = staged.config.clone();
        let (kind, name) = match &self.plan {
            Plan::Filesystem { .. } => (ImageKind::Filesystem, None),
            Plan::Module { layer, title } => {
                let last = reference.repository().rsplit('/').next().unwrap_or_default();
                let name = title.clone().unwrap_or_else(|| last.to_owned());
                (ImageKind::Module { module: layer.digest }, Some(name))
            }
        };
        let entrypoint = match name {
            Some(name) if config.entrypoint.is_empty() => vec![name],
            _ => config.entrypoint,
        };
        Record {
            digest: self.target.digest,
            manifest: self.manifest_digest(),
            kind,
            blobs: staged.blobs.clone(),
            unpacked: staged.unpacked,
            names: Vec::new(),
            entrypoint,
            cmd: config.cmd,
            env: config.env,
            working_dir: config.working_dir,
            user: config.user,
        }
    }
}

/// An image that is complete in a workspace, or in a workspace and the store.
struct Staged {
    /// Every blob is here under its hexadecimal digest, linked when the store had it.
    workspace: Arc<TempDir>,
    blobs: Vec<Blob>,
    config: ImageConfig,
    /// The unpacked file system, unless the store has it.
    rootfs: Option<PathBuf>,
    /// Bytes of the file system, here or in the store.
    unpacked: u64,
}

/// Brings all parts of an image into a workspace.
async fn stage(
    inner: &Arc<Inner>,
    source: &Source,
    progress: &watch::Sender<PullProgress>,
) -> Result<Staged, PullFailure> {
    let wanted = check_sizes(inner, source)?;
    progress.send_modify(|state| state.total_bytes = wanted.iter().map(|blob| blob.size).sum());

    let workspace = Arc::new(inner.layout.workspace()?);
    let mut blobs = Vec::new();
    for raw in source.chosen.iter().chain([&source.target]) {
        let path = workspace.path().join(raw.digest.hex());
        write_synced(&path, &raw.bytes).await.map_err(StoreError::io("write", &path))?;
        blobs.push(Blob { digest: raw.digest, size: raw.bytes.len() as u64 });
    }

    let config_blob = Blob { digest: source.manifest.config.digest, size: source.manifest.config.size };
    download(inner, &source.session, config_blob, workspace.path(), |_| {}).await?;
    blobs.push(config_blob);
    let config = if media::is_image_config(&source.manifest.config.media_type) {
        let path = workspace.path().join(config_blob.digest.hex());
        ImageConfig::parse(&tokio::fs::read(&path).await.map_err(StoreError::io("read", &path))?)?
    } else {
        ImageConfig::default()
    };
    if source.last_resort && !config.starts_module() {
        return Err(PullFailure::Unsupported(
            "it is built for Linux, and what it starts is no .wasm file; build it with --platform wasi/wasm".to_owned(),
        ));
    }

    let count = |bytes| progress.send_modify(|state| state.done_bytes += bytes);
    let downloads = wanted.clone().into_iter().map(|blob| download(inner, &source.session, blob, workspace.path(), count));
    stream::iter(downloads).buffer_unordered(PARALLEL_LAYERS).try_collect::<()>().await?;
    blobs.extend(wanted);
    blobs.sort_by_key(|blob| blob.digest);
    blobs.dedup();

    let (rootfs, unpacked) = unpack(inner, source, &workspace).await?;
    Ok(Staged { workspace, blobs, config, rootfs, unpacked })
}

/// The layers, each once, when they may be downloaded.
fn check_sizes(inner: &Inner, source: &Source) -> Result<Vec<Blob>, PullFailure> {
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

/// Brings one blob into the workspace: by a link when the store has it, else from the registry, counted and
/// hashed while it is written.
async fn download(
    inner: &Inner,
    session: &Session,
    blob: Blob,
    workspace: &Path,
    count: impl Fn(u64),
) -> Result<(), PullFailure> {
    let path = workspace.join(blob.digest.hex());
    if blob.is_in(&inner.layout) && fs::hard_link(inner.layout.blob(&blob.digest), &path).is_ok() {
        count(blob.size);
        return Ok(());
    }
    let mut response = session.blob(&blob.digest).await?;
    let failed = || StoreError::io("write", &path);
    let mut file = tokio::fs::File::create(&path).await.map_err(failed())?;
    let mut hasher = Hasher::default();
    let mut size: u64 = 0;
    while let Some(chunk) = next_chunk(&mut response).await? {
        size = size.saturating_add(chunk.len() as u64);
        if size > blob.size {
            break;
        }
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(failed())?;
        count(chunk.len() as u64);
    }
    let digest = hasher.finish();
    if size != blob.size {
        let came = if size > blob.size { "more".to_owned() } else { format!("{size}") };
        return Err(PullFailure::Mismatch(format!("blob {} should have {} bytes and has {came}", blob.digest, blob.size)));
    }
    if digest != blob.digest {
        return Err(PullFailure::Mismatch(format!("blob {} has the digest {digest}", blob.digest)));
    }
    file.sync_all().await.map_err(failed())?;
    Ok(())
}

async fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tokio::fs::File::create(path).await?;
    file.write_all(bytes).await?;
    file.sync_all().await
}

/// Unpacks the layers of a container image, unless the store has done so before.
async fn unpack(
    inner: &Arc<Inner>,
    source: &Source,
    workspace: &Arc<TempDir>,
) -> Result<(Option<PathBuf>, u64), PullFailure> {
    let Plan::Filesystem { layers } = &source.plan else { return Ok((None, 0)) };
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
    let cancel = Cancel(Arc::default());
    let cancelled = Arc::clone(&cancel.0);
    let limits = Limits { bytes: inner.options.image_limit, entries: inner.options.entry_limit };
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

/// Puts a staged image in place; `None` when something it counted on is no longer there. Blocking.
fn commit(
    inner: &Inner,
    reference: &Reference,
    record: Record,
    staged: &Staged,
) -> Result<Option<Image>, PullFailure> {
    let layout = &inner.layout;
    let _lock = layout.lock()?;
    let place = layout.rootfs(&record.manifest);
    match &staged.rootfs {
        Some(rootfs) if !place.exists() => fs::rename(rootfs, &place).map_err(StoreError::io("write", &place))?,
        None if record.kind == ImageKind::Filesystem && !place.exists() => return Ok(None),
        _ => {}
    }
    for blob in &record.blobs {
        let from = staged.workspace.path().join(blob.digest.hex());
        let to = layout.blob(&blob.digest);
        fs::rename(&from, &to).map_err(StoreError::io("write", &to))?;
    }
    let mut names = vec![reference.key_of(&record.digest)];
    if reference.digest().is_none() {
        names.push(reference.key());
    }
    let record = inner.record(record, &names)?;
    Ok(Some(record.into_image(ImageName::Reference(reference.clone()))))
}

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, PullFailure>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, PullFailure> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(PullFailure::Unavailable("the node is shutting down".to_owned())))
}
