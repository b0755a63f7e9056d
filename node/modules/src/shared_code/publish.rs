//! Pushing code that this node has compiled, for those who trust whoever signs it.

use std::{fs, sync::Arc};

use serde::Deserialize;
use serde_json::json;

use super::artifact::{self, CodeManifest};
use crate::{
    Store,
    compile::{self, Compiler},
    digest::Digest,
    error::{PullError, PullFailure, StoreError},
    image::{Credential, Image, ImageKind, ImageName},
    manifest, media,
    module::Module,
    progress::Progress,
    push,
    record::Blob,
    registry::{BlobContent, Listing, Upload, UploadBlob},
    store::StoreInner,
};

/// Compiled code that a registry has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedCode {
    /// Digest of its manifest: what is to be signed.
    pub digest: Digest,
    /// Bytes of the code.
    pub size: u64,
    /// Position, among the credentials, of the one that the registry took; `None`: nobody's.
    pub credential: Option<usize>,
}

impl Store {
    /// Pushes what `compiler` has compiled here of the module that `command` starts in `image`, into the repository of that
    /// image and as its referrer, trying `credentials` in order, then none. Code that was fetched is not passed on.
    ///
    /// Hold the image ([`Store::hold`]) meanwhile: the code goes with it.
    ///
    /// # Errors
    /// See [`PullFailure`]; [`PullFailure::Unsupported`] when there is no such code, or the image is of no registry.
    pub async fn push_precompiled(
        &self,
        image: &Image,
        command: &str,
        compiler: &dyn Compiler,
        credentials: &[Credential],
        progress: Option<&dyn Progress>,
    ) -> Result<PushedCode, PullError> {
        let pushed = self.push_code(image, command, compiler, credentials, progress).await;
        pushed.map_err(|reason| PullError { image: image.reference.to_string(), reason })
    }

    async fn push_code(
        &self,
        image: &Image,
        command: &str,
        compiler: &dyn Compiler,
        credentials: &[Credential],
        progress: Option<&dyn Progress>,
    ) -> Result<PushedCode, PullFailure> {
        let ImageName::Reference(reference) = &image.reference else {
            return Err(PullFailure::Unsupported(
                "compiled code is pushed beside an image in a registry, and it is in none; push the module first"
                    .to_owned(),
            ));
        };
        let module = self.module(image, command).await;
        let module = module.map_err(|error| PullFailure::Unsupported(error.to_string()))?;
        let (inner, image, command, key) =
            (Arc::clone(&self.inner), image.clone(), command.to_owned(), compiler.key());
        let composed =
            tokio::task::spawn_blocking(move || compose(&inner, &image, &module, &command, key)).await;
        let (upload, size) = composed.map_err(|error| PullFailure::Malformed(error.to_string()))??;
        let digest = Digest::of(&upload.manifest);
        let place = format!("{}@{digest}", reference.name());
        let place =
            place.parse().map_err(|_| PullFailure::Unsupported(format!("{place} is no reference")))?;
        let credential = push::upload(&self.inner, &place, credentials, &upload, progress).await?;
        Ok(PushedCode { digest, size, credential })
    }
}

/// The artifact of what `key` has compiled of a module, and the size of the code. Blocking.
fn compose(
    inner: &StoreInner,
    image: &Image,
    module: &Module,
    command: &str,
    key: String,
) -> Result<(Upload, u64), PullFailure> {
    let layout = &inner.layout;
    let Some(own) = compile::own_code(layout, &module.digest, &key)? else {
        return Err(PullFailure::Unsupported("its module has not been compiled here".to_owned()));
    };
    let read = || StoreError::io("read", &own.path);
    let size = fs::metadata(&own.path).map_err(read())?.len();
    let code = Blob { digest: Digest::of_file(&own.path).map_err(read())?, size };
    let facts = serde_json::to_vec(&own.facts).map_err(|error| PullFailure::Malformed(error.to_string()))?;
    let about = CodeManifest {
        module: module.digest,
        compiler: key,
        command: (image.kind == ImageKind::Filesystem).then(|| command.to_owned()),
        code,
        facts: Blob { digest: Digest::of(&facts), size: facts.len() as u64 },
    };
    let of_image = layout.blob(&image.manifest);
    let of_image = fs::read(&of_image).map_err(StoreError::io("read", &of_image))?;
    let media_type = media_type_of(&of_image);
    let subject = json!({"mediaType": media_type, "digest": image.manifest, "size": of_image.len()});
    let manifest = artifact::write(&about, &subject);
    let listing = Listing { subject: image.manifest, entry: artifact::entry(&about, &manifest) };
    let in_memory = |bytes: Vec<u8>| UploadBlob {
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        content: BlobContent::Memory(bytes.into()),
    };
    let code = UploadBlob { digest: code.digest, size: code.size, content: BlobContent::File(own.path) };
    let blobs = vec![in_memory(artifact::EMPTY.to_vec()), in_memory(facts), code];
    Ok((Upload { blobs, manifest: manifest.into(), listing: Some(listing) }, size))
}

/// What a manifest says that it is. It need not, and is OCI's then.
fn media_type_of(bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        #[serde(default, deserialize_with = "manifest::null_is_default")]
        media_type: String,
    }
    let head: Option<Head> = serde_json::from_slice(bytes).ok();
    let named = head.map(|head| head.media_type).filter(|media_type| !media_type.is_empty());
    named.unwrap_or_else(|| media::OCI_MANIFEST.to_owned())
}
