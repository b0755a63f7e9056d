//! Why a change to the file system failed, where wasmtime-wasi does not say it.
//!
//! It knows no `EROFS` and no `EXDEV`, and tells the guest of an I/O error instead. Programs count on the two:
//! on the one for their message, on the other to copy what cannot be renamed. So when a change ends in an I/O
//! error, we look at the mounts it was about. Nothing is looked at when all goes well.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags, StatxFlags, fstat, fstatfs,
    fstatvfs, openat2, statx,
};

/// Number of overlayfs in `statfs`.
const OVERLAYFS: u64 = 0x794c_7630;

/// What wasmtime-wasi has no word for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// `EROFS`: it would have changed what is mounted read-only.
    ReadOnly,
    /// `EXDEV`: it would have led from one mount to another, or moved a directory of an image where an overlay
    /// cannot note that down.
    CrossDevice,
}

/// A path, from a directory that the guest has open.
#[derive(Debug)]
pub(super) struct OpenPath {
    pub(super) from: PathBuf,
    pub(super) path: PathBuf,
}

/// What is known about the mount of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// Id of the mount that the directory around it is on.
    mount: u64,
    read_only: bool,
    /// It is a directory of an overlay.
    is_layered: bool,
}

/// Looks for the cause. `places` are those that the change was about: one, or from where and to where.
/// Blocking.
pub(super) fn find(places: &[OpenPath]) -> Option<Cause> {
    let seen: Option<Vec<Seen>> = places.iter().map(|place| look(place).ok()).collect();
    judge(&seen?)
}

fn judge(seen: &[Seen]) -> Option<Cause> {
    let moved = match seen {
        [from, to] => from.mount != to.mount || (from.is_layered && !from.read_only && !to.read_only),
        _ => false,
    };
    if moved {
        Some(Cause::CrossDevice)
    } else {
        seen.iter().any(|seen| seen.read_only).then_some(Cause::ReadOnly)
    }
}

fn look(place: &OpenPath) -> rustix::io::Result<Seen> {
    let top = rustix::fs::openat(CWD, &place.from, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path, more: OFlags| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&top, path, OFlags::PATH | OFlags::CLOEXEC | more, Mode::empty(), resolve)
    };
    let around = open(place.path.parent().unwrap_or(Path::new(".")), OFlags::empty())?;
    let mut seen = Seen {
        mount: statx(&around, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id,
        read_only: is_read_only(&around)?,
        is_layered: false,
    };
    // What is there may be a mount of its own.
    if let Ok(itself) = open(&place.path, OFlags::empty()) {
        seen.read_only |= is_read_only(&itself)?;
        let is_directory = FileType::from_raw_mode(fstat(&itself)?.st_mode) == FileType::Directory;
        seen.is_layered =
            is_directory && u64::try_from(fstatfs(&itself)?.f_type).is_ok_and(|kind| kind == OVERLAYFS);
    }
    Ok(seen)
}

fn is_read_only(fd: &impl std::os::fd::AsFd) -> rustix::io::Result<bool> {
    Ok(fstatvfs(fd)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Whether opening this would wait until somebody opens the other end, and block the thread for as long: a named
/// pipe. Guests cannot make one, and images bring none, but in a volume there may be one. Blocking.
pub(super) fn is_pipe(place: &OpenPath) -> bool {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = || -> rustix::io::Result<bool> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let top = rustix::fs::openat(CWD, &place.from, flags, Mode::empty())?;
        let itself = openat2(&top, &place.path, flags, Mode::empty(), resolve)?;
        Ok(FileType::from_raw_mode(fstat(&itself)?.st_mode) == FileType::Fifo)
    };
    open().unwrap_or(false)
}

/// A directory of the guest's, as a path that stays right while the file is open.
pub(super) fn path_of(dir: &File) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}", dir.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seen(mount: u64, read_only: bool, is_layered: bool) -> Seen {
        Seen { mount, read_only, is_layered }
    }

    #[test]
    fn the_mounts_tell_the_cause() {
        for (places, expected) in [
            (&[seen(1, false, false)][..], None),
            (&[seen(1, true, false)], Some(Cause::ReadOnly)),
            (&[seen(1, false, true)], None),
            (&[seen(1, false, false), seen(1, false, false)], None),
            (&[seen(1, true, false), seen(1, true, false)], Some(Cause::ReadOnly)),
            (&[seen(1, false, false), seen(2, false, false)], Some(Cause::CrossDevice)),
            (&[seen(1, true, false), seen(2, false, false)], Some(Cause::CrossDevice)),
            (&[seen(1, false, true), seen(1, false, false)], Some(Cause::CrossDevice)),
            (&[seen(1, true, true), seen(1, true, false)], Some(Cause::ReadOnly)),
        ] {
            assert_eq!(judge(places), expected, "{places:?}");
        }
    }

    #[test]
    fn an_ordinary_directory_is_no_cause() {
        let dir = tempfile::tempdir().unwrap();
        let place = |path: &str| OpenPath { from: dir.path().to_owned(), path: path.into() };
        assert_eq!(find(&[place("missing")]), None);
        assert_eq!(find(&[place("missing/deep")]), None);
        assert_eq!(find(&[place("../x")]), None, "nothing outside is looked at");
        assert_eq!(find(&[place("a"), place("b")]), None);
    }
}
