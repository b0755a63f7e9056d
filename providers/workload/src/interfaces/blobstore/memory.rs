//! Containers in memory, which go with their workload.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream, stream::BoxStream};

use super::{Blob, BlobError, BlobRange, BlobStore, BlobWriter, ObjectInfo};
use crate::interfaces::Limits;

/// Bytes that a name costs besides its own.
const OVERHEAD: u64 = 128;
/// Bytes of one piece that is read.
const PIECE: usize = 64 << 10;

/// Containers in memory, of as much as the limits say.
#[derive(Clone, Debug)]
pub struct MemoryBlobStore {
    data: Arc<Mutex<MemoryContainers>>,
    most: u64,
}

#[derive(Debug, Default)]
struct MemoryContainers {
    containers: HashMap<String, MemoryContainer>,
    /// Bytes of all of them, and of what is being written.
    used: u64,
}

#[derive(Debug)]
struct MemoryContainer {
    created_at: u64,
    objects: BTreeMap<String, (u64, Bytes)>,
}

impl MemoryBlobStore {
    /// No containers.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { data: Arc::default(), most: limits.memory_bytes }
    }

    fn data(&self) -> MutexGuard<'_, MemoryContainers> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()
}

fn cost(name: &str, bytes: u64) -> u64 {
    OVERHEAD + name.len() as u64 + bytes
}

impl MemoryContainers {
    fn container(&self, name: &str) -> Result<&MemoryContainer, BlobError> {
        self.containers.get(name).ok_or_else(|| BlobError::no_container(name))
    }

    fn take(&mut self, bytes: u64, most: u64) -> Result<(), BlobError> {
        let used = self.used.saturating_add(bytes);
        if used > most {
            let text =
                format!("the store in memory is full: it holds {most} bytes at most (max_memory_bytes)");
            return Err(BlobError(text));
        }
        self.used = used;
        Ok(())
    }
}

#[async_trait]
impl BlobStore for MemoryBlobStore {
    async fn create(&self, container: &str) -> Result<(), BlobError> {
        let mut data = self.data();
        if !data.containers.contains_key(container) {
            data.take(cost(container, 0), self.most)?;
            let made = MemoryContainer { created_at: now(), objects: BTreeMap::new() };
            data.containers.insert(container.to_owned(), made);
        }
        Ok(())
    }

    async fn delete(&self, container: &str) -> Result<(), BlobError> {
        let mut data = self.data();
        if let Some(gone) = data.containers.remove(container) {
            let objects = gone.objects.iter().map(|(name, (_, bytes))| cost(name, bytes.len() as u64));
            data.used -= cost(container, 0) + objects.sum::<u64>();
        }
        Ok(())
    }

    async fn created(&self, container: &str) -> Result<Option<u64>, BlobError> {
        Ok(self.data().containers.get(container).map(|container| container.created_at))
    }

    async fn read(&self, container: &str, object: &str, range: BlobRange) -> Result<Blob, BlobError> {
        let data = self.data();
        let found = data.container(container)?.objects.get(object);
        let (_, bytes) = found.ok_or_else(|| BlobError::no_object(object))?;
        let range = range.within(bytes.len() as u64);
        let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
        let bytes = bytes.slice(at(range.start)..at(range.end));
        let size = bytes.len() as u64;
        let pieces = stream::unfold(bytes, |mut rest| async move {
            let piece = rest.split_to(rest.len().min(PIECE));
            (!piece.is_empty()).then_some((Ok(piece), rest))
        });
        Ok(Blob { size, bytes: pieces.boxed() })
    }

    async fn write(&self, container: &str, object: &str) -> Result<Box<dyn BlobWriter>, BlobError> {
        let mut data = self.data();
        data.container(container)?;
        let taken = cost(object, 0);
        data.take(taken, self.most)?;
        let (container, object) = (container.to_owned(), object.to_owned());
        Ok(Box::new(MemoryWriter { store: self.clone(), container, object, bytes: BytesMut::new(), taken }))
    }

    async fn list(
        &self,
        container: &str,
    ) -> Result<BoxStream<'static, Result<String, BlobError>>, BlobError> {
        self.data().container(container)?;
        let (store, container) = (self.clone(), container.to_owned());
        // From name to name, so that no list of them is held.
        let names = stream::unfold(None::<String>, move |last| {
            let data = store.data();
            let next = data.containers.get(&container).and_then(|found| match &last {
                None => found.objects.keys().next(),
                Some(last) => {
                    let after = (std::ops::Bound::Excluded(last.as_str()), std::ops::Bound::Unbounded);
                    found.objects.range::<str, _>(after).map(|(name, _)| name).next()
                }
            });
            let next = next.cloned();
            async move { next.map(|name| (Ok(name.clone()), Some(name))) }
        });
        Ok(names.boxed())
    }

    async fn delete_object(&self, container: &str, object: &str) -> Result<(), BlobError> {
        let mut data = self.data();
        let found = data.containers.get_mut(container).ok_or_else(|| BlobError::no_container(container))?;
        if let Some((_, bytes)) = found.objects.remove(object) {
            data.used -= cost(object, bytes.len() as u64);
        }
        Ok(())
    }

    async fn object(&self, container: &str, object: &str) -> Result<Option<ObjectInfo>, BlobError> {
        let data = self.data();
        let found = data.container(container)?.objects.get(object);
        Ok(found.map(|(created_at, bytes)| ObjectInfo { created_at: *created_at, size: bytes.len() as u64 }))
    }
}

struct MemoryWriter {
    store: MemoryBlobStore,
    container: String,
    object: String,
    bytes: BytesMut,
    /// Of what the store has, for what is not kept yet.
    taken: u64,
}

#[async_trait]
impl BlobWriter for MemoryWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.store.data().take(bytes.len() as u64, self.store.most)?;
        self.taken += bytes.len() as u64;
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), BlobError> {
        let store = self.store.clone();
        let mut data = store.data();
        let Some(found) = data.containers.get_mut(&self.container) else {
            return Err(BlobError::no_container(&self.container));
        };
        let bytes = std::mem::take(&mut self.bytes).freeze();
        let name = std::mem::take(&mut self.object);
        // What was taken for this one stays taken, and what was taken for the one before is free.
        if let Some((_, old)) = found.objects.insert(name.clone(), (now(), bytes)) {
            data.used -= cost(&name, old.len() as u64);
        }
        self.taken = 0;
        Ok(())
    }

    async fn abort(self: Box<Self>) {}
}

/// Gives back what was taken for what was not kept.
impl Drop for MemoryWriter {
    fn drop(&mut self) {
        self.store.data().used -= self.taken;
    }
}
