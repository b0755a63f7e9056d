//! Which pods may use an image that is here already, after upstream's `pkg/kubelet/images/pullmanager`.
//!
//! An image that one pod's secret has pulled is no other pod's: one that cannot show the same credentials, or the
//! same Secret, has the registry asked with its own (see [`Runtime::pull`]), under `IfNotPresent` as under `Always`,
//! and does not get it under `Never`.
//!
//! ```text
//! <root>/image_manager/pulling/sha256-<hex>   an image that is being pulled, by what its pod calls it
//! <root>/image_manager/pulled/sha256-<hex>    with what an image was pulled, by its id
//! ```
//!
//! The first is written before a pull and removed when its record is written, so that an image whose pull an agent
//! did not live to record counts as pulled, with nobody knows what: never as one that was there before. Files have
//! the form of upstream's and are synced to the device, because without them an image looks as if everybody might
//! have it. They hold no credential, but its hash.

mod files;
mod record;
pub mod verification;

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use self::{
    files::RecordFiles,
    record::{ImagePullSecret, ImagePulledRecord, ImageVerdict},
    verification::ImageVerification,
};
use super::credentials::PullCredential;
use crate::{
    registry_auth::keyring,
    runtime::{Image, Runtime},
};

/// Knows with what images were pulled. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct ImageAccess {
    inner: Arc<ImageAccessInner>,
}

#[derive(Debug)]
struct ImageAccessInner {
    files: RecordFiles,
    verification: ImageVerification,
    /// Pulls that are under way, by repository, and those that an earlier agent has left without a record. Locked
    /// while files are read and written, on blocking threads alone.
    pulling: Mutex<HashMap<String, usize>>,
}

impl ImageAccess {
    /// Opens, and makes if need be, the folder of the records.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(root: &Path, verification: ImageVerification) -> io::Result<Self> {
        let files = RecordFiles::open(root)?;
        let mut pulling = HashMap::new();
        for image in files.intents()? {
            *pulling.entry(keyring::repository(&image)).or_insert(0) += 1;
        }
        Ok(Self { inner: Arc::new(ImageAccessInner { files, verification, pulling: Mutex::new(pulling) }) })
    }

    /// Whether a pod may use `found`, which is what it calls `image`, without the registry being asked.
    pub(super) async fn permits(&self, image: &str, found: &Image, credentials: &[PullCredential]) -> bool {
        let repository = keyring::repository(image);
        if !self.inner.verification.requires(&repository, true) {
            return true;
        }
        let (id, secrets) = (found.id.clone(), secrets(credentials));
        let permitted = self.blocking(move |inner| inner.permits(&repository, &id, &secrets)).await;
        permitted.unwrap_or_else(|error| {
            tracing::warn!(%error, image, "cannot read with what an image was pulled; its registry is asked");
            false
        })
    }

    /// Notes that a pull begins.
    ///
    /// # Errors
    /// When that cannot be written; the pull may not begin then.
    pub(super) async fn begin(&self, image: &str) -> io::Result<PullIntent> {
        let intent = image.to_owned();
        self.blocking(move |inner| inner.begin(&intent)).await?;
        Ok(PullIntent { access: self.clone(), image: Some(image.to_owned()) })
    }

    /// Makes records of what an earlier agent has pulled and did not live to record, and removes those of images
    /// that are gone. To be called before pods are looked after.
    pub async fn settle(&self, runtime: &dyn Runtime) {
        let intents = self.blocking(|inner| inner.files.intents()).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the pulls that were under way");
            Vec::new()
        });
        for image in intents {
            let found = match runtime.image(&image).await {
                Ok(found) => found.map(|found| found.id),
                Err(error) => {
                    tracing::warn!(%error, image, "cannot look for an image whose pull was under way");
                    continue;
                }
            };
            let settled = {
                let image = image.clone();
                self.blocking(move |inner| inner.end(&image, found.map(|id| (id, None)))).await
            };
            if let Err(error) = settled {
                tracing::warn!(%error, image, "cannot settle a pull that was under way");
            }
        }
        self.prune(runtime).await;
    }

    /// Removes records of images that are gone. Those are listed before the images are, and an image comes before
    /// its record: one that comes meanwhile is in both lists or in none.
    async fn prune(&self, runtime: &dyn Runtime) {
        let pruned = async {
            let recorded = self.blocking(|inner| inner.files.recorded()).await?;
            let present: BTreeSet<String> =
                runtime.images().await.into_iter().flat_map(|i| i.names).collect();
            let gone: Vec<_> = recorded.into_iter().filter(|id| !present.contains(id)).collect();
            self.blocking(move |inner| gone.iter().try_for_each(|id| inner.files.remove_record(id))).await
        };
        if let Err(error) = pruned.await {
            tracing::warn!(%error, "cannot remove records of pulls of images that are gone");
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageAccessInner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(io::Error::other)?
    }
}

