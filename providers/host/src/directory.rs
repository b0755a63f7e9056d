//! What is in a directory, for guests of WASI 0.3 (`descriptor.read-directory`).
//!
//! wasmtime-wasi has a thread for each directory that is read, which waits for as long as the guest does not want the next
//! entry. Threads for files are few, and all guests of a process share them. Here one is taken only while entries are read,
//! and some of them at a time.

use std::{
    fs::File,
    io, iter, mem,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
};
use wasmtime::{
    AsContextMut as _, StoreContextMut,
    component::{
        Destination, FutureReader, Linker, Resource, StreamProducer, StreamReader, StreamResult, VecBuffer,
    },
};
use wasmtime_wasi::{
    filesystem::{Descriptor, WasiFilesystemView as _},
    p3::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode},
};

use crate::state::GuestState;

/// Entries that are read at a time. Each has a name of 255 bytes at most.
const BATCH: usize = 128;

/// What a guest is given: the entries, and what has come of it when there are no more.
type Listing = (StreamReader<DirectoryEntry>, FutureReader<Result<(), ErrorCode>>);

/// Links the function over wasmtime-wasi's own. The linker must allow shadowing.
pub(crate) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.instance("wasi:filesystem/types@0.3.0")?.func_wrap(
        "[method]descriptor.read-directory",
        |store: StoreContextMut<'_, GuestState>, (descriptor,): (Resource<Descriptor>,)| {
            Ok((list(store, &descriptor)?,))
        },
    )
}

fn list(
    mut store: StoreContextMut<'_, GuestState>,
    descriptor: &Resource<Descriptor>,
) -> wasmtime::Result<Listing> {
    let (outcome, told) = oneshot::channel();
    let directory = match store.data_mut().filesystem().table.get(descriptor)? {
        Descriptor::Dir(directory) => Some(Arc::clone(&directory.dir)),
        Descriptor::File(_) => None,
    };
    let entries = match directory {
        Some(directory) => {
            let progress = Progress::Idle(Source::Unopened(directory));
            StreamReader::new(store.as_context_mut(), Entries { progress, outcome: Some(outcome) })?
        }
        None => {
            // Whoever does not want to know it has dropped the future.
            let _ = outcome.send(Err(ErrorCode::NotDirectory));
            StreamReader::new(store.as_context_mut(), iter::empty())?
        }
    };
    Ok((entries, FutureReader::new(store, told)?))
}

/// Produces the entries of a directory.
struct Entries {
    progress: Progress,
    /// Until it is told.
    outcome: Option<oneshot::Sender<Result<(), ErrorCode>>>,
}

enum Progress {
    /// More is read when it is wanted.
    Idle(Source),
    /// A thread reads.
    Reading(JoinHandle<(Source, io::Result<Vec<DirectoryEntry>>)>),
    /// There is no more.
    Ended,
}

/// A directory that is read.
enum Source {
    Unopened(Arc<File>),
    Open(Box<Dir>),
}

impl Source {
    /// Reads some more entries; none at the end. Blocking.
    fn read(&mut self) -> io::Result<Vec<DirectoryEntry>> {
        if let Self::Unopened(directory) = self {
            // A descriptor of its own has a position of its own.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let own: OwnedFd = openat(&*directory, c".", flags, Mode::empty())?;
            *self = Self::Open(Box::new(Dir::new(own)?));
        }
        let Self::Open(directory) = self else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        while entries.len() < BATCH {
            let Some(entry) = directory.read().transpose()? else { break };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(directory.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    // It was removed meanwhile.
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                },
                kind => kind,
            };
            let name = name.to_str().map_err(|_| io::Error::from(rustix::io::Errno::ILSEQ))?;
            entries.push(DirectoryEntry { type_: described(kind), name: name.to_owned() });
        }
        Ok(entries)
    }
}

fn described(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Other(None),
    }
}

impl Entries {
    fn end(&mut self, outcome: Result<(), ErrorCode>) -> Poll<wasmtime::Result<StreamResult>> {
        self.progress = Progress::Ended;
        if let Some(tell) = self.outcome.take() {
            let _ = tell.send(outcome);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        // The guest wants no more of them.
        let _ = self.end(Ok(()));
    }
}

impl<D> StreamProducer<D> for Entries {
    type Item = DirectoryEntry;
    type Buffer = VecBuffer<DirectoryEntry>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Self::Item, Self::Buffer>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        // One that asks whether there is something to read can read it.
        if destination.remaining(&mut store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let mut reading = match mem::replace(&mut self.progress, Progress::Ended) {
            Progress::Idle(mut source) => spawn_blocking(move || {
                let entries = source.read();
                (source, entries)
            }),
            Progress::Reading(reading) => reading,
            Progress::Ended => return Poll::Ready(Ok(StreamResult::Dropped)),
        };
        let read = Pin::new(&mut reading).poll(cx);
        if read.is_pending() {
            self.progress = Progress::Reading(reading);
            return if finish { Poll::Ready(Ok(StreamResult::Cancelled)) } else { Poll::Pending };
        }
        match ready!(read) {
            Ok((_, Ok(entries))) if entries.is_empty() => self.end(Ok(())),
            Ok((source, Ok(entries))) => {
                self.progress = Progress::Idle(source);
                destination.set_buffer(entries.into());
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Ok((_, Err(error))) => self.end(Err(error.into())),
            // This process ends.
            Err(_) => self.end(Err(ErrorCode::Io)),
        }
    }
}
