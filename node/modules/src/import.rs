//! Modules from files of this machine, for use without a registry.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use crate::{
    Store,
    digest::{Digest, Hasher},
    error::{ModuleError, StoreError},
    image::{Image, ImageKind, ImageName, file_name},
    module::check,
    record::{self, Blob, Name, Record},
    removal,
    store::StoreInner,
    usage,
};

impl Store {
    /// Takes a module file of this machine into the store, as an image of that name.
    ///
    /// The file is copied: what runs later is what it was now. A changed file must be imported again, and
    /// gets another digest; one that has not changed costs reading it once. What was imported from the same
    /// path before is deleted when nobody holds it.
    ///
    /// # Errors
    /// [`StoreError::Import`] when the file is missing or no module, [`StoreError::TooLarge`] when it is
    /// larger than a layer may be, [`StoreError::Io`] when it or the store fails.
    pub async fn import(&self, path: &Path) -> Result<Image, StoreError> {
        let (inner, path) = (Arc::clone(&self.inner), path.to_owned());
        let result = tokio::task::spawn_blocking(move || import(&inner, &path)).await;
        result.unwrap_or_else(|error| {
            Err(StoreError::io("import into", self.inner.layout.root())(error.into()))
        })
    }
}

/// The blocking part of [`Store::import`].
fn import(inner: &StoreInner, path: &Path) -> Result<Image, StoreError> {
    let layout = &inner.layout;
    let command = path.display().to_string();
    let missing = |detail: String| ModuleError::NoFile { command: command.clone(), detail };
    let metadata = fs::metadata(path).map_err(|error| missing(error.to_string()))?;
    if !metadata.is_file() {
        return Err(missing("is no regular file".to_owned()).into());
    }
    // Emptied last, when nobody waits for the lock any more.
    let workspace = layout.workspace()?;
    let staged = workspace.path().join("module");
    let (digest, size) = copy(path, &staged, inner.options.layer_limit)?;
    check(&staged, &command)?;

    let name = ImageName::Path(std::path::absolute(path).map_err(StoreError::io("find", path))?);
    let key = name.key()?;
    let _lock = layout.lock()?;
    let before = record::resolve(layout, &key)?;
    let place = layout.blob(&digest);
    fs::rename(&staged, &place).map_err(StoreError::io("write", &place))?;
    let record = Record {
        digest,
        manifest: digest,
        kind: ImageKind::Module { module: digest },
        blobs: vec![Blob { digest, size }],
        unpacked: 0,
        names: Vec::new(),
        entrypoint: vec![file_name(path)],
        cmd: Vec::new(),
        env: Vec::new(),
        working_dir: None,
        user: None,
        arrived: usage::now(),
    };
    let record = inner.record(record, &[Name { name: key, digest, public: false, version: None }])?;
    // What the path meant before has no name any more, unless another path leads to it.
    if let Some(before) = before {
        removal::release(layout, &before, &workspace)?;
    }
    Ok(record.into_image(name))
}

/// Copies a file of at most `limit` bytes, and says what came: digest and size in bytes.
pub(crate) fn copy(from: &Path, to: &Path, limit: u64) -> Result<(Digest, u64), StoreError> {
    let mut source = File::open(from).map_err(StoreError::io("read", from))?.take(limit.saturating_add(1));
    let mut target = File::create(to).map_err(StoreError::io("write", to))?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 64 << 10];
    let mut size: u64 = 0;
    loop {
        let count = source.read(&mut buffer).map_err(StoreError::io("read", from))?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        size += bytes.len() as u64;
        hasher.update(bytes);
        io::Write::write_all(&mut target, bytes).map_err(StoreError::io("write", to))?;
    }
    if size > limit {
        return Err(StoreError::TooLarge { path: from.to_owned(), limit });
    }
    target.sync_all().map_err(StoreError::io("write", to))?;
    Ok((hasher.finish(), size))
}

#[cfg(test)]
mod tests;
