//! Buckets of NATS' JetStream, which somebody else has made.

use async_nats::jetstream::{
    context::KeyValueErrorKind,
    kv::{Operation, Store, UpdateErrorKind},
};
use async_trait::async_trait;
use futures::TryStreamExt as _;

use super::{Bucket, KeyPage, KeyValue, KeyValueError, sum, too_large};
use crate::interfaces::{InvalidSettings, Limits, Settings, nats::Nats, order::PageOfKeys};

/// Buckets of a server of NATS. A bucket must be there: how many copies it has and how long it remembers is for its owner to say.
/// Counters are 8 bytes, the most significant first.
#[derive(Clone, Debug)]
pub struct NatsKeyValue {
    nats: Nats,
    /// Goes before the names of buckets.
    prefix: String,
    limits: Limits,
}

impl NatsKeyValue {
    /// The server that the settings name.
    ///
    /// # Errors
    /// When they name none that NATS can be at.
    pub fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        let tenant = settings.tenant();
        let prefix = if tenant.is_alone() { String::new() } else { format!("{}_x_", tenant.name()) };
        Ok(Self { nats: Nats::new(settings)?, prefix, limits: settings.limits()? })
    }
}

#[async_trait]
impl KeyValue for NatsKeyValue {
    async fn open(&self, bucket: &str) -> Result<Box<dyn Bucket>, KeyValueError> {
        let name = format!("{}{bucket}", self.prefix);
        let jetstream = self.nats.jetstream().await.map_err(KeyValueError::Other)?;
        let store = jetstream.get_key_value(&name).await.map_err(|error| match error.kind() {
            KeyValueErrorKind::InvalidStoreName => KeyValueError::NoSuchStore,
            _ => KeyValueError::other(
                &format!(
                    "failed to get keyvalue from JetStream: the bucket {name:?} at {}, which must be there",
                    self.nats.server()
                ),
                &error,
            ),
        })?;
        Ok(Box::new(NatsBucket { store, nats: self.nats.clone(), limits: self.limits }))
    }
}

struct NatsBucket {
    store: Store,
    nats: Nats,
    limits: Limits,
}

impl std::fmt::Debug for NatsBucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsBucket").field("name", &self.store.name).finish_non_exhaustive()
    }
}

impl NatsBucket {
    fn error(&self, error: &dyn std::error::Error) -> KeyValueError {
        KeyValueError::other(&format!("NATS at {}", self.nats.server()), error)
    }

    /// Not while the server is away.
    async fn store(&self) -> Result<&Store, KeyValueError> {
        self.nats.client().await.map_err(KeyValueError::Other)?;
        Ok(&self.store)
    }

    /// A value with its revision; 0 for a key that has never been.
    async fn entry(&self, key: &str) -> Result<(Option<Vec<u8>>, u64), KeyValueError> {
        let entry = self.store().await?.entry(key).await.map_err(|error| self.error(&error))?;
        let Some(entry) = entry else { return Ok((None, 0)) };
        if entry.operation != Operation::Put {
            return Ok((None, entry.revision));
        }
        let most = self.limits.value_bytes;
        if entry.value.len() > most {
            return Err(too_large(most));
        }
        Ok((Some(entry.value.into()), entry.revision))
    }
}

#[async_trait]
impl Bucket for NatsBucket {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.entry(key).await?.0)
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        let set = self.store().await?.put(key, value.into()).await;
        set.map(drop).map_err(|error| self.error(&error))
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.store().await?.delete(key).await.map_err(|error| self.error(&error))
    }

    async fn exists(&self, key: &str) -> Result<bool, KeyValueError> {
        Ok(self.entry(key).await?.0.is_some())
    }

    async fn keys(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        let mut keys = self.store().await?.keys().await.map_err(|error| self.error(&error))?;
        let mut page = PageOfKeys::new(cursor, self.limits.page_keys);
        while let Some(key) = keys.try_next().await.map_err(|error| self.error(&error))? {
            page.add(key);
        }
        Ok(page.page())
    }

    async fn increment(&self, key: &str, delta: u64) -> Result<u64, KeyValueError> {
        // Somebody else's change in between is seen by the revision, and then it begins again: each time somebody got further.
        loop {
            let (value, revision) = self.entry(key).await?;
            let number = value.as_deref().map_or(Ok(0), big_endian)?;
            let number = sum(number, delta)?;
            let bytes = number.to_be_bytes().to_vec();
            match self.store().await?.update(key, bytes.into(), revision).await {
                Ok(_) => return Ok(number),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(error) => return Err(self.error(&error)),
            }
        }
    }
}

fn big_endian(value: &[u8]) -> Result<u64, KeyValueError> {
    let wrong = |_| KeyValueError::Other("the value is not a counter, which has 8 bytes".to_owned());
    value.try_into().map(u64::from_be_bytes).map_err(wrong)
}
