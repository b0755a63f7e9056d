//! Taking images out of the store, and what a crash left of them.

use std::{collections::BTreeSet, fs, fs::File, io, path::Path};

use crate::{
    Store,
    digest::Digest,
    error::StoreError,
    image::{ImageKind, ImageName},
    layout::{self, Layout, Workspace},
    module::Digests,
    record::{self, Record},
    signature::evidence,
};

impl Store {
    /// Forgets a name, and deletes the image when no name is left that somebody gave it.
    ///
    /// A tag takes the digests of its image along once no other tag means the image; a digest takes every
    /// name in its repository along. Blobs, files and compiled modules that no other image has are deleted.
    /// Call it where blocking is fine: deleting a large file system takes a while.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when there is no such name, [`StoreError::InUse`] when the image would go but is
    /// held; nothing has changed then.
    pub fn remove(&self, name: &ImageName) -> Result<(), StoreError> {
        let layout = &self.inner.layout;
        let key = name.key()?;
        // Emptied last, when nobody waits for the lock any more.
        let trash = layout.workspace()?;
        let _lock = layout.lock()?;
        let Some(digest) = record::resolve(layout, &key)? else {
            return Err(StoreError::Absent { image: name.to_string() });
        };
        let Some(mut record) = layout.read::<Record>(&layout.image(&digest))? else {
            return layout::remove(&layout.name(&key));
        };
        record.settle_names(layout)?;
        let left = names_left(&record.names, &key);
        let hold_path = layout.hold(&digest);
        let hold = if left.is_empty() { take(&hold_path)? } else { None };
        if left.is_empty() && hold.is_none() {
            return Err(StoreError::InUse { image: name.to_string() });
        }
        for gone in record.names.iter().filter(|name| !left.contains(name)) {
            layout::remove(&layout.name(gone))?;
        }
        if !left.is_empty() {
            record.names = left;
            return layout.write(&layout.image(&digest), &record);
        }
        delete(layout, &record, &trash)?;
        layout::remove(&hold_path)
    }
}

/// Takes an image's hold for oneself, which proves that nobody uses the image; `None` when somebody does.
pub(crate) fn take(hold: &Path) -> Result<Option<File>, StoreError> {
    let file = File::options().create(true).truncate(false).write(true).open(hold);
    let file = file.map_err(StoreError::io("lock", hold))?;
    Ok(file.try_lock().is_ok().then_some(file))
}

/// Deletes the image `digest` if it has no name and nobody uses it. The caller holds the lock.
pub(crate) fn release(layout: &Layout, digest: &Digest, trash: &Workspace) -> Result<(), StoreError> {
    let Some(mut record) = layout.read::<Record>(&layout.image(digest))? else {
        return Ok(());
    };
    record.settle_names(layout)?;
    if !record.names.is_empty() {
        return Ok(());
    }
    let hold = layout.hold(digest);
    let Some(_hold) = take(&hold)? else {
        return Ok(());
    };
    delete(layout, &record, trash)?;
    layout::remove(&hold)
}

/// Deletes what belongs to `record` and to no other image. The caller holds the lock.
pub(crate) fn delete(layout: &Layout, record: &Record, trash: &Workspace) -> Result<(), StoreError> {
    layout::remove(&layout.image(&record.digest))?;
    evidence::forget(layout, &record.digest)?;
    let mut modules = modules_of(layout, record)?;
    let others = Record::all(layout)?.intact;
    let kept: BTreeSet<Digest> =
        others.iter().flat_map(|other| &other.blobs).map(|blob| blob.digest).collect();
    for blob in record.blobs.iter().filter(|blob| !kept.contains(&blob.digest)) {
        layout::remove(&layout.blob(&blob.digest))?;
    }
    if !others.iter().any(|other| other.manifest == record.manifest) {
        discard(&layout.rootfs(&record.manifest), trash)?;
        layout::remove(&layout.digests(&record.manifest))?;
    }
    for other in &others {
        for module in modules_of(layout, other)? {
            modules.remove(&module);
        }
    }
    for (path, module) in layout.precompiled_modules()? {
        if modules.contains(&module) {
            layout::remove(&path)?;
        }
    }
    for module in &modules {
        discard(&layout.shared_code(module), trash)?;
    }
    Ok(())
}

/// Moves a file or a directory out of sight. What takes long, deleting, is done when `trash` is dropped.
fn discard(path: &Path, trash: &Workspace) -> Result<(), StoreError> {
    // A slot of its own: a blob and a directory may have one name.
    let slot = tempfile::TempDir::new_in(trash.path()).map_err(StoreError::io("write", trash.path()))?;
    match fs::rename(path, slot.keep().join("discarded")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Modules of an image that may have been compiled.
fn modules_of(layout: &Layout, record: &Record) -> Result<BTreeSet<Digest>, StoreError> {
    Ok(match record.kind {
        ImageKind::Module { module } => BTreeSet::from([module]),
        ImageKind::Filesystem => {
            let digests: Option<Digests> = layout.read(&layout.digests(&record.manifest))?;
            digests.unwrap_or_default().into_values().collect()
        }
    })
}

/// Deletes images that have no name, and blobs and file systems that no image has: what a crash left between
/// putting files in place and writing them down, or the other way around. Does nothing while a record is
/// damaged: its image may be in use.
pub(crate) fn sweep(layout: &Layout) -> Result<(), StoreError> {
    let trash = layout.workspace()?;
    let _lock = layout.lock()?;
    for record in Record::all(layout)?.intact {
        release(layout, &record.digest, &trash)?;
    }
    let records = Record::all(layout)?;
    if records.damaged {
        return Ok(());
    }
    let blobs: BTreeSet<String> =
        records.intact.iter().flat_map(|record| &record.blobs).map(|blob| blob.digest.hex()).collect();
    let signatures: BTreeSet<String> =
        records.intact.iter().map(|record| format!("{}.json", record.digest.hex())).collect();
    let roots: BTreeSet<String> = records.intact.iter().map(|record| record.manifest.hex()).collect();
    let mut modules = BTreeSet::new();
    for record in &records.intact {
        modules.extend(modules_of(layout, record)?.iter().map(Digest::hex));
    }
    for (directory, known) in [
        (layout.blobs(), blobs),
        (layout.roots(), roots),
        (layout.signatures(), signatures),
        (layout.shared(), modules),
    ] {
        for path in layout::children(&directory)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !known.contains(name) {
                discard(&path, &trash)?;
            }
        }
    }
    Ok(())
}

/// The names an image keeps when `gone` is forgotten.
fn names_left(names: &[String], gone: &str) -> Vec<String> {
    if !record::is_digest_name(gone) {
        let kept: Vec<String> = names.iter().filter(|name| name.as_str() != gone).cloned().collect();
        let is_given = |name: &String| !record::is_digest_name(name);
        return if kept.iter().any(is_given) { kept } else { Vec::new() };
    }
    let repository = gone.rsplit_once('@').map_or(gone, |(repository, _)| repository);
    let is_tag_of_it = |name: &str| {
        // A URL has no tags: it is the name itself.
        if name == repository {
            return true;
        }
        let tag = name.strip_prefix(repository).and_then(|rest| rest.strip_prefix(':'));
        tag.is_some_and(|tag| !tag.contains('/'))
    };
    names.iter().filter(|name| name.as_str() != gone && !is_tag_of_it(name)).cloned().collect()
}

#[cfg(test)]
mod tests;