/// A pull that is under way; dropped, it has failed.
#[derive(Debug)]
pub(super) struct PullIntent {
    access: ImageAccess,
    image: Option<String>,
}

impl PullIntent {
    /// Records with what the image of that id was pulled: with a credential, or with nobody's.
    pub(super) async fn succeeded(mut self, id: &str, with: Option<&PullCredential>) {
        let Some(image) = self.image.take() else { return };
        let done = (id.to_owned(), Some(with.and_then(secret)));
        let ended = {
            let image = image.clone();
            self.access.blocking(move |inner| inner.end(&image, Some(done))).await
        };
        if let Err(error) = ended {
            // The intent stays, so that the image counts as pulled with who knows what.
            tracing::error!(%error, image, "cannot record with what an image was pulled");
        }
    }
}

impl Drop for PullIntent {
    fn drop(&mut self) {
        let Some(image) = self.image.take() else { return };
        let Ok(handle) = tokio::runtime::Handle::try_current() else { return };
        let inner = Arc::clone(&self.access.inner);
        handle.spawn_blocking(move || {
            if let Err(error) = inner.end(&image, None) {
                tracing::warn!(%error, image, "cannot remove the note of a pull that has failed");
            }
        });
    }
}

/// With what a pull has succeeded: `None` if nobody knows, else a pod's secret or what all pods of the node have.
type With = Option<Option<ImagePullSecret>>;

impl ImageAccessInner {
    fn pulling(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.pulling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn permits(&self, repository: &str, id: &str, secrets: &[ImagePullSecret]) -> io::Result<bool> {
        let pulling = self.pulling();
        let record = self.files.record(id)?;
        let pulled_by_node = record.is_some() || pulling.contains_key(repository);
        if !self.verification.requires(repository, pulled_by_node) {
            return Ok(true);
        }
        let Some(mut record) = record else { return Ok(false) };
        match record.verdict(repository, secrets) {
            ImageVerdict::Permitted => Ok(true),
            ImageVerdict::PermittedBy(secret) => {
                // Known from now on by these coordinates and this hash.
                if record.add(repository, Some(secret), Timestamp::now()) {
                    self.files.write_record(&record)?;
                }
                Ok(true)
            }
            ImageVerdict::Unknown => Ok(false),
        }
    }

    fn begin(&self, image: &str) -> io::Result<()> {
        let mut pulling = self.pulling();
        self.files.write_intent(image)?;
        *pulling.entry(keyring::repository(image)).or_insert(0) += 1;
        Ok(())
    }

    /// The pull of `image` is over; if it succeeded, it brought the image of that id.
    fn end(&self, image: &str, pulled: Option<(String, With)>) -> io::Result<()> {
        let mut pulling = self.pulling();
        let repository = keyring::repository(image);
        if let Some((id, with)) = pulled {
            // A record that cannot be understood is worth nothing.
            let known = self.files.record(&id).unwrap_or_default();
            let is_new = known.is_none();
            let mut record = known.unwrap_or_else(|| ImagePulledRecord::new(&id, Timestamp::now()));
            let changed = with.is_some_and(|with| record.add(&repository, with, Timestamp::now()));
            if is_new || changed {
                self.files.write_record(&record)?;
            }
        }
        let others = pulling.get(&repository).copied().unwrap_or(0).saturating_sub(1);
        if others == 0 {
            pulling.remove(&repository);
        } else {
            pulling.insert(repository, others);
        }
        self.files.remove_intent(image)
    }
}

/// The secrets among a pod's credentials; the rest belongs to the node.
fn secrets(credentials: &[PullCredential]) -> Vec<ImagePullSecret> {
    credentials.iter().filter_map(secret).collect()
}

fn secret(credential: &PullCredential) -> Option<ImagePullSecret> {
    let source = credential.secret.as_ref()?;
    Some(ImagePullSecret {
        uid: source.uid.clone(),
        namespace: source.namespace.clone(),
        name: source.name.clone(),
        credential_hash: record::hash(&credential.credential),
    })
}

#[cfg(test)]
mod tests;
