//! `wasi:blobstore`: containers of objects, which are streams of bytes.
//!
//! Nothing is held whole, but by the back end in memory: what is read comes as it is read, and what is written goes on as far as
//! the back end takes it. An object is there when its value is finished, and until then the one before it is.

mod bindings;
mod copy;
mod files;
mod incoming;
mod interface;
mod memory;
mod names;
mod nats;
mod outgoing;
mod pipe;
mod s3;
mod s3_buckets;
mod s3_http;
mod stores;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use files::FileBlobStore;
pub use incoming::IncomingValue;
pub use interface::WasiBlobStore;
pub use memory::MemoryBlobStore;
pub use names::ObjectNames;
pub use nats::NatsBlobStore;
pub use outgoing::OutgoingValue;
pub use s3::S3BlobStore;
pub use stores::{BlobStores, LimitedWriter, OpenContainer};

use super::{limits::Late, text};

/// A back end. Names of containers and objects are any text; what a back end cannot have as a name is an error.
#[async_trait]
pub trait BlobStore: std::fmt::Debug + Send + Sync + 'static {
    /// Makes a container. One that is there stays as it is.
    async fn create(&self, container: &str) -> Result<(), BlobError>;

    /// Deletes a container that is empty; one that is not there is no error.
    async fn delete(&self, container: &str) -> Result<(), BlobError>;

    /// When a container was made, in seconds since 1970, or 0 where nobody knows. `None` where there is none.
    async fn created(&self, container: &str) -> Result<Option<u64>, BlobError>;

    /// Reads bytes of an object, from a version of it that does not change meanwhile.
    async fn read(&self, container: &str, object: &str, range: BlobRange) -> Result<Blob, BlobError>;

    /// Begins to write an object.
    async fn write(&self, container: &str, object: &str) -> Result<Box<dyn BlobWriter>, BlobError>;

    /// Names of all objects.
    async fn list(&self, container: &str)
    -> Result<BoxStream<'static, Result<String, BlobError>>, BlobError>;

    /// Deletes an object; one that is not there is no error.
    async fn delete_object(&self, container: &str, object: &str) -> Result<(), BlobError>;

    /// What an object is. `None` where there is none.
    async fn object(&self, container: &str, object: &str) -> Result<Option<ObjectInfo>, BlobError>;

    /// Copies an object without its bytes coming here. False where it cannot.
    async fn copy(&self, from: ObjectId<'_>, to: ObjectId<'_>) -> Result<bool, BlobError> {
        let _ = (from, to);
        Ok(false)
    }
}

/// Takes the bytes of an object.
#[async_trait]
pub trait BlobWriter: Send + 'static {
    /// Takes more of them. Does not return before there is room for others.
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError>;

    /// The object is what was written.
    async fn finish(self: Box<Self>) -> Result<(), BlobError>;

    /// Nothing has happened.
    async fn abort(self: Box<Self>);
}

/// An object of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectId<'a> {
    /// Its container.
    pub container: &'a str,
    /// Its name.
    pub object: &'a str,
}

/// Bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRange {
    /// The first one.
    pub start: u64,
    /// The last one; `u64::MAX` for the object's last one.
    pub end: u64,
}

impl BlobRange {
    /// All of them.
    pub const WHOLE: Self = Self { start: 0, end: u64::MAX };

    /// Where it begins and where it has ended in an object of this size. Bytes beyond its end are none.
    #[must_use]
    pub fn within(self, size: u64) -> std::ops::Range<u64> {
        let end = self.end.saturating_add(1).min(size);
        self.start.min(end)..end
    }
}

/// Bytes of an object, as they come.
pub struct Blob {
    /// How many there are.
    pub size: u64,
    /// Them.
    pub bytes: BoxStream<'static, Result<Bytes, BlobError>>,
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blob").field("size", &self.size).finish_non_exhaustive()
    }
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// When it was written, in seconds since 1970.
    pub created_at: u64,
    /// Bytes.
    pub size: u64,
}

/// What went wrong, in words without secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BlobError(pub String);

impl BlobError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    fn caused(what: &str, error: &dyn std::error::Error) -> Self {
        Self(format!("{what}: {}", text::words(error)))
    }

    fn no_container(name: &str) -> Self {
        Self(format!("there is no container {}", text::printable(name)))
    }

    fn no_object(name: &str) -> Self {
        Self(format!("there is no object {}", text::printable(name)))
    }
}

impl From<Late> for BlobError {
    fn from(late: Late) -> Self {
        Self(late.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_range_belongs_to_it() {
        for (start, end, size, expected) in [
            (0, u64::MAX, 10, 0..10),
            (0, 9, 10, 0..10),
            (0, 0, 10, 0..1),
            (3, 5, 10, 3..6),
            (8, 20, 10, 8..10),
            (10, 20, 10, 10..10),
            (u64::MAX, u64::MAX, 10, 10..10),
            (5, 3, 10, 4..4),
            (0, u64::MAX, 0, 0..0),
            (0, u64::MAX - 1, u64::MAX, 0..u64::MAX),
        ] {
            assert_eq!(BlobRange { start, end }.within(size), expected, "{start} to {end} of {size}");
        }
    }
}
