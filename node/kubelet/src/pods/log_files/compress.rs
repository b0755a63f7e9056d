//! Compressing a log file that has been rotated away. Blocking.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use flate2::{Compression, write::GzEncoder};
use kubewasm_trees::open_plain_at;
use rustix::fs::{AtFlags, Mode, OFlags, renameat, unlinkat};

/// Bytes that are read at once.
const BLOCK: usize = 64 * 1024;
/// As of every log file: collectors read by group.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

/// Puts `<name>.gz` in the place of the file `name` of an open directory: written under another name, renamed, and
/// only then is the plain one removed, so that a crash loses nothing. Ends early, with nothing changed, once `stop`
/// is set.
///
/// # Errors
/// What the system says, a full disk above all; nothing is changed then.
pub(super) fn compress(dir: &OwnedFd, name: &str, stop: &AtomicBool) -> io::Result<()> {
    let plain = open_plain_at(dir.as_fd(), Path::new(name), OFlags::RDONLY, Mode::empty())?;
    let unfinished = format!("{name}.tmp");
    let written = write(dir, plain, &unfinished, stop);
    if !matches!(written, Ok(true)) {
        remove(dir, &unfinished)?;
        return written.map(drop);
    }
    renameat(dir, &unfinished, dir, format!("{name}.gz"))?;
    remove(dir, name)
}

/// Removes a file of an open directory; one that is gone is no error.
pub(super) fn remove(dir: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(error) if error != rustix::io::Errno::NOENT => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether it came to its end.
fn write(dir: &OwnedFd, mut plain: File, unfinished: &str, stop: &AtomicBool) -> io::Result<bool> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    remove(dir, unfinished)?;
    let file = open_plain_at(dir.as_fd(), Path::new(unfinished), flags, MODE)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    let mut block = vec![0; BLOCK];
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let count = plain.read(&mut block)?;
        if count == 0 {
            encoder.finish()?.sync_data()?;
            return Ok(true);
        }
        encoder.write_all(block.get(..count).unwrap_or_default())?;
    }
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;

    fn folder() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap().into();
        (dir, open)
    }

    #[test]
    fn what_was_compressed_is_read_again() {
        let (dir, open) = folder();
        let text = "2026-01-02T00:00:00Z stdout F one and the same\n".repeat(10_000);
        let plain = dir.path().join("0.log.20260102-000000");
        std::fs::write(&plain, &text).unwrap();
        std::fs::write(plain.with_extension("20260102-000000.tmp"), "half").unwrap();
        compress(&open, "0.log.20260102-000000", &AtomicBool::new(false)).unwrap();
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["0.log.20260102-000000.gz"]);
        let mut read = String::new();
        GzDecoder::new(File::open(dir.path().join(&names[0])).unwrap()).read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
    }

    #[test]
    fn one_that_is_called_off_changes_nothing() {
        let (dir, open) = folder();
        std::fs::write(dir.path().join("x"), "text").unwrap();
        compress(&open, "x", &AtomicBool::new(true)).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(dir.path().join("x")).unwrap(), b"text");
    }

    #[test]
    fn no_link_is_followed() {
        let (dir, open) = folder();
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::os::unix::fs::symlink(secret.path(), dir.path().join("x")).unwrap();
        assert!(compress(&open, "x", &AtomicBool::new(false)).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
