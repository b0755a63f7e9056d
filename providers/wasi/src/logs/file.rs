//! One log file: appended to, rotated, and patient with full disks. Blocking; see [`super::queue`].
//!
//! No link is followed on the way to it: whoever put one in its place, or in that of its directory, would have us
//! write, rename and remove what it leads to. What is renamed and removed is named in the open directory.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    },
    path::Path,
    time::{Duration, Instant},
};

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use kubewasm_host::Stream;
use kubewasm_trees::open_plain_at;
use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags, openat, openat2, renameat, unlinkat},
    io::Errno,
};

use super::format::Lines;

/// The kubelet reads logs as root; collectors by group.
const MODE: u32 = 0o640;

/// How long a line waits for room on a full disk. Less than the end of a guest waits for its last lines.
const PATIENCE: Duration = Duration::from_secs(8);

/// Between two tries of a line that waits.
const RETRY: Duration = Duration::from_millis(50);

/// When a log file is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Bytes after which a file is rotated; the kubelet's `containerLogMaxSize`.
    pub max_size: u64,
    /// Files that are kept, the current one included; the kubelet's `containerLogMaxFiles`, at least 2.
    pub max_files: u32,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 5 }
    }
}

/// Where a log is: a name in an open directory.
#[derive(Debug)]
pub struct LogPlace {
    dir: OwnedFd,
    name: OsString,
    /// For messages.
    shown: String,
}

impl LogPlace {
    /// A file of this name in a directory that is open; `shown` in messages.
    #[must_use]
    pub fn within(dir: OwnedFd, name: &OsStr, shown: &Path) -> Self {
        Self { dir, name: name.to_owned(), shown: shown.display().to_string() }
    }

    /// A file at a path, no part of which is a link.
    ///
    /// # Errors
    /// Those of opening its directory.
    pub fn at(path: &Path) -> io::Result<Self> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat2(CWD, dir, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => {
                Err(io::Error::other("a part of its path is a symbolic link, which is not followed"))
            }
            dir => Ok(Self::within(dir?, name, path)),
        }
    }
}

/// An open log file with the unfinished lines that belong to it.
#[derive(Debug)]
pub(super) struct LogFile {
    place: LogPlace,
    options: LogOptions,
    /// `None` when it could not be opened again after a rotation; the next write tries.
    file: Option<File>,
    size: u64,
    lines: Lines,
    /// Bytes of log lines that found no room since the last line that did.
    lost: u64,
}

impl LogFile {
    /// Opens or creates the file. A last line without a newline, which a crash can leave, is ended.
    pub(super) fn open(place: LogPlace, options: LogOptions) -> io::Result<Self> {
        let (file, size) = open(&place)?;
        Ok(Self { place, options, file: Some(file), size, lines: Lines::default(), lost: 0 })
    }

    /// Removes the file if nothing was written to it. What does not go stays; an empty log is no lie.
    pub(super) fn remove_if_empty(&self) {
        if self.size == 0 {
            let _ = unlinkat(&self.place.dir, &self.place.name, AtFlags::empty());
        }
    }

    /// Writes what the guest wrote, with one `write(2)` unless the disk is full.
    pub(super) fn append(&mut self, writes: &[(Stream, bytes::Bytes)], now: Timestamp) {
        let mut out = Vec::new();
        for (stream, bytes) in writes {
            self.lines.push(*stream, bytes, now, &mut out);
        }
        self.write(&out, now);
    }

    /// Writes the unfinished lines.
    pub(super) fn finish(&mut self, now: Timestamp) {
        let mut out = Vec::new();
        self.lines.finish(now, &mut out);
        self.write(&out, now);
    }

    fn write(&mut self, out: &[u8], now: Timestamp) {
        if out.is_empty() {
            return;
        }
        if self.size >= self.options.max_size
            && let Err(error) = self.rotate(now)
        {
            tracing::warn!(log = self.place.shown, %error, "cannot rotate a container's log");
        }
        if self.lost > 0 {
            let mut notice = Vec::new();
            let text = format!(
                "kubewasm: {} bytes of this log were lost, because they could not be written\n",
                self.lost
            );
            Lines::default().push(Stream::Stderr, text.as_bytes(), now, &mut notice);
            if self.write_whole(&notice).is_err() {
                self.lost = self.lost.saturating_add(out.len() as u64);
                return;
            }
            self.lost = 0;
        }
        if let Err(error) = self.write_patiently(out) {
            tracing::warn!(log = self.place.shown, %error, "a container's output is being lost");
            self.lost = self.lost.saturating_add(out.len() as u64);
        }
    }

