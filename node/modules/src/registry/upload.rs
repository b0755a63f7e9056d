//! The pushing half of the distribution protocol: blobs that are not there yet, then the manifest.
//!
//! ```text
//! HEAD blob ─ there ───────────────────────────────┐
//!      └─ 404 ─► POST uploads ─ Location ─► PUT ───┴─► … ─► PUT manifest ─► for a referrer: GET, PUT the list of them
//! ```
//!
//! What holds for pulling holds here: bounds, where credentials go, and where plain HTTP is spoken. The registry says
//! where a blob goes; if that is another origin, the blob goes there without the credential, and never from HTTPS to HTTP.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::stream;
use reqwest::{
    Body, RequestBuilder, Response, StatusCode, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use super::{
    Registry,
    answer::{RequestError, accepted_as},
    denied_text,
    session::{Access, DOCUMENT_TIMEOUT, Session},
};
use crate::{
    digest::Digest, error::PullFailure, image::Credential, media, reference::Reference,
    referrers::fallback_tag, shared_code::artifact,
};

/// Bytes of a file that are in memory at once.
const CHUNK: usize = 64 << 10;
/// The answer to a manifest that refers to another, where the registry lists it by itself.
const LISTED: &str = "oci-subject";
/// How often an entry is put into a list that others change at the same time.
const LISTING_ATTEMPTS: usize = 5;

/// What is uploaded: blobs in their order, and the manifest that names them.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) blobs: Vec<UploadBlob>,
    pub(crate) manifest: Bytes,
    /// Where the manifest is to be found by, if it refers to another.
    pub(crate) listing: Option<Listing>,
}

/// An entry in the list of what refers to a manifest.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub(crate) subject: Digest,
    pub(crate) entry: Value,
}

/// A blob and where its bytes are.
#[derive(Clone, Debug)]
pub(crate) struct UploadBlob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) content: BlobContent,
}

#[derive(Clone, Debug)]
pub(crate) enum BlobContent {
    Memory(Bytes),
    /// A file that nobody changes.
    File(PathBuf),
}

/// Is told of bytes that the registry has now.
pub(crate) type Sent = Arc<dyn Fn(u64) + Send + Sync>;

impl Registry {
    /// Uploads all parts of an artifact under `reference`, trying `credentials` in order and then none; says with which.
    ///
    /// # Errors
    /// [`PullFailure`], as for pulling. What was uploaded by then stays with the registry, which collects it some day.
    pub(crate) async fn upload(
        &self,
        reference: &Reference,
        credentials: &[Credential],
        upload: &Upload,
        sent: &Sent,
    ) -> Result<Option<usize>, PullFailure> {
        let mut denied = None;
        for position in (0..credentials.len()).map(Some).chain([None]) {
            let credential = position.and_then(|position| credentials.get(position));
            match self.upload_as(reference, credential, upload, sent).await {
                Ok(()) => return Ok(position),
                // Registries hide repositories from those who may not write to them.
                Err(PullFailure::Denied(detail) | PullFailure::NotFound(detail)) => {
                    denied = denied.or(Some(detail))
                }
                Err(other) => return Err(other),
            }
        }
        Err(PullFailure::Denied(denied_text(&denied.unwrap_or_default(), credentials.len())))
    }

    /// One attempt, over HTTPS, and over HTTP where that is allowed and nobody speaks TLS. Mirrors are not pushed to.
    async fn upload_as(
        &self,
        reference: &Reference,
        credential: Option<&Credential>,
        upload: &Upload,
        sent: &Sent,
    ) -> Result<(), PullFailure> {
        let endpoints = self.endpoints(reference)?;
        let endpoint = endpoints.iter().find(|endpoint| endpoint.is_registry && endpoint.capabilities.push);
        let Some(endpoint) = endpoint else {
            return Err(PullFailure::Configuration(format!(
                "the hosts.toml of {} does not allow pushing to it: give its server the capability push",
                reference.registry()
            )));
        };
        let mut urls = endpoint.urls.iter().peekable();
        while let Some(url) = urls.next() {
            let (reference, credential) = (reference.clone(), credential.cloned());
            let insecure = &self.options.insecure;
            let session = Session::new(endpoint, url, reference, credential, Access::PullAndPush, insecure)?;
            match session.upload(upload, sent).await {
                Err(error) if error.no_tls && urls.peek().is_some() => {}
                other => return Ok(other?),
            }
        }
        Err(PullFailure::Unavailable("the host has no address".to_owned()))
    }
}

impl Session {
    async fn upload(&self, upload: &Upload, sent: &Sent) -> Result<(), RequestError> {
        for blob in &upload.blobs {
            if !self.has_blob(&blob.digest).await? {
                self.put_blob(blob, sent).await?;
            } else {
                sent(blob.size);
            }
        }
        let answer = self.put_manifest(self.selector(), media::OCI_MANIFEST, &upload.manifest).await?;
        match &upload.listing {
            // A registry that lists referrers by itself says so.
            Some(listing) if !answer.headers().contains_key(LISTED) => self.list(listing).await,
            _ => Ok(()),
        }
    }

