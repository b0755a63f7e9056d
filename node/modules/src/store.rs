//! The store: names, images, and who uses them.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
};

use crate::{
    compile::Compilations,
    digest::Digest,
    error::StoreError,
    image::{Image, ImageKind, ImageName},
    layout::{self, Layout},
    module::Digests,
    options::StoreOptions,
    pull::Flights,
    record::{self, Name, Record},
    registry::{Registry, RegistryOptions},
};

/// Images and modules on this machine's disk. Cheap to clone; all clones are the same store.
///
/// Several processes may open one directory.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) options: StoreOptions,
    pub(crate) registry: Registry,
    pub(crate) flights: Flights,
    pub(crate) compilations: Compilations,
    holds: Mutex<HashMap<Digest, Weak<File>>>,
}

/// Keeps an image from being removed while it lives. It ends with the process at the latest.
#[derive(Clone, Debug)]
pub struct Hold {
    _file: Arc<File>,
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
            connect_timeout: options.connect_timeout,
            stall_timeout: options.stall_timeout,
        };
        let inner = Inner {
            registry: Registry::new(registry, &options.certificate_authorities)?,
            layout: Layout::open(root)?,
            flights: Flights::default(),
            compilations: Compilations::new(&options),
            options,
            holds: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The image that `name` means, if all of it is here. Asks no registry; reads a few small files.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store cannot be read.
    pub fn get(&self, name: &ImageName) -> Result<Option<Image>, StoreError> {
        let layout = &self.inner.layout;
        let Some(mut record) = Record::find(layout, &self.key(name)?)? else { return Ok(None) };
        record.settle_names(layout)?;
        Ok(Some(record.into_image(name.clone())))
    }

    /// All complete images, each once, under its first tag, or else its first digest.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store cannot be read.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let mut images = Vec::new();
        for mut record in self.records()? {
            record.settle_names(&self.inner.layout)?;
            let name = record.names.iter().find(|name| !record::is_digest_name(name)).or(record.names.first());
            let Some(name) = name.and_then(|name| name.parse().ok()) else { continue };
            if record.is_complete(&self.inner.layout) {
                images.push(record.into_image(name));
            }
        }
        images.sort_by(|a, b| a.names.cmp(&b.names));
        Ok(images)
    }

    /// The unpacked file system of a container image; `None` for a module alone.
    ///
    /// It is shared by all containers of the image: nobody may write to it. Its symbolic links lead where
    /// the image's author wanted; follow them inside the directory only.
    #[must_use]
    pub fn rootfs(&self, image: &Image) -> Option<PathBuf> {
        (image.kind == ImageKind::Filesystem).then(|| self.inner.layout.rootfs(&image.manifest))
    }

    /// Keeps `image` from being removed, by this process and by others, until the result is dropped.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when it has been removed in the meantime.
    pub fn hold(&self, image: &Image) -> Result<Hold, StoreError> {
        let layout = &self.inner.layout;
        let _lock = layout.lock()?;
        if !layout.image(&image.digest).exists() {
            return Err(StoreError::Absent { image: image.reference.to_string() });
        }
        let mut holds = self.inner.holds.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(file) = holds.get(&image.digest).and_then(Weak::upgrade) {
            return Ok(Hold { _file: file });
        }
        let path = layout.hold(&image.digest);
        let open = || -> std::io::Result<File> {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.lock_shared()?;
            Ok(file)
        };
        let file = Arc::new(open().map_err(StoreError::io("lock", &path))?);
        holds.retain(|_, file| file.strong_count() > 0);
        holds.insert(image.digest, Arc::downgrade(&file));
        Ok(Hold { _file: file })
    }

    /// Forgets a name, and deletes the image when no name is left that somebody gave it.
    ///
    /// A tag takes the digests of its image along once no other tag means the image; a digest takes every
    /// name in its repository along. Blobs, files and compiled modules that no other image has are deleted.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when there is no such name, [`StoreError::InUse`] when the image would go but is
    /// held; nothing has changed then.
    pub fn remove(&self, name: &ImageName) -> Result<(), StoreError> {
        let layout = &self.inner.layout;
        let key = self.key(name)?;
        let _lock = layout.lock()?;
        let Some(digest) = record::resolve(layout, &key)? else {
            return Err(StoreError::Absent { image: name.to_string() });
        };
        let Some(mut record) = layout.read::<Record>(&layout.image(&digest))? else {
            return layout::remove(&layout.name(&key));
        };
        record.settle_names(layout)?;
        let left = names_left(&record.names, &key);
        // Taken while anything goes; released, and its file removed, at the end.
        let hold_path = layout.hold(&digest);
        if left.is_empty() {
            let hold = File::options().create(true).truncate(false).write(true).open(&hold_path);
            let hold = hold.map_err(StoreError::io("lock", &hold_path))?;
            if hold.try_lock().is_err() {
                return Err(StoreError::InUse { image: name.to_string() });
            }
        }
        for gone in record.names.iter().filter(|name| !left.contains(name)) {
            layout::remove(&layout.name(gone))?;
        }
        if !left.is_empty() {
            record.names = left;
            return layout.write(&layout.image(&digest), &record);
        }
        self.delete(&record)?;
        layout::remove(&hold_path)
    }

    /// Deletes what belongs to `record` and to no other image. The caller holds the lock.
    fn delete(&self, record: &Record) -> Result<(), StoreError> {
        let layout = &self.inner.layout;
        layout::remove(&layout.image(&record.digest))?;
        let mut modules = self.modules_of(record)?;
        let others = self.records()?;
        let kept: BTreeSet<Digest> = others.iter().flat_map(|other| &other.blobs).map(|blob| blob.digest).collect();
        for blob in record.blobs.iter().filter(|blob| !kept.contains(&blob.digest)) {
            layout::remove(&layout.blob(&blob.digest))?;
        }
        if !others.iter().any(|other| other.manifest == record.manifest) {
            layout::remove(&layout.rootfs(&record.manifest))?;
            layout::remove(&layout.digests(&record.manifest))?;
        }
        for other in &others {
            for module in self.modules_of(other)? {
                modules.remove(&module);
            }
        }
        self.remove_precompiled(&modules)
    }

    /// Modules of an image that may have been compiled.
    fn modules_of(&self, record: &Record) -> Result<BTreeSet<Digest>, StoreError> {
        Ok(match record.kind {
            ImageKind::Module { module } => BTreeSet::from([module]),
            ImageKind::Filesystem => {
                let digests: Option<Digests> = self.inner.layout.read(&self.inner.layout.digests(&record.manifest))?;
                digests.unwrap_or_default().into_values().collect()
            }
        })
    }

    fn remove_precompiled(&self, modules: &BTreeSet<Digest>) -> Result<(), StoreError> {
        let directory = self.inner.layout.precompiled();
        let failed = || StoreError::io("read", &directory);
        for entry in std::fs::read_dir(&directory).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let module = name.split('-').next().and_then(|hex| format!("sha256:{hex}").parse().ok());
            if module.is_some_and(|module| modules.contains(&module)) {
                layout::remove(&path)?;
            }
        }
        Ok(())
    }

    fn records(&self) -> Result<Vec<Record>, StoreError> {
        let directory = self.inner.layout.images();
        let failed = || StoreError::io("read", &directory);
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failed())? {
            records.extend(self.inner.layout.read::<Record>(&entry.map_err(failed())?.path())?);
        }
        Ok(records)
    }

    fn key(&self, name: &ImageName) -> Result<String, StoreError> {
        name.key().map_err(StoreError::io("find", Path::new(".")))
    }
}

