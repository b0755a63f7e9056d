//! Removes images that nobody uses. Driven by the [`Watcher`](super::Watcher).

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use jiff::Timestamp;

use super::images::ImagePolicy;
use crate::{
    events::{Recorder, node_reference},
    runtime::{ImageUse, Runtime},
    supply::Disk,
};

/// Removes images by their policy.
#[derive(Debug)]
pub(crate) struct ImageCollector {
    pub(crate) policy: ImagePolicy,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// Where images are kept.
    pub(crate) dir: PathBuf,
    pub(crate) recorder: Recorder,
    pub(crate) node_name: String,
    /// The last round has failed.
    pub(crate) failed: bool,
}

impl ImageCollector {
    /// Whether the high threshold is reached.
    pub(crate) fn is_due(&self, disk: &Disk) -> bool {
        self.policy.excess(disk).is_some()
    }

    /// Removes images that are too old, and then as many as it takes to come down to the low threshold. A failure is
    /// told when it is not the first in a row, as upstream does it.
    pub(crate) async fn collect(&mut self, wanted: &BTreeSet<String>) {
        let Err(error) = self.try_collect(wanted).await else {
            self.failed = false;
            return;
        };
        tracing::warn!(error, "removing unused images did not free what it should");
        if self.failed {
            self.recorder.warning(&node_reference(&self.node_name), "ImageGCFailed", error);
        }
        self.failed = true;
    }

    async fn try_collect(&self, wanted: &BTreeSet<String>) -> Result<(), String> {
        let now = Timestamp::now();
        let mut removable = self.removable(wanted, now).await?;
        let (old, young): (Vec<_>, Vec<_>) =
            removable.drain(..).partition(|image| self.policy.is_too_old(image, now));
        self.remove(old, u64::MAX, now).await;

        let dir = self.dir.clone();
        let disk = tokio::task::spawn_blocking(move || Disk::of(&dir)).await;
        let disk = disk.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        if disk.capacity == 0 {
            let message = "invalid capacity 0 on image filesystem";
            self.recorder.warning(&node_reference(&self.node_name), "InvalidDiskCapacity", message);
            return Err(message.to_owned());
        }
        let Some(excess) = self.policy.excess(&disk) else { return Ok(()) };
        let freed = self.remove(young, excess, now).await;
        if freed >= excess {
            return Ok(());
        }
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {excess} bytes, but only found {freed} \
             bytes eligible to free."
        );
        self.recorder.warning(&node_reference(&self.node_name), "FreeDiskSpaceFailed", message.clone());
        Err(message)
    }

    /// Removes all images that nobody uses; returns the bytes that they took.
    pub(crate) async fn remove_all_unused(&self, wanted: &BTreeSet<String>) -> u64 {
        let now = Timestamp::now();
        match self.removable(wanted, now).await {
            Ok(removable) => self.remove(removable, u64::MAX, now).await,
            Err(error) => {
                tracing::warn!(error, "unused images cannot be removed");
                0
            }
        }
    }

    /// What may be removed. `wanted` are the images that pods name, as they name them.
    async fn removable(&self, wanted: &BTreeSet<String>, now: Timestamp) -> Result<Vec<ImageUse>, String> {
        let mut ids = BTreeSet::new();
        for name in wanted {
            // One that is not an image, or not here, keeps nothing.
            if let Ok(Some(image)) = self.runtime.image(name).await {
                ids.insert(digest(&image.id).to_owned());
            }
        }
        let images = self.runtime.image_uses().await.map_err(|error| error.to_string())?;
        Ok(self.policy.removable(images, |image| ids.contains(digest(&image.image.id)), now))
    }

    /// Removes images in order until `bytes` are free; returns how many are.
    async fn remove(&self, images: Vec<ImageUse>, bytes: u64, unused_since: Timestamp) -> u64 {
        let mut freed = 0_u64;
        for ImageUse { image, .. } in images {
            if freed >= bytes {
                break;
            }
            match self.runtime.remove_image(&image.id, unused_since).await {
                Ok(true) => {
                    tracing::info!(
                        image = image.id,
                        bytes = image.size_bytes,
                        "removed an image that nobody uses"
                    );
                    freed = freed.saturating_add(image.size_bytes);
                }
                Ok(false) => tracing::debug!(image = image.id, "an image came into use and stays"),
                Err(error) => {
                    tracing::warn!(image = image.id, %error, "an unused image could not be removed")
                }
            }
        }
        freed
    }
}

/// The digest of an image's id: one image may have several repositories.
fn digest(id: &str) -> &str {
    id.rsplit_once('@').map_or(id, |(_, digest)| digest)
}
