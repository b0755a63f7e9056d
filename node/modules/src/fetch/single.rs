//! A module that is one file: downloaded, checked against its pin, put in place.

use std::{fs, sync::Arc};

use tokio::sync::watch;

use super::{
    blocking,
    transfer::{TransferLimits, Transferred, transfer},
};
use crate::{
    error::{PullFailure, StoreError},
    image::{Image, ImageKind},
    layout::Workspace,
    module_url::ModuleUrl,
    progress::PullProgress,
    record::{Blob, Name, Record},
    source::{FileVersion, ModuleSource, Part, RemoteFile},
    store::StoreInner,
    usage,
};

/// Name of the module in its workspace.
const STAGED: &str = "module";

/// Pulls the file that a source has begun to send.
pub(super) async fn pull(
    inner: &Arc<StoreInner>,
    source: &dyn ModuleSource,
    file: RemoteFile,
    url: &ModuleUrl,
    progress: &watch::Sender<PullProgress>,
) -> Result<Image, PullFailure> {
    let limit = inner.options.layer_limit;
    let too_large = || {
        PullFailure::TooLarge(format!(
            "it has more than {limit} bytes, which is this node's limit for a module"
        ))
    };
    if file.size.is_some_and(|size| size > limit) {
        return Err(too_large());
    }
    let workspace = inner.layout.workspace()?;
    let path = workspace.path().join(STAGED);
    progress.send_replace(PullProgress { done_bytes: 0, total_bytes: file.size.unwrap_or_default() });
    let count = |bytes| {
        progress.send_modify(|state| {
            state.done_bytes = state.done_bytes.saturating_add(bytes);
            state.total_bytes = state.total_bytes.max(state.done_bytes);
        });
    };
    let limits = TransferLimits { size: limit, stall: inner.options.stall_timeout, is_module: true };
    let came = transfer(source, Part::File, Some(file.body), &path, &limits, count).await?;
    if came.size > limit {
        return Err(too_large());
    }
    if let Some(pin) = url.digest()
        && pin != came.digest
    {
        return Err(PullFailure::Mismatch(format!(
            "the file has the digest {}, and {pin} is wanted",
            came.digest
        )));
    }
    progress.send_replace(PullProgress { done_bytes: came.size, total_bytes: came.size });
    let (inner, url) = (Arc::clone(inner), url.clone());
    blocking(move || commit(&inner, &url, file.version, &came, &workspace)).await
}

/// Puts the module in place. Blocking.
fn commit(
    inner: &StoreInner,
    url: &ModuleUrl,
    version: Option<FileVersion>,
    came: &Transferred,
    workspace: &Workspace,
) -> Result<Image, PullFailure> {
    let layout = &inner.layout;
    let Transferred { digest, size } = *came;
    let record = Record {
        digest,
        manifest: digest,
        kind: ImageKind::Module { module: digest },
        blobs: vec![Blob { digest, size }],
        unpacked: 0,
        names: Vec::new(),
        entrypoint: vec![url.file_name().to_owned()],
        cmd: Vec::new(),
        env: Vec::new(),
        working_dir: None,
        user: None,
        arrived: usage::now(),
    };
    let _lock = layout.lock()?;
    let place = layout.blob(&digest);
    fs::rename(workspace.path().join(STAGED), &place).map_err(StoreError::io("write", &place))?;
    // Whoever can name it can have it: a source of files is asked with nobody's credentials, or with the node's own.
    let name = |name, version| Name { name, digest, public: true, version };
    let mut names = vec![name(url.key_of(&digest), None)];
    if url.digest().is_none() {
        names.push(name(url.key(), version));
    }
    let record = inner.record(record, &names)?;
    Ok(record.into_image(url.clone().into()))
}