    /// Writes all or nothing. While the disk is full, it waits for a while, and the guest with it, because the node
    /// is about to end whoever has filled it. Once something was lost, nothing waits until a line finds room again.
    fn write_patiently(&mut self, out: &[u8]) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.write_whole(out) {
                Err(error) if is_full(&error) && self.lost == 0 && Instant::now() < until => {
                    std::thread::sleep(RETRY);
                }
                written => return written,
            }
        }
    }

    /// Writes all or nothing: a piece of a line would spoil the line after it.
    fn write_whole(&mut self, out: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let (file, size) = open(&self.place)?;
                self.size = size;
                self.file.insert(file)
            }
        };
        match file.write_all(out) {
            Ok(()) => {
                self.size = self.size.saturating_add(out.len() as u64);
                Ok(())
            }
            Err(error) => {
                // Giving back what is behind `size` needs no room on the disk.
                file.set_len(self.size)?;
                Err(error)
            }
        }
    }

    /// Renames the file to `<name>.<time>` and begins a new one.
    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let LogPlace { dir, name, .. } = &self.place;
        let rotated = rotated_files(dir, name)?;
        renameat(dir, name, dir, rotated_name(name, rotated.last(), now))?;
        self.file = None;
        // The file that was just renamed and the one to come are the other two.
        let most = usize::try_from(self.options.max_files.max(2)).unwrap_or(usize::MAX);
        let surplus = rotated.len().saturating_add(2).saturating_sub(most);
        for old in rotated.iter().take(surplus) {
            unlinkat(dir, old, AtFlags::empty())?;
        }
        let (file, size) = open(&self.place)?;
        self.file = Some(file);
        self.size = size;
        Ok(())
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn open(place: &LogPlace) -> io::Result<(File, u64)> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
    let mode = Mode::from_raw_mode(MODE);
    let mut file = open_plain_at(place.dir.as_fd(), Path::new(&place.name), flags, mode)?;
    let size = file.metadata()?.len();
    if size == 0 {
        // The mode at creation is subject to the umask; collectors count on this one.
        file.set_permissions(std::fs::Permissions::from_mode(MODE))?;
        return Ok((file, 0));
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok((file, size));
    }
    file.write_all(b"\n")?;
    Ok((file, size.saturating_add(1)))
}

