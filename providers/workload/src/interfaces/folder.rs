//! A folder whose files are written whole or not at all, and by nobody's name outside of it.
//!
//! Everything goes by an open descriptor of the folder and names of one part ([`names`]), and nothing follows a symbolic link:
//! whatever somebody puts into the folder, no key leads out of it. What is written is on the disk before it has its name.
//! All of this blocks.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, UNIX_EPOCH},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, flock, fsync, mkdirat, openat, renameat,
        unlinkat,
    },
    io::Errno,
};

use super::names;

/// Locks of one folder: writers of a key hold the one that its name falls on.
const LOCKS: u64 = 64;
/// Begins the names of files that are being written.
const PART: &str = ".part-";
/// After so long without a write, one that nobody has a lock of was left behind by a process that died.
const LEFT_BEHIND: Duration = Duration::from_secs(60);
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder.
#[derive(Debug)]
pub(super) struct Folder {
    descriptor: OwnedFd,
}

/// Is held by whoever changes a key. Locks of files are between processes as well.
pub(super) type FolderLock = File;

impl Folder {
    /// The folder at a path of the host's own, which is made if need be.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let descriptor = openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { descriptor })
    }

    /// A folder in this one. `None` where there is none.
    pub(super) fn open(&self, name: &str) -> io::Result<Option<Self>> {
        match openat(&self.descriptor, file_name(name)?, FOLDER, Mode::empty()) {
            Ok(descriptor) => Ok(Some(Self { descriptor })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A folder in this one, which is made if need be.
    pub(super) fn make(&self, name: &str) -> io::Result<Self> {
        match mkdirat(&self.descriptor, file_name(name)?, Mode::from_raw_mode(0o700)) {
            Ok(()) => fsync(&self.descriptor)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.open(name)?.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Opens a key's file. `None` where there is none.
    pub(super) fn read(&self, key: &str) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(&self.descriptor, file_name(key)?, flags, Mode::empty()) {
            Ok(file) => {
                let file = File::from(file);
                if !file.metadata()?.is_file() {
                    return Err(io::Error::other("there is something else than a file of ours at its place"));
                }
                Ok(Some(file))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of a key's file, if they are not more than that.
    pub(super) fn read_all(&self, key: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.read(key)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(io::Error::other(format!("it has more than {most} bytes")));
        }
        Ok(Some(bytes))
    }

    /// Begins a file, which has no name yet.
    pub(super) fn begin(&self) -> io::Result<NewFile> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Also between restarts, in which numbers of processes come again.
        let began = UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let part = format!("{PART}{}-{began}-{number}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.descriptor, &*part, flags, Mode::from_raw_mode(0o600))?);
        // So that whoever tidies up does not take it for one that a dead process has left.
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let folder = self.descriptor.try_clone()?;
        Ok(NewFile { folder, part: Some(part), file })
    }

    /// Writes a whole file.
    pub(super) fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.begin()?;
        file.write(bytes)?;
        file.keep(key)
    }

    /// Removes a key's file, if there is one.
    pub(super) fn remove(&self, key: &str) -> io::Result<()> {
        match unlinkat(&self.descriptor, file_name(key)?, AtFlags::empty()) {
            Ok(()) => Ok(fsync(&self.descriptor)?),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a folder in this one, with the files in it.
    pub(super) fn remove_folder(&self, name: &str) -> io::Result<()> {
        let Some(folder) = self.open(name)? else { return Ok(()) };
        for entry in Dir::read_from(&folder.descriptor)? {
            let entry = entry?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                unlinkat(&folder.descriptor, entry.file_name(), AtFlags::empty())?;
            }
        }
        match unlinkat(&self.descriptor, file_name(name)?, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(fsync(&self.descriptor)?),
            Err(error) => Err(error.into()),
        }
    }

    /// All keys, one after the other: `each` says whether to go on. Files of unfinished writes that nobody writes any more are
    /// removed on the way.
    pub(super) fn keys(&self, mut each: impl FnMut(String) -> bool) -> io::Result<()> {
        for entry in Dir::read_from(&self.descriptor)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.starts_with(PART) {
                self.tidy(name);
            }
            let is_file = matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown);
            if !is_file || name.starts_with('.') {
                continue;
            }
            if let Some(key) = names::decode(name)
                && !each(key)
            {
                break;
            }
        }
        Ok(())
    }

    fn tidy(&self, part: &str) {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = openat(&self.descriptor, part, flags, Mode::empty()) else { return };
        let file = File::from(file);
        let changed = file.metadata().and_then(|metadata| metadata.modified());
        // A new one may be about to be locked.
        let is_old = changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > LEFT_BEHIND));
        if is_old && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = unlinkat(&self.descriptor, part, AtFlags::empty());
        }
    }

    /// The lock of a key, if nobody has it.
    pub(super) fn try_lock(&self, key: &str) -> io::Result<Option<FolderLock>> {
        let number =
            file_name(key)?.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let name = format!(".lock-{}", number % LOCKS);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.descriptor, &*name, flags, Mode::from_raw_mode(0o600))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(File::from(file))),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// When it was made or changed last, in seconds since 1970.
    pub(super) fn changed(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstat(&self.descriptor)?;
        Ok(u64::try_from(stat.st_mtime).unwrap_or(0))
    }
}

