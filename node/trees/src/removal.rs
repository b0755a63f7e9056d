//! Removing a tree.
//!
//! Directories are emptied from the bottom up. One that still holds directories when the stack is full is renamed
//! into the topmost directory that takes it (the top of the tree; below it where a project quota forbids that), and is
//! met there again: a chain of any length comes up 15 directories at a time.
//!
//! What cannot be removed is left out, and all else goes. A directory is read again for as long as something of
//! it goes, so that no file system's idea of reading what is being removed matters.

use std::{
    ffi::{CStr, CString, OsStr},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, chmod, fchmod, openat, renameat, unlinkat},
    io::Errno,
};

use crate::{Access, LEVELS, is_dots, open_child};

/// Removes what is at `path`, with all that is below it; what is not there is fine.
///
/// The way to `path` is trusted, links and all; what is at `path` and below is not: no link is followed, no
/// mount is entered, and `path` must not be one itself. Permissions of directories that stand in the way are
/// widened where this process may do that. Blocking, and safe to repeat after any failure.
///
/// # Errors
/// Names the first thing that could not be removed, with the system's kind of error; `ResourceBusy` and
/// `CrossesDevices` for a mount. All else is gone then.
pub fn remove(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not the name of a tree", path.display()))
    })?;
    let name = CString::new(name.as_bytes())?;
    let above = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let above = match openat(CWD, above, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|error| stuck(path, error))?,
    };
    let top = match unlink(above.as_fd(), &name, FileType::Unknown) {
        Ok(Unlinked::Gone) => return Ok(()),
        // Nothing can be told of a directory that is a mount but that it is busy.
        Ok(Unlinked::Filled) | Err(Errno::BUSY) => open(above.as_fd(), &name),
        Err(error) => Err(error),
    };
    let top = match top {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|error| stuck(path, error))?,
    };
    let failure = Removal { path, levels: vec![top], failure: None, moved: 0 }.run();
    match unlinkat(&above, &name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failure.unwrap_or_else(|| stuck(path, error))),
    }
}

fn stuck(path: &Path, error: Errno) -> io::Error {
    let source = io::Error::from(error);
    let hint = match error {
        Errno::XDEV | Errno::BUSY => "; a file system that is mounted there must be unmounted first",
        Errno::NOTEMPTY | Errno::EXIST => "; something is being made in it all the time",
        _ => "",
    };
    io::Error::new(source.kind(), format!("cannot remove {}: {source}{hint}", path.display()))
}

/// A directory that is being emptied.
struct RemovalLevel {
    dir: Dir,
    /// Its name in the directory above.
    name: CString,
    /// Something of it has gone, or has come, since reading it began: it is read again.
    changed: bool,
    /// It holds directories that hold something, and there is no room on the stack for them.
    is_too_deep: bool,
    /// Its mode was widened.
    is_widened: bool,
}

impl RemovalLevel {
    fn fd(&self) -> rustix::io::Result<BorrowedFd<'_>> {
        self.dir.fd()
    }

    /// Gives its owner all rights; true when that may help.
    fn widen(&mut self) -> bool {
        if self.is_widened {
            return false;
        }
        self.is_widened = true;
        self.dir.fd().and_then(|fd| fchmod(fd, Mode::RWXU)).is_ok()
    }
}

/// Opens a directory to empty it.
fn open(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<RemovalLevel> {
    let fd = match open_child(parent, name, Access::Read) {
        Err(Errno::ACCESS) => {
            let named = open_child(parent, name, Access::Name)?;
            // The kernel changes modes by path or by a descriptor that can be read from. This path has no link in it
            // that a stranger could have put there.
            chmod(format!("/proc/self/fd/{}", named.as_raw_fd()), Mode::RWXU)?;
            open_child(parent, name, Access::Read)?
        }
        other => other?,
    };
    Ok(RemovalLevel {
        dir: Dir::new(fd)?,
        name: name.to_owned(),
        changed: false,
        is_too_deep: false,
        is_widened: false,
    })
}

/// What came of removing an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unlinked {
    Gone,
    /// It is a directory that holds something.
    Filled,
}

/// Removes an entry that is no directory, or an empty one. `kind` is what it was a moment ago.
fn unlink(parent: BorrowedFd<'_>, name: &CStr, kind: FileType) -> rustix::io::Result<Unlinked> {
    let file = || unlinkat(parent, name, AtFlags::empty());
    let directory = || match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(Unlinked::Filled),
        other => other.map(|()| Unlinked::Gone),
    };
    let result = if kind == FileType::Directory {
        match directory() {
            Err(Errno::NOTDIR) => file().map(|()| Unlinked::Gone),
            other => other,
        }
    } else {
        match file() {
            Err(Errno::ISDIR) => directory(),
            other => other.map(|()| Unlinked::Gone),
        }
    };
    match result {
        Err(Errno::NOENT) => Ok(Unlinked::Gone),
        other => other,
    }
}

