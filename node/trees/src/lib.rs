//! Directory trees that somebody else has written: removed, and measured.
//!
//! A guest makes directories of any depth (`mkdirat`, `openat`, again and again), of any width, with links to
//! anywhere, and may rename all of it while we look. So nothing here goes by paths below the top, and nothing
//! recurses:
//!
//! ```text
//! remove(top)   a stack of at most 16 open directories. What lies deeper is renamed up, and taken from there.
//! measure(top)  the same stack; below it one open directory, and for each of its ancestors 24 bytes to find
//!               the way back by (`..` is taken only where it leads to the directory that we came from).
//! ```
//!
//! - Descriptors: at most 20, whatever the tree looks like. Memory: that of 16 buffers of entries.
//! - Each directory is opened by its name in the open directory above it, with `openat2`: no link is followed,
//!   no mount is entered.
//! - Nothing is reached by going up, so that a directory that is moved out of the tree meanwhile leads nowhere:
//!   what is removed was in the tree when the walk came to it.
//!
//! Both block for as long as the tree is large: call them where that is fine.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod measure;
mod plain;
mod removal;

use std::{ffi::CStr, os::fd::BorrowedFd};

pub use self::{
    measure::{TreeUsage, measure},
    plain::{open_plain, open_plain_at},
    removal::remove,
};

use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags, ResolveFlags, openat2},
};

/// Directories that are held open at once.
const LEVELS: usize = 16;

/// What a directory is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// To read its entries.
    Read,
    /// To name it, which takes no permission on the directory itself.
    Name,
}

/// Opens a directory by its name in another. Fails with `XDEV` where something is mounted, and with `LOOP` or
/// `NOTDIR` where there is something else than a directory.
fn open_child(parent: BorrowedFd<'_>, name: &CStr, access: Access) -> rustix::io::Result<OwnedFd> {
    let access = match access {
        Access::Read => OFlags::RDONLY,
        Access::Name => OFlags::PATH,
    };
    let flags = access | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(parent, name, flags, Mode::empty(), ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS)
}

/// The entries that every directory has.
fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

#[cfg(test)]
mod testing;