    /// Puts an entry into the list of referrers that is kept under a tag, where the registry keeps none itself. Others may
    /// do so at the same time, and nothing but another look tells who was last.
    async fn list(&self, listing: &Listing) -> Result<(), RequestError> {
        let tag = fallback_tag(&listing.subject);
        for _ in 0..LISTING_ATTEMPTS {
            let list = self.tagged(&tag).await?;
            match artifact::listed(list.as_deref(), &listing.entry).map_err(PullFailure::Malformed)? {
                Some(list) => drop(self.put_manifest(&tag, media::OCI_INDEX, &list.into()).await?),
                None => return Ok(()),
            }
        }
        Err(PullFailure::Unavailable(format!(
            "others change the list of what refers to {} (the tag {tag}) at the same time",
            listing.subject
        ))
        .into())
    }

    async fn has_blob(&self, digest: &Digest) -> Result<bool, RequestError> {
        let url = format!("{}/blobs/{digest}", self.base());
        let response =
            self.exchange(|| Ok(self.connector().registry.head(&url).timeout(DOCUMENT_TIMEOUT))).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => accepted_as(response, &[StatusCode::OK]).await.map(|_| true),
        }
    }

    async fn put_blob(&self, blob: &UploadBlob, sent: &Sent) -> Result<(), RequestError> {
        let url = format!("{}/blobs/uploads/", self.base());
        let begin =
            || Ok(self.connector().registry.post(&url).header(CONTENT_LENGTH, 0).timeout(DOCUMENT_TIMEOUT));
        let begun = accepted_as(self.exchange(begin).await?, &[StatusCode::ACCEPTED]).await?;
        let place = self.place(&begun, &blob.digest)?;
        let moved = Arc::new(AtomicU64::new(0));
        let count: Sent = {
            let (moved, sent) = (Arc::clone(&moved), Arc::clone(sent));
            Arc::new(move |bytes| {
                moved.fetch_add(bytes, Ordering::Relaxed);
                sent(bytes);
            })
        };
        let put = || {
            let body = body(&blob.content, &count).map_err(|error| {
                PullFailure::Malformed(format!("what is pushed cannot be read any more: {error}"))
            })?;
            let request =
                self.connector().uploads.put(place.clone()).header(CONTENT_TYPE, "application/octet-stream");
            Ok(request.header(CONTENT_LENGTH, blob.size).body(body))
        };
        let upload = async {
            let response = if place.origin() == self.base().origin() {
                self.exchange(put).await?
            } else {
                // Its signature is in the URL; a credential for the registry is none of its business.
                put()?.send().await?
            };
            accepted_as(response, &[StatusCode::CREATED]).await.map(drop)
        };
        self.unless_stalled(upload, &moved).await
    }

    /// Gives up on an upload when nothing is taken, and nothing answered, for as long as an answer may stall.
    async fn unless_stalled<T>(
        &self,
        upload: impl Future<Output = Result<T, RequestError>>,
        moved: &AtomicU64,
    ) -> Result<T, RequestError> {
        let mut upload = pin!(upload);
        let mut before = moved.load(Ordering::Relaxed);
        loop {
            if let Ok(outcome) = tokio::time::timeout(self.connector().stall_timeout, &mut upload).await {
                return outcome;
            }
            let now = moved.load(Ordering::Relaxed);
            if now == before {
                return Err(PullFailure::Unavailable(format!(
                    "the registry has taken nothing and said nothing for {} s in the middle of an upload",
                    self.connector().stall_timeout.as_secs()
                ))
                .into());
            }
            before = now;
        }
    }

    /// Where the registry wants a blob, with the digest that it is to check.
    fn place(&self, begun: &Response, digest: &Digest) -> Result<Url, PullFailure> {
        let location = begun.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let place = location.and_then(|location| begun.url().join(location).ok());
        let safe = |place: &Url| {
            place.scheme() == "https" || (place.scheme() == "http" && self.base().scheme() == "http")
        };
        let mut place = place.filter(safe).ok_or_else(|| {
            PullFailure::Malformed(
                "the registry takes an upload and does not say where to, or not safely (Location)".to_owned(),
            )
        })?;
        place.query_pairs_mut().append_pair("digest", &digest.to_string());
        Ok(place)
    }

    async fn put_manifest(
        &self,
        selector: &str,
        media_type: &str,
        manifest: &Bytes,
    ) -> Result<Response, RequestError> {
        let url = format!("{}/manifests/{selector}", self.base());
        let put = || -> Result<RequestBuilder, RequestError> {
            let request = self.connector().registry.put(&url).header(CONTENT_TYPE, media_type);
            Ok(request.timeout(DOCUMENT_TIMEOUT).body(manifest.clone()))
        };
        accepted_as(self.exchange(put).await?, &[StatusCode::CREATED]).await
    }
}

/// A body that says how it goes on.
fn body(content: &BlobContent, sent: &Sent) -> io::Result<Body> {
    let sent = Arc::clone(sent);
    Ok(match content {
        BlobContent::Memory(bytes) => {
            sent(bytes.len() as u64);
            Body::from(bytes.clone())
        }
        BlobContent::File(path) => {
            let file = open(path)?;
            Body::wrap_stream(stream::try_unfold(file, move |mut file| {
                let sent = Arc::clone(&sent);
                async move {
                    let mut chunk = vec![0; CHUNK];
                    let count = file.read(&mut chunk).await?;
                    chunk.truncate(count);
                    sent(count as u64);
                    Ok::<_, io::Error>((count > 0).then_some((Bytes::from(chunk), file)))
                }
            }))
        }
    })
}

fn open(path: &Path) -> io::Result<tokio::fs::File> {
    std::fs::File::open(path).map(tokio::fs::File::from_std)
}