struct Removal<'a> {
    path: &'a Path,
    /// The open directories, the top first; each is in the one before, or was.
    levels: Vec<RemovalLevel>,
    /// The first thing that could not be removed.
    failure: Option<io::Error>,
    /// Number of names that were tried for directories that were moved up.
    moved: u64,
}

impl Removal<'_> {
    /// Empties the top, and says what could not be removed.
    fn run(mut self) -> Option<io::Error> {
        while let Some(level) = self.levels.last_mut() {
            match level.dir.read() {
                Some(Ok(entry)) if is_dots(entry.file_name()) => {}
                Some(Ok(entry)) => {
                    if let Err(error) = self.take(entry.file_name(), entry.file_type()) {
                        self.fail(Some(entry.file_name()), error);
                    }
                }
                Some(Err(error)) => {
                    self.fail(None, error);
                    self.leave();
                }
                None => self.leave(),
            }
        }
        self.failure
    }

    /// Removes an entry of the innermost directory, or enters it.
    fn take(&mut self, name: &CStr, kind: FileType) -> rustix::io::Result<()> {
        let is_full = self.levels.len() >= LEVELS;
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let unlinked = match unlink(level.fd()?, name, kind) {
            Err(Errno::ACCESS | Errno::PERM) if level.widen() => unlink(level.fd()?, name, kind),
            other => other,
        }?;
        match unlinked {
            Unlinked::Gone => level.changed = true,
            Unlinked::Filled if is_full => level.is_too_deep = true,
            Unlinked::Filled => match open(level.fd()?, name) {
                Ok(child) => self.levels.push(child),
                // It was moved or replaced meanwhile. If something is left, the directory will not go, and says so.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            },
        }
        Ok(())
    }

    /// Ends with the innermost directory, or begins it again.
    fn leave(&mut self) {
        let [above @ .., level] = self.levels.as_mut_slice() else { return };
        let Some(parent) = above.last_mut() else {
            if level.changed {
                level.changed = false;
                level.dir.rewind();
                // All that is still there is met again.
                self.failure = None;
            } else {
                self.levels.clear();
            }
            return;
        };
        let unlink = |parent: &RemovalLevel| unlink(parent.fd()?, &level.name, FileType::Directory);
        let unlinked = match unlink(parent) {
            Err(Errno::ACCESS | Errno::PERM) if parent.widen() => unlink(parent),
            other => other,
        };
        let result = match unlinked {
            Ok(Unlinked::Gone) => {
                parent.changed = true;
                Ok(())
            }
            Ok(Unlinked::Filled) if level.is_too_deep => move_up(&mut self.levels, &mut self.moved),
            Ok(Unlinked::Filled) if level.changed => {
                level.changed = false;
                level.dir.rewind();
                return;
            }
            Ok(Unlinked::Filled) => Err(Errno::NOTEMPTY),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.fail(None, error);
        }
        self.levels.pop();
    }

    /// Notes what could not be removed: an entry of the innermost directory, or the directory itself.
    fn fail(&mut self, entry: Option<&CStr>, error: Errno) {
        let below = self.levels.iter().skip(1).map(|level| level.name.as_c_str()).chain(entry);
        let path = below.fold(self.path.to_path_buf(), |path: PathBuf, name| {
            path.join(OsStr::from_bytes(name.to_bytes()))
        });
        self.failure.get_or_insert_with(|| stuck(&path, error));
    }
}

/// Renames the innermost directory into the topmost one that takes it. The names are those of the tree: whatever has
/// one already is to be removed, too.
fn move_up(levels: &mut [RemovalLevel], moved: &mut u64) -> rustix::io::Result<()> {
    let [above @ .., level] = levels else { return Err(Errno::NOTEMPTY) };
    let [targets @ .., parent] = above else { return Err(Errno::NOTEMPTY) };
    let mut last = Errno::NOTEMPTY;
    for target in targets {
        loop {
            let name = format!(".removing-{moved}");
            *moved = moved.saturating_add(1);
            match renameat(parent.fd()?, &level.name, target.fd()?, name) {
                Ok(()) => {
                    target.changed = true;
                    return Ok(());
                }
                // It was moved or removed meanwhile.
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR) => {}
                Err(Errno::ACCESS | Errno::PERM) if level.widen() | parent.widen() | target.widen() => {}
                Err(error) => {
                    last = error;
                    break;
                }
            }
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests;
