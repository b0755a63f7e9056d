//! Containers that are buckets of S3, and of what speaks its protocol.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    BackoffConfig, Error, GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore as _,
    ObjectStoreExt as _, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use url::Url;

use super::{
    Blob, BlobError, BlobRange, BlobStore, BlobWriter, ObjectId, ObjectInfo, s3_buckets::Buckets,
    s3_http::Connections,
};
use crate::interfaces::{InvalidSettings, Limits, Settings, text};

/// Bytes of a part. S3 takes no smaller ones, but the last, and 10,000 of them.
const PART: usize = 5 << 20;
/// Buckets that are known at a time.
const KEPT: usize = 256;
/// Larger objects are copied by way of this host: how long a server takes for them is not known.
const COPIED_THERE: u64 = 64 << 20;

/// Containers that are buckets of S3, at `endpoint`, or at Amazon's where there is none.
#[derive(Clone)]
pub struct S3BlobStore {
    account: Arc<S3Account>,
    buckets: Buckets,
    stores: Arc<Mutex<HashMap<String, Arc<AmazonS3>>>>,
}

struct S3Account {
    endpoint: Url,
    builder: AmazonS3Builder,
}

impl fmt::Debug for S3BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3BlobStore")
            .field("endpoint", &self.account.endpoint.as_str())
            .finish_non_exhaustive()
    }
}

impl S3BlobStore {
    /// What the settings say: `endpoint`, `region`, `access_key_id`, `secret_access_key`, `session_token`. Without a key nothing
    /// is signed: what this machine may do elsewhere is not for workloads.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        if !settings.tenant().is_alone() {
            return Err(InvalidSettings::new(
                "backend",
                "S3 is not shared: a workload names its own account",
            ));
        }
        let limits: Limits = settings.limits()?;
        let region = settings.get("region").unwrap_or("us-east-1");
        let amazon = format!("https://s3.{region}.amazonaws.com");
        let endpoint = Url::parse(settings.get("endpoint").or(settings.get("url")).unwrap_or(&amazon))
            .map_err(|error| InvalidSettings::new("endpoint", format!("it is no URL: {error}")))?;
        if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
            return Err(InvalidSettings::new("endpoint", "it begins with neither http:// nor https://"));
        }
        if !endpoint.username().is_empty() || endpoint.password().is_some() {
            return Err(InvalidSettings::new(
                "endpoint",
                "it has a user; give access_key_id and secret_access_key instead",
            ));
        }
        let connections =
            Connections::new(limits.deadline).map_err(|reason| InvalidSettings::new("endpoint", reason))?;
        let mut builder = AmazonS3Builder::new()
            .with_endpoint(endpoint.as_str().trim_end_matches('/'))
            .with_region(region)
            .with_allow_http(endpoint.scheme() == "http")
            .with_virtual_hosted_style_request(false)
            .with_http_connector(connections.clone())
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: 2,
                retry_timeout: limits.deadline,
            });
        let keys = match (settings.get("access_key_id"), settings.get("secret_access_key")) {
            (Some(id), Some(secret)) => Some((id, secret)),
            (None, None) => None,
            _ => {
                return Err(InvalidSettings::new("access_key_id", "it and secret_access_key go together"));
            }
        };
        let token = settings.get("session_token");
        builder = match keys {
            Some((id, secret)) => builder.with_access_key_id(id).with_secret_access_key(secret),
            None => builder.with_skip_signature(true),
        };
        if let Some(token) = token {
            builder = builder.with_token(token);
        }
        let buckets = Buckets::new(connections, endpoint.clone(), region, keys, token);
        let account = Arc::new(S3Account { endpoint, builder });
        Ok(Self { account, buckets, stores: Arc::default() })
    }

    fn store(&self, bucket: &str) -> Result<Arc<AmazonS3>, BlobError> {
        check_bucket(bucket)?;
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(bucket) {
            return Ok(Arc::clone(store));
        }
        let made = self.account.builder.clone().with_bucket_name(bucket).build();
        let store = Arc::new(made.map_err(|error| self.error(&error))?);
        if stores.len() >= KEPT {
            stores.clear();
        }
        stores.insert(bucket.to_owned(), Arc::clone(&store));
        Ok(store)
    }

    fn error(&self, error: &Error) -> BlobError {
        BlobError(format!("S3 at {}: {}", self.account.endpoint, text::words(error)))
    }

    async fn head(&self, store: &AmazonS3, key: &Path) -> Result<Option<ObjectMeta>, BlobError> {
        match store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }
}

/// Names that are a part of a URL and nothing else.
fn check_bucket(name: &str) -> Result<(), BlobError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if (3..=63).contains(&name.len())
        && name.chars().all(is_plain)
        && !name.starts_with('.')
        && !name.contains("..")
    {
        return Ok(());
    }
    Err(BlobError(format!("{} is no name of a bucket of S3", text::printable(name))))
}

fn key(object: &str) -> Result<Path, BlobError> {
    Path::parse(object)
        .ok()
        .filter(|path| !path.as_ref().is_empty() && path.as_ref() == object)
        .ok_or_else(|| BlobError(format!("{} is no name of an object of S3", text::printable(object))))
}

#[async_trait]
impl BlobStore for S3BlobStore {
    async fn create(&self, container: &str) -> Result<(), BlobError> {
        check_bucket(container)?;
        self.buckets.create(container).await
    }

