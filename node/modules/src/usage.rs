//! When images were last used, and the removal of those that nobody uses any more.

use std::{
    fs::{self, File},
    io,
    time::{Duration, SystemTime},
};

use crate::{
    Store,
    digest::Digest,
    error::StoreError,
    image::Image,
    layout::{self, Layout},
    record::Record,
    removal,
};

/// An image with what is known of its use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUse {
    /// The image.
    pub image: Image,
    /// When the store first had it; 1970 where that was not noted.
    pub arrived_at: SystemTime,
    /// When it was last pulled, looked up for use, or held; never in the future.
    pub last_used_at: SystemTime,
    /// Somebody holds it, here or in another process.
    pub held: bool,
}

impl Store {
    /// Notes that the image is about to be used: until then it is not removed by [`Store::remove_unused`] calls that
    /// go by an earlier time. False when it has been removed in the meantime.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store cannot be written.
    pub fn touch(&self, image: &Image) -> Result<bool, StoreError> {
        let layout = &self.inner.layout;
        let _lock = layout.lock()?;
        if !layout.image(&image.digest).exists() {
            return Ok(false);
        }
        touch(layout, &image.digest)?;
        Ok(true)
    }

    /// All complete images, with their use.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store cannot be read.
    pub fn uses(&self) -> Result<Vec<ImageUse>, StoreError> {
        let layout = &self.inner.layout;
        let images = self.list()?;
        let _lock = layout.lock()?;
        let now = SystemTime::now();
        let mut uses = Vec::with_capacity(images.len());
        for image in images {
            let Some(record) = layout.read::<Record>(&layout.image(&image.digest))? else { continue };
            let arrived_at = SystemTime::UNIX_EPOCH + Duration::from_secs(record.arrived);
            let last_used_at = last_used(layout, &image.digest).unwrap_or(arrived_at).min(now);
            let held = removal::take(&layout.hold(&image.digest))?.is_none();
            uses.push(ImageUse { image, arrived_at: arrived_at.min(now), last_used_at, held });
        }
        Ok(uses)
    }

    /// Removes an image under all its names, unless somebody holds it or it was used after `unused_since`; says
    /// whether it is gone. Call it where blocking is fine: deleting a large file system takes a while.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store cannot be changed.
    pub fn remove_unused(&self, image: &Digest, unused_since: SystemTime) -> Result<bool, StoreError> {
        let layout = &self.inner.layout;
        // Emptied last, when nobody waits for the lock any more.
        let trash = layout.workspace()?;
        let _lock = layout.lock()?;
        let Some(mut record) = layout.read::<Record>(&layout.image(image))? else {
            return Ok(true);
        };
        // A time in the future is that of a clock that was set back since, and says nothing.
        let used = last_used(layout, image).filter(|used| *used <= SystemTime::now());
        if used.is_some_and(|used| used > unused_since) {
            return Ok(false);
        }
        let hold = layout.hold(image);
        let Some(_hold) = removal::take(&hold)? else {
            return Ok(false);
        };
        record.settle_names(layout)?;
        for name in &record.names {
            layout::remove(&layout.name(name))?;
        }
        removal::delete(layout, &record, &trash)?;
        layout::remove(&hold)?;
        Ok(true)
    }

    /// The directory of the store, for the size of its file system.
    #[must_use]
    pub fn root(&self) -> &std::path::Path {
        self.inner.layout.root()
    }
}

/// Notes a use of the image. The caller holds the lock.
pub(crate) fn touch(layout: &Layout, image: &Digest) -> Result<(), StoreError> {
    let path = layout.hold(image);
    let touch = || -> io::Result<()> {
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        file.set_modified(SystemTime::now())
    };
    touch().map_err(StoreError::io("write", &path))
}

