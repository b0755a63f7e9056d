//! Object stores of NATS' JetStream: each container is a bucket of them.
//!
//! What is kept has the form that all clients of NATS know (ADR-20): pieces on `$O.<bucket>.C.<id>`, and what the object is on
//! `$O.<bucket>.M.<name>`, which comes last. Pieces are read one by one and written a few at a time, so that an object of any
//! size goes through little memory.

use std::{
    collections::{HashMap, VecDeque},
    future::{Future, IntoFuture as _},
    pin::Pin,
};

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        context::{ObjectStoreErrorKind, PublishErrorKind},
        object_store::{InfoErrorKind, ObjectInfo as NatsObject, ObjectOptions, ObjectStore},
        stream::Stream,
    },
};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, future::join_all, stream, stream::BoxStream};
use sha2::{Digest as _, Sha256};

use super::{Blob, BlobError, BlobRange, BlobStore, BlobWriter, ObjectInfo};
use crate::interfaces::{InvalidSettings, Settings, nats::Nats};

/// Bytes of a piece that is written: what all clients take.
const PIECE: usize = 128 << 10;
/// Pieces that are sent before the server has said that it has the first of them.
const AHEAD: usize = 8;

/// Containers that are buckets of object stores, `OBJ_<container>` among JetStream's streams.
#[derive(Clone, Debug)]
pub struct NatsBlobStore {
    nats: Nats,
    /// Goes before the names of containers.
    prefix: String,
}

impl NatsBlobStore {
    /// The server that the settings name.
    ///
    /// # Errors
    /// When they name none that NATS can be at.
    pub fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        let tenant = settings.tenant();
        let prefix = if tenant.is_alone() { String::new() } else { format!("{}_x_", tenant.name()) };
        Ok(Self { nats: Nats::new(settings)?, prefix })
    }

    fn error(&self, error: &dyn std::error::Error) -> BlobError {
        BlobError::caused(&format!("NATS at {}", self.nats.server()), error)
    }

    fn bucket(&self, container: &str) -> String {
        format!("{}{container}", self.prefix)
    }

    async fn jetstream(&self) -> Result<jetstream::Context, BlobError> {
        self.nats.jetstream().await.map_err(BlobError)
    }

    async fn find(&self, container: &str) -> Result<Option<NatsContainer>, BlobError> {
        let jetstream = self.jetstream().await?;
        let bucket = self.bucket(container);
        let store = match jetstream.get_object_store(&bucket).await {
            Ok(store) => store,
            Err(error) if error.kind() == ObjectStoreErrorKind::InvalidBucketName => {
                return Err(self.error(&error));
            }
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(self.error(&error)),
        };
        let stream =
            jetstream.get_stream(format!("OBJ_{bucket}")).await.map_err(|error| self.error(&error))?;
        Ok(Some(NatsContainer { backend: self.clone(), jetstream, bucket, store, stream }))
    }

    async fn container(&self, name: &str) -> Result<NatsContainer, BlobError> {
        self.find(name).await?.ok_or_else(|| BlobError::no_container(name))
    }
}

/// Whether there is no such stream: an answer of JetStream, not the lack of one.
fn is_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(answer) = error.downcast_ref::<jetstream::context::GetStreamError>()
            && let jetstream::context::GetStreamErrorKind::JetStream(answer) = answer.kind()
        {
            return answer.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND;
        }
        cause = error.source();
    }
    false
}

/// A bucket that is there.
#[derive(Clone)]
struct NatsContainer {
    backend: NatsBlobStore,
    jetstream: jetstream::Context,
    bucket: String,
    store: ObjectStore,
    stream: Stream,
}

impl NatsContainer {
    async fn info(&self, object: &str) -> Result<Option<NatsObject>, BlobError> {
        match self.store.info(object).await {
            Ok(info) => Ok(Some(info).filter(|info| !info.deleted)),
            Err(error) if error.kind() == InfoErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.backend.error(&error)),
        }
    }
}

#[async_trait]
impl BlobStore for NatsBlobStore {
    async fn create(&self, container: &str) -> Result<(), BlobError> {
        if self.find(container).await?.is_some() {
            return Ok(());
        }
        let config = jetstream::object_store::Config { bucket: self.bucket(container), ..Default::default() };
        let made = self.jetstream().await?.create_object_store(config).await;
        made.map(drop).map_err(|error| self.error(&error))
    }