    async fn delete(&self, container: &str) -> Result<(), BlobError> {
        check_bucket(container)?;
        self.buckets.delete(container).await
    }

    async fn created(&self, container: &str) -> Result<Option<u64>, BlobError> {
        check_bucket(container)?;
        // When, only a list of all buckets says, for which few have leave.
        Ok(self.buckets.exists(container).await?.then_some(0))
    }

    async fn read(&self, container: &str, object: &str, range: BlobRange) -> Result<Blob, BlobError> {
        let (store, key) = (self.store(container)?, key(object)?);
        let options = if range == BlobRange::WHOLE {
            GetOptions::default()
        } else {
            // S3 refuses what is beyond the end.
            let meta = self.head(&store, &key).await?.ok_or_else(|| BlobError::no_object(object))?;
            let range = range.within(meta.size);
            if range.is_empty() {
                return Ok(Blob { size: 0, bytes: stream::empty().boxed() });
            }
            GetOptions {
                range: Some(GetRange::Bounded(range)),
                if_match: meta.e_tag,
                ..GetOptions::default()
            }
        };
        let got = store.get_opts(&key, options).await.map_err(|error| match error {
            Error::NotFound { .. } => BlobError::no_object(object),
            error => self.error(&error),
        })?;
        let size = got.range.end - got.range.start;
        let backend = self.clone();
        Ok(Blob { size, bytes: got.into_stream().map_err(move |error| backend.error(&error)).boxed() })
    }

    async fn write(&self, container: &str, object: &str) -> Result<Box<dyn BlobWriter>, BlobError> {
        let (store, key) = (self.store(container)?, key(object)?);
        Ok(Box::new(S3Writer { backend: self.clone(), store, key, part: BytesMut::new(), upload: None }))
    }

    async fn list(
        &self,
        container: &str,
    ) -> Result<BoxStream<'static, Result<String, BlobError>>, BlobError> {
        let store = self.store(container)?;
        let backend = self.clone();
        let names = store.list(None).map(move |meta| {
            meta.map(|meta| meta.location.to_string()).map_err(|error| backend.error(&error))
        });
        Ok(names.boxed())
    }

    async fn delete_object(&self, container: &str, object: &str) -> Result<(), BlobError> {
        match self.store(container)?.delete(&key(object)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error(&error)),
        }
    }

    async fn object(&self, container: &str, object: &str) -> Result<Option<ObjectInfo>, BlobError> {
        let meta = self.head(&*self.store(container)?, &key(object)?).await?;
        Ok(meta.map(|meta| {
            let created_at = u64::try_from(meta.last_modified.timestamp()).unwrap_or(0);
            ObjectInfo { created_at, size: meta.size }
        }))
    }

    async fn copy(&self, from: ObjectId<'_>, to: ObjectId<'_>) -> Result<bool, BlobError> {
        if from.container != to.container {
            return Ok(false);
        }
        let store = self.store(from.container)?;
        let (from_key, to_key) = (key(from.object)?, key(to.object)?);
        let meta = self.head(&store, &from_key).await?.ok_or_else(|| BlobError::no_object(from.object))?;
        if meta.size > COPIED_THERE {
            return Ok(false);
        }
        store.copy(&from_key, &to_key).await.map_err(|error| self.error(&error))?;
        Ok(true)
    }
}

/// Writes an object: at once where it is small, or else in parts.
struct S3Writer {
    backend: S3BlobStore,
    store: Arc<AmazonS3>,
    key: Path,
    /// The part that is not full yet.
    part: BytesMut,
    upload: Option<Box<dyn MultipartUpload>>,
}

impl S3Writer {
    async fn upload(&mut self, part: Bytes) -> Result<(), BlobError> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            None => {
                let begun = self.store.put_multipart(&self.key).await;
                self.upload.insert(begun.map_err(|error| self.backend.error(&error))?)
            }
        };
        upload.put_part(part.into()).await.map_err(|error| self.backend.error(&error))
    }

    async fn keep(&mut self) -> Result<(), BlobError> {
        let last = self.part.split().freeze();
        if self.upload.is_none() {
            let put = self.store.put(&self.key, last.into()).await;
            return put.map(drop).map_err(|error| self.backend.error(&error));
        }
        if !last.is_empty() {
            self.upload(last).await?;
        }
        let Some(upload) = &mut self.upload else { return Ok(()) };
        upload.complete().await.map_err(|error| self.backend.error(&error))?;
        self.upload = None;
        Ok(())
    }
}

#[async_trait]
impl BlobWriter for S3Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = PART - self.part.len();
            self.part.extend_from_slice(&rest.split_to(room.min(rest.len())));
            if self.part.len() == PART {
                let full = std::mem::take(&mut self.part).freeze();
                self.upload(full).await?;
            }
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), BlobError> {
        let kept = self.keep().await;
        if kept.is_err() {
            self.abort().await;
        }
        kept
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(mut upload) = self.upload.take() {
            let _ = upload.abort().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_paths() {
        for bucket in ["..", "a/b", "a", "bu?cket", "a..b", "bucket/", "%2e%2e%2e", &"b".repeat(64)] {
            assert!(check_bucket(bucket).is_err(), "{bucket}");
        }
        check_bucket("my-bucket.1").unwrap();
        for object in ["", "/a", "a/../b", "a//b", "..", "a/"] {
            assert!(key(object).is_err(), "{object}");
        }
        assert_eq!(key("a/b c.txt").unwrap().as_ref(), "a/b c.txt");
    }
}
