//! Files of guests of WASI 0.1.
//!
//! wasmtime-wasi answers what is about arguments, the environment, clocks, random numbers and the standard streams. Files are
//! ours, because theirs are for one guest on a thread of its own: here many share a thread, and none may hold up the others,
//! nor wait for the others to be held up on a pool of threads.
//!
//! ```text
//!   fd ─[descriptors]─► Standard ─► wasmtime-wasi          path ─[path]─► a descriptor of the kernel's, below the directory
//!                       File      ─[transfer]─► page cache, or a thread of the pool ([inline])
//!                       Directory ─[listing]──► entries and cookies
//!                       Socket    ─► CoreSockets
//! ```

mod arguments;
mod calls;
mod changes;
mod code;
mod descriptors;
mod inline;
mod listing;
mod path;
mod stat;
mod status;
mod transfer;

use std::{os::fd::OwnedFd, path::Path, sync::Arc};

use rustix::fs::{CWD, Mode, OFlags, openat};
use wasmtime_wasi::{
    WasiCtxView, WasiView as _,
    p1::{
        WasiP1Ctx,
        types::{Errno, Fd},
    },
};

use self::descriptors::{Descriptor, Descriptors, Directory};
use crate::setup::PrepareError;

/// A directory that guests are given, which is open.
#[derive(Clone, Debug)]
pub(crate) struct OpenPreopen {
    directory: Arc<OwnedFd>,
    guest: String,
    writable: bool,
}

impl OpenPreopen {
    /// Opens a directory of this host.
    pub(crate) fn open(host: &Path, guest: &str, writable: bool) -> Result<Self, PrepareError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, host, flags, Mode::empty()).map_err(|error| PrepareError::Root {
            path: host.display().to_string(),
            reason: error.to_string(),
        })?;
        Ok(Self { directory: Arc::new(opened), guest: guest.to_owned(), writable })
    }
}

/// What a guest of WASI 0.1 has of its host, but for sockets.
pub(crate) struct CoreWasi {
    /// All but files. Of descriptors it knows the three standard streams.
    pub(super) standard: WasiP1Ctx,
    descriptors: Descriptors,
}

impl CoreWasi {
    /// What a guest has that listens on so many sockets from its start, and has these directories: they have the numbers from
    /// 3, in this order. It opens so many files at a time, all of these included.
    pub(crate) fn new(standard: WasiP1Ctx, sockets: usize, preopens: &[OpenPreopen], most: usize) -> Self {
        let sockets = (0..sockets).map(|_| Descriptor::Socket);
        let directories = preopens.iter().map(|OpenPreopen { directory, guest, writable }| {
            Descriptor::Directory(Directory {
                directory: Arc::clone(directory),
                writable: *writable,
                preopen: Some(guest.clone()),
                listing: None,
            })
        });
        Self { standard, descriptors: Descriptors::new(most, sockets.chain(directories)) }
    }

    /// What wasmtime-wasi has, for components as well.
    pub(crate) fn context(&mut self) -> WasiCtxView<'_> {
        self.standard.ctx()
    }

    /// A number for one more socket.
    pub(super) fn push_socket(&mut self) -> Result<Fd, Errno> {
        self.descriptors.push(Descriptor::Socket)
    }

    /// Whether there is no room for one more descriptor.
    pub(super) fn is_full(&self) -> bool {
        self.descriptors.is_full()
    }

    /// What a number of a standard stream is called by wasmtime-wasi.
    pub(super) fn standard_stream(&self, fd: i32) -> Option<descriptors::StandardStream> {
        match self.descriptors.get(fd.cast_unsigned().into()) {
            Some(Descriptor::Standard(stream)) => Some(*stream),
            _ => None,
        }
    }

    /// Bytes of a file behind its position, if it is one. Files are always ready.
    pub(super) fn readable_bytes(&self, fd: i32) -> Option<u64> {
        let file = self.descriptors.file(fd.cast_unsigned().into()).ok()?;
        Some(transfer::end(&file.file).unwrap_or_default().saturating_sub(file.position))
    }
}
