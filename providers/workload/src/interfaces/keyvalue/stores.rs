//! What a workload has of `wasi:keyvalue`: back ends by name, each with its limits.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    Bucket, FileKeyValue, KeyPage, KeyValue, KeyValueError, MemoryKeyValue, NatsKeyValue, RedisKeyValue,
};
use crate::interfaces::{
    InvalidSettings, Settings,
    limits::{Late, Turns},
    settings::Access,
};

impl From<Late> for KeyValueError {
    fn from(late: Late) -> Self {
        Self::Other(late.to_string())
    }
}

/// The back ends of one workload: one for all names, and others by names of their own.
///
/// What a guest opens says which: `name` is the back end of that name and a bucket of that name in it, `name/bucket` another one
/// of its buckets, and everything else is a bucket of the back end without a name.
#[derive(Clone, Debug, Default)]
pub struct KeyValueStores {
    unnamed: Option<Arc<LimitedStore>>,
    named: BTreeMap<String, Arc<LimitedStore>>,
}

/// A back end with its limits.
#[derive(Debug)]
struct LimitedStore {
    store: Arc<dyn KeyValue>,
    turns: Turns,
    access: Access,
}

impl KeyValueStores {
    /// No back ends.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a back end as `backend` of the settings says: `memory`, `files`, `redis` or `nats`. Where it says nothing, `url` and
    /// `path` tell, and without them it is in memory.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn add(&mut self, name: Option<&str>, settings: &Settings) -> Result<(), InvalidSettings> {
        let store: Arc<dyn KeyValue> = match backend(settings)? {
            "memory" => Arc::new(MemoryKeyValue::new(&settings.limits()?)),
            "files" => Arc::new(FileKeyValue::new(settings)?),
            "redis" => Arc::new(RedisKeyValue::new(settings)?),
            "nats" => Arc::new(NatsKeyValue::new(settings)?),
            _ => return Err(InvalidSettings::new("backend", "it is none of memory, files, redis and nats")),
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
        store: Arc<dyn KeyValue>,
    ) -> Result<(), InvalidSettings> {
        let limited =
            LimitedStore { store, turns: Turns::new(settings.limits()?), access: settings.access()? };
        match name {
            None => self.unnamed = Some(Arc::new(limited)),
            Some(name) => drop(self.named.insert(name.to_owned(), Arc::new(limited))),
        }
        Ok(())
    }

    /// Opens what a guest names. `label` is the name of a back end that the guest's import says it is about.
    ///
    /// # Errors
    /// [`KeyValueError::NoSuchStore`] where no back end is meant, [`KeyValueError::AccessDenied`] for a bucket that is not in the
    /// back end's list, and what the back end says.
    pub async fn open(&self, label: Option<&str>, name: &str) -> Result<LimitedBucket, KeyValueError> {
        let (store, bucket) = self.find(label, name).ok_or(KeyValueError::NoSuchStore)?;
        if !store.access.allows(bucket) {
            return Err(KeyValueError::AccessDenied);
        }
        if bucket.is_empty() || bucket.len() > store.turns.limits().key_bytes {
            return Err(KeyValueError::NoSuchStore);
        }
        let opened = store.turns.run(store.store.open(bucket)).await??;
        Ok(LimitedBucket { bucket: Arc::from(opened), store: Arc::clone(store) })
    }

    fn find<'a>(&self, label: Option<&str>, name: &'a str) -> Option<(&Arc<LimitedStore>, &'a str)> {
        if let Some(label) = label {
            return Some((self.named.get(label)?, name));
        }
        let (first, rest) = name.split_once('/').unwrap_or((name, name));
        match self.named.get(first) {
            Some(store) => Some((store, rest)),
            None => Some((self.unnamed.as_ref()?, name)),
        }
    }
}

fn backend(settings: &Settings) -> Result<&str, InvalidSettings> {
    if let Some(backend) = settings.get("backend") {
        return Ok(backend);
    }
    if settings.get("url").is_none() {
        return Ok(if settings.get("path").is_some() { "files" } else { "memory" });
    }
    Ok(match settings.server()?.scheme() {
        "redis" | "rediss" => "redis",
        _ => "nats",
    })
}

/// A bucket, within the limits of its back end.
#[derive(Clone)]
pub struct LimitedBucket {
    bucket: Arc<dyn Bucket>,
    store: Arc<LimitedStore>,
}

impl fmt::Debug for LimitedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LimitedBucket").field(&self.bucket).finish()
    }
}

/// See [`Bucket`].
#[allow(clippy::missing_errors_doc, missing_docs, reason = "they are those of the trait, within limits")]
impl LimitedBucket {
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        self.check_key(key)?;
        let value = self.turns().run(self.bucket.get(key)).await??;
        if let Some(value) = &value {
            self.check_size(value.len())?;
        }
        Ok(value)
    }

    pub async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        self.check_write(key)?;
        self.check_size(value.len())?;
        self.turns().run(self.bucket.set(key, value)).await?
    }

    pub async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.check_write(key)?;
        self.turns().run(self.bucket.delete(key)).await?
    }

    pub async fn exists(&self, key: &str) -> Result<bool, KeyValueError> {
        self.check_key(key)?;
        self.turns().run(self.bucket.exists(key)).await?
    }

    pub async fn keys(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        self.turns().run(self.bucket.keys(cursor)).await?
    }

    pub async fn increment(&self, key: &str, delta: u64) -> Result<u64, KeyValueError> {
        self.check_write(key)?;
        self.turns().run(self.bucket.increment(key, delta)).await?
    }

    pub async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        self.check_count(keys.len())?;
        keys.iter().try_for_each(|key| self.check_key(key))?;
        self.turns().run(self.bucket.get_many(keys, self.turns().limits().value_bytes)).await?
    }

    pub async fn set_many(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        self.check_count(pairs.len())?;
        pairs.iter().try_for_each(|(key, _)| self.check_write(key))?;
        self.check_size(pairs.iter().map(|(_, value)| value.len()).sum())?;
        self.turns().run(self.bucket.set_many(pairs)).await?
    }

    pub async fn delete_many(&self, keys: &[String]) -> Result<(), KeyValueError> {
        self.check_count(keys.len())?;
        keys.iter().try_for_each(|key| self.check_write(key))?;
        self.turns().run(self.bucket.delete_many(keys)).await?
    }

    fn turns(&self) -> &Turns {
        &self.store.turns
    }

    fn check_key(&self, key: &str) -> Result<(), KeyValueError> {
        let most = self.turns().limits().key_bytes;
        if key.is_empty() || key.len() > most {
            return Err(KeyValueError::Other(format!(
                "the key has {} bytes; it may have 1 to {most}",
                key.len()
            )));
        }
        Ok(())
    }

    fn check_write(&self, key: &str) -> Result<(), KeyValueError> {
        self.check_key(key)?;
        if self.store.access.is_read_only { Err(KeyValueError::AccessDenied) } else { Ok(()) }
    }

    /// Of a value, or of all values of one call together.
    fn check_size(&self, bytes: usize) -> Result<(), KeyValueError> {
        let most = self.turns().limits().value_bytes;
        if bytes > most {
            return Err(KeyValueError::Other(format!(
                "{bytes} bytes are more than {most} (max_value_bytes)"
            )));
        }
        Ok(())
    }

    fn check_count(&self, keys: usize) -> Result<(), KeyValueError> {
        let most = self.turns().limits().page_keys;
        if keys > most {
            return Err(KeyValueError::Other(format!(
                "{keys} keys are more than {most}, which one call may have"
            )));
        }
        Ok(())
    }
}