/// Rotated files of a log, oldest first: their names sort by time.
fn rotated_files(dir: &OwnedFd, name: &OsStr) -> io::Result<Vec<OsString>> {
    let mut found = Vec::new();
    // The directory may be open as a place only, not for reading.
    let readable = openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::new(readable)? {
        let entry = entry?;
        let other = entry.file_name().to_bytes();
        if stamp_of(name, OsStr::from_bytes(other)).is_some() {
            found.push(OsStr::from_bytes(other).to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// The name for a file that is rotated now. Names have seconds; a log that is rotated more often runs ahead
/// of the clock rather than over a file that is there.
fn rotated_name(name: &OsStr, last: Option<&OsString>, now: Timestamp) -> OsString {
    let after_last =
        last.and_then(|last| stamp_of(name, last)).and_then(|stamp| stamp.checked_add(1.second()).ok());
    let now = TimeZone::UTC.to_datetime(now);
    let at = after_last.map_or(now, |after_last| now.max(after_last));
    let mut name = name.to_owned();
    name.push(format!(".{}", at.strftime(STAMP)));
    name
}

const STAMP: &str = "%Y%m%d-%H%M%S";
const COMPRESSED: &[u8] = b".gz";

/// When a file was rotated that has this name, if it is one of the log's. The agent may have compressed it.
fn stamp_of(name: &OsStr, rotated: &OsStr) -> Option<jiff::civil::DateTime> {
    let stamp = rotated.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(b".")?;
    parse_stamp(std::str::from_utf8(stamp.strip_suffix(COMPRESSED).unwrap_or(stamp)).ok()?)
}

fn parse_stamp(text: &str) -> Option<jiff::civil::DateTime> {
    jiff::civil::DateTime::strptime(STAMP, text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_log(path: &Path, options: LogOptions) -> io::Result<LogFile> {
        LogFile::open(LogPlace::at(path)?, options)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_366_245 + second).unwrap()
    }

    fn out(text: &str) -> Vec<(Stream, bytes::Bytes)> {
        vec![(Stream::Stdout, bytes::Bytes::copy_from_slice(text.as_bytes()))]
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn texts(path: &Path) -> Vec<String> {
        let log = std::fs::read_to_string(path).unwrap();
        log.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn a_log_is_appended_to_and_has_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for text in ["one\n", "two\n"] {
            let mut log = open_log(&path, LogOptions::default()).unwrap();
            log.append(&out(text), at(0));
        }
        assert_eq!(texts(&path), ["stdout F one", "stdout F two"]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
    }

    #[test]
    fn a_torn_last_line_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-02T15:04:05.000000000Z stdout F to").unwrap();
        let mut log = open_log(&path, LogOptions::default()).unwrap();
        log.append(&out("whole\n"), at(0));
        assert_eq!(texts(&path), ["stdout F to", "stdout F whole"]);
    }

    #[test]
    fn files_are_rotated_and_the_oldest_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("3.log");
        std::fs::write(dir.path().join("3.log.notes"), "someone else's").unwrap();
        let mut log = open_log(&path, LogOptions { max_size: 10, max_files: 3 }).unwrap();
        for n in 0..5 {
            log.append(&out(&format!("line {n}\n")), at(n));
        }
        assert_eq!(
            names(dir.path()),
            ["3.log", "3.log.20260102-150408", "3.log.20260102-150409", "3.log.notes"]
        );
        assert_eq!(texts(&path), ["stdout F line 4"]);
        assert_eq!(texts(&dir.path().join("3.log.20260102-150409")), ["stdout F line 3"]);
    }

    /// The agent compresses what was rotated: it counts all the same.
    #[test]
    fn compressed_files_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        for second in ["01", "02", "09"] {
            std::fs::write(dir.path().join(format!("0.log.20260102-1504{second}.gz")), "compressed").unwrap();
        }
        std::fs::write(dir.path().join("0.log.20260102-150403.tmp"), "unfinished").unwrap();
        let mut log = open_log(&path, LogOptions { max_size: 10, max_files: 3 }).unwrap();
        log.append(&out("line 0\n"), at(0));
        log.append(&out("line 1\n"), at(0));
        assert_eq!(
            names(dir.path()),
            ["0.log", "0.log.20260102-150403.tmp", "0.log.20260102-150409.gz", "0.log.20260102-150410"]
        );
    }

    #[test]
    fn rotating_twice_in_a_second_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = open_log(&path, LogOptions { max_size: 1, max_files: 5 }).unwrap();
        for n in 0..4 {
            log.append(&out(&format!("line {n}\n")), at(0));
        }
        let stamps = ["0.log", "0.log.20260102-150405", "0.log.20260102-150406", "0.log.20260102-150407"];
        assert_eq!(names(dir.path()), stamps);
    }

    #[test]
    fn a_full_disk_loses_whole_lines_and_says_so() {
        // /dev/full answers ENOSPC to every write, and cannot be truncated either.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = open_log(&path, LogOptions::default()).unwrap();
        log.append(&out("before\n"), at(0));
        let real = log.file.replace(std::fs::OpenOptions::new().append(true).open("/dev/full").unwrap());
        log.append(&out("lost\n"), at(1));
        log.append(&out("lost, too\n"), at(2));
        assert!(log.lost > 0);
        let lost = log.lost;
        log.file = real;
        log.append(&out("after\n"), at(3));
        assert_eq!(log.lost, 0);
        let notice = format!(
            "stderr F kubewasm: {lost} bytes of this log were lost, because they could not be written"
        );
        assert_eq!(texts(&path), ["stdout F before".to_owned(), notice, "stdout F after".to_owned()]);
    }

    /// A link in the place of the log, of its directory or of a rotated file is refused, and what it leads to stays.
    #[test]
    fn nothing_is_written_or_removed_through_a_link() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        std::fs::create_dir(place("pod")).unwrap();
        std::fs::create_dir(place("other")).unwrap();
        std::fs::write(place("other/secret"), "kept").unwrap();
        symlink(place("other/secret"), place("pod/0.log")).unwrap();
        std::fs::hard_link(place("other/secret"), place("pod/1.log")).unwrap();
        symlink(place("other"), place("way")).unwrap();
        for name in ["pod/0.log", "pod/1.log", "way/2.log"] {
            let error = open_log(&place(name), LogOptions::default()).unwrap_err().to_string();
            assert!(error.contains("link"), "{name}: {error}");
        }

        // Its directory becomes a link to one that has a log of the same name.
        std::fs::create_dir(place("c")).unwrap();
        let mut log = open_log(&place("c/0.log"), LogOptions { max_size: 1, max_files: 2 }).unwrap();
        log.append(&out("a\n"), at(0));
        std::fs::rename(place("c"), place("moved")).unwrap();
        for name in ["0.log", "0.log.20260102-150400", "0.log.20260102-150401"] {
            std::fs::write(place("other").join(name), "kept").unwrap();
        }
        symlink(place("other"), place("c")).unwrap();
        log.append(&out("b\n"), at(1));
        log.append(&out("c\n"), at(2));
        let expected = ["0.log", "0.log.20260102-150400", "0.log.20260102-150401", "secret"];
        assert_eq!(names(&place("other")), expected);
        for name in expected {
            assert_eq!(std::fs::read_to_string(place("other").join(name)).unwrap(), "kept");
        }
        // The log goes on in the directory that it was opened in.
        assert_eq!(texts(&place("moved/0.log")), ["stdout F c"]);
        assert_eq!(names(&place("moved")), ["0.log", "0.log.20260102-150407"]);
    }

    #[test]
    fn a_log_whose_directory_is_gone_survives() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("c");
        std::fs::create_dir(&sub).unwrap();
        let mut log = open_log(&sub.join("0.log"), LogOptions { max_size: 1, max_files: 2 }).unwrap();
        log.append(&out("a\n"), at(0));
        std::fs::remove_dir_all(&sub).unwrap();
        log.append(&out("b\n"), at(1));
        std::fs::create_dir(&sub).unwrap();
        log.append(&out("c\n"), at(2));
    }
}