impl Inner {
    /// Writes down an image whose files are in place, under `names` (the names it already has stay).
    /// The caller holds the lock.
    pub(crate) fn record(&self, mut record: Record, names: &[String]) -> Result<Record, StoreError> {
        let layout = &self.layout;
        let path = layout.image(&record.digest);
        let known = layout.read::<Record>(&path)?.map(|known| known.names).unwrap_or_default();
        let all: BTreeSet<String> = known.into_iter().chain(names.iter().cloned()).collect();
        record.names = all.into_iter().collect();
        layout.write(&path, &record)?;
        for name in names {
            layout.write(&layout.name(name), &Name { name: name.clone(), digest: record.digest })?;
        }
        record.settle_names(layout)?;
        Ok(record)
    }
}

/// The names an image keeps when `gone` is forgotten.
fn names_left(names: &[String], gone: &str) -> Vec<String> {
    let repository = |name: &str| name.split('@').next().unwrap_or_default().to_owned();
    let is_tag_of = |name: &str, repository: &str| {
        name.strip_prefix(repository).and_then(|rest| rest.strip_prefix(':')).is_some_and(|tag| !tag.contains('/'))
    };
    let kept: Vec<String> = if record::is_digest_name(gone) {
        let of = repository(gone);
        let keeps = |name: &&String| name.as_str() != gone && !is_tag_of(name, &of);
        names.iter().filter(keeps).cloned().collect()
    } else {
        names.iter().filter(|name| name.as_str() != gone).cloned().collect()
    };
    let given = |name: &String| !record::is_digest_name(name);
    if record::is_digest_name(gone) || kept.iter().any(given) { kept } else { Vec::new() }
}

#[cfg(test)]
mod tests;
