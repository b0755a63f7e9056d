//! From a command to the file that holds its module.

pub(crate) mod sniff;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    Store,
    digest::Digest,
    error::{ModuleError, StoreError},
    image::{Image, ImageKind},
    layout::Layout,
    rootpath::{self, LastLink},
    store::StoreInner,
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
}

/// The blocking part of [`Store::module`].
pub(crate) fn find(inner: &StoreInner, image: &Image, command: &str) -> Result<Module, ModuleError> {
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
        return Err(no_file(
            "the command is empty; set command: in the container or an entry point in the image",
        ));
    }
    if command.contains('/') {
        let base = Path::new(image.working_dir.as_deref().unwrap_or("/"));
        let path = rootpath::resolve(root, &base.join(command), LastLink::Follow)
            .map_err(|error| no_file(&error.to_string()))?;
        return match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(path),
            Ok(metadata) if metadata.is_dir() => Err(no_file("is a directory")),
            Ok(_) => Err(no_file("is no regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(no_file("no such file or directory"))
            }
            Err(error) => Err(no_file(&error.to_string())),
        };
    }
    let path =
        image.env.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, value)| value);
    path.split(':')
        .chain(["/"])
        .filter_map(|directory| {
            rootpath::resolve(root, &Path::new(directory).join(command), LastLink::Follow).ok()
        })
        .find(|path| fs::metadata(path).is_ok_and(|metadata| metadata.is_file()))
        .ok_or_else(|| ModuleError::NotFound { command: command.to_owned() })
}

/// Checks that a file begins as a module does.
pub(crate) fn check(path: &Path, command: &str) -> Result<(), ModuleError> {
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
fn remembered_digest(
    layout: &Layout,
    manifest: &Digest,
    root: &Path,
    path: &Path,
) -> Result<Digest, StoreError> {
    let compute = || Digest::of_file(path).map_err(StoreError::io("read", path));
    // Notes are text; for the odd name that is none, the file is read each time.
    let Some(place) = path.strip_prefix(root).ok().and_then(Path::to_str) else {
        return compute();
    };
    let notes = layout.digests(manifest);
    let known: Option<Digests> = layout.read(&notes)?;
    if let Some(digest) = known.and_then(|known| known.get(place).copied()) {
        return Ok(digest);
    }
    let digest = compute()?;
    let _lock = layout.lock()?;
    let mut known: Digests = layout.read(&notes)?.unwrap_or_default();
    known.insert(place.to_owned(), digest);
    layout.write(&notes, &known)?;
    Ok(digest)
}

#[cfg(test)]
mod tests;
