//! Where things lie under the store's root, and how they get there whole.
//!
//! ```text
//! version                          "1"; a store of another version is not touched
//! lock                             locked while names, records or files change hands
//! blobs/sha256/<hex>               manifests, configurations, layers, modules: as the registry sent them
//! images/<hex>.json                what is known of an image, by the digest its names resolve to
//! names/<hex>.json                 which image a name means, whether it is everybody's, and what its source calls
//!                                  that version; <hex> is the digest of the name's text
//! rootfs/<hex>/                    unpacked file systems, by the digest of the manifest
//! digests/<hex>.json               digests of files in a file system, by the digest of the manifest
//! precompiled/<hex>-<compiler>     compiled modules, by the digest of the module
//! precompiled/….facts.json         what the compiler found out about such a module; written before it
//! shared/<hex>/<hex>.code          compiled modules of others, by the digests of the module and of what is signed
//! shared/<hex>/<hex>.json          what came with such code: what is signed, the signatures, the facts
//! signatures/<hex>.json            signatures of an image, by the digest its names resolve to
//! holds/<hex>                      share-locked while somebody uses the image
//! tmp/<random>/                    one directory per process, for what is not whole yet
//! ```
//!
//! Everything is written below `tmp` and renamed, so that a reader sees the old or the new and a crash leaves
//! at most litter in `tmp`, which the next start removes: the owner of a directory there keeps a lock on its
//! file `owner`, and locks die with their process. Locks are `flock`s, so that several processes (a node and
//! a command line) can share one store.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use tempfile::{NamedTempFile, TempDir};

use crate::{digest::Digest, error::StoreError};

const VERSION: &str = "1";
/// A record is a few kilobytes; nobody means one larger than this.
const RECORD_LIMIT: u64 = 16 << 20;

/// The store's directories, open for this process.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// This process' directory below `tmp`; removed with the value.
    session: Workspace,
    /// Keeps the session's lock.
    _owner: File,
}

impl Layout {
    /// Makes the directories that are missing and sweeps what dead processes left.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io("find", root))?;
        let unusable = |source: io::Error| StoreError::Unusable {
            path: root.clone(),
            detail: format!(
                "{source}; run as a user that may write there, or choose another directory with --root-dir"
            ),
        };
        for directory in ["blobs/sha256", "images", "names", "rootfs", "digests", "signatures", "holds"] {
            fs::create_dir_all(root.join(directory)).map_err(unusable)?;
        }
        // What lies here is run without further checks, or is not checked yet: nobody else's business.
        let mut private = DirBuilder::new();
        private.mode(0o700).recursive(true);
        for directory in ["precompiled", "shared", "tmp"] {
            private.create(root.join(directory)).map_err(unusable)?;
        }
        let _lock = lock(&root.join("lock")).map_err(unusable)?;
        check_version(&root).map_err(unusable)?;
        let (session, owner) = open_session(&root.join("tmp")).map_err(unusable)?;
        Ok(Self { root, session, _owner: owner })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn image(&self, digest: &Digest) -> PathBuf {
        self.images().join(format!("{}.json", digest.hex()))
    }

    pub(crate) fn name(&self, name: &str) -> PathBuf {
        self.root.join("names").join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    pub(crate) fn roots(&self) -> PathBuf {
        self.root.join("rootfs")
    }

    pub(crate) fn rootfs(&self, manifest: &Digest) -> PathBuf {
        self.roots().join(manifest.hex())
    }

    pub(crate) fn digests(&self, manifest: &Digest) -> PathBuf {
        self.root.join("digests").join(format!("{}.json", manifest.hex()))
    }

    pub(crate) fn signatures(&self) -> PathBuf {
        self.root.join("signatures")
    }

    pub(crate) fn precompiled(&self) -> PathBuf {
        self.root.join("precompiled")
    }

    /// Directories of compiled code that others have made, each for one module.
    pub(crate) fn shared(&self) -> PathBuf {
        self.root.join("shared")
    }

    pub(crate) fn shared_code(&self, module: &Digest) -> PathBuf {
        self.shared().join(module.hex())
    }

    pub(crate) fn shared_code_record(&self, module: &Digest, manifest: &Digest) -> PathBuf {
        self.shared_code(module).join(format!("{}.json", manifest.hex()))
    }

    pub(crate) fn shared_code_file(&self, module: &Digest, manifest: &Digest) -> PathBuf {
        self.shared_code(module).join(format!("{}.code", manifest.hex()))
    }

    /// Compiled modules and what is known of them, each with the digest of the module that it was made of.
    pub(crate) fn precompiled_modules(&self) -> Result<Vec<(PathBuf, Digest)>, StoreError> {
        let module = |path: &Path| {
            let (hex, _compiler) = path.file_name()?.to_str()?.split_once('-')?;
            format!("sha256:{hex}").parse().ok()
        };
        let files = children(&self.precompiled())?.into_iter();
        Ok(files.filter_map(|path| module(&path).map(|module| (path, module))).collect())
    }

    pub(crate) fn hold(&self, image: &Digest) -> PathBuf {
        self.root.join("holds").join(image.hex())
    }

    /// Waits until nobody else changes the store, and keeps others from it while the value lives. Held for
    /// moments only: for renames and small records, never for downloads.
    pub(crate) fn lock(&self) -> Result<File, StoreError> {
        let path = self.root.join("lock");
        lock(&path).map_err(StoreError::io("lock", &path))
    }

    /// A directory for one piece of work, on the store's file system; removed with the value.
    pub(crate) fn workspace(&self) -> Result<Workspace, StoreError> {
        Workspace::new_in(self.session.path()).map_err(StoreError::io("write", self.session.path()))
    }

    /// Reads a record; `None` when there is none, or none that can be understood. A record that a power cut
    /// spoiled is as good as missing: the image is pulled again.
    pub(crate) fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, StoreError> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(RECORD_LIMIT).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("read", path)(error)),
            Ok(_) => {}
        }
        let record = serde_json::from_slice(&bytes);
        if let Err(error) = &record {
            tracing::warn!(path = %path.display(), %error, "ignoring a damaged record of the module store");
        }
        Ok(record.ok())
    }

    /// Writes a record whole: to a temporary file first, to the disk, then by rename.
    pub(crate) fn write<T: Serialize>(&self, path: &Path, record: &T) -> Result<(), StoreError> {
        let write = || -> io::Result<()> {
            let mut file = NamedTempFile::new_in(self.session.path())?;
            serde_json::to_writer(&mut file, record)?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(StoreError::io("write", path))
    }
}

