//! The store: names, images, and who uses them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
    time::SystemTime,
};

use tokio::sync::Semaphore;

use crate::{
    compile::Compilations,
    digest::Digest,
    error::StoreError,
    fetch::Transfers,
    image::{Image, ImageKind, ImageName},
    layout::Layout,
    manifest::{self, Document},
    options::{StoreOptions, cores},
    pull::Flights,
    record::{self, Name, Record},
    registry::{Registry, RegistryOptions},
    removal, usage,
};

/// Images and modules on this machine's disk. Cheap to clone; all clones are the same store.
///
/// Several processes may open one directory.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<StoreInner>,
}

#[derive(Debug)]
pub(crate) struct StoreInner {
    pub(crate) layout: Layout,
    pub(crate) options: StoreOptions,
    pub(crate) registry: Registry,
    pub(crate) flights: Flights,
    pub(crate) transfers: Transfers,
    pub(crate) compilations: Compilations,
    /// Images that are unpacked at the same time: each takes a core, and memory for its decompressor.
    pub(crate) unpacking: Semaphore,
    holds: Mutex<HashMap<Digest, Weak<HeldFile>>>,
}

/// Keeps an image from being removed while it lives. It ends with the process at the latest.
#[derive(Clone, Debug)]
pub struct Hold {
    _file: Arc<HeldFile>,
}

/// The share-locked file of an image's holds. Its time of modification is when the image was last used.
#[derive(Debug)]
struct HeldFile(File);

impl Drop for HeldFile {
    fn drop(&mut self) {
        if let Err(error) = self.0.set_modified(SystemTime::now()) {
            tracing::debug!(%error, "the end of an image's use is not noted");
        }
    }
}

