//! Where images come from: one small trait, and its implementations.
//!
//! ```text
//! r.io/app:v1, oci://…  ─► RegistrySource ─┐             ┌─ Target::Manifest ─► plan ─► read(Part::Blob) …
//! https://…, http://…   ─► HttpSource      ├─ resolve() ─┤
//! s3://bucket/key       ─► BucketSource    │             ├─ Target::File ─────► its body, read(Part::File) to resume
//! file:///…             ─► FileSource     ─┘             └─ Target::Unchanged
//! ```
//!
//! A source knows how to ask and how to go on reading in the middle. It bounds what it takes into memory and turns
//! refusals into [`PullFailure`]s. What comes is counted, hashed and written by its caller, the same for all of them.

mod bucket;
mod file;
mod http;

use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    error::PullFailure,
    image::{Credential, ImageName},
    module_url::{ModuleUrl, UrlScheme},
    registry::RegistrySource,
    signature::SignatureSource,
    store::StoreInner,
};

/// Where one image comes from. Made for one pull: first [`ModuleSource::resolve`], then any number of reads.
#[async_trait::async_trait]
pub(crate) trait ModuleSource: Send + Sync {
    /// Finds out what the name means now. A source that can say that it still means what is `known` moves no bytes.
    async fn resolve(&mut self, known: Option<&KnownImage>) -> Result<Resolution, PullFailure>;

    /// Begins to read `part` at byte `offset`. A source that cannot begin there begins at 0, and says so.
    async fn read(&self, part: Part, offset: u64) -> Result<BlobBody, PullFailure>;

    /// Where the image's signatures are looked for; `None` where there can be none.
    fn signatures(&self) -> Option<&dyn SignatureSource> {
        None
    }
}

/// What the store has under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownImage {
    pub(crate) digest: Digest,
    /// What the source called that version.
    pub(crate) version: Option<FileVersion>,
}

/// What a name means, and who was let in.
#[derive(Debug)]
pub(crate) struct Resolution {
    pub(crate) target: Target,
    /// Position of the credential that was taken; `None`: nobody's.
    pub(crate) credential: Option<usize>,
}

/// What a name means.
#[derive(Debug)]
pub(crate) enum Target {
    /// What it was known to mean.
    Unchanged,
    /// A manifest, or an index of manifests.
    Manifest(RawManifest),
    /// A file that is the module.
    File(RemoteFile),
}

/// The bytes of a manifest, as its registry keeps them, and their digest.
#[derive(Clone, Debug)]
pub(crate) struct RawManifest {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
}

/// A file that a source has begun to send.
#[derive(Debug)]
pub(crate) struct RemoteFile {
    /// Bytes that it has, where the source says so. Nothing vouches for it.
    pub(crate) size: Option<u64>,
    pub(crate) version: Option<FileVersion>,
    /// From the first byte on.
    pub(crate) body: BlobBody,
}

/// What a source calls one version of a file: an entity tag or a time of modification, in the source's own words, by
/// which it can be asked [whether the file has changed](https://www.rfc-editor.org/rfc/rfc9110#section-13.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum FileVersion {
    EntityTag(String),
    Modified(String),
}

/// A part of an image that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A manifest that an index names.
    Manifest(Digest),
    /// A configuration or a layer.
    Blob(Digest),
    /// The one file that there is.
    File,
}

/// Bytes on their way.
pub(crate) struct BlobBody {
    /// Place of the first byte: what was asked for, or 0.
    pub(crate) offset: u64,
    chunks: BoxStream<'static, Result<Bytes, PullFailure>>,
}

impl BlobBody {
    pub(crate) fn new(offset: u64, chunks: BoxStream<'static, Result<Bytes, PullFailure>>) -> Self {
        Self { offset, chunks }
    }

    /// The next bytes, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, PullFailure> {
        self.chunks.next().await.transpose()
    }

    /// All bytes, which must not be more than `limit`; `what` they are is for the error.
    pub(crate) async fn read_all(mut self, limit: u64, what: &str) -> Result<Bytes, PullFailure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(PullFailure::TooLarge(format!("{what} is larger than {limit} bytes")));
            }
        }
        Ok(bytes.into())
    }
}

impl std::fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobBody").field("offset", &self.offset).finish_non_exhaustive()
    }
}

/// The source of `name`. Connects to nothing yet.
///
/// # Errors
/// A source that this node does not allow, or cannot use as it is configured.
pub(crate) fn of<'a>(
    inner: &'a StoreInner,
    name: &'a ImageName,
    credentials: &'a [Credential],
) -> Result<Box<dyn ModuleSource + 'a>, PullFailure> {
    let url = match name {
        ImageName::Reference(reference) => {
            return Ok(Box::new(RegistrySource::new(&inner.registry, reference, credentials)));
        }
        ImageName::Url(url) => url,
        ImageName::Path(path) => {
            return Err(PullFailure::Unsupported(format!(
                "{} is a path, and paths are imported, not pulled",
                path.display()
            )));
        }
    };
    of_url(inner, url)
}

fn of_url<'a>(inner: &'a StoreInner, url: &'a ModuleUrl) -> Result<Box<dyn ModuleSource + 'a>, PullFailure> {
    Ok(match url.scheme() {
        UrlScheme::Https | UrlScheme::Http => Box::new(http::HttpSource::new(&inner.registry, url)?),
        UrlScheme::S3 => Box::new(bucket::BucketSource::new(&inner.registry, url, &inner.options.s3)?),
        UrlScheme::File => Box::new(file::FileSource::new(url, &inner.options.file_directories)?),
    })
}
