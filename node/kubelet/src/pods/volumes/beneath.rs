//! Opening paths that others have a say in, without ever leaving the folder that they are below.
//!
//! The kernel does the walk (`openat2` with `RESOLVE_BENEATH`): links are followed as long as they stay
//! below, whoever changes them meanwhile. What comes out is the path of what was opened, with no link left
//! in it.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};

/// Tries of a walk during which something is renamed all the time.
const TRIES: usize = 128;

/// A path that was opened. It stays what it is for as long as this lives.
#[derive(Debug)]
pub(super) struct Opened {
    fd: OwnedFd,
}

impl Opened {
    /// Opens a path that is to be trusted, links and all.
    pub(super) fn trusted(path: &Path) -> io::Result<Self> {
        let fd = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Opens a path no part of which is a link.
    pub(super) fn plain(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let fd = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        Ok(Self { fd })
    }

    /// Opens a path below this folder. The empty path is the folder itself.
    ///
    /// # Errors
    /// `CrossesDevices` for one that leads out of it, and whatever else the system says.
    pub(super) fn below(&self, path: &Path) -> io::Result<Self> {
        let fd = open_below(&self.fd, path, OFlags::PATH)?;
        Ok(Self { fd })
    }

    /// As [`Opened::below`], for reading. Neither a pipe nor a device holds anybody up.
    pub(super) fn read_below(&self, path: &Path) -> io::Result<fs::File> {
        let fd = open_below(&self.fd, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        Ok(fs::File::from(fd))
    }

    /// As [`Opened::below`]; folders that are missing on the way, and at its end, are made with `mode`.
    pub(super) fn make_below(&self, path: &Path, mode: u32) -> io::Result<Self> {
        match self.below(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let mut parent = self.below(Path::new(""))?;
        let mut walked = PathBuf::new();
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            walked.push(name);
            parent = match self.below(&walked) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700)) {
                        Ok(()) => {
                            let made = self.below(&walked)?;
                            // The process's umask has no say.
                            fs::set_permissions(made.proc(), permissions(mode))?;
                            made
                        }
                        Err(rustix::io::Errno::EXIST) => self.below(&walked)?,
                        Err(error) => return Err(error.into()),
                    }
                }
                other => other?,
            };
        }
        Ok(parent)
    }

    /// As [`Opened::below`]; a file that is missing is made with `mode`, in a folder that is not.
    pub(super) fn make_file_below(&self, path: &Path, mode: u32) -> io::Result<Self> {
        match self.below(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let parent = self.below(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&parent.fd, name, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => fs::File::from(fd).set_permissions(permissions(mode))?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.below(path)
    }

    /// What it is.
    pub(super) fn metadata(&self) -> io::Result<fs::Metadata> {
        fs::metadata(self.proc())
    }

    /// Its path, without any link in it.
    ///
    /// # Errors
    /// When it has been removed since.
    pub(super) fn path(&self) -> io::Result<PathBuf> {
        let path = fs::read_link(self.proc())?;
        if rustix::fs::fstat(&self.fd)?.st_nlink == 0 || !path.is_absolute() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it was removed meanwhile"));
        }
        Ok(path)
    }

    fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }
}

fn open_below(folder: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match openat2(&folder, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // The kernel could not tell whether a `..` was safe, because of a rename elsewhere.
            Err(rustix::io::Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "the files are renamed all the time"))
}

fn permissions(mode: u32) -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    fs::Permissions::from_mode(mode)
}

#[cfg(test)]
mod tests;
