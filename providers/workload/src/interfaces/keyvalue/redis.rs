//! Buckets in Redis: the key of a guest's key is `<bucket>:<key>`, so that other programs find it.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use redis::{
    Client, Cmd, FromRedisValue, Pipeline, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::sync::OnceCell;

use super::{Bucket, KeyPage, KeyValue, KeyValueError, too_large};
use crate::interfaces::{InvalidSettings, Limits, Settings, server::ServerUrl, text};

/// How often one page asks for more of a database in which most keys are of others.
const ROUNDS: usize = 64;

/// Buckets in Redis, at `url`: `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS.
#[derive(Clone)]
pub struct RedisKeyValue {
    server: ServerUrl,
    client: Client,
    /// Made with the first operation. It connects again by itself.
    connection: std::sync::Arc<OnceCell<ConnectionManager>>,
    /// Goes before the names of buckets.
    prefix: String,
    limits: Limits,
}

impl fmt::Debug for RedisKeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisKeyValue").field("server", &self.server).finish_non_exhaustive()
    }
}

impl RedisKeyValue {
    /// The server that the settings name. It is not connected to before it is needed.
    ///
    /// # Errors
    /// When they name none that Redis can be at.
    pub fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        let server = settings.server()?;
        if !matches!(server.scheme(), "redis" | "rediss") {
            return Err(InvalidSettings::new("url", "it begins with neither redis:// nor rediss://"));
        }
        // Which implementation of TLS `rediss://` uses, unless the process has chosen already.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let client = Client::open(server.secret().clone())
            .map_err(|_| InvalidSettings::new("url", "it is not one of Redis"))?;
        let tenant = settings.tenant();
        let prefix = if tenant.is_alone() { String::new() } else { format!("{}:", tenant.name()) };
        Ok(Self { server, client, connection: std::sync::Arc::default(), prefix, limits: settings.limits()? })
    }

    fn error(&self, error: &RedisError) -> KeyValueError {
        KeyValueError::Other(format!("Redis at {}: {}", self.server, text::words(error)))
    }

    async fn connection(&self) -> Result<ConnectionManager, KeyValueError> {
        let made = self.connection.get_or_try_init(|| async {
            // A new connection is tried once by whoever needs it: the deadline of the operation says how long.
            let config = ConnectionManagerConfig::new()
                .set_number_of_retries(0)
                .set_min_delay(Duration::from_millis(10))
                .set_connection_timeout(Some(self.limits.deadline))
                .set_response_timeout(Some(self.limits.deadline));
            ConnectionManager::new_lazy_with_config(self.client.clone(), config)
        });
        made.await.cloned().map_err(|error| self.error(&error))
    }

    /// What does no harm when it is done twice is: after a restart of the server, the old connection is found to be gone.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, KeyValueError> {
        let mut connection = self.connection().await?;
        match command.query_async(&mut connection).await {
            Err(error) if error.is_connection_dropped() => {
                command.query_async(&mut connection).await.map_err(|error| self.error(&error))
            }
            result => result.map_err(|error| self.error(&error)),
        }
    }

    async fn ask_all<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, KeyValueError> {
        let mut connection = self.connection().await?;
        match pipeline.query_async(&mut connection).await {
            Err(error) if error.is_connection_dropped() => {
                pipeline.query_async(&mut connection).await.map_err(|error| self.error(&error))
            }
            result => result.map_err(|error| self.error(&error)),
        }
    }
}

#[async_trait]
impl KeyValue for RedisKeyValue {
    async fn open(&self, bucket: &str) -> Result<Box<dyn Bucket>, KeyValueError> {
        // With a colon in its name, keys of one bucket would be keys of another.
        if bucket.is_empty() || bucket.contains(':') {
            return Err(KeyValueError::NoSuchStore);
        }
        Ok(Box::new(RedisBucket { store: self.clone(), prefix: format!("{}{bucket}:", self.prefix) }))
    }
}

#[derive(Debug)]
struct RedisBucket {
    store: RedisKeyValue,
    /// `<bucket>:`.
    prefix: String,
}