/// Everything in a directory of the store.
pub(crate) fn children(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let read =
        || -> io::Result<Vec<PathBuf>> { fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect() };
    read().map_err(StoreError::io("read", directory))
}

/// Removes a file or a directory with all that is in it; what is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    kubewasm_trees::remove(path).map_err(StoreError::io("remove", path))
}

/// A directory for what is not whole yet, or not wanted any more; removed with the value.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
}

impl Workspace {
    /// Makes one in `parent`.
    pub(crate) fn new_in(parent: &Path) -> io::Result<Self> {
        Ok(Self { path: TempDir::new_in(parent)?.keep() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if let Err(error) = kubewasm_trees::remove(&self.path) {
            tracing::warn!(%error, "a working directory of the module store stays until the next start");
        }
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    file.lock()?;
    Ok(file)
}

fn check_version(root: &Path) -> io::Result<()> {
    let path = root.join("version");
    match fs::read_to_string(&path) {
        Ok(version) if version.trim() == VERSION => Ok(()),
        // An empty file is what a crash leaves between making and writing it.
        Ok(version) if !version.trim().is_empty() => Err(io::Error::other(format!(
            "it has version {}, and this program reads version {VERSION}; remove the directory to pull all images again",
            version.trim()
        ))),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::write(&path, VERSION),
    }
}

/// Removes the directories of dead processes and makes one for this process. The caller holds the store's lock.
fn open_session(tmp: &Path) -> io::Result<(Workspace, File)> {
    for entry in fs::read_dir(tmp)? {
        let path = entry?.path();
        let alive = match File::open(path.join("owner")) {
            Ok(owner) => matches!(owner.try_lock(), Err(fs::TryLockError::WouldBlock)),
            Err(_) => false,
        };
        if !alive && let Err(error) = remove(&path) {
            tracing::warn!(%error, "cannot sweep what an earlier process left");
        }
    }
    let session = Workspace::new_in(tmp)?;
    let owner = File::create(session.path().join("owner"))?;
    owner.try_lock()?;
    Ok((session, owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_below_a_file_says_what_to_do() {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Layout::open(&file.join("store")).unwrap_err().to_string();
        assert!(error.contains(&format!("{}", file.join("store").display())), "{error}");
        assert!(error.contains("choose another directory with --root-dir"), "{error}");
    }

    #[test]
    fn litter_of_dead_processes_is_swept_and_that_of_the_living_is_not() {
        let root = TempDir::new().unwrap();
        let living = Layout::open(root.path()).unwrap();
        let work = living.workspace().unwrap();
        let dead = root.path().join("tmp/dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("owner"), "").unwrap();
        fs::write(dead.join("blob"), "half").unwrap();
        fs::write(root.path().join("tmp/stray"), "").unwrap();

        let second = Layout::open(root.path()).unwrap();
        assert!(!dead.exists());
        assert!(!root.path().join("tmp/stray").exists());
        assert!(work.path().exists());
        drop((work, living, second));
        assert_eq!(fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_store_of_another_version_is_left_alone() {
        let root = TempDir::new().unwrap();
        drop(Layout::open(root.path()).unwrap());
        fs::write(root.path().join("version"), "").unwrap();
        drop(Layout::open(root.path()).unwrap());
        fs::write(root.path().join("version"), "2\n").unwrap();
        assert!(Layout::open(root.path()).unwrap_err().to_string().contains("version 2"));
    }

    #[test]
    fn damaged_records_are_missing_records() {
        let root = TempDir::new().unwrap();
        let layout = Layout::open(root.path()).unwrap();
        let path = layout.name("x");
        assert_eq!(layout.read::<Vec<u8>>(&path).unwrap(), None);
        layout.write(&path, &vec![1u8, 2]).unwrap();
        assert_eq!(layout.read::<Vec<u8>>(&path).unwrap(), Some(vec![1, 2]));
        fs::write(&path, "[1,").unwrap();
        assert_eq!(layout.read::<Vec<u8>>(&path).unwrap(), None);
        fs::write(&path, "").unwrap();
        assert_eq!(layout.read::<Vec<u8>>(&path).unwrap(), None);
    }
}
