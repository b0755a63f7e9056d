//! Finding, and making, places in a tree that somebody else filled.
//!
//! The tree comes from an image or a volume: its links lead where a stranger wants, and in a volume that other
//! containers have, too, they change while we look. A path is therefore walked part by part, each directory
//! held open: a link is read and resolved here, from the root of the tree, and never followed by the kernel;
//! `..` goes back to the directory that we came from, whatever has been moved meanwhile. Nothing outside the
//! tree can be reached, and nothing outside is made.

use std::{
    collections::VecDeque,
    ffi::{CString, OsStr, OsString},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Component, Path},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, chmodat, mkdirat, openat, readlinkat, statat},
    io::Errno,
};

use super::plan::GuestPath;

/// As many links as Linux follows in one path.
const LINKS_LIMIT: usize = 40;
/// Directories that one walk may hold open.
const DEPTH_LIMIT: usize = 256;
/// How often a name may appear or disappear while we look at it.
const RACES_LIMIT: usize = 16;

const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What a place must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// A directory. One that is not there is made with this mode; directories on the way are made with 0755.
    Directory(u32),
    /// Anything but a directory. An empty file is made where there is nothing.
    File,
}

/// A place in the tree that exists.
#[derive(Debug)]
pub(super) struct TreePlace {
    parent: OwnedFd,
    name: OsString,
}

impl TreePlace {
    /// Opens what is there now: after a mount, what was mounted.
    pub(super) fn open(&self) -> rustix::io::Result<OwnedFd> {
        openat(&self.parent, &self.name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    /// The directory that it is in.
    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// Its name in that directory.
    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }
}

/// Opens the top of a tree.
pub(super) fn open_root(root: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(root, DIRECTORY, Mode::empty())
}

/// Finds a place in the tree below `root`, and makes what is missing of it.
///
/// # Errors
/// `ELOOP` after too many links, `ENOTDIR` and `EISDIR` where there is something else than what is wanted,
/// `EBUSY` where links lead to the root itself or the tree changes all the time, and those of looking and
/// making.
pub(super) fn make(root: BorrowedFd<'_>, path: &GuestPath, want: Want) -> rustix::io::Result<TreePlace> {
    let mut walk = Walk {
        root,
        below: Vec::new(),
        waiting: path.names().map(OsString::from).collect(),
        links: 0,
        races: 0,
    };
    while let Some(part) = walk.waiting.pop_front() {
        if part == ".." {
            walk.below.pop();
        } else if let Some(place) = walk.step(part, want)? {
            return Ok(place);
        }
    }
    let (_, name) = walk.below.pop().ok_or(Errno::BUSY)?;
    match want {
        Want::Directory(_) => walk.place(name),
        Want::File => Err(Errno::ISDIR),
    }
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    /// The directories between the root and where we are, with their names.
    below: Vec<(OwnedFd, OsString)>,
    /// Parts of the path still to be walked.
    waiting: VecDeque<OsString>,
    links: usize,
    races: usize,
}

impl Walk<'_> {
    fn here(&self) -> BorrowedFd<'_> {
        self.below.last().map_or(self.root, |(fd, _)| fd.as_fd())
    }

    fn place(&self, name: OsString) -> rustix::io::Result<TreePlace> {
        Ok(TreePlace { parent: rustix::io::fcntl_dupfd_cloexec(self.here(), 0)?, name })
    }

    /// Takes one part of the path. A place, when that was the last one and is a file.
    fn step(&mut self, part: OsString, want: Want) -> rustix::io::Result<Option<TreePlace>> {
        let is_last = self.waiting.is_empty();
        match statat(self.here(), &part, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => self.follow(&part).map(|()| None),
                FileType::Directory => self.enter(part).map(|()| None),
                _ if is_last && want == Want::File => self.place(part).map(Some),
                _ => Err(Errno::NOTDIR),
            },
            Err(Errno::NOENT) => {
                match (is_last, want) {
                    (true, Want::File) => {
                        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                        openat(self.here(), &part, flags | OFlags::NOFOLLOW, Mode::from_raw_mode(0o644))
                            .map(drop)
                    }
                    (true, Want::Directory(mode)) => {
                        mkdirat(self.here(), &part, Mode::from_raw_mode(mode)).and_then(|()| {
                            // The mode above was cut by the umask.
                            chmodat(self.here(), &part, Mode::from_raw_mode(mode), AtFlags::empty())
                        })
                    }
                    (false, _) => mkdirat(self.here(), &part, Mode::from_raw_mode(0o755)),
                }
                .or_else(|error| if error == Errno::EXIST { self.raced() } else { Err(error) })?;
                // Look again at what is there now.
                self.waiting.push_front(part);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn follow(&mut self, link: &OsStr) -> rustix::io::Result<()> {
        self.links += 1;
        if self.links > LINKS_LIMIT {
            return Err(Errno::LOOP);
        }
        let target: CString = readlinkat(self.here(), link, Vec::new())?;
        let target = OsString::from_vec(target.into_bytes());
        let target = Path::new(&target);
        if target.has_root() {
            self.below.clear();
        }
        let parts: Vec<OsString> = target
            .components()
            .filter_map(|component| match component {
                Component::Normal(name) => Some(name.to_owned()),
                Component::ParentDir => Some(OsStr::from_bytes(b"..").to_owned()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
            })
            .collect();
        for part in parts.into_iter().rev() {
            self.waiting.push_front(part);
        }
        Ok(())
    }

    fn enter(&mut self, name: OsString) -> rustix::io::Result<()> {
        if self.below.len() >= DEPTH_LIMIT {
            return Err(Errno::NAMETOOLONG);
        }
        match openat(self.here(), &name, DIRECTORY, Mode::empty()) {
            Ok(fd) => self.below.push((fd, name)),
            // It is something else now than it was a moment ago.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {
                self.raced()?;
                self.waiting.push_front(name);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn raced(&mut self) -> rustix::io::Result<()> {
        self.races += 1;
        if self.races > RACES_LIMIT { Err(Errno::BUSY) } else { Ok(()) }
    }
}
