//! What is in a directory, read in one pass.
//!
//! A guest asks for as many entries as fit into its buffer, and says with a cookie where to go on. The cookies are the
//! kernel's own, so that they stay true while others add and remove entries, as POSIX asks: what is there all the time is seen
//! once. The directory is open once more for it, with a position of its own, and what was read and not yet told waits here.

use std::{collections::VecDeque, mem::MaybeUninit, os::fd::OwnedFd, sync::Arc};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, openat, seek, statat},
    io::{Errno, Result},
};
use wasmtime_wasi::p1::types::Filetype;

use super::stat::file_type;

/// Bytes of entries that are read at a time: some hundreds of names.
const BATCH: usize = 16 << 10;
/// Bytes of an entry before its name, in WASI 0.1's layout.
const HEAD: usize = 24;

/// A directory that is being read.
#[derive(Debug)]
pub(super) struct Listing {
    directory: Arc<OwnedFd>,
    /// Cookie of the first of the entries.
    at: u64,
    entries: VecDeque<DirectoryEntry>,
}

#[derive(Debug)]
struct DirectoryEntry {
    /// Cookie of the one behind it.
    next: u64,
    inode: u64,
    kind: Filetype,
    name: Box<[u8]>,
}

impl DirectoryEntry {
    fn head(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(&self.next.to_le_bytes());
        head[8..16].copy_from_slice(&self.inode.to_le_bytes());
        // Names are of 255 bytes at most.
        head[16..20].copy_from_slice(&u32::try_from(self.name.len()).unwrap_or(u32::MAX).to_le_bytes());
        head[20] = self.kind as u8;
        head
    }
}

impl Listing {
    /// Opens a directory for reading, at its beginning. May wait.
    pub(super) fn open(directory: &OwnedFd) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let own = openat(directory, c".", flags, Mode::empty())?;
        Ok(Self { directory: Arc::new(own), at: 0, entries: VecDeque::new() })
    }

    /// Cookie of the entry that comes next.
    pub(super) fn cookie(&self) -> u64 {
        self.at
    }

    /// Adds entries to a buffer from where a cookie says, until there are no more or it has so many bytes. The last of them may
    /// be the beginning of one that does not fit: that a buffer is full says to a guest that there is more. Stops early after
    /// [`BATCH`] bytes; there are more if there are any. May wait.
    pub(super) fn fill(&mut self, cookie: u64, buffer: &mut Vec<u8>, room: usize) -> Result<()> {
        if cookie != self.at {
            self.entries.clear();
            let place = i64::try_from(cookie).map_err(|_| Errno::INVAL)?;
            seek(&self.directory, SeekFrom::Start(place.unsigned_abs()))?;
            self.at = cookie;
        }
        while buffer.len() < room.min(BATCH) {
            if self.entries.is_empty() {
                self.read()?;
            }
            let Some(entry) = self.entries.front() else { return Ok(()) };
            let left = room - buffer.len();
            let size = HEAD + entry.name.len();
            buffer.extend(entry.head().iter().chain(&*entry.name).take(left));
            if size > left {
                return Ok(());
            }
            self.at = entry.next;
            self.entries.pop_front();
        }
        Ok(())
    }

    /// Reads some more entries; none at the end.
    fn read(&mut self) -> Result<()> {
        let mut buffer = [MaybeUninit::uninit(); BATCH];
        let mut entries = RawDir::new(&self.directory, &mut buffer);
        // One batch of the kernel's, and no look for another behind it.
        while self.entries.is_empty() || !entries.is_buffer_empty() {
            let Some(entry) = entries.next().transpose()? else { return Ok(()) };
            let name = entry.file_name();
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    // It was removed meanwhile.
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(error),
                },
                kind => kind,
            };
            self.entries.push_back(DirectoryEntry {
                next: entry.next_entry_cookie(),
                inode: entry.ino(),
                kind: file_type(kind),
                name: name.to_bytes().into(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::*;

    /// The names that a guest sees who reads with a buffer of so many bytes, how often each; `after` is called after each read.
    fn names(listing: &mut Listing, room: usize, mut after: impl FnMut(&[String])) -> BTreeMap<String, u32> {
        let (mut seen, mut cookie) = (BTreeMap::new(), 0);
        loop {
            let mut buffer = Vec::new();
            listing.fill(cookie, &mut buffer, room).unwrap();
            let ended = buffer.is_empty();
            let (mut rest, mut batch) = (&*buffer, Vec::new());
            while let Some((head, behind)) = rest.split_at_checked(HEAD) {
                let size = u32::from_le_bytes(head[16..20].try_into().unwrap()) as usize;
                let Some((name, behind)) = behind.split_at_checked(size) else { break };
                cookie = u64::from_le_bytes(head[..8].try_into().unwrap());
                batch.push(String::from_utf8(name.to_vec()).unwrap());
                rest = behind;
            }
            for name in &batch {
                *seen.entry(name.clone()).or_default() += 1;
            }
            after(&batch);
            if ended {
                return seen;
            }
        }
    }

    fn full(count: usize) -> (tempfile::TempDir, Listing) {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..count {
            fs::write(dir.path().join(format!("file-{number}")), "").unwrap();
        }
        let listing = Listing::open(&fs::File::open(dir.path()).unwrap().into()).unwrap();
        (dir, listing)
    }

    #[test]
    fn every_entry_is_seen_once_whatever_the_buffer() {
        let (_dir, mut listing) = full(1000);
        for room in [300, 4096, 65536] {
            let seen = names(&mut listing, room, |_| {});
            assert_eq!(seen.len(), 1002, "with . and ..");
            assert!(seen.values().all(|times| *times == 1), "{room}");
        }
    }

    #[test]
    fn what_is_removed_while_one_reads_hides_nothing_else() {
        let (dir, mut listing) = full(2000);
        let seen = names(&mut listing, 4096, |batch| {
            for name in batch.iter().filter(|name| name.starts_with("file-")) {
                fs::remove_file(dir.path().join(name)).unwrap();
            }
        });
        assert_eq!(seen.len(), 2002);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_added_while_one_reads_makes_nothing_come_twice() {
        let (dir, mut listing) = full(500);
        let mut number = 0;
        let seen = names(&mut listing, 1024, |_| {
            number += 1;
            fs::write(dir.path().join(format!("new-{number}")), "").unwrap();
        });
        for number in 0..500 {
            assert_eq!(seen.get(&format!("file-{number}")), Some(&1), "{number}");
        }
    }

    #[test]
    fn a_cookie_leads_back_to_where_it_was_given() {
        let (_dir, mut listing) = full(100);
        let mut first = Vec::new();
        listing.fill(0, &mut first, 512).unwrap();
        let cookie = u64::from_le_bytes(first[..8].try_into().unwrap());
        let read = |listing: &mut Listing, cookie| {
            let mut buffer = Vec::new();
            listing.fill(cookie, &mut buffer, 512).map(|()| buffer)
        };
        let second = read(&mut listing, cookie).unwrap();
        let all = names(&mut listing, 4096, |_| {});
        assert_eq!(all.len(), 102);
        assert_eq!(read(&mut listing, cookie).unwrap(), second);
        assert_eq!(read(&mut listing, 0).unwrap(), first);
        assert_eq!(read(&mut listing, u64::MAX), Err(Errno::INVAL));
    }
}