/// A file that is being written. One that is dropped is removed.
#[derive(Debug)]
pub(super) struct NewFile {
    folder: OwnedFd,
    part: Option<String>,
    file: File,
}

impl NewFile {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// What was written is on the disk after this.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives it its name, when it is on the disk.
    pub(super) fn keep(mut self, key: &str) -> io::Result<()> {
        self.file.sync_all()?;
        let name = file_name(key)?;
        if let Some(part) = &self.part {
            renameat(&self.folder, &**part, &self.folder, &*name)?;
        }
        self.part = None;
        Ok(fsync(&self.folder)?)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            let _ = unlinkat(&self.folder, &**part, AtFlags::empty());
        }
    }
}

/// How long to wait before a lock is tried again, after so many attempts.
pub(super) fn lock_pause(attempts: u32) -> Duration {
    Duration::from_millis(1 << attempts.min(5))
}

fn file_name(key: &str) -> io::Result<String> {
    names::encode(key).ok_or_else(|| {
        io::Error::other("its name is empty, or too long for the name of a file: 255 bytes, where those that cannot be in one count thrice")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn keys(folder: &Folder) -> Vec<String> {
        let mut keys = Vec::new();
        folder
            .keys(|key| {
                keys.push(key);
                true
            })
            .unwrap();
        keys.sort();
        keys
    }

    #[test]
    fn nothing_follows_a_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        let folder = Folder::at(&dir.path().join("root")).unwrap();
        symlink(dir.path().join("secret"), dir.path().join("root/file")).unwrap();
        symlink(dir.path(), dir.path().join("root/folder")).unwrap();
        assert!(folder.read("file").is_err());
        assert!(folder.open("folder").is_err());
        assert!(folder.make("folder").is_err());
        folder.write("file", b"new").unwrap();
        assert_eq!(
            std::fs::read(dir.path().join("secret")).unwrap(),
            b"secret",
            "the link was replaced, not written through"
        );
        assert_eq!(folder.read_all("file", 10).unwrap().unwrap(), b"new");
        assert!(folder.read("../secret").unwrap().is_none());
    }

    #[test]
    fn what_is_not_kept_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path()).unwrap();
        folder.write("a", b"1").unwrap();
        let mut file = folder.begin().unwrap();
        file.write(b"2").unwrap();
        assert_eq!(keys(&folder), ["a"]);
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            2,
            "a file that is being written is let be"
        );
        drop(file);
        let left = dir.path().join(format!("{PART}1-2-3"));
        std::fs::write(&left, "by a process that died").unwrap();
        assert_eq!(keys(&folder), ["a"]);
        assert!(left.exists(), "a new one may be about to be locked");
        let long_ago = std::time::SystemTime::now() - 2 * LEFT_BEHIND;
        File::options().write(true).open(&left).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(keys(&folder), ["a"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_lock_is_one_holders() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path()).unwrap();
        let held = folder.try_lock("a").unwrap().unwrap();
        assert!(folder.try_lock("a").unwrap().is_none());
        drop(held);
        assert!(folder.try_lock("a").unwrap().is_some());
    }
}
