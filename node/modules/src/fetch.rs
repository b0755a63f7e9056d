//! One pull from end to end: resolve, download, unpack, put in place.
//!
//! ```text
//! source ─ manifest ─► choose ─► plan ─► signature ─► blobs (checked while they are written) ─► unpack ─► commit
//!        └ file ─────────────────────────────────────► module (the same) ─────────────────────────────┘  │
//!                                                     └──────────── workspace below tmp ────────────┘      │
//!                                                                       blobs, rootfs, signatures, record, names
//! ```
//!
//! Until the commit nothing is visible to anybody. The commit only renames, under the store's lock; what it
//! counted on and somebody removed in between makes it start over.
//!
//! What the policy trusts of compiled code is fetched afterwards ([code]); it comes, or does not.

mod code;
mod single;
mod stage;
mod transfer;
mod transfers;

use std::{fs, sync::Arc};

use tokio::sync::watch;

use self::stage::{Staged, stage};
pub(crate) use self::transfers::Transfers;
use crate::{
    digest::Digest,
    error::{PullFailure, StoreError},
    image::{Credential, Image, ImageKind, ImageName},
    manifest::{self, Document, Manifest, ManifestError, PullPlan},
    progress::PullProgress,
    pull::Fetched,
    record::{Name, Record},
    reference::Reference,
    registry,
    signature::evidence::{self, Evidence},
    source::{self, KnownImage, ModuleSource, RawManifest, Resolution, Target},
    store::StoreInner,
    usage,
};

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

/// Pulls what `name` names; see [`crate::Store::pull`].
pub(crate) async fn fetch(
    inner: &Arc<StoreInner>,
    name: &ImageName,
    credentials: &[Credential],
    progress: &watch::Sender<PullProgress>,
) -> Result<Fetched, PullFailure> {
    if let ImageName::Reference(reference) = name
        && let Some(digest) = reference.digest()
    {
        digest
            .parse::<Digest>()
            .map_err(|error| PullFailure::Unsupported(format!("{error}: use a sha256 digest")))?;
    }
    inner.check_name(name)?;
    let noted = Name::read(&inner.layout, &name.key()?)?;
    // One that the policy does not take, for want of a signature, is as good as absent.
    let present = inner.image(name)?.filter(|image| inner.check_kept(name, image).is_ok());
    let present = present.map(|image| {
        // Another process may have given the name to another image in between.
        let noted = noted.filter(|noted| noted.digest == image.digest);
        (image, noted)
    });
    if let Some((image, Some(Name { public: true, .. }))) = &present
        && name.is_pinned()
    {
        return Ok(Fetched { image: image.clone(), credential: None });
    }
    let present = present.map(|(image, noted)| {
        let known = KnownImage { digest: image.digest, version: noted.and_then(|noted| noted.version) };
        (image, known)
    });
    let source = source::of(inner, name, credentials)?;
    let pull = pull_from(inner, source, name, present, progress);
    match name {
        // The answer of a file's source is the file.
        ImageName::Url(_) => inner.transfers.counted(pull).await,
        ImageName::Reference(_) | ImageName::Path(_) => pull.await,
    }
}

/// Asks `source` what the name means, and pulls that, unless it is what is `present`.
async fn pull_from(
    inner: &Arc<StoreInner>,
    mut source: Box<dyn ModuleSource + '_>,
    name: &ImageName,
    present: Option<(Image, KnownImage)>,
    progress: &watch::Sender<PullProgress>,
) -> Result<Fetched, PullFailure> {
    let known = present.as_ref().map(|(_, known)| known);
    let Resolution { target, credential } = source.resolve(known).await?;
    let image = match (target, name) {
        // Only who knows something is told that it is unchanged.
        (Target::Unchanged, _) => present.ok_or_else(|| PullFailure::NotFound(name.to_string()))?.0,
        (Target::Manifest(target), ImageName::Reference(reference)) => {
            pull_image(inner, source.as_ref(), target, reference, credential.is_none(), progress).await?
        }
        (Target::File(file), ImageName::Url(url)) => {
            single::pull(inner, source.as_ref(), file, url, progress).await?
        }
        (Target::Manifest(_) | Target::File(_), _) => {
            return Err(PullFailure::Unsupported("its source has something of another kind".to_owned()));
        }
    };
    if let ImageName::Reference(reference) = name {
        code::bring(inner, source.as_ref(), reference, &image).await;
    }
    Ok(Fetched { image, credential })
}

