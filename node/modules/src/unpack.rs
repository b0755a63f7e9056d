//! Unpacks the layers of a container image, one over the other, into one directory.
//!
//! A layer comes from a stranger. Whatever is in it, nothing is written outside the directory, nothing is
//! written through a link to outside, no device appears, no bit that raises privileges survives, and memory,
//! bytes and entries are bounded. An archive that tries is an error, and so is a broken one.
//!
//! Changes are applied as the [image specification][1] says: a file replaces what was there, a directory is
//! merged, `.wh.name` removes a name that a lower layer had, `.wh..wh..opq` removes all that lower layers had
//! in its directory. Owners are not kept (guests have none), permissions are, but for the owner, who may
//! always read, write and enter: the node must be able to read the file system and to remove it.
//! Symbolic links become relative ones that lead to the same place ([`link`]).
//!
//! [1]: https://github.com/opencontainers/image-spec/blob/main/layer.md

mod link;
mod meter;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    },
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, UNIX_EPOCH},
};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use self::meter::Meter;
use crate::{
    error::{PullFailure, StoreError},
    media::Packing,
    rootpath::{self, LastLink},
    text::printable,
};

/// How much an image may unpack to, all layers together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnpackLimits {
    /// Bytes of unpacked archives, headers and what is later replaced included.
    pub(crate) bytes: u64,
    /// Files, directories and links.
    pub(crate) entries: u64,
}

/// A root directory that is being filled. Blocking: use it on a thread that may block.
#[derive(Debug)]
pub(crate) struct Unpacker<'a> {
    root: PathBuf,
    limits: UnpackLimits,
    bytes: u64,
    entries: u64,
    cancelled: &'a AtomicBool,
}

impl<'a> Unpacker<'a> {
    /// Begins with the empty directory `root`. When `cancelled` becomes true, unpacking ends with an error.
    pub(crate) fn new(root: PathBuf, limits: UnpackLimits, cancelled: &'a AtomicBool) -> Self {
        Self { root, limits, bytes: 0, entries: 0, cancelled }
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Applies one layer.
    ///
    /// # Errors
    /// [`PullFailure::Malformed`] for a broken or hostile archive, [`PullFailure::TooLarge`], and
    /// [`PullFailure::Store`] when this machine cannot write.
    pub(crate) fn layer(&mut self, packing: Packing, packed: impl Read) -> Result<(), PullFailure> {
        // 32 MiB: as much as the encoders of Docker, containerd and buildah use at their highest levels.
        const ZSTD_WINDOW_LOG: u32 = 25;
        match packing {
            Packing::Plain => self.archive(packed),
            Packing::Gzip => self.archive(MultiGzDecoder::new(packed)),
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::new(packed).map_err(malformed)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(malformed)?;
                self.archive(decoder)
            }
        }
    }

    fn archive(&mut self, stream: impl Read) -> Result<(), PullFailure> {
        let meter = Meter::new(self.limits.bytes.saturating_sub(self.bytes));
        let mut archive = Archive::new(meter.reader(stream));
        let mut layer = Layer { root: &self.root, fresh: BTreeSet::new() };
        let mut written = 0;
        let mut entries = archive.entries().map_err(malformed)?;
        let result = loop {
            if self.cancelled.load(Ordering::Relaxed) {
                break Err(PullFailure::Unavailable("the pull was given up".to_owned()));
            }
            let header = {
                let _headers_only = meter.headers();
                entries.next()
            };
            let Some(entry) = header else { break Ok(()) };
            self.entries += 1;
            if self.entries > self.limits.entries {
                break Err(PullFailure::TooLarge(format!(
                    "its file system has more than {} entries, which is this node's limit",
                    self.limits.entries
                )));
            }
            let budget = self.limits.bytes.saturating_sub(self.bytes + written);
            match entry.map_err(malformed).and_then(|entry| layer.apply(entry, budget)) {
                Ok(bytes) => written += bytes,
                Err(error) => break Err(error),
            }
        };
        self.bytes += written.max(meter.bytes());
        match result {
            Err(_) if meter.is_exceeded() => Err(self.too_large()),
            Err(PullFailure::TooLarge(text)) if text.is_empty() => Err(self.too_large()),
            other => other,
        }
    }