impl Store {
    /// Opens the store below `root`, and makes it when it is not there. What an earlier process left half
    /// done is removed. Connects to nothing.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when `root` cannot be written, holds a store of another version, or a file of
    /// certificate authorities is none.
    pub fn open(root: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let registry = RegistryOptions {
            insecure: options.insecure_registries.clone(),
            config_directories: options.registry_config_directories.clone(),
            connect_timeout: options.connect_timeout,
            stall_timeout: options.stall_timeout,
        };
        let registry = Registry::new(registry, &options.certificate_authorities)?;
        let layout = Layout::open(root)?;
        if let Err(error) = removal::sweep(&layout) {
            tracing::warn!(%error, "cannot sweep the module store; it may hold files that no image has");
        }
        let inner = StoreInner {
            registry,
            layout,
            unpacking: Semaphore::new(cores()),
            flights: Flights::default(),
            transfers: Transfers::new(options.parallel_downloads),
            compilations: Compilations::new(&options),
            options,
            holds: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The image that `name` means, if all of it is here. Asks no registry; reads a few small files, and verifies a
    /// signature where the policy asks for one.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store cannot be read, [`StoreError::SignatureInvalid`] when the image is here and
    /// the policy does not take it: it is not to be used, and [`Store::pull`] may make it good.
    pub fn get(&self, name: &ImageName) -> Result<Option<Image>, StoreError> {
        let Some(image) = self.inner.image(name)? else { return Ok(None) };
        self.inner.check_kept(name, &image)?;
        Ok(Some(image))
    }

    /// All complete images, each once, under its first tag, or else its first digest.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let mut images = Vec::new();
        for mut record in Record::all(&self.inner.layout)?.intact {
            record.settle_names(&self.inner.layout)?;
            if record.is_complete(&self.inner.layout) {
                images.extend(named(record));
            }
        }
        images.sort_by(|a, b| a.names.cmp(&b.names));
        Ok(images)
    }

    /// An image for those who have noted down its digest and nothing else, under its first tag, or else its first digest. No
    /// signature is asked for: whoever uses it has been let.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store cannot be read.
    pub fn by_digest(&self, digest: &Digest) -> Result<Option<Image>, StoreError> {
        let layout = &self.inner.layout;
        let Some(mut record) = layout.read::<Record>(&layout.image(digest))? else { return Ok(None) };
        record.settle_names(layout)?;
        Ok(named(record))
    }

    /// The unpacked file system of a container image; `None` for a module alone.
    ///
    /// It is shared by all containers of the image: nobody may write to it. Its symbolic links lead where
    /// the image's author wanted; follow them inside the directory only.
    #[must_use]
    pub fn rootfs(&self, image: &Image) -> Option<PathBuf> {
        (image.kind == ImageKind::Filesystem).then(|| self.inner.layout.rootfs(&image.manifest))
    }

    /// What whoever made an image has noted beside it: the annotations of its manifest. A module that is a file has none.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when the image has been removed in the meantime, [`StoreError::Io`] when the store cannot be
    /// read.
    pub fn annotations(&self, image: &Image) -> Result<BTreeMap<String, String>, StoreError> {
        if matches!(image.kind, ImageKind::Module { module } if module == image.manifest) {
            return Ok(BTreeMap::new());
        }
        let path = self.inner.layout.blob(&image.manifest);
        let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => StoreError::Absent { image: image.reference.to_string() },
            _ => StoreError::io("read", &path)(error),
        })?;
        // It was read before it was kept.
        match manifest::parse(&bytes) {
            Ok(Document::Manifest(manifest)) => Ok(manifest.annotations),
            Ok(Document::Index(_)) | Err(_) => {
                Err(StoreError::io("read", &path)(std::io::ErrorKind::InvalidData.into()))
            }
        }
    }

    /// Keeps `image` from being removed, by this process and by others, until the result is dropped.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when it has been removed in the meantime.
    pub fn hold(&self, image: &Image) -> Result<Hold, StoreError> {
        self.hold_as(&image.digest, &image.reference)
    }

    /// Holds the image whose files, or some of them, are at `path`, which is that of [`Store::rootfs`] or below it.
    /// `None` for paths elsewhere.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when the image has been removed in the meantime.
    pub fn hold_files(&self, path: &Path) -> Result<Option<(Digest, Hold)>, StoreError> {
        let layout = &self.inner.layout;
        let roots = layout.roots();
        // Paths that were handed on may have had their links resolved.
        let below = [Some(roots.clone()), roots.canonicalize().ok()];
        let below = below.into_iter().flatten().find_map(|roots| path.strip_prefix(roots).ok());
        let Some(root) = below.and_then(|below| below.components().next()) else {
            return Ok(None);
        };
        let root = root.as_os_str().to_str().unwrap_or_default();
        let images = Record::all(layout)?.intact;
        match images.iter().find(|record| record.manifest.hex() == root) {
            Some(record) => Ok(Some((record.digest, self.hold_digest(&record.digest)?))),
            None => Err(StoreError::Absent { image: path.display().to_string() }),
        }
    }

    /// [`Store::hold`] for those who have noted down the image's digest and nothing else.
    ///
    /// # Errors
    /// As for [`Store::hold`].
    pub fn hold_digest(&self, digest: &Digest) -> Result<Hold, StoreError> {
        self.hold_as(digest, digest)
    }

    fn hold_as(&self, digest: &Digest, name: &dyn std::fmt::Display) -> Result<Hold, StoreError> {
        let layout = &self.inner.layout;
        let _lock = layout.lock()?;
        if !layout.image(digest).exists() {
            return Err(StoreError::Absent { image: name.to_string() });
        }
        let mut holds = self.inner.holds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(file) = holds.get(digest).and_then(Weak::upgrade) {
            return Ok(Hold { _file: file });
        }
        let path = layout.hold(digest);
        let open = || -> std::io::Result<HeldFile> {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.lock_shared()?;
            Ok(HeldFile(file))
        };
        let file = Arc::new(open().map_err(StoreError::io("lock", &path))?);
        holds.retain(|_, file| file.strong_count() > 0);
        holds.insert(*digest, Arc::downgrade(&file));
        Ok(Hold { _file: file })
    }
}

/// An image under its first tag, or else its first digest.
fn named(record: Record) -> Option<Image> {
    let name = record.names.iter().find(|name| !record::is_digest_name(name)).or(record.names.first());
    let name = name.and_then(|name| name.parse().ok())?;
    Some(record.into_image(name))
}

impl StoreInner {
    /// See [`Store::get`]; the policy for signatures is not asked.
    pub(crate) fn image(&self, name: &ImageName) -> Result<Option<Image>, StoreError> {
        let Some(mut record) = Record::find(&self.layout, &name.key()?)? else {
            return Ok(None);
        };
        record.settle_names(&self.layout)?;
        Ok(Some(record.into_image(name.clone())))
    }

    /// Writes down an image whose files are in place, under `names` (the names it already has stay).
    /// The caller holds the lock.
    pub(crate) fn record(&self, mut record: Record, names: &[Name]) -> Result<Record, StoreError> {
        let layout = &self.layout;
        let path = layout.image(&record.digest);
        let known = layout.read::<Record>(&path)?;
        record.arrived = known.as_ref().map_or(record.arrived, |known| known.arrived);
        let known = known.map(|known| known.names).unwrap_or_default();
        let all: BTreeSet<String> =
            known.into_iter().chain(names.iter().map(|name| name.name.clone())).collect();
        record.names = all.into_iter().collect();
        usage::touch(layout, &record.digest)?;
        layout.write(&path, &record)?;
        for name in names {
            layout.write(&layout.name(&name.name), name)?;
        }
        record.settle_names(layout)?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests;
