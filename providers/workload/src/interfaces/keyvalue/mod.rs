//! `wasi:keyvalue`: buckets of keys with values.

mod bindings;
mod files;
mod interface;
mod memory;
mod nats;
mod redis;
mod stores;

use async_trait::async_trait;

pub use bindings::OpenBucket;
pub use files::FileKeyValue;
pub use interface::WasiKeyValue;
pub use memory::MemoryKeyValue;
pub use nats::NatsKeyValue;
pub use redis::RedisKeyValue;
pub use stores::{KeyValueStores, LimitedBucket};

use super::text;

/// A back end.
#[async_trait]
pub trait KeyValue: std::fmt::Debug + Send + Sync + 'static {
    /// Opens a bucket. In memory, in files and in Redis a bucket is made by its first key.
    ///
    /// # Errors
    /// [`KeyValueError::NoSuchStore`] for a name that no bucket can have.
    async fn open(&self, bucket: &str) -> Result<Box<dyn Bucket>, KeyValueError>;
}

/// A bucket of a back end.
#[async_trait]
pub trait Bucket: std::fmt::Debug + Send + Sync + 'static {
    /// A value. `None` where there is no such key.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError>;

    /// Sets a value.
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError>;

    /// Deletes a key, if it is there.
    async fn delete(&self, key: &str) -> Result<(), KeyValueError>;

    /// Whether there is such a key.
    async fn exists(&self, key: &str) -> Result<bool, KeyValueError>;

    /// A page of keys, the first one without a cursor. A key that is there for as long as the pages are read is in one of them,
    /// or, in Redis, in several.
    async fn keys(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError>;

    /// Adds to a number, which is 0 where there is none, and returns what it is then, whoever else adds at the same time.
    async fn increment(&self, key: &str, delta: u64) -> Result<u64, KeyValueError>;

    /// Several values, in the order of their keys. Where they have more than `most` bytes together, that is an error.
    async fn get_many(&self, keys: &[String], most: usize) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        let (mut values, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for key in keys {
            let value = self.get(key).await?;
            bytes += value.as_ref().map_or(0, Vec::len);
            if bytes > most {
                return Err(too_large(most));
            }
            values.push(value);
        }
        Ok(values)
    }

    /// Sets several values, one after the other; after an error, some of them may be set.
    async fn set_many(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        for (key, value) in pairs {
            self.set(&key, value).await?;
        }
        Ok(())
    }

    /// Deletes several keys, as [`Bucket::set_many`] sets them.
    async fn delete_many(&self, keys: &[String]) -> Result<(), KeyValueError> {
        for key in keys {
            self.delete(key).await?;
        }
        Ok(())
    }
}

/// A page of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPage {
    /// Its keys.
    pub keys: Vec<String>,
    /// Where the next one begins. `None` after the last one.
    pub cursor: Option<u64>,
}

/// What went wrong, as a guest is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    /// There is no such bucket.
    #[error("there is no such bucket")]
    NoSuchStore,
    /// The settings do not allow it.
    #[error("the settings do not allow it")]
    AccessDenied,
    /// Anything else, in words without secrets.
    #[error("{0}")]
    Other(String),
}

impl KeyValueError {
    fn other(what: &str, error: &dyn std::error::Error) -> Self {
        Self::Other(format!("{what}: {}", text::words(error)))
    }
}

/// Reads a counter that is written in decimal digits.
fn counter(value: Option<&[u8]>) -> Result<u64, KeyValueError> {
    let Some(value) = value else { return Ok(0) };
    let number = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| KeyValueError::Other("the value is not a whole number of decimal digits".to_owned()))
}

/// The sum, unless it is too large.
fn sum(number: u64, delta: u64) -> Result<u64, KeyValueError> {
    number.checked_add(delta).ok_or_else(|| KeyValueError::Other("the number would be too large".to_owned()))
}

fn too_large(most: usize) -> KeyValueError {
    KeyValueError::Other(format!("there are more than {most} bytes (max_value_bytes)"))
}