impl RedisBucket {
    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Asks for a value and whether it is there, without taking more of it than a guest may have.
    fn ask_for(&self, pipeline: &mut Pipeline, key: &str) {
        let key = self.key(key);
        pipeline.cmd("EXISTS").arg(&key).cmd("GETRANGE").arg(&key).arg(0).arg(self.store.limits.value_bytes);
    }

    fn answer(&self, exists: bool, value: Vec<u8>) -> Result<Option<Vec<u8>>, KeyValueError> {
        let most = self.store.limits.value_bytes;
        if value.len() > most {
            return Err(too_large(most));
        }
        Ok(exists.then_some(value))
    }
}

#[async_trait]
impl Bucket for RedisBucket {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        self.ask_for(&mut pipeline, key);
        let (exists, value) = self.store.ask_all(&pipeline).await?;
        self.answer(exists, value)
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        self.store.ask(redis::cmd("SET").arg(self.key(key)).arg(value)).await
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.store.ask(redis::cmd("DEL").arg(self.key(key))).await
    }

    async fn exists(&self, key: &str) -> Result<bool, KeyValueError> {
        self.store.ask(redis::cmd("EXISTS").arg(self.key(key))).await
    }

    async fn keys(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        let pattern = format!("{}*", escaped(&self.prefix));
        let (mut cursor, mut keys) = (cursor.unwrap_or(0), Vec::new());
        for _ in 0..ROUNDS {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(self.store.limits.page_keys);
            let (next, found): (u64, Vec<Vec<u8>>) = self.store.ask(&command).await?;
            cursor = next;
            // What is not text was not set by a guest.
            let found = found.into_iter().filter_map(|key| String::from_utf8(key).ok());
            keys.extend(found.filter_map(|key| key.strip_prefix(&self.prefix).map(str::to_owned)));
            if cursor == 0 || !keys.is_empty() {
                break;
            }
        }
        Ok(KeyPage { keys, cursor: (cursor != 0).then_some(cursor) })
    }

    async fn increment(&self, key: &str, delta: u64) -> Result<u64, KeyValueError> {
        let Ok(delta) = i64::try_from(delta) else {
            return Err(KeyValueError::Other("Redis does not add more than 9223372036854775807".to_owned()));
        };
        let mut connection = self.store.connection().await?;
        let mut command = redis::cmd("INCRBY");
        command.arg(self.key(key)).arg(delta);
        // Once: whether the server has added before the connection broke is not known.
        let number: i64 =
            command.query_async(&mut connection).await.map_err(|error| self.store.error(&error))?;
        u64::try_from(number).map_err(|_| KeyValueError::Other("the number is below 0".to_owned()))
    }

    async fn get_many(&self, keys: &[String], most: usize) -> Result<Vec<Option<Vec<u8>>>, KeyValueError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut lengths = redis::pipe();
        for key in keys {
            lengths.cmd("STRLEN").arg(self.key(key));
        }
        let lengths: Vec<usize> = self.store.ask_all(&lengths).await?;
        if lengths.iter().fold(0_usize, |sum, length| sum.saturating_add(*length)) > most {
            return Err(too_large(most));
        }
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        keys.iter().for_each(|key| self.ask_for(&mut pipeline, key));
        let answers: Vec<redis::Value> = self.store.ask_all(&pipeline).await?;
        let mut values = Vec::with_capacity(keys.len());
        for pair in answers.chunks(2) {
            let [exists, value] = pair else { break };
            let unread = |error: redis::ParsingError| self.store.error(&error.into());
            let exists = bool::from_redis_value_ref(exists).map_err(unread)?;
            let value = Vec::<u8>::from_redis_value_ref(value).map_err(unread)?;
            values.push(self.answer(exists, value)?);
        }
        Ok(values)
    }

    async fn set_many(&self, pairs: Vec<(String, Vec<u8>)>) -> Result<(), KeyValueError> {
        if pairs.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("MSET");
        for (key, value) in pairs {
            command.arg(self.key(&key)).arg(value);
        }
        self.store.ask(&command).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<(), KeyValueError> {
        if keys.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("DEL");
        for key in keys {
            command.arg(self.key(key));
        }
        self.store.ask(&command).await
    }
}

/// As part of a pattern that means itself.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_not_a_pattern() {
        assert_eq!(escaped("a*[b]?:\\"), "a\\*\\[b\\]\\?:\\\\");
    }
}
