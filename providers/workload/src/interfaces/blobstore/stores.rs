//! What a workload has of `wasi:blobstore`: back ends by name, each with its limits.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Blob, BlobError, BlobRange, BlobStore, BlobWriter, FileBlobStore, MemoryBlobStore, NatsBlobStore,
    ObjectInfo, ObjectNames, S3BlobStore,
    pipe::{Pipe, PipeEnd, Piped},
};
use crate::interfaces::{InvalidSettings, Settings, limits::Turns, settings::Access};

/// The back ends of one workload: one for all containers, and others by names of their own.
///
/// The name of a container says which: `name` is the back end of that name and a container of that name in it,
/// `name/container` another one of its containers, and everything else is a container of the back end without a name.
#[derive(Clone, Debug, Default)]
pub struct BlobStores {
    unnamed: Option<Arc<LimitedBlobs>>,
    named: BTreeMap<String, Arc<LimitedBlobs>>,
}

/// A back end with its limits.
#[derive(Debug)]
pub(super) struct LimitedBlobs {
    pub(super) store: Arc<dyn BlobStore>,
    turns: Turns,
    access: Access,
}

impl BlobStores {
    /// No back ends.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a back end as `backend` of the settings says: `memory`, `files`, `s3` or `nats`. Where it says nothing, `endpoint`,
    /// `url` and `path` tell, and without them it is in memory.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn add(&mut self, name: Option<&str>, settings: &Settings) -> Result<(), InvalidSettings> {
        let store: Arc<dyn BlobStore> = match backend(settings)? {
            "memory" => Arc::new(MemoryBlobStore::new(&settings.limits()?)),
            "files" => Arc::new(FileBlobStore::new(settings)?),
            "s3" => Arc::new(S3BlobStore::new(settings)?),
            "nats" => Arc::new(NatsBlobStore::new(settings)?),
            _ => return Err(InvalidSettings::new("backend", "it is none of memory, files, s3 and nats")),
        };
        self.add_store(name, settings, store)
    }

    /// Adds a back end of one's own, with limits and access by the settings.
    ///
    /// # Errors
    /// See [`add`](Self::add).
    pub fn add_store(
        &mut self,
        name: Option<&str>,
        settings: &Settings,
        store: Arc<dyn BlobStore>,
    ) -> Result<(), InvalidSettings> {
        let limited =
            LimitedBlobs { store, turns: Turns::new(settings.limits()?), access: settings.access()? };
        match name {
            None => self.unnamed = Some(Arc::new(limited)),
            Some(name) => drop(self.named.insert(name.to_owned(), Arc::new(limited))),
        }
        Ok(())
    }

    /// The container that a guest names, whether it is there or not. `label` is the name of a back end that the guest's import
    /// says it is about.
    ///
    /// # Errors
    /// Where no back end is meant, or a container that is not in its list.
    pub fn container(&self, label: Option<&str>, name: &str) -> Result<OpenContainer, BlobError> {
        let none = || BlobError::new("this name is of no blob store that the workload has");
        let (store, container) = match label {
            Some(label) => (self.named.get(label).ok_or_else(none)?, name),
            None => {
                let (first, rest) = name.split_once('/').unwrap_or((name, name));
                match self.named.get(first) {
                    Some(store) => (store, rest),
                    None => (self.unnamed.as_ref().ok_or_else(none)?, name),
                }
            }
        };
        if !store.access.allows(container) {
            return Err(BlobError::new(
                "access denied: the container is not among the buckets that the workload may use",
            ));
        }
        check_name(container, store.turns.limits().key_bytes)?;
        Ok(OpenContainer { store: Arc::clone(store), container: container.to_owned(), name: name.to_owned() })
    }
}

fn check_name(name: &str, most: usize) -> Result<(), BlobError> {
    if name.is_empty() || name.len() > most {
        return Err(BlobError(format!("the name has {} bytes; it may have 1 to {most}", name.len())));
    }
    Ok(())
}

fn backend(settings: &Settings) -> Result<&str, InvalidSettings> {
    if let Some(backend) = settings.get("backend") {
        return Ok(backend);
    }
    if settings.get("endpoint").is_some() {
        return Ok("s3");
    }
    if settings.get("url").is_none() {
        return Ok(if settings.get("path").is_some() { "files" } else { "memory" });
    }
    Ok(match settings.server()?.scheme() {
        "http" | "https" => "s3",
        _ => "nats",
    })
}

/// A container, within the limits of its back end.
#[derive(Clone)]
pub struct OpenContainer {
    pub(super) store: Arc<LimitedBlobs>,
    /// Its name in the back end.
    pub(super) container: String,
    /// Its name as the guest gave it.
    name: String,
}

impl fmt::Debug for OpenContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenContainer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What can be done with a container: see [`BlobStore`].
#[allow(clippy::missing_errors_doc, missing_docs, reason = "they are those of the trait, within limits")]
impl OpenContainer {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub async fn create(&self) -> Result<(), BlobError> {
        self.check_write()?;
        self.turns().run(self.store.store.create(&self.container)).await?
    }

