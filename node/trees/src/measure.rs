//! Measuring a tree that may change meanwhile.
//!
//! A directory that is moved away while the walk is below the stack of open directories takes its way back with it:
//! the walk goes on from the innermost directory that is still held, and what it had not yet seen in between does
//! not count. Somebody who moves things between what was seen and what was not is not counted right by any walk.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx},
    io::Errno,
};

use crate::{Access, LEVELS, is_dots, open_child};

/// What a tree takes of its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// Bytes that are allocated: holes of sparse files do not count, and a byte takes a block.
    pub bytes: u64,
    /// Files, directories, links and all else that has an inode.
    pub inodes: u64,
}

/// Measures what is at `path`, itself and all that is below it.
///
/// Neither links nor mounts are followed. A file with several names counts once if all of them are in the tree; it
/// counts with the share of its names that are. What vanishes meanwhile, and what this process may not look
/// into, does not count. Blocking.
///
/// # Errors
/// What the system says of `path` itself.
pub fn measure(path: &Path) -> io::Result<TreeUsage> {
    let top = look(CWD, path)?;
    let mut tally = TreeTally::default();
    tally.add(&top);
    if kind(&top) == FileType::Directory {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = Dir::new(openat(CWD, path, flags, Mode::empty())?)?;
        MeasuringWalk { top, held: vec![dir], deep: None, ways_back: Vec::new() }.run(&mut tally);
    }
    Ok(tally.usage())
}

fn look<P: rustix::path::Arg>(parent: impl AsFd, name: P) -> rustix::io::Result<Statx> {
    let how = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(parent, name, how, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

fn kind(found: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(found.stx_mode))
}

fn device(found: &Statx) -> (u32, u32) {
    (found.stx_dev_major, found.stx_dev_minor)
}

/// Sums in fractions of 2^-32, so that the shares of a file with several names add up to the file.
#[derive(Debug, Default)]
struct TreeTally {
    bytes: u128,
    inodes: u128,
}

/// Bits of a fraction.
const FRACTION: u32 = 32;

impl TreeTally {
    fn add(&mut self, found: &Statx) {
        let bytes = u128::from(found.stx_blocks) * 512;
        // A directory has as many links as it has directories, and one name.
        let names = if kind(found) == FileType::Directory { 1 } else { found.stx_nlink.max(1) };
        self.bytes = self.bytes.saturating_add((bytes << FRACTION) / u128::from(names));
        self.inodes = self.inodes.saturating_add((1 << FRACTION) / u128::from(names));
    }

    fn usage(&self) -> TreeUsage {
        let whole = |sum: u128| {
            let rounded = sum.saturating_add(1 << (FRACTION - 1)) >> FRACTION;
            u64::try_from(rounded).unwrap_or(u64::MAX)
        };
        TreeUsage { bytes: whole(self.bytes), inodes: whole(self.inodes) }
    }
}

/// A directory that is not held open, and how far it was read.
struct WayBack {
    device: (u32, u32),
    inode: u64,
    offset: i64,
}

struct MeasuringWalk {
    top: Statx,
    /// The open directories, the top first.
    held: Vec<Dir>,
    /// The directory that is being read, where that is below those that are held.
    deep: Option<Dir>,
    /// The directories between the last that is held and `deep`.
    ways_back: Vec<WayBack>,
}

impl MeasuringWalk {
    fn run(&mut self, tally: &mut TreeTally) {
        while let Some(dir) = self.deep.as_mut().or(self.held.last_mut()) {
            match dir.read() {
                Some(Ok(entry)) if is_dots(entry.file_name()) => {}
                Some(Ok(entry)) => {
                    let Ok(fd) = dir.fd() else { continue };
                    let Ok(found) = look(fd, entry.file_name()) else { continue };
                    if !self.is_ours(&found) {
                        continue;
                    }
                    tally.add(&found);
                    if kind(&found) == FileType::Directory {
                        // It may be gone, or be closed to us.
                        let _ = self.enter(entry.file_name(), entry.offset());
                    }
                }
                Some(Err(_)) | None => self.leave(),
            }
        }
    }

    /// False for what is mounted in the tree.
    fn is_ours(&self, found: &Statx) -> bool {
        let tells = |found: &Statx| StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
        if tells(found) && tells(&self.top) {
            found.stx_mnt_id == self.top.stx_mnt_id
        } else {
            device(found) == device(&self.top)
        }
    }

    /// Goes into a directory of the one that is being read; `offset` is where that is read on.
    fn enter(&mut self, name: &CStr, offset: i64) -> rustix::io::Result<()> {
        let open = |fd: BorrowedFd<'_>| Dir::new(open_child(fd, name, Access::Read)?);
        match &self.deep {
            Some(deep) => {
                let child = open(deep.fd()?)?;
                let here = look(deep.fd()?, c".")?;
                self.ways_back.push(WayBack { device: device(&here), inode: here.stx_ino, offset });
                self.deep = Some(child);
            }
            None => {
                let last = self.held.last().ok_or(Errno::BADF)?;
                let child = open(last.fd()?)?;
                if self.held.len() < LEVELS {
                    self.held.push(child);
                } else {
                    self.deep = Some(child);
                }
            }
        }
        Ok(())
    }

    fn leave(&mut self) {
        match self.deep.take() {
            None => {
                self.held.pop();
            }
            Some(deep) => {
                let Some(back) = self.ways_back.pop() else { return };
                match climb(&deep, &back) {
                    Ok(parent) => self.deep = Some(parent),
                    // It was moved: what `..` leads to now is none of ours.
                    Err(_) => self.ways_back.clear(),
                }
            }
        }
    }
}

/// Opens the directory above, if that is the one that we came from.
fn climb(dir: &Dir, back: &WayBack) -> rustix::io::Result<Dir> {
    let parent = open_child(dir.fd()?, c"..", Access::Read)?;
    let found = look(&parent, c".")?;
    if (device(&found), found.stx_ino) != (back.device, back.inode) {
        return Err(Errno::XDEV);
    }
    let mut parent = Dir::new(parent)?;
    parent.seek(back.offset)?;
    Ok(parent)
}

#[cfg(test)]
mod tests;