    fn too_large(&self) -> PullFailure {
        PullFailure::TooLarge(format!(
            "its layers unpack to more than {} bytes, which is this node's limit",
            self.limits.bytes
        ))
    }
}

/// One layer while it is applied.
struct Layer<'a> {
    root: &'a Path,
    /// What this layer made, by place on the host: its own whiteouts do not touch it.
    fresh: BTreeSet<PathBuf>,
}

impl Layer<'_> {
    /// Applies one entry, and returns how many bytes it wrote. Reads the entry to its end.
    fn apply(&mut self, mut entry: tar::Entry<'_, impl Read>, budget: u64) -> Result<u64, PullFailure> {
        let name = inner_path(&entry.path_bytes())?;
        let written = match name.file_name().map(OsStr::as_bytes) {
            // The root itself.
            None => 0,
            Some(b".wh..wh..opq") => {
                let directory = name.parent().unwrap_or(Path::new(""));
                self.whiteout_all(&self.place(directory, LastLink::Follow)?)?;
                0
            }
            Some(base) => match base.strip_prefix(b".wh.") {
                // Notes of aufs to itself.
                Some(rest) if rest.starts_with(b".wh.") => 0,
                Some(rest) => {
                    self.whiteout(&name, rest)?;
                    0
                }
                None => self.make(&name, &mut entry, budget)?,
            },
        };
        io::copy(&mut entry, &mut io::sink()).map_err(malformed)?;
        Ok(written)
    }

    fn make(
        &mut self,
        name: &Path,
        entry: &mut tar::Entry<'_, impl Read>,
        budget: u64,
    ) -> Result<u64, PullFailure> {
        let place = self.place_to_make(name)?;
        let mut written = 0;
        let kind = entry.header().entry_type();
        match kind {
            EntryType::Directory => {
                let mode = entry.header().mode().map_err(malformed)? & 0o777 | 0o700;
                if !fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.is_dir()) {
                    remove(&place)?;
                    DirBuilder::new()
                        .mode(mode)
                        .create(&place)
                        .map_err(StoreError::io("make the directory", &place))?;
                }
                chmod(&place, mode)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(&place)?;
                written = write_file(&place, entry, budget)?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                if target.is_empty() || target.contains(&0) {
                    return Err(PullFailure::Malformed(format!("its link {} has no target", shown(name))));
                }
                remove(&place)?;
                symlink(self.inside(Path::new(OsStr::from_bytes(&target)), &place), &place)
                    .map_err(StoreError::io("make the link", &place))?;
            }
            EntryType::Link => {
                let target = inner_path(&entry.link_name_bytes().unwrap_or_default())?;
                let source = self.place(&target, LastLink::Keep)?;
                if !fs::symlink_metadata(&source).is_ok_and(|metadata| !metadata.is_dir()) {
                    return Err(PullFailure::Malformed(format!(
                        "its hard link {} leads to {}, which is no file of it",
                        shown(name),
                        shown(&target)
                    )));
                }
                if source != place {
                    remove(&place)?;
                    fs::hard_link(&source, &place).map_err(StoreError::io("make the link", &place))?;
                }
            }
            // Devices and pipes mean nothing to a guest; the rest are notes of archivers.
            _ => {
                tracing::debug!(name = %shown(name), ?kind, "not unpacking an entry of this type");
                return Ok(0);
            }
        }
        self.fresh.insert(place);
        Ok(written)
    }

    /// The target of a link at this place, see [`link::inside`].
    fn inside(&self, target: &Path, place: &Path) -> PathBuf {
        let directory = place.parent().and_then(|directory| directory.strip_prefix(self.root).ok());
        link::inside(target, directory.map_or(0, |directory| directory.components().count()))
    }

    /// Where a path of the archive is on the host.
    fn place(&self, name: &Path, last: LastLink) -> Result<PathBuf, PullFailure> {
        rootpath::resolve(self.root, name, last).map_err(|error| {
            PullFailure::Malformed(format!("its path {} leads nowhere: {error}", shown(name)))
        })
    }

    /// The same for what is to be made: its directories are made, the last part is never followed.
    fn place_to_make(&self, name: &Path) -> Result<PathBuf, PullFailure> {
        let base = name.file_name().unwrap_or_default();
        let directory = self.place(name.parent().unwrap_or(Path::new("")), LastLink::Follow)?;
        if !directory.is_dir() {
            DirBuilder::new().recursive(true).mode(0o755).create(&directory).map_err(|error| match error
                .kind()
            {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    PullFailure::Malformed(format!("its path {} goes through a file", shown(name)))
                }
                _ => StoreError::io("make the directory", &directory)(error).into(),
            })?;
        }
        Ok(directory.join(base))
    }

    /// Removes one name of a lower layer.
    fn whiteout(&self, name: &Path, base: &[u8]) -> Result<(), PullFailure> {
        if matches!(base, b"" | b"." | b"..") {
            return Err(PullFailure::Malformed(format!("its whiteout {} names no file", shown(name))));
        }
        let directory = self.place(name.parent().unwrap_or(Path::new("")), LastLink::Follow)?;
        let place = directory.join(OsStr::from_bytes(base));
        if self.fresh.contains(&place) { Ok(()) } else { remove(&place) }
    }

    /// Removes all that lower layers had in a directory.
    fn whiteout_all(&self, directory: &Path) -> Result<(), PullFailure> {
        let children = match fs::read_dir(directory) {
            Ok(children) => children,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(StoreError::io("read", directory)(error).into()),
        };
        for child in children {
            let child = child.map_err(StoreError::io("read", directory))?;
            let (path, is_dir) = (child.path(), child.file_type().is_ok_and(|kind| kind.is_dir()));
            // Paths are ordered by their parts: what is below a path comes right after it.
            let next = self.fresh.range(path.clone()..).next();
            let keeps = next.is_some_and(|fresh| fresh.starts_with(&path));
            if keeps && is_dir {
                self.whiteout_all(&path)?;
            } else if !keeps {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// A path of an archive without its leading `/` and `./`.
fn inner_path(bytes: &[u8]) -> Result<PathBuf, PullFailure> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let hostile =
        |what: &str| PullFailure::Malformed(format!("its archive has a path that {what}: {}", shown(path)));
    if bytes.contains(&0) {
        return Err(hostile("contains a NUL byte"));
    }
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::ParentDir => return Err(hostile("leads out of the image")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(inner)
}

fn write_file(place: &Path, entry: &mut tar::Entry<'_, impl Read>, budget: u64) -> Result<u64, PullFailure> {
    let mode = entry.header().mode().map_err(malformed)? & 0o777 | 0o600;
    let mtime =
        entry.header().mtime().ok().and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    let failed = |error| PullFailure::from(StoreError::io("write", place)(error));
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(place).map_err(failed)?;
    let mut buffer = vec![0; 64 << 10];
    let mut written: u64 = 0;
    loop {
        let count = entry.read(&mut buffer).map_err(malformed)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        written += bytes.len() as u64;
        if written > budget {
            // Sparse files unpack to more than was read; the caller knows the limit and names it.
            return Err(PullFailure::TooLarge(String::new()));
        }
        file.write_all(bytes).map_err(failed)?;
    }
    // The mode above was cut by the umask.
    file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    if let Some(mtime) = mtime {
        file.set_modified(mtime).map_err(failed)?;
    }
    Ok(written)
}

/// A path of an archive, for a message.
fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

fn chmod(place: &Path, mode: u32) -> Result<(), PullFailure> {
    Ok(fs::set_permissions(place, Permissions::from_mode(mode)).map_err(StoreError::io("write", place))?)
}

fn remove(place: &Path) -> Result<(), PullFailure> {
    Ok(crate::layout::remove(place)?)
}

fn malformed(error: io::Error) -> PullFailure {
    PullFailure::Malformed(format!("one of its layers is no sound archive: {error}"))
}

#[cfg(test)]
mod tests;