    async fn delete(&self, container: &str) -> Result<(), BlobError> {
        if self.find(container).await?.is_none() {
            return Ok(());
        }
        let deleted = self.jetstream().await?.delete_object_store(self.bucket(container)).await;
        deleted.map_err(|error| self.error(&error))
    }

    async fn created(&self, container: &str) -> Result<Option<u64>, BlobError> {
        let found = self.find(container).await?;
        let created = |container: NatsContainer| container.stream.cached_info().created.unix_timestamp();
        Ok(found.map(|container| u64::try_from(created(container)).unwrap_or(0)))
    }

    async fn read(&self, container: &str, object: &str, range: BlobRange) -> Result<Blob, BlobError> {
        let container = self.container(container).await?;
        let info = container.info(object).await?.ok_or_else(|| BlobError::no_object(object))?;
        let whole = info.size as u64;
        let range = range.within(whole);
        let is_whole = range == (0..whole);
        let reader = NatsReader {
            subject: format!("$O.{}.C.{}", container.bucket, info.nuid),
            container,
            next: 1,
            at: 0,
            range: range.clone(),
            digest: info.digest.filter(|_| is_whole).map(|wanted| (Sha256::new(), wanted)),
        };
        let pieces = stream::try_unfold(reader, |mut reader| async move {
            Ok(reader.piece().await?.map(|piece| (piece, reader)))
        });
        Ok(Blob { size: range.end - range.start, bytes: pieces.boxed() })
    }

    async fn write(&self, container: &str, object: &str) -> Result<Box<dyn BlobWriter>, BlobError> {
        let container = self.container(container).await?;
        if object.is_empty() {
            return Err(BlobError::new("an object needs a name"));
        }
        // Unique on all clients: it is made for answers to find their way.
        let client = self.nats.client().await.map_err(BlobError)?;
        let nuid = client.new_inbox().rsplit('.').next().unwrap_or_default().to_owned();
        Ok(Box::new(NatsWriter {
            container,
            object: object.to_owned(),
            nuid,
            piece: BytesMut::with_capacity(PIECE),
            sent: VecDeque::new(),
            pieces: 0,
            size: 0,
            digest: Sha256::new(),
        }))
    }

    async fn list(
        &self,
        container: &str,
    ) -> Result<BoxStream<'static, Result<String, BlobError>>, BlobError> {
        let container = self.container(container).await?;
        let list = container.store.list().await.map_err(|error| self.error(&error))?;
        let backend = self.clone();
        let names = list.map(move |info| info.map(|info| info.name).map_err(|error| backend.error(&error)));
        Ok(names.boxed())
    }

    async fn delete_object(&self, container: &str, object: &str) -> Result<(), BlobError> {
        let container = self.container(container).await?;
        if container.info(object).await?.is_none() {
            return Ok(());
        }
        container.store.delete(object).await.map_err(|error| self.error(&error))
    }

    async fn object(&self, container: &str, object: &str) -> Result<Option<ObjectInfo>, BlobError> {
        let info = self.container(container).await?.info(object).await?;
        Ok(info.map(|info| {
            let written = info.modified.map_or(0, |modified| modified.unix_timestamp());
            ObjectInfo { created_at: u64::try_from(written).unwrap_or(0), size: info.size as u64 }
        }))
    }
}

/// Reads an object piece by piece.
struct NatsReader {
    container: NatsContainer,
    subject: String,
    /// The number in the stream from which the next piece is looked for.
    next: u64,
    /// Where in the object it begins.
    at: u64,
    range: std::ops::Range<u64>,
    /// What the object should be, for one that is read whole.
    digest: Option<(Sha256, String)>,
}

impl NatsReader {
    async fn piece(&mut self) -> Result<Option<Bytes>, BlobError> {
        while self.at < self.range.end {
            self.container.backend.nats.client().await.map_err(BlobError)?;
            let found =
                self.container.stream.direct_get_next_for_subject(&*self.subject, Some(self.next)).await;
            let message = found.map_err(|error| {
                BlobError::caused(
                    "a piece of the object cannot be read; it may have been replaced or deleted",
                    &error,
                )
            })?;
            self.next = message.sequence + 1;
            let begin = self.at;
            self.at += message.payload.len() as u64;
            if let Some((digest, _)) = &mut self.digest {
                digest.update(&message.payload);
            }
            let wanted = self.range.start.max(begin)..self.range.end.min(self.at);
            if wanted.start < wanted.end {
                let at = |place: u64| usize::try_from(place - begin).unwrap_or(usize::MAX);
                self.check()?;
                return Ok(Some(message.payload.slice(at(wanted.start)..at(wanted.end))));
            }
        }
        Ok(None)
    }

