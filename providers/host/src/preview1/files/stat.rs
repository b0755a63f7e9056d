//! What the kernel knows of a file, in the words of WASI 0.1.

use rustix::fs::{FileType, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use wasmtime_wasi::p1::types::{Errno, Filestat, Filetype, Fstflags, Timestamp};

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

pub(super) fn file_type(kind: FileType) -> Filetype {
    match kind {
        FileType::RegularFile => Filetype::RegularFile,
        FileType::Directory => Filetype::Directory,
        FileType::Symlink => Filetype::SymbolicLink,
        FileType::BlockDevice => Filetype::BlockDevice,
        FileType::CharacterDevice => Filetype::CharacterDevice,
        FileType::Socket => Filetype::SocketStream,
        FileType::Fifo | FileType::Unknown => Filetype::Unknown,
    }
}

pub(super) fn of(stat: &Stat) -> Filestat {
    Filestat {
        dev: stat.st_dev,
        ino: stat.st_ino,
        filetype: file_type(FileType::from_raw_mode(stat.st_mode)),
        nlink: stat.st_nlink,
        size: stat.st_size.try_into().unwrap_or_default(),
        atim: nanoseconds(stat.st_atime, stat.st_atime_nsec),
        mtim: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
        ctim: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// What was before 1970 was then.
fn nanoseconds(seconds: impl TryInto<u64>, nanoseconds: impl TryInto<u64>) -> u64 {
    let seconds: u64 = seconds.try_into().unwrap_or_default();
    seconds.saturating_mul(SECOND).saturating_add(nanoseconds.try_into().unwrap_or_default())
}

/// The times that a call sets.
pub(super) fn times(atim: Timestamp, mtim: Timestamp, flags: Fstflags) -> Result<Timestamps, Errno> {
    Ok(Timestamps {
        last_access: time(atim, flags.contains(Fstflags::ATIM), flags.contains(Fstflags::ATIM_NOW))?,
        last_modification: time(mtim, flags.contains(Fstflags::MTIM), flags.contains(Fstflags::MTIM_NOW))?,
    })
}

fn time(at: Timestamp, set: bool, now: bool) -> Result<Timespec, Errno> {
    let special = |tv_nsec| Ok(Timespec { tv_sec: 0, tv_nsec });
    match (set, now) {
        (true, true) => Err(Errno::Inval),
        (false, true) => special(UTIME_NOW),
        (false, false) => special(UTIME_OMIT),
        (true, false) => Ok(Timespec {
            tv_sec: (at / SECOND).try_into().map_err(|_| Errno::Overflow)?,
            tv_nsec: (at % SECOND).try_into().map_err(|_| Errno::Overflow)?,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_set_are_now_or_are_left() {
        let flags = Fstflags::ATIM | Fstflags::MTIM_NOW;
        let set = times(1_500_000_001, 7, flags).unwrap();
        assert_eq!((set.last_access.tv_sec, set.last_access.tv_nsec), (1, 500_000_001));
        assert_eq!(set.last_modification.tv_nsec, UTIME_NOW);
        let left = times(1, 1, Fstflags::empty()).unwrap();
        assert_eq!((left.last_access.tv_nsec, left.last_modification.tv_nsec), (UTIME_OMIT, UTIME_OMIT));
        assert!(matches!(times(1, 1, Fstflags::ATIM | Fstflags::ATIM_NOW), Err(Errno::Inval)));
        assert_eq!(nanoseconds(-1_i64, 5_i64), 5);
    }
}
