//! What the calls have in common that change directories, and those that close.

use std::{ffi::CString, os::fd::OwnedFd, sync::Arc};

use wasmtime_wasi::p1::{
    types::{Error, Fd},
    wasi_snapshot_preview1::WasiSnapshotPreview1 as _,
};
use wiggle::{GuestMemory, GuestPtr};

use super::{CoreWasi, arguments::text, code, descriptors::Descriptor, inline, path::Entry};

type Answer = Result<(), Error>;

impl CoreWasi {
    /// Gives up what had a number. A file is closed on a thread that may wait: that is when some file systems write.
    pub(super) async fn close(&mut self, memory: &mut GuestMemory<'_>, closed: Descriptor) -> Answer {
        match closed {
            Descriptor::Standard(stream) => self.standard.fd_close(memory, stream.into()).await,
            Descriptor::File(_) | Descriptor::Directory(_) => inline::run(move || {
                drop(closed);
                Ok(())
            })
            .await
            .map_err(code::of),
            Descriptor::Socket => Ok(()),
        }
    }

    /// Changes an entry of a directory.
    pub(super) async fn change(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
        change: impl FnOnce(&OwnedFd, &CString) -> rustix::io::Result<()> + Send + 'static,
    ) -> Answer {
        let from = Arc::clone(&self.descriptors.writable_directory(fd)?.directory);
        let path = text(memory, path)?;
        inline::run(move || {
            let entry = Entry::find(from, &path)?;
            let (directory, name) = entry.at();
            change(directory, name)
        })
        .await
        .map_err(code::of)
    }

    /// Changes two entries of directories together.
    pub(super) async fn move_entry(
        &mut self,
        memory: &mut GuestMemory<'_>,
        (from, path): (Fd, GuestPtr<str>),
        (to, new_path): (Fd, GuestPtr<str>),
        change: impl FnOnce((&OwnedFd, &CString), (&OwnedFd, &CString)) -> rustix::io::Result<()> + Send + 'static,
    ) -> Answer {
        let from = Arc::clone(&self.descriptors.writable_directory(from)?.directory);
        let to = Arc::clone(&self.descriptors.writable_directory(to)?.directory);
        let (path, new_path) = (text(memory, path)?, text(memory, new_path)?);
        inline::run(move || {
            let (from, to) = (Entry::find(from, &path)?, Entry::find(to, &new_path)?);
            change(from.at(), to.at())
        })
        .await
        .map_err(code::of)
    }
}
