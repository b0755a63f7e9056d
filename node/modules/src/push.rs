//! Pushing a module as a [Wasm OCI artifact][1], which every tool of the field pulls.
//!
//! [1]: https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use futures::future::{Either, select};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use crate::{
    Store,
    digest::Digest,
    error::{PullError, PullFailure, StoreError},
    image::Credential,
    import, media,
    module::check,
    progress::{Progress, PullProgress},
    reference::Reference,
    registry::{BlobContent, Sent, Upload, UploadBlob},
    store::StoreInner,
};

const TITLE: &str = "org.opencontainers.image.title";

/// A module file, and what is to be said of it.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The module.
    pub module: PathBuf,
    /// File name that pulling tools give it.
    pub title: String,
    /// What goes into its configuration.
    pub config: ArtifactConfig,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// The configuration of a Wasm OCI artifact, `application/vnd.wasm.config.v0+json`, without the digests of its layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactConfig {
    /// RFC 3339.
    pub created: String,
    /// `wasip1` for core modules, `wasip2` for all components.
    pub os: String,
    /// What a component imports and exports; nothing for a core module.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentInterfaces>,
}

/// Names of what a component imports and exports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ComponentInterfaces {
    /// What it wants of its host.
    pub imports: Vec<String>,
    /// What it offers.
    pub exports: Vec<String>,
}

/// An artifact that a registry has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedArtifact {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Digest of the module.
    pub module: Digest,
    /// Bytes of the module.
    pub size: u64,
    /// Position, among the credentials, of the one that the registry took; `None`: nobody's.
    pub credential: Option<usize>,
}

impl Store {
    /// Pushes a module file under `reference`, trying `credentials` in order, then none. What the registry has already is
    /// not sent again. The store keeps nothing of it.
    ///
    /// # Errors
    /// See [`crate::PullFailure`]; [`PullFailure::Unsupported`] when the file is no module.
    pub async fn push(
        &self,
        reference: &Reference,
        artifact: &Artifact,
        credentials: &[Credential],
        progress: Option<&dyn Progress>,
    ) -> Result<PushedArtifact, PullError> {
        let pushed = push(&self.inner, reference, artifact, credentials, progress).await;
        pushed.map_err(|reason| PullError { image: reference.to_string(), reason })
    }
}

async fn push(
    inner: &Arc<StoreInner>,
    reference: &Reference,
    artifact: &Artifact,
    credentials: &[Credential],
    progress: Option<&dyn Progress>,
) -> Result<PushedArtifact, PullFailure> {
    if reference.digest().is_some() {
        return Err(PullFailure::Unsupported(
            "it is pushed under a tag; its digest is what comes of it".to_owned(),
        ));
    }
    // What is sent is what was hashed, whatever becomes of the file.
    let workspace = inner.layout.workspace()?;
    let copy = workspace.path().join("module");
    let (from, to, limit) = (artifact.module.clone(), copy.clone(), inner.options.layer_limit);
    let staged = tokio::task::spawn_blocking(move || stage(&from, &to, limit)).await;
    let (module, size) = staged.map_err(|error| PullFailure::Malformed(error.to_string()))??;

    let (what, digest) = upload_of(artifact, module, size, copy)?;
    let credential = upload(inner, reference, credentials, &what, progress).await?;
    Ok(PushedArtifact { digest, module, size, credential })
}

/// Uploads an artifact, and tells how it goes on; says with which credential.
pub(crate) async fn upload(
    inner: &StoreInner,
    reference: &Reference,
    credentials: &[Credential],
    upload: &Upload,
    progress: Option<&dyn Progress>,
) -> Result<Option<usize>, PullFailure> {
    let total_bytes = upload.blobs.iter().map(|blob| blob.size).sum();
    let (sender, mut state) = watch::channel(PullProgress { done_bytes: 0, total_bytes });
    let sent: Sent = Arc::new(move |bytes| {
        // A body that is sent again, after the registry asked who sends it, counts twice.
        sender.send_modify(|state| state.done_bytes = (state.done_bytes + bytes).min(total_bytes));
    });
    let mut uploading = pin!(inner.registry.upload(reference, credentials, upload, &sent));
    let credential = loop {
        let ended = match select(pin!(state.changed()), &mut uploading).await {
            Either::Left(_) => None,
            Either::Right((outcome, _)) => Some(outcome?),
        };
        if let Some(credential) = ended {
            break credential;
        }
        let now = *state.borrow_and_update();
        progress.inspect(|listener| listener.update(now));
    };
    progress.inspect(|listener| listener.update(PullProgress { done_bytes: total_bytes, total_bytes }));
    Ok(credential)
}

/// Copies the module to where nobody changes it.
fn stage(from: &Path, to: &Path, limit: u64) -> Result<(Digest, u64), PullFailure> {
    let command = from.display().to_string();
    if !std::fs::metadata(from).map_err(StoreError::io("read", from))?.is_file() {
        return Err(PullFailure::Unsupported(format!("{command} is no regular file")));
    }
    let copied = import::copy(from, to, limit)?;
    check(to, &command).map_err(|error| PullFailure::Unsupported(error.to_string()))?;
    Ok(copied)
}

/// The blobs and the manifest of an artifact, and the manifest's digest.
fn upload_of(
    artifact: &Artifact,
    module: Digest,
    size: u64,
    file: PathBuf,
) -> Result<(Upload, Digest), PullFailure> {
    let unreadable = |error: serde_json::Error| PullFailure::Malformed(error.to_string());
    let mut config = serde_json::to_value(&artifact.config).map_err(unreadable)?;
    config["architecture"] = json!("wasm");
    config["layerDigests"] = json!([module]);
    let config = serde_json::to_vec(&config).map_err(unreadable)?;
    let config = UploadBlob {
        digest: Digest::of(&config),
        size: config.len() as u64,
        content: BlobContent::Memory(config.into()),
    };
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": {"mediaType": media::WASM_CONFIG, "digest": config.digest, "size": config.size},
        "layers": [{
            "mediaType": media::WASM, "digest": module, "size": size, "annotations": {TITLE: artifact.title},
        }],
    });
    if !artifact.annotations.is_empty() {
        manifest["annotations"] = json!(artifact.annotations);
    }
    let manifest = serde_json::to_vec(&manifest).map_err(unreadable)?;
    let digest = Digest::of(&manifest);
    let layer = UploadBlob { digest: module, size, content: BlobContent::File(file) };
    Ok((Upload { blobs: vec![config, layer], manifest: manifest.into(), listing: None }, digest))
}
