//! Buckets that are folders, with a file for each key.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{Bucket, KeyPage, KeyValue, KeyValueError, counter, sum};
use crate::interfaces::{
    InvalidSettings, Limits, Settings,
    folder::{Folder, FolderLock, lock_pause},
    names,
    order::PageOfKeys,
};

/// Buckets that are folders below `path`: `<path>/<bucket>/<key>`. Several processes can share them, on one machine.
#[derive(Clone, Debug)]
pub struct FileKeyValue {
    root: PathBuf,
    limits: Limits,
}

impl FileKeyValue {
    /// The folder that the settings name. It is made when the first bucket is opened.
    ///
    /// # Errors
    /// When they name none.
    pub fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        Ok(Self { root: settings.path()?.join(settings.tenant().name()), limits: settings.limits()? })
    }
}

#[async_trait]
impl KeyValue for FileKeyValue {
    async fn open(&self, bucket: &str) -> Result<Box<dyn Bucket>, KeyValueError> {
        if names::encode(bucket).is_none() {
            return Err(KeyValueError::NoSuchStore);
        }
        let (root, name) = (self.root.clone(), bucket.to_owned());
        let folder = blocking("cannot open the bucket", move || Folder::at(&root)?.make(&name)).await?;
        Ok(Box::new(FileBucket { folder: Arc::new(folder), limits: self.limits }))
    }
}

#[derive(Debug)]
struct FileBucket {
    folder: Arc<Folder>,
    limits: Limits,
}

impl FileBucket {
    async fn on<T: Send + 'static>(
        &self,
        what: &str,
        action: impl FnOnce(&Folder) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, KeyValueError> {
        let folder = Arc::clone(&self.folder);
        blocking(what, move || action(&folder)).await
    }

    /// Waits for the lock of a key. Another process may have it, which no lock of ours knows of, so that it is tried again.
    async fn lock(&self, key: &str) -> Result<FolderLock, KeyValueError> {
        let mut attempts = 0;
        loop {
            let name = key.to_owned();
            if let Some(lock) = self.on("cannot lock the key", move |folder| folder.try_lock(&name)).await? {
                return Ok(lock);
            }
            let pause: Duration = lock_pause(attempts);
            attempts += 1;
            tokio::time::sleep(pause).await;
        }
    }
}

/// Does this where it may block. It is not stopped when nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    what: &str,
    action: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, KeyValueError> {
    match tokio::task::spawn_blocking(action).await {
        Ok(result) => result.map_err(|error| KeyValueError::other(what, &error)),
        Err(error) => Err(KeyValueError::other(what, &error)),
    }
}

#[async_trait]
impl Bucket for FileBucket {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let (key, most) = (key.to_owned(), self.limits.value_bytes);
        self.on("cannot read the value", move |folder| folder.read_all(&key, most)).await
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        let lock = self.lock(key).await?;
        let key = key.to_owned();
        self.on("cannot write the value", move |folder| {
            let _lock = lock;
            folder.write(&key, &value)
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        let lock = self.lock(key).await?;
        let key = key.to_owned();
        self.on("cannot delete the key", move |folder| {
            let _lock = lock;
            folder.remove(&key)
        })
        .await
    }

    async fn exists(&self, key: &str) -> Result<bool, KeyValueError> {
        let key = key.to_owned();
        self.on("cannot look for the key", move |folder| Ok(folder.read(&key)?.is_some())).await
    }

    async fn keys(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        let length = self.limits.page_keys;
        self.on("cannot list the keys", move |folder| {
            let mut page = PageOfKeys::new(cursor, length);
            folder.keys(|key| {
                page.add(key);
                true
            })?;
            Ok(page.page())
        })
        .await
    }

    async fn increment(&self, key: &str, delta: u64) -> Result<u64, KeyValueError> {
        let lock = self.lock(key).await?;
        let key = key.to_owned();
        let added = self.on("cannot add to the number", move |folder| {
            let _lock = lock;
            // A number of 64 bits has 20 digits at most.
            let value = folder.read_all(&key, 64)?;
            let number = counter(value.as_deref()).and_then(|number| sum(number, delta));
            if let Ok(number) = number {
                folder.write(&key, number.to_string().as_bytes())?;
            }
            Ok(number)
        });
        added.await?
    }
}