/// Pulls the image that a registry has described. It is `public` when that took nobody's credentials.
async fn pull_image(
    inner: &Arc<StoreInner>,
    source: &dyn ModuleSource,
    target: RawManifest,
    reference: &Reference,
    public: bool,
    progress: &watch::Sender<PullProgress>,
) -> Result<Image, PullFailure> {
    let remote = RemoteImage::read(source, reference, target).await?;
    let evidence =
        inner.verify_signature(reference, remote.target.digest, remote.manifest_digest(), source).await?;
    for _ in 0..ATTEMPTS {
        progress.send_replace(PullProgress::default());
        let staged = stage(inner, source, &remote, progress).await?;
        let record = remote.record(reference, &staged);
        let (inner, reference, evidence) = (Arc::clone(inner), reference.clone(), evidence.clone());
        let committed =
            blocking(move || commit(&inner, &reference, public, record, &staged, &evidence)).await?;
        if let Some(image) = committed {
            return Ok(image);
        }
    }
    Err(PullFailure::Unavailable(
        "parts of the image were removed again and again while it was pulled".to_owned(),
    ))
}

/// An image as its registry describes it.
struct RemoteImage {
    /// The registry, as named.
    registry: String,
    /// What the reference names.
    target: RawManifest,
    /// The manifest chosen from an index, when the target is one.
    chosen: Option<RawManifest>,
    manifest: Manifest,
    plan: PullPlan,
    /// The manifest is for Linux: its configuration must name a module.
    last_resort: bool,
}

impl RemoteImage {
    async fn read(
        source: &dyn ModuleSource,
        reference: &Reference,
        target: RawManifest,
    ) -> Result<Self, PullFailure> {
        let (chosen, manifest, last_resort) = match manifest::parse(&target.bytes)? {
            Document::Manifest(manifest) => (None, manifest, false),
            Document::Index(index) => {
                let choice = manifest::choose(&index)?;
                let raw = registry::manifest_of(source, &choice.descriptor.digest).await?;
                let Document::Manifest(manifest) = manifest::parse(&raw.bytes)? else {
                    return Err(PullFailure::Unsupported("its index leads to another index".to_owned()));
                };
                (Some(raw), manifest, choice.last_resort)
            }
        };
        let plan = manifest::plan(&manifest)?;
        let registry = reference.registry().to_owned();
        Ok(Self { registry, target, chosen, manifest, plan, last_resort })
    }

    /// Digest of the manifest that is used.
    fn manifest_digest(&self) -> Digest {
        self.chosen.as_ref().unwrap_or(&self.target).digest
    }

    fn record(&self, reference: &Reference, staged: &Staged) -> Record {
        let config = staged.config.clone();
        let (kind, name) = match &self.plan {
            PullPlan::Filesystem { .. } => (ImageKind::Filesystem, None),
            PullPlan::Module { layer, title } => {
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
            arrived: usage::now(),
        }
    }
}

/// Puts a staged image in place; `None` when something it counted on is no longer there. Blocking.
fn commit(
    inner: &StoreInner,
    reference: &Reference,
    public: bool,
    record: Record,
    staged: &Staged,
    evidence: &[Evidence],
) -> Result<Option<Image>, PullFailure> {
    let layout = &inner.layout;
    let _lock = layout.lock()?;
    let place = layout.rootfs(&record.manifest);
    match &staged.rootfs {
        Some(rootfs) if !place.exists() => {
            fs::rename(rootfs, &place).map_err(StoreError::io("write", &place))?
        }
        None if record.kind == ImageKind::Filesystem && !place.exists() => return Ok(None),
        _ => {}
    }
    for blob in &record.blobs {
        let from = staged.workspace.path().join(blob.digest.hex());
        let to = layout.blob(&blob.digest);
        fs::rename(&from, &to).map_err(StoreError::io("write", &to))?;
    }
    let name = |name: String| Name { name, digest: record.digest, public, version: None };
    let mut names = vec![name(reference.key_of(&record.digest))];
    if reference.digest().is_none() {
        names.push(name(reference.key()));
    }
    // Before the record: an image without its signatures would have to be asked for again.
    if !evidence.is_empty() {
        evidence::add(layout, &record.digest, evidence)?;
    }
    let record = inner.record(record, &names)?;
    Ok(Some(record.into_image(ImageName::Reference(reference.clone()))))
}

/// Runs blocking work on a thread for it.
async fn blocking<T, F>(work: F) -> Result<T, PullFailure>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, PullFailure> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(PullFailure::Unavailable("the node is shutting down".to_owned())))
}
