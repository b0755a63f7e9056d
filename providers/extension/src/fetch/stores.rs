//! The stores of namespaces.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use kubewasm_modules::{Digest, Store, StoreError, StoreOptions};

use super::{FetchFailure, FetchReason};

/// Stores that are open: each has connections of its own.
const MOST_OPEN: usize = 64;
/// How long what nobody uses is kept.
const KEPT: Duration = Duration::from_secs(3600);
/// The store of a namespace that trusts whom the server trusts.
const USUAL: &str = "usual";
/// In the directory of a store: the authorities that it trusts besides.
const AUTHORITIES: &str = "authorities.pem";

/// Whose store it is: of a namespace, and its directory there.
type StoreKey = (String, String);

/// Opens stores, each once.
#[derive(Debug)]
pub(super) struct Stores {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    options: StoreOptions,
    open: Mutex<OpenStores>,
}

/// The number of the last use of any of them, and each with that of its own.
type OpenStores = (u64, HashMap<StoreKey, (u64, Store)>);

impl Stores {
    pub(super) fn new(root: PathBuf, options: StoreOptions) -> Self {
        Self { inner: Arc::new(Inner { root, options, open: Mutex::default() }) }
    }

    /// The store of a namespace, for sources that these authorities vouch for too.
    pub(super) async fn open(&self, namespace: &str, ca_bundle: Option<&str>) -> Result<Store, FetchFailure> {
        let directory = match ca_bundle {
            Some(bundle) => Digest::of(bundle.as_bytes()).hex(),
            None => USUAL.to_owned(),
        };
        let key = (namespace.to_owned(), directory);
        if let Some(store) = self.inner.used(&key) {
            return Ok(store);
        }
        let (inner, bundle) = (Arc::clone(&self.inner), ca_bundle.map(str::to_owned));
        let opened = tokio::task::spawn_blocking(move || inner.open(key, bundle.as_deref()));
        opened.await.map_err(|_| FetchFailure::new(FetchReason::Unavailable, "the server is stopping"))?
    }

    /// Removes what nobody has used for a while, and what is of namespaces that are not among these.
    pub(super) async fn sweep(&self, namespaces: BTreeSet<String>) {
        let inner = Arc::clone(&self.inner);
        let swept = tokio::task::spawn_blocking(move || {
            if let Err(error) = inner.sweep(&namespaces) {
                tracing::warn!(%error, "cannot remove from disk what no extension uses");
            }
        });
        // It is lost at the end of the process alone.
        let _ = swept.await;
    }
}

impl Inner {
    fn used(&self, key: &StoreKey) -> Option<Store> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (clock, stores) = &mut *open;
        let (used, store) = stores.get_mut(key)?;
        *clock = clock.wrapping_add(1);
        *used = *clock;
        Some(store.clone())
    }

    /// Blocking.
    fn open(&self, key: StoreKey, ca_bundle: Option<&str>) -> Result<Store, FetchFailure> {
        let directory = self.root.join(&key.0).join(&key.1);
        let mut options = self.options.clone();
        if let Some(bundle) = ca_bundle {
            let file = directory.join(AUTHORITIES);
            let written = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&file, bundle));
            written.map_err(|error| {
                FetchFailure::new(
                    FetchReason::StoreFailed,
                    format!("cannot write {}: {error}", file.display()),
                )
            })?;
            options.certificate_authorities.push(file);
        }
        let store = Store::open(&directory, options).map_err(|error| match error {
            StoreError::Unusable { path, .. } if path.ends_with(AUTHORITIES) => FetchFailure::new(
                FetchReason::InvalidImage,
                "image.ca_bundle has no certificates in PEM".to_owned(),
            ),
            error => error.into(),
        })?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (clock, stores) = &mut *open;
        if stores.len() >= MOST_OPEN {
            // Who still uses it has a clone.
            let oldest = stores.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone());
            oldest.and_then(|key| stores.remove(&key));
        }
        *clock = clock.wrapping_add(1);
        stores.insert(key, (*clock, store.clone()));
        Ok(store)
    }

    /// Blocking.
    fn sweep(&self, namespaces: &BTreeSet<String>) -> io::Result<()> {
        let stores: Vec<Store> = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.1.retain(|(namespace, _), _| namespaces.contains(namespace));
            open.1.values().map(|(_, store)| store.clone()).collect()
        };
        let since = SystemTime::now().checked_sub(KEPT).unwrap_or(SystemTime::UNIX_EPOCH);
        for store in stores {
            let images = store.list().map_err(io::Error::other)?;
            for image in images {
                store.remove_unused(&image.digest, since).map_err(io::Error::other)?;
            }
        }
        for entry in entries(&self.root)? {
            let entry = entry?;
            let is_used = entry.file_name().to_str().is_some_and(|name| namespaces.contains(name));
            if !is_used && entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// The entries of a directory; none where it was not made yet.
fn entries(directory: &Path) -> io::Result<impl Iterator<Item = io::Result<std::fs::DirEntry>>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(error),
    }
}