fn last_used(layout: &Layout, image: &Digest) -> Option<SystemTime> {
    fs::metadata(layout.hold(image)).and_then(|metadata| metadata.modified()).ok()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{EMPTY_MODULE, Fixture, files};

    const LONG_AGO: Duration = Duration::from_secs(1000);

    /// As if the image had last been used that long ago.
    fn age(store: &Store, image: &Image, ago: Duration) -> SystemTime {
        let then = SystemTime::now() - ago;
        let file = File::options().write(true).open(store.inner.layout.hold(&image.digest)).unwrap();
        file.set_modified(then).unwrap();
        then
    }

    fn use_of(store: &Store, image: &Image) -> ImageUse {
        store.uses().unwrap().into_iter().find(|used| used.image.digest == image.digest).unwrap()
    }

    #[test]
    fn an_image_is_used_when_it_comes_is_looked_up_and_until_it_is_let_go() {
        let fixture = Fixture::new();
        let image = fixture.filesystem("r.io/a:v1", |_| {});
        let store = &fixture.store;
        assert!(use_of(store, &image).last_used_at.elapsed().unwrap() < LONG_AGO);

        let then = age(store, &image, LONG_AGO);
        assert_eq!((use_of(store, &image).last_used_at, use_of(store, &image).held), (then, false));
        assert!(store.touch(&image).unwrap());
        assert!(use_of(store, &image).last_used_at > then);

        let hold = store.hold(&image).unwrap();
        let then = age(store, &image, LONG_AGO);
        assert!(use_of(store, &image).held);
        drop(hold);
        assert!(use_of(store, &image).last_used_at > then && !use_of(store, &image).held);
    }

    #[test]
    fn what_is_held_or_was_used_since_stays() {
        let fixture = Fixture::new();
        let image = fixture.filesystem("r.io/a:v1", |root| fs::write(root.join("m"), EMPTY_MODULE).unwrap());
        let store = &fixture.store;
        let looked = age(store, &image, LONG_AGO);
        assert!(store.touch(&image).unwrap());
        assert!(!store.remove_unused(&image.digest, looked).unwrap(), "it was used since");

        let hold = store.hold(&image).unwrap();
        assert!(!store.remove_unused(&image.digest, SystemTime::now()).unwrap(), "it is held");
        drop(hold);
        assert!(store.remove_unused(&image.digest, SystemTime::now()).unwrap());
        assert_eq!(store.get(&image.reference).unwrap(), None);
        for directory in ["images", "names", "rootfs", "holds"] {
            assert!(files(&fixture.root().join(directory)).is_empty(), "{directory}");
        }
        assert!(!store.touch(&image).unwrap(), "it is gone");
        assert!(store.remove_unused(&image.digest, SystemTime::now()).unwrap(), "once more is fine");
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_no_image() {
        let fixture = Fixture::new();
        let image = fixture.filesystem("r.io/a:v1", |_| {});
        let store = &fixture.store;
        let file = File::options().write(true).open(store.inner.layout.hold(&image.digest)).unwrap();
        file.set_modified(SystemTime::now() + LONG_AGO).unwrap();
        assert!(use_of(store, &image).last_used_at <= SystemTime::now());
        assert!(store.remove_unused(&image.digest, SystemTime::now()).unwrap());
    }

    #[test]
    fn the_files_of_an_image_hold_it() {
        let fixture = Fixture::new();
        let image = fixture.filesystem("r.io/a:v1", |root| fs::create_dir(root.join("d")).unwrap());
        let store = &fixture.store;
        let below = store.rootfs(&image).unwrap().join("d");
        let (digest, hold) = store.hold_files(&below).unwrap().unwrap();
        assert_eq!(digest, image.digest);
        assert!(use_of(store, &image).held);
        drop(hold);
        assert!(store.hold_files(fixture.directory.path()).unwrap().is_none(), "it is elsewhere");
        assert!(store.remove_unused(&digest, SystemTime::now()).unwrap());
        assert!(matches!(store.hold_files(&below), Err(StoreError::Absent { .. })));
    }
}
