//! From a command to the file that holds its module.

mod sniff;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Store,
    digest::{Digest, Hasher},
    error::{ModuleError, StoreError},
    image::{Image, ImageKind, ImageName, file_name},
    layout::Layout,
    record::{Blob, Record},
    rootpath::{self, LastLink},
    store::Inner,
};

/// Where a bare name is looked for when the image's environment has no PATH, as container runtimes have it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Digests of files of one file system, by their place in it.
pub(crate) type Digests = BTreeMap<String, Digest>;

/// A WebAssembly module on disk. It begins as one; whether it is valid is for an engine to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Module {
    /// Absolute path of the file; it belongs to the store and must not be changed.
    pub path: PathBuf,
    /// Digest of its content, whatever names it has.
    pub digest: Digest,
}

impl Store {
    /// Finds the module that the command `argv0` starts.
    ///
    /// In a module alone there is nothing to find, and `argv0` is only a name. In a file system `argv0` is
    /// looked up as `execvp` does: with a slash in it, from the image's working directory; without, along the
    /// PATH of the image's environment and last in `/`. Symbolic links are followed inside the image only.
    ///
    /// # Errors
    /// See [`ModuleError`]; all but [`ModuleError::Store`] stay as they are while the image does.
    pub async fn module(&self, image: &Image, argv0: &str) -> Result<Module, ModuleError> {
        let (inner, image, command) = (Arc::clone(&self.inner), image.clone(), argv0.to_owned());
        let name = command.clone();
        tokio::task::spawn_blocking(move || find(&inner, &image, &command)).await.unwrap_or_else(|_| {
            Err(ModuleError::NoFile { command: name, detail: "the node is shutting down".to_owned() })
        })
    }

    /// Takes a module file of this machine into the store, as an image of that name.
    ///
    /// The file is copied: what runs later is what it was now. A changed file must be imported again, and
    /// gets another digest; one that has not changed costs reading it once.
    ///
    /// # Errors
    /// [`StoreError::Import`] when the file is missing or no module, [`StoreError::TooLarge`] when it is
    /// larger than a layer may be, [`StoreError::Io`] when it or the store fails.
    pub async fn import(&self, path: &Path) -> Result<Image, StoreError> {
        let (inner, path) = (Arc::clone(&self.inner), path.to_owned());
        let result = tokio::task::spawn_blocking(move || import(&inner, &path)).await;
        result.unwrap_or_else(|error| Err(StoreError::io("import into", self.inner.layout.root())(error.into())))
    }
}

/// The blocking part of [`Store::module`].
fn find(inner: &Inner, image: &Image, command: &str) -> Result<Module, ModuleError> {
    let layout = &inner.layout;
    let failed = |source| ModuleError::Store { command: command.to_owned(), source: Box::new(source) };
    match image.kind {
        ImageKind::Module { module } => {
            let path = layout.blob(&module);
            if !path.exists() {
                return Err(failed(StoreError::Absent { image: image.reference.to_string() }));
            }
            check(&path, command)?;
            Ok(Module { path, digest: module })
        }
        ImageKind::Filesystem => {
            let root = layout.rootfs(&image.manifest);
            if !root.is_dir() {
                return Err(failed(StoreError::Absent { image: image.reference.to_string() }));
            }
            let path = locate(&root, image, command)?;
            check(&path, command)?;
            let digest = remembered_digest(layout, &image.manifest, &root, &path).map_err(failed)?;
            Ok(Module { path, digest })
        }
    }
}

/// Finds the file of a command in a root file system.
fn locate(root: &Path, image: &Image, command: &str) -> Result<PathBuf, ModuleError> {
    let no_file =
        |detail: &str| ModuleError::NoFile { command: command.to_owned(), detail: detail.to_owned() };
    if command.is_empty() {
        return Err(no_file("the command is empty; set command: in the container or an entry point in the image"));
    }
    if command.contains('/') {
        let base = Path::new(image.working_dir.as_deref().unwrap_or("/"));
        let path = rootpath::resolve(root, &base.join(command), LastLink::Follow)
            .map_err(|error| no_file(&error.to_string()))?;
        return match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(path),
            Ok(metadata) if metadata.is_dir() => Err(no_file("is a directory")),
            Ok(_) => Err(no_file("is no regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(no_file("no such file or directory")),
            Err(error) => Err(no_file(&error.to_string())),
        };
    }
    let path = image.env.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    path.split(':')
        .chain(["/"])
        .filter_map(|directory| rootpath::resolve(root, &Path::new(directory).join(command), LastLink::Follow).ok())
        .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file()))
        .ok_or_else(|| ModuleError::NotFound { command: command.to_owned() })
}

/// Checks that a file begins as a module does.
fn check(path: &Path, command: &str) -> Result<(), ModuleError> {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(sniff::LENGTH).read_to_end(&mut head));
    read.map_err(|error| ModuleError::Store {
        command: command.to_owned(),
        source: Box::new(StoreError::io("read", path)(error)),
    })?;
    if head.is_empty() {
        return Err(ModuleError::Empty { command: command.to_owned() });
    }
    match sniff::what_it_is(&head) {
        None => Ok(()),
        Some(looks_like) => Err(ModuleError::NotWasm { command: command.to_owned(), looks_like }),
    }
}

/// The digest of a file in a file system, read from the store's notes or computed and noted.
fn remembered_digest(layout: &Layout, manifest: &Digest, root: &Path, path: &Path) -> Result<Digest, StoreError> {
    let place = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let notes = layout.digests(manifest);
    let known: Option<Digests> = layout.read(&notes)?;
    if let Some(digest) = known.and_then(|known| known.get(&place).copied()) {
        return Ok(digest);
    }
    let digest = Digest::of_file(path).map_err(StoreError::io("read", path))?;
    let _lock = layout.lock()?;
    let mut known: Digests = layout.read(&notes)?.unwrap_or_default();
    known.insert(place, digest);
    layout.write(&notes, &known)?;
    Ok(digest)
}

/// The blocking part of [`Store::import`].
fn import(inner: &Inner, path: &Path) -> Result<Image, StoreError> {
    let layout = &inner.layout;
    let command = path.display().to_string();
    let missing = |detail: String| ModuleError::NoFile { command: command.clone(), detail };
    let metadata = fs::metadata(path).map_err(|error| missing(error.to_string()))?;
    if !metadata.is_file() {
        return Err(missing("is no regular file".to_owned()).into());
    }
    check(path, &command)?;
    let workspace = layout.workspace()?;
    let staged = workspace.path().join("module");
    let (digest, size) = copy(path, &staged, inner.options.layer_limit)?;

    let name = ImageName::Path(std::path::absolute(path).map_err(StoreError::io("find", path))?);
    let key = name.key().map_err(StoreError::io("find", path))?;
    let _lock = layout.lock()?;
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
    };
    Ok(inner.record(record, &[key])?.into_image(name))
}

/// Copies a file of at most `limit` bytes, and says what came: digest and size in bytes.
fn copy(from: &Path, to: &Path, limit: u64) -> Result<(Digest, u64), StoreError> {
    let mut source = File::open(from).map_err(StoreError::io("read", from))?.take(limit.saturating_add(1));
    let mut target = File::create(to).map_err(StoreError::io("write", to))?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 64 << 10];
    let mut size: u64 = 0;
    loop {
        let count = source.read(&mut buffer).map_err(StoreError::io("read", from))?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
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
