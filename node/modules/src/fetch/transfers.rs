//! Transfers that are under way: each blob travels once, whatever wants it, and not too many travel at a time.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{Mutex as AsyncMutex, MutexGuard, Semaphore, SemaphorePermit};

use crate::{digest::Digest, layout::Workspace};

/// The downloads of a store.
#[derive(Debug)]
pub(crate) struct Transfers {
    /// How many may be under way.
    permits: Semaphore,
    blobs: Mutex<HashMap<Digest, Weak<SharedBlob>>>,
}

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

    /// Waits until there is room for one more. Who has a permit waits for nobody but a source.
    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed, so that acquiring cannot fail.
        self.permits.acquire().await.ok()
    }

    /// The blob `digest`, shared with all who want it at this time.
    pub(super) fn blob(&self, digest: &Digest) -> Arc<SharedBlob> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(blob) = blobs.get(digest).and_then(Weak::upgrade) {
            return blob;
        }
        blobs.retain(|_, blob| blob.strong_count() > 0);
        let blob = Arc::new(SharedBlob::default());
        blobs.insert(*digest, Arc::downgrade(&blob));
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
    use futures::FutureExt as _;
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn no_more_are_under_way_than_are_allowed() {
        let transfers = Transfers::new(2);
        let first = transfers.permit().await;
        let _second = transfers.permit().await;
        let third = transfers.permit();
        tokio::pin!(third);
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.await.is_some());
        assert!(Transfers::new(0).permit().await.is_some(), "some are always allowed");
    }

    #[tokio::test]
    async fn a_blob_is_shared_while_somebody_wants_it() {
        let (transfers, directory) = (Transfers::new(1), TempDir::new().unwrap());
        let digest = Digest::of(b"x");
        let (one, other) = (transfers.blob(&digest), transfers.blob(&digest));
        let mut downloading = one.lock().await;
        assert!(other.lock().now_or_never().is_none(), "it waits for the one who downloads");
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
        assert!(transfers.blob(&digest).lock().await.is_none(), "nobody wanted it any more");
    }
}