    /// After the last piece, before it is handed on.
    fn check(&mut self) -> Result<(), BlobError> {
        if self.at < self.range.end {
            return Ok(());
        }
        match self.digest.take() {
            None => Ok(()),
            Some((digest, wanted)) if digest_text(digest.clone()) == wanted => Ok(()),
            Some(_) => Err(BlobError::new("the object is not what was written: its digest is another")),
        }
    }
}

fn digest_text(digest: Sha256) -> String {
    format!("SHA-256={}", URL_SAFE.encode(digest.finalize()))
}

type Acknowledged = Pin<Box<dyn Future<Output = Result<(), jetstream::context::PublishError>> + Send>>;

/// Writes an object piece by piece.
struct NatsWriter {
    container: NatsContainer,
    object: String,
    nuid: String,
    /// The piece that is not full yet.
    piece: BytesMut,
    /// Pieces that the server has not said yet that it has.
    sent: VecDeque<Acknowledged>,
    pieces: usize,
    size: u64,
    digest: Sha256,
}

impl NatsWriter {
    fn subject(&self) -> String {
        format!("$O.{}.C.{}", self.container.bucket, self.nuid)
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), BlobError> {
        self.container.backend.nats.client().await.map_err(BlobError)?;
        if self.sent.len() >= AHEAD {
            self.acknowledged(AHEAD - 1).await?;
        }
        self.pieces += 1;
        let sent = self.container.jetstream.publish(self.subject(), piece).await;
        let sent = sent.map_err(|error| self.container.backend.error(&error))?;
        let acknowledged = sent.into_future();
        self.sent.push_back(Box::pin(async move { acknowledged.await.map(drop) }));
        Ok(())
    }

    /// Waits until no more than so many are on their way.
    async fn acknowledged(&mut self, most: usize) -> Result<(), BlobError> {
        while self.sent.len() > most {
            let Some(oldest) = self.sent.front_mut() else { break };
            let result = oldest.await;
            self.sent.pop_front();
            result.map_err(|error: async_nats::error::Error<PublishErrorKind>| {
                self.container.backend.error(&error)
            })?;
        }
        Ok(())
    }

    async fn keep(&mut self) -> Result<(), BlobError> {
        let last = self.piece.split().freeze();
        if !last.is_empty() {
            self.send(last).await?;
        }
        self.acknowledged(0).await?;
        let before = self.container.info(&self.object).await?;
        let info = NatsObject {
            name: self.object.clone(),
            bucket: self.container.bucket.clone(),
            nuid: self.nuid.clone(),
            size: usize::try_from(self.size).unwrap_or(usize::MAX),
            chunks: self.pieces,
            digest: Some(digest_text(std::mem::take(&mut self.digest))),
            modified: Some(async_nats::datetime::now()),
            options: Some(ObjectOptions { link: None, max_chunk_size: Some(PIECE) }),
            description: None,
            metadata: HashMap::new(),
            headers: None,
            deleted: false,
        };
        let info = serde_json::to_vec(&info).map_err(|error| self.container.backend.error(&error))?;
        let subject = format!("$O.{}.M.{}", self.container.bucket, URL_SAFE.encode(&self.object));
        let mut headers = HeaderMap::new();
        // It takes the place of what there was.
        headers.insert("Nats-Rollup", "sub");
        let told = self.container.jetstream.publish_with_headers(subject, headers, info.into()).await;
        let told = told.map_err(|error| self.container.backend.error(&error))?;
        told.await.map_err(|error| self.container.backend.error(&error))?;
        if let Some(before) = before.filter(|before| before.nuid != self.nuid) {
            // The new object is there; that pieces of the old one are left is no error of this one.
            let old = format!("$O.{}.C.{}", self.container.bucket, before.nuid);
            let _ = self.container.stream.purge().filter(old).await;
        }
        Ok(())
    }
}

#[async_trait]
impl BlobWriter for NatsWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.digest.update(&bytes);
        self.size += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = PIECE - self.piece.len();
            self.piece.extend_from_slice(&rest.split_to(room.min(rest.len())));
            if self.piece.len() == PIECE {
                let full = std::mem::replace(&mut self.piece, BytesMut::with_capacity(PIECE)).freeze();
                self.send(full).await?;
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
        if self.pieces > 0 {
            // A piece that is still on its way would come after the others were deleted, and stay.
            join_all(self.sent.drain(..)).await;
            let _ = self.container.stream.purge().filter(self.subject()).await;
        }
    }
}
