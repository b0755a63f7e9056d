//! Transfers that are under way: each blob travels once, whatever wants it, and not too many travel at a time.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, MutexGuard, Semaphore},
    time::timeout,
};

use crate::{digest::Digest, layout::Workspace};

/// After this time a transfer does not count any more: one that is slow on purpose keeps nobody waiting.
const COUNTED: Duration = Duration::from_secs(60);

/// The downloads of a store.
#[derive(Debug)]
pub(crate) struct Transfers {
    /// How many may be under way.
    permits: Semaphore,
    blobs: Mutex<HashMap<BlobKey, Weak<SharedBlob>>>,
}

/// The registry by its name, and the digest. Who waits for a blob waits for its own registry, never for one that a stranger
/// has named.
type BlobKey = (String, Digest);

/// A blob that pulls of several images want. Each of them keeps it until it has put its image in place.
///
/// Whoever has the lock downloads it; the others wait for the lock, and find it downloaded. When a download fails or is
/// given up, the next in line begins it anew, from its own source: one source's failure is not another's.
#[derive(Debug, Default)]
pub(super) struct SharedBlob(AsyncMutex<Option<Downloaded>>);

/// A blob in the workspace of the pull that downloaded it; digest and size are checked.
#[derive(Debug)]
pub(super) struct Downloaded {
    path: PathBuf,
    _workspace: Arc<Workspace>,
}

impl Transfers {
    pub(crate) fn new(parallel: usize) -> Self {
        Self { permits: Semaphore::new(parallel.clamp(1, Semaphore::MAX_PERMITS)), blobs: Mutex::default() }
    }

    /// Does a transfer when there is room for one more. It must wait for nothing but its source.
    pub(super) async fn counted<T>(&self, transfer: impl Future<Output = T>) -> T {
        // The semaphore is never closed, so that acquiring cannot fail.
        let permit = self.permits.acquire().await.ok();
        let mut transfer = pin!(transfer);
        match timeout(COUNTED, &mut transfer).await {
            Ok(outcome) => outcome,
            Err(_) => {
                drop(permit);
                transfer.await
            }
        }
    }

    /// The blob `digest` of a registry, shared with all who want it at this time.
    pub(super) fn blob(&self, registry: &str, digest: Digest) -> Arc<SharedBlob> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (registry.to_owned(), digest);
        if let Some(blob) = blobs.get(&key).and_then(Weak::upgrade) {
            return blob;
        }
        blobs.retain(|_, blob| blob.strong_count() > 0);
        let blob = Arc::new(SharedBlob::default());
        blobs.insert(key, Arc::downgrade(&blob));
        blob
    }
}

impl SharedBlob {
    /// Waits until nobody downloads it.
    pub(super) async fn lock(&self) -> MutexGuard<'_, Option<Downloaded>> {
        self.0.lock().await
    }
}

impl Downloaded {
    pub(super) fn new(path: PathBuf, workspace: Arc<Workspace>) -> Self {
        Self { path, _workspace: workspace }
    }

    /// Makes it appear at `to`, too; false when it has been put in place in the meantime.
    pub(super) fn link(&self, to: &Path) -> bool {
        fs::hard_link(&self.path, to).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::pending};
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn no_more_are_under_way_than_are_allowed() {
        let transfers = Transfers::new(2);
        let mut first = Box::pin(transfers.counted(pending::<()>()));
        let mut second = Box::pin(transfers.counted(pending::<()>()));
        let mut third = Box::pin(transfers.counted(async {}));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none(), "it waits");
        drop(first);
        third.await;
        Transfers::new(0).counted(async {}).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_on_purpose_keeps_nobody_waiting() {
        let transfers = Transfers::new(1);
        let slow = transfers.counted(pending::<()>());
        let other = transfers.counted(async { "done" });
        tokio::select! {
            biased;
            () = slow => panic!("it never ends"),
            outcome = other => assert_eq!(outcome, "done"),
        }
    }

    #[tokio::test]
    async fn a_blob_is_shared_while_somebody_wants_it() {
        let (transfers, directory) = (Transfers::new(1), TempDir::new().unwrap());
        let digest = Digest::of(b"x");
        let (one, other) = (transfers.blob("r.io", digest), transfers.blob("r.io", digest));
        let mut downloading = one.lock().await;
        assert!(other.lock().now_or_never().is_none(), "it waits for the one who downloads");
        let elsewhere = transfers.blob("slow.example", digest);
        assert!(elsewhere.lock().now_or_never().is_some(), "nobody waits for another registry");
        let workspace = Arc::new(Workspace::new_in(directory.path()).unwrap());
        let path = workspace.path().join("blob");
        fs::write(&path, "x").unwrap();
        *downloading = Some(Downloaded::new(path.clone(), workspace));
        drop(downloading);
        drop(one);

        let found = other.lock().await;
        let copy = directory.path().join("copy");
        assert!(found.as_ref().unwrap().link(&copy));
        assert_eq!(fs::read_to_string(&copy).unwrap(), "x");
        fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        assert!(!found.as_ref().unwrap().link(&directory.path().join("again")), "it has been put in place");
        drop(found);
        drop(other);
        assert!(transfers.blob("r.io", digest).lock().await.is_none(), "nobody wanted it any more");
    }
}