    /// With everything that is in it.
    pub async fn delete(&self) -> Result<(), BlobError> {
        if self.created().await?.is_none() {
            return Ok(());
        }
        self.clear().await?;
        self.turns().run(self.store.store.delete(&self.container)).await?
    }

    pub async fn created(&self) -> Result<Option<u64>, BlobError> {
        self.turns().run(self.store.store.created(&self.container)).await?
    }

    pub async fn object(&self, object: &str) -> Result<Option<ObjectInfo>, BlobError> {
        self.check_object(object)?;
        self.turns().run(self.store.store.object(&self.container, object)).await?
    }

    pub async fn delete_object(&self, object: &str) -> Result<(), BlobError> {
        self.check_write()?;
        self.check_object(object)?;
        self.turns().run(self.store.store.delete_object(&self.container, object)).await?
    }

    pub async fn delete_objects(&self, objects: &[String]) -> Result<(), BlobError> {
        for object in objects {
            self.delete_object(object).await?;
        }
        Ok(())
    }

    /// Deletes all objects, one after the other: each has its own deadline.
    pub async fn clear(&self) -> Result<(), BlobError> {
        self.check_write()?;
        let mut names = self.list().await?;
        loop {
            let (some, is_end) = names.read(self.turns().limits().page_keys as u64).await?;
            for name in some {
                self.turns().run(self.store.store.delete_object(&self.container, &name)).await??;
            }
            if is_end {
                return Ok(());
            }
        }
    }

    pub async fn list(&self) -> Result<ObjectNames, BlobError> {
        let turn = self.turns().stream().await?;
        let names = self.turns().piece(self.store.store.list(&self.container)).await??;
        Ok(ObjectNames::new(names, self.turns().clone(), turn))
    }

    /// Bytes of an object. Each piece of them has the deadline of an operation.
    pub async fn read(&self, object: &str, range: BlobRange) -> Result<Blob, BlobError> {
        self.check_object(object)?;
        let turn = self.turns().stream().await?;
        let blob = self.turns().piece(self.store.store.read(&self.container, object, range)).await??;
        let turns = self.turns().clone();
        let pieces = stream::try_unfold((blob.bytes, turns, turn), |(mut bytes, turns, turn)| async move {
            let piece = turns.piece(bytes.try_next()).await??;
            Ok(piece.map(|piece| (piece, (bytes, turns, turn))))
        });
        Ok(Blob { size: blob.size, bytes: pieces.boxed() })
    }

    /// Writes what comes out of a pipe, until its end. The object is there when this is done without an error.
    pub(super) async fn write_from(&self, object: &str, pipe: &Pipe) -> Result<(), BlobError> {
        let mut writer = self.writer(object).await?;
        let failure = loop {
            match pipe.next().await {
                Piped::Bytes(bytes) => {
                    if let Err(error) = writer.write(bytes).await {
                        break error;
                    }
                }
                Piped::End(PipeEnd::Finished) => return writer.finish().await,
                Piped::End(PipeEnd::Dropped) => {
                    break BlobError::new("the value was dropped before it was finished");
                }
            }
        };
        writer.abort().await;
        Err(failure)
    }

    /// Begins to write an object.
    pub async fn writer(&self, object: &str) -> Result<LimitedWriter, BlobError> {
        self.check_write()?;
        self.check_object(object)?;
        let turn = self.turns().stream().await?;
        let writer = self.turns().piece(self.store.store.write(&self.container, object)).await??;
        Ok(LimitedWriter { writer, turns: self.turns().clone(), written: 0, _turn: turn })
    }

    pub(super) fn turns(&self) -> &Turns {
        &self.store.turns
    }

    pub(super) fn check_write(&self) -> Result<(), BlobError> {
        if self.store.access.is_read_only {
            return Err(BlobError::new("access denied: the blob store is read-only for the workload"));
        }
        Ok(())
    }

    pub(super) fn check_object(&self, object: &str) -> Result<(), BlobError> {
        check_name(object, self.turns().limits().key_bytes)
    }
}

/// A writer, within the limits of its back end.
pub struct LimitedWriter {
    writer: Box<dyn BlobWriter>,
    turns: Turns,
    written: u64,
    _turn: crate::interfaces::limits::StreamTurn,
}

impl fmt::Debug for LimitedWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitedWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

impl LimitedWriter {
    /// Takes more bytes, when there is room for them.
    ///
    /// # Errors
    /// What the back end says, or that the object is larger than it may be.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.written += bytes.len() as u64;
        let most = self.turns.limits().blob_bytes;
        if self.written > most {
            return Err(BlobError(format!("the object would have more than {most} bytes (max_blob_bytes)")));
        }
        self.turns.piece(self.writer.write(bytes)).await?
    }

    /// The object is what was written.
    ///
    /// # Errors
    /// What the back end says.
    pub async fn finish(self) -> Result<(), BlobError> {
        self.turns.piece(self.writer.finish()).await?
    }

    /// Nothing has happened. What is left behind where this does not end in time, the back end has to tidy up.
    pub async fn abort(self) {
        let _ = self.turns.piece(self.writer.abort()).await;
    }
}
