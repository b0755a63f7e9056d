//! What the numbers of a guest's descriptors stand for.

use std::{os::fd::OwnedFd, sync::Arc};

use wasmtime_wasi::p1::types::{Errno, Fd};

use super::listing::Listing;

/// Which of the standard streams it is: its number at the start.
pub(in crate::preview1) type StandardStream = u32;

/// What a number stands for.
#[derive(Debug)]
pub(super) enum Descriptor {
    /// One of the three that wasmtime-wasi has.
    Standard(StandardStream),
    Directory(Directory),
    File(OpenFile),
    /// One of [`CoreSockets`](crate::preview1::sockets::CoreSockets), which has the same number there.
    Socket,
}

/// A directory that is open.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) directory: Arc<OwnedFd>,
    /// Whether the host lets a change below it pass on to the kernel.
    pub(super) writable: bool,
    /// Where the guest sees it, if it has it from its start.
    pub(super) preopen: Option<String>,
    /// Once it has been read. Boxed, because most are not.
    pub(super) listing: Option<Box<Listing>>,
}

/// A file that is open.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: Arc<OwnedFd>,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// Whether the host lets a change below its directory pass on to the kernel.
    pub(super) below_writable: bool,
    /// A device: whoever reads it may wait.
    pub(super) is_special: bool,
    /// Writes go to its end.
    pub(super) append: bool,
    /// What the guest has asked for and is told again; files are always ready.
    pub(super) nonblocking: bool,
    /// In bytes from its beginning.
    pub(super) position: u64,
}

/// The descriptors of one guest.
#[derive(Debug)]
pub(super) struct Descriptors {
    /// By number.
    entries: Vec<Option<Descriptor>>,
    /// How many there may be at a time.
    most: usize,
}

impl Descriptors {
    /// The standard streams, and what the guest has besides from its start: that has the numbers that follow.
    pub(super) fn new(most: usize, given: impl Iterator<Item = Descriptor>) -> Self {
        let standard = (0..3).map(Descriptor::Standard);
        Self { entries: standard.chain(given).map(Some).collect(), most }
    }

    pub(super) fn get(&self, fd: Fd) -> Option<&Descriptor> {
        self.entries.get(index(fd))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, fd: Fd) -> Option<&mut Descriptor> {
        self.entries.get_mut(index(fd))?.as_mut()
    }

    pub(super) fn file(&self, fd: Fd) -> Result<&OpenFile, Errno> {
        match self.get(fd) {
            Some(Descriptor::File(file)) => Ok(file),
            _ => Err(Errno::Badf),
        }
    }

    pub(super) fn file_mut(&mut self, fd: Fd) -> Result<&mut OpenFile, Errno> {
        match self.get_mut(fd) {
            Some(Descriptor::File(file)) => Ok(file),
            _ => Err(Errno::Badf),
        }
    }

    /// A file with a position; standard streams have none.
    pub(super) fn seekable(&mut self, fd: Fd) -> Result<&mut OpenFile, Errno> {
        match self.get_mut(fd) {
            Some(Descriptor::File(file)) => Ok(file),
            Some(Descriptor::Standard(_) | Descriptor::Socket) => Err(Errno::Spipe),
            _ => Err(Errno::Badf),
        }
    }

    pub(super) fn directory(&self, fd: Fd) -> Result<&Directory, Errno> {
        match self.get(fd) {
            Some(Descriptor::Directory(directory)) => Ok(directory),
            Some(Descriptor::File(_) | Descriptor::Socket) => Err(Errno::Notdir),
            _ => Err(Errno::Badf),
        }
    }

    /// The directory, for a call that changes what is in it.
    pub(super) fn writable_directory(&self, fd: Fd) -> Result<&Directory, Errno> {
        let directory = self.directory(fd)?;
        if directory.writable { Ok(directory) } else { Err(Errno::Perm) }
    }

    /// Whether there is room for one more.
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= self.most && self.entries.iter().flatten().count() >= self.most
    }

    /// Gives it the lowest number that is free.
    pub(super) fn push(&mut self, descriptor: Descriptor) -> Result<Fd, Errno> {
        if self.is_full() {
            return Err(Errno::Mfile);
        }
        let free = self.entries.iter().position(Option::is_none).unwrap_or(self.entries.len());
        let number = u32::try_from(free).map_err(|_| Errno::Mfile)?;
        match self.entries.get_mut(free) {
            Some(entry) => *entry = Some(descriptor),
            None => self.entries.push(Some(descriptor)),
        }
        Ok(number.into())
    }

    pub(super) fn remove(&mut self, fd: Fd) -> Option<Descriptor> {
        self.entries.get_mut(index(fd))?.take()
    }

    /// Gives the number `to` to what has `from`, and returns what had it.
    pub(super) fn renumber(&mut self, from: Fd, to: Fd) -> Result<Option<Descriptor>, Errno> {
        if self.get(from).is_none() || self.get(to).is_none() {
            return Err(Errno::Badf);
        }
        if index(from) == index(to) {
            return Ok(None);
        }
        let moved = self.remove(from);
        Ok(self.entries.get_mut(index(to)).and_then(|entry| std::mem::replace(entry, moved)))
    }
}

fn index(fd: Fd) -> usize {
    u32::from(fd) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_number_is_given_and_there_is_an_end() {
        let mut descriptors = Descriptors::new(5, [Descriptor::Socket].into_iter());
        let number = |fd: Result<Fd, Errno>| fd.map(u32::from);
        assert_eq!(number(descriptors.push(Descriptor::Socket)), Ok(4));
        assert_eq!(number(descriptors.push(Descriptor::Socket)), Err(Errno::Mfile));
        assert!(descriptors.remove(1.into()).is_some());
        assert!(descriptors.remove(1.into()).is_none());
        assert_eq!(number(descriptors.push(Descriptor::Socket)), Ok(1));
        assert!(matches!(descriptors.renumber(4.into(), 0.into()), Ok(Some(Descriptor::Standard(0)))));
        assert!(matches!(descriptors.renumber(4.into(), 0.into()), Err(Errno::Badf)));
        assert!(matches!(descriptors.get(0.into()), Some(Descriptor::Socket)));
        assert!(matches!(descriptors.renumber(0.into(), 0.into()), Ok(None)));
        assert!(descriptors.get(u32::MAX.into()).is_none());
    }
}
