//! The calls of WASI 0.1.

use std::{num::NonZeroU64, os::fd::OwnedFd, sync::Arc};

use rustix::{
    fs::{
        self, AtFlags, FileType, Mode, fadvise, fdatasync, fstat, fsync, ftruncate, futimens, linkat,
        mkdirat, readlinkat, renameat, symlinkat, unlinkat, utimensat,
    },
    io::Errno as Kernel,
};
use wasmtime_wasi::p1::{
    types::{
        Advice, CiovecArray, Clockid, Dircookie, Errno, Error, Event, Exitcode, Fd, Fdflags, Fdstat,
        Filedelta, Filesize, Filestat, Fstflags, IovecArray, Lookupflags, Oflags, Prestat, PrestatDir,
        Riflags, Rights, Roflags, Sdflags, Siflags, Signal, Size, Subscription, Timestamp, Whence,
    },
    wasi_snapshot_preview1::WasiSnapshotPreview1,
};
use wiggle::{GuestMemory, GuestPtr};

use super::{
    CoreWasi,
    arguments::{first_input, first_output, open_flags, text},
    code,
    descriptors::{Descriptor, Directory, OpenFile},
    inline,
    listing::Listing,
    path::Opening,
    stat, status,
    transfer::{self, WriteAt},
};

type Answer<T = ()> = Result<T, Error>;

/// What is behind each call of wasmtime-wasi's.
macro_rules! standard {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&mut self, memory: &mut GuestMemory<'_>, $($arg: $type),*) -> $result {
            self.standard.$name(memory, $($arg),*)
        })*
    };
}

impl WasiSnapshotPreview1 for CoreWasi {
    fn set_hostcall_fuel(&mut self, fuel: usize) {
        self.standard.set_hostcall_fuel(fuel);
    }

    standard! {
        args_get(argv: GuestPtr<GuestPtr<u8>>, buffer: GuestPtr<u8>) -> Answer;
        args_sizes_get() -> Answer<(Size, Size)>;
        environ_get(environ: GuestPtr<GuestPtr<u8>>, buffer: GuestPtr<u8>) -> Answer;
        environ_sizes_get() -> Answer<(Size, Size)>;
        clock_res_get(id: Clockid) -> Answer<Timestamp>;
        clock_time_get(id: Clockid, precision: Timestamp) -> Answer<Timestamp>;
        proc_exit(status: Exitcode) -> wasmtime::Error;
        proc_raise(signal: Signal) -> Answer;
        sched_yield() -> Answer;
        random_get(buffer: GuestPtr<u8>, size: Size) -> Answer;
        sock_accept(fd: Fd, flags: Fdflags) -> Answer<Fd>;
        sock_recv(fd: Fd, list: IovecArray, flags: Riflags) -> Answer<(Size, Roflags)>;
        sock_send(fd: Fd, list: CiovecArray, flags: Siflags) -> Answer<Size>;
        sock_shutdown(fd: Fd, how: Sdflags) -> Answer;
    }

    /// Of what wasmtime-wasi has; [`poll`](crate::preview1::poll) has taken out the rest.
    async fn poll_oneoff(
        &mut self,
        memory: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<Subscription>,
        events: GuestPtr<Event>,
        count: Size,
    ) -> Answer<Size> {
        self.standard.poll_oneoff(memory, subscriptions, events, count).await
    }

    async fn fd_advise(
        &mut self,
        _memory: &mut GuestMemory<'_>,
        fd: Fd,
        offset: Filesize,
        size: Filesize,
        advice: Advice,
    ) -> Answer {
        let file = &self.descriptors.file(fd)?.file;
        let advice = match advice {
            Advice::Normal => fs::Advice::Normal,
            Advice::Sequential => fs::Advice::Sequential,
            Advice::Random => fs::Advice::Random,
            Advice::Willneed => fs::Advice::WillNeed,
            Advice::Dontneed => fs::Advice::DontNeed,
            Advice::Noreuse => fs::Advice::NoReuse,
        };
        let file = Arc::clone(file);
        inline::run(move || fadvise(&file, offset, NonZeroU64::new(size), advice)).await.map_err(code::of)
    }

    fn fd_allocate(
        &mut self,
        _memory: &mut GuestMemory<'_>,
        fd: Fd,
        _offset: Filesize,
        _size: Filesize,
    ) -> Answer {
        self.descriptors.file(fd)?;
        Err(Errno::Notsup.into())
    }

    async fn fd_close(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Answer {
        let closed = self.descriptors.remove(fd).ok_or(Errno::Badf)?;
        self.close(memory, closed).await
    }

    async fn fd_datasync(&mut self, _memory: &mut GuestMemory<'_>, fd: Fd) -> Answer {
        let file = Arc::clone(&self.descriptors.file(fd)?.file);
        inline::wait(move || fdatasync(&file)).await.map_err(code::of)
    }

    async fn fd_sync(&mut self, _memory: &mut GuestMemory<'_>, fd: Fd) -> Answer {
        let file = Arc::clone(&self.descriptors.file(fd)?.file);
        inline::wait(move || fsync(&file)).await.map_err(code::of)
    }

    async fn fd_fdstat_get(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Answer<Fdstat> {
        match self.descriptors.get(fd).ok_or(Errno::Badf)? {
            Descriptor::Standard(stream) => {
                let stream = *stream;
                self.standard.fd_fdstat_get(memory, stream.into()).await
            }
            Descriptor::Socket => Err(Errno::Badf.into()),
            Descriptor::Directory(directory) => Ok(status::of_directory(directory)),
            Descriptor::File(file) => status::of_file(file).map_err(code::of),
        }
    }

    fn fd_fdstat_set_flags(&mut self, _memory: &mut GuestMemory<'_>, fd: Fd, flags: Fdflags) -> Answer {
        let file = self.descriptors.file_mut(fd)?;
        // Whether writes wait for the disk cannot be changed afterwards, as with `fcntl`.
        if flags.intersects(Fdflags::DSYNC | Fdflags::SYNC | Fdflags::RSYNC) {
            return Err(Errno::Inval.into());
        }
        file.append = flags.contains(Fdflags::APPEND);
        file.nonblocking = flags.contains(Fdflags::NONBLOCK);
        Ok(())
    }

    fn fd_fdstat_set_rights(
        &mut self,
        _memory: &mut GuestMemory<'_>,
        fd: Fd,
        _base: Rights,
        _inheriting: Rights,
    ) -> Answer {
        self.descriptors.get(fd).ok_or(Errno::Badf)?;
        Err(Errno::Notsup.into())
    }

    async fn fd_filestat_get(&mut self, memory: &mut GuestMemory<'_>, fd: Fd) -> Answer<Filestat> {
        let open = match self.descriptors.get(fd).ok_or(Errno::Badf)? {
            Descriptor::Standard(stream) => {
                let stream = *stream;
                return self.standard.fd_filestat_get(memory, stream.into()).await;
            }
            Descriptor::Socket => return Err(Errno::Badf.into()),
            Descriptor::Directory(Directory { directory: open, .. })
            | Descriptor::File(OpenFile { file: open, .. }) => open,
        };
        // What is open is in memory.
        fstat(open).map(|found| stat::of(&found)).map_err(code::of)
    }

    async fn fd_filestat_set_size(
        &mut self,
        _memory: &mut GuestMemory<'_>,
        fd: Fd,
        size: Filesize,
    ) -> Answer {
        let file = self.descriptors.file(fd)?;
        if !file.writable {
            return Err(Errno::Perm.into());
        }
        let file = Arc::clone(&file.file);
        inline::wait(move || ftruncate(&file, size)).await.map_err(code::of)
    }

    async fn fd_filestat_set_times(
        &mut self,
        _memory: &mut GuestMemory<'_>,
        fd: Fd,
        atim: Timestamp,
        mtim: Timestamp,
        flags: Fstflags,
    ) -> Answer {
        let times = stat::times(atim, mtim, flags)?;
        let (open, writable) = match self.descriptors.get(fd).ok_or(Errno::Badf)? {
            Descriptor::Standard(_) | Descriptor::Socket => return Err(Errno::Badf.into()),
            Descriptor::Directory(directory) => (&directory.directory, directory.writable),
            Descriptor::File(file) => (&file.file, file.below_writable),
        };
        if !writable {
            return Err(Errno::Perm.into());
        }
        let open = Arc::clone(open);
        inline::run(move || futimens(&open, &times)).await.map_err(code::of)
    }

    async fn fd_read(&mut self, memory: &mut GuestMemory<'_>, fd: Fd, list: IovecArray) -> Answer<Size> {
        match self.descriptors.get(fd).ok_or(Errno::Badf)? {
            Descriptor::Standard(stream) => {
                let stream = *stream;
                self.standard.fd_read(memory, stream.into(), list).await
            }
            Descriptor::File(_) => {
                let buffer = first_input(memory, list)?;
                let file = self.descriptors.file_mut(fd)?;
                let read = transfer::read(&file.file, memory, buffer, file.position, file.is_special)
                    .await
                    .map_err(code::of)?;
                file.position = file.position.saturating_add(u64::from(read));
                Ok(read)
            }
            Descriptor::Directory(_) | Descriptor::Socket => Err(Errno::Badf.into()),
        }
    }

    async fn fd_pread(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        list: IovecArray,
        offset: Filesize,
    ) -> Answer<Size> {
        let file = self.descriptors.seekable(fd)?;
        let buffer = first_input(memory, list)?;
        transfer::read(&file.file, memory, buffer, offset, file.is_special).await.map_err(code::of)
    }

    async fn fd_write(&mut self, memory: &mut GuestMemory<'_>, fd: Fd, list: CiovecArray) -> Answer<Size> {
        match self.descriptors.get(fd).ok_or(Errno::Badf)? {
            Descriptor::Standard(stream) => {
                let stream = *stream;
                self.standard.fd_write(memory, stream.into(), list).await
            }
            Descriptor::File(_) => {
                let buffer = first_output(memory, list)?;
                let file = self.descriptors.file_mut(fd)?;
                let place = if file.append { WriteAt::End } else { WriteAt::Offset(file.position) };
                let written = transfer::write(&file.file, memory, buffer, place, file.is_special)
                    .await
                    .map_err(code::of)?;
                file.position = match place {
                    WriteAt::Offset(offset) => offset.saturating_add(u64::from(written)),
                    WriteAt::End => transfer::end(&file.file).map_err(code::of)?,
                };
                Ok(written)
            }
            Descriptor::Directory(_) | Descriptor::Socket => Err(Errno::Badf.into()),
        }
    }

    async fn fd_pwrite(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        list: CiovecArray,
        offset: Filesize,
    ) -> Answer<Size> {
        let file = self.descriptors.seekable(fd)?;
        let buffer = first_output(memory, list)?;
        // As on Linux, a file that is appended to is appended to here, too.
        let place = if file.append { WriteAt::End } else { WriteAt::Offset(offset) };
        transfer::write(&file.file, memory, buffer, place, file.is_special).await.map_err(code::of)
    }

    fn fd_prestat_get(&mut self, _memory: &mut GuestMemory<'_>, fd: Fd) -> Answer<Prestat> {
        match self.descriptors.get(fd) {
            Some(Descriptor::Directory(Directory { preopen: Some(name), .. })) => {
                let pr_name_len = name.len().try_into().map_err(|_| Errno::Overflow)?;
                Ok(Prestat::Dir(PrestatDir { pr_name_len }))
            }
            _ => Err(Errno::Badf.into()),
        }
    }

    fn fd_prestat_dir_name(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffer: GuestPtr<u8>,
        room: Size,
    ) -> Answer {
        match self.descriptors.get(fd) {
            Some(Descriptor::Directory(Directory { preopen: Some(name), .. })) => {
                let size =
                    u32::try_from(name.len()).ok().filter(|size| *size <= room).ok_or(Errno::Nametoolong)?;
                memory.copy_from_slice(name.as_bytes(), buffer.as_array(size))?;
                Ok(())
            }
            Some(_) => Err(Errno::Notdir.into()),
            None => Err(Errno::Badf.into()),
        }
    }

    async fn fd_renumber(&mut self, memory: &mut GuestMemory<'_>, from: Fd, to: Fd) -> Answer {
        match self.descriptors.renumber(from, to)? {
            Some(closed) => self.close(memory, closed).await,
            None => Ok(()),
        }
    }

    async fn fd_seek(
        &mut self,
        _memory: &mut GuestMemory<'_>,
        fd: Fd,
        offset: Filedelta,
        whence: Whence,
    ) -> Answer<Filesize> {
        let file = self.descriptors.seekable(fd)?;
        let from = match whence {
            Whence::Set => 0,
            Whence::Cur => file.position,
            Whence::End => transfer::end(&file.file).map_err(code::of)?,
        };
        file.position = from.checked_add_signed(offset).ok_or(Errno::Inval)?;
        Ok(file.position)
    }

    fn fd_tell(&mut self, _memory: &mut GuestMemory<'_>, fd: Fd) -> Answer<Filesize> {
        Ok(self.descriptors.seekable(fd)?.position)
    }

    async fn fd_readdir(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        buffer: GuestPtr<u8>,
        room: Size,
        cookie: Dircookie,
    ) -> Answer<Size> {
        self.descriptors.directory(fd)?;
        let Some(Descriptor::Directory(directory)) = self.descriptors.get_mut(fd) else {
            return Err(Errno::Badf.into());
        };
        let mut listing = directory.listing.take();
        let (mut next, mut done) = (cookie, 0);
        let answer = loop {
            let (open, had, left) =
                (Arc::clone(&directory.directory), listing.take(), (room - done) as usize);
            let work = move || {
                let mut listing = match had {
                    Some(listing) => listing,
                    None => Box::new(Listing::open(&open)?),
                };
                let mut bytes = Vec::new();
                // The listing is handed back in either case, so that the guest can try again.
                let filled = listing.fill(next, &mut bytes, left);
                Ok((listing, filled.map(|()| bytes)))
            };
            let (had, bytes) = inline::run(work).await.map_err(code::of)?;
            next = had.cookie();
            listing = Some(had);
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(error) => break Err(code::of(error)),
            };
            let size = u32::try_from(bytes.len()).map_err(|_| Errno::Overflow)?;
            memory.copy_from_slice(&bytes, buffer.add(done)?.as_array(size))?;
            done += size;
            if size == 0 || done >= room {
                break Ok(done);
            }
        };
        directory.listing = listing;
        answer
    }

    async fn path_create_directory(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
    ) -> Answer {
        self.change(memory, fd, path, |directory, name| mkdirat(directory, name, Mode::from(0o777))).await
    }

    async fn path_filestat_get(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
    ) -> Answer<Filestat> {
        let from = &self.descriptors.directory(fd)?.directory;
        let path = text(memory, path)?;
        let follow = flags.contains(Lookupflags::SYMLINK_FOLLOW);
        let found =
            Opening::handle(follow).then(from, path, |handle| fstat(&handle)).await.map_err(code::of)?;
        Ok(stat::of(&found))
    }

    async fn path_filestat_set_times(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        flags: Lookupflags,
        path: GuestPtr<str>,
        atim: Timestamp,
        mtim: Timestamp,
        what: Fstflags,
    ) -> Answer {
        let times = stat::times(atim, mtim, what)?;
        let from = &self.descriptors.writable_directory(fd)?.directory;
        let path = text(memory, path)?;
        let follow = flags.contains(Lookupflags::SYMLINK_FOLLOW);
        let set = move |handle: OwnedFd| utimensat(&handle, c"", &times, AtFlags::EMPTY_PATH);
        Opening::handle(follow).then(from, path, set).await.map_err(code::of)
    }

    async fn path_link(
        &mut self,
        memory: &mut GuestMemory<'_>,
        from_fd: Fd,
        flags: Lookupflags,
        from_path: GuestPtr<str>,
        to_fd: Fd,
        to_path: GuestPtr<str>,
    ) -> Answer {
        if flags.contains(Lookupflags::SYMLINK_FOLLOW) {
            self.descriptors.writable_directory(from_fd)?;
            return Err(Errno::Inval.into());
        }
        self.move_entry(memory, (from_fd, from_path), (to_fd, to_path), |(from, name), (to, new)| {
            // With a slash behind it, the kernel would follow a link, wherever that leads.
            if name.as_bytes().ends_with(b"/") {
                return Err(Kernel::NOTDIR);
            }
            linkat(from, name, to, new, AtFlags::empty())
        })
        .await
    }

    async fn path_open(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        lookup: Lookupflags,
        path: GuestPtr<str>,
        open: Oflags,
        rights: Rights,
        _inheriting: Rights,
        flags: Fdflags,
    ) -> Answer<Fd> {
        let Directory { directory: from, writable: below_writable, .. } = self.descriptors.directory(fd)?;
        let below_writable = *below_writable;
        let path = text(memory, path)?;
        let changes = open.intersects(Oflags::CREAT | Oflags::TRUNC);
        if open.contains(Oflags::DIRECTORY) && (changes || open.contains(Oflags::EXCL)) {
            return Err(Errno::Inval.into());
        }
        let writable = changes || rights.contains(Rights::FD_WRITE);
        if writable && !below_writable {
            return Err(Errno::Perm.into());
        }
        if self.descriptors.is_full() {
            return Err(Errno::Mfile.into());
        }
        let readable = rights.contains(Rights::FD_READ) || !rights.contains(Rights::FD_WRITE);
        // Where nothing is made, the kernel does not want to hear of a mode.
        let mode = if open.contains(Oflags::CREAT) { Mode::from(0o666) } else { Mode::empty() };
        let opening = Opening { flags: open_flags(lookup, open, flags, readable, writable), mode };
        let work = |opened: OwnedFd| match FileType::from_raw_mode(fstat(&opened)?.st_mode) {
            // What a pipe is for needs two programs at its ends, and one that waits holds a thread.
            FileType::Fifo | FileType::Socket => Err(Kernel::NXIO),
            kind => Ok((opened, kind)),
        };
        let (opened, kind) = opening.then(from, path, work).await.map_err(code::of)?;
        let opened = Arc::new(opened);
        let descriptor = match kind {
            FileType::Directory => Descriptor::Directory(Directory {
                directory: opened,
                writable: below_writable,
                preopen: None,
                listing: None,
            }),
            kind => Descriptor::File(OpenFile {
                file: opened,
                readable,
                writable,
                below_writable,
                is_special: kind != FileType::RegularFile,
                append: flags.contains(Fdflags::APPEND),
                nonblocking: flags.contains(Fdflags::NONBLOCK),
                position: 0,
            }),
        };
        Ok(self.descriptors.push(descriptor)?)
    }

    async fn path_readlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
        buffer: GuestPtr<u8>,
        room: Size,
    ) -> Answer<Size> {
        let from = &self.descriptors.directory(fd)?.directory;
        let path = text(memory, path)?;
        let read = |handle: OwnedFd| match readlinkat(&handle, c"", Vec::new()) {
            // What the kernel says of a handle that is no link's.
            Err(Kernel::NOENT) => Err(Kernel::INVAL),
            read => read,
        };
        let target = Opening::handle(false).then(from, path, read).await.map_err(code::of)?;
        let target = target.to_bytes();
        let target = target.get(..room as usize).unwrap_or(target);
        let size = u32::try_from(target.len()).map_err(|_| Errno::Overflow)?;
        memory.copy_from_slice(target, buffer.as_array(size))?;
        Ok(size)
    }

    async fn path_remove_directory(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
    ) -> Answer {
        self.change(memory, fd, path, |directory, name| unlinkat(directory, name, AtFlags::REMOVEDIR)).await
    }

    async fn path_unlink_file(
        &mut self,
        memory: &mut GuestMemory<'_>,
        fd: Fd,
        path: GuestPtr<str>,
    ) -> Answer {
        self.change(memory, fd, path, |directory, name| unlinkat(directory, name, AtFlags::empty())).await
    }

    async fn path_rename(
        &mut self,
        memory: &mut GuestMemory<'_>,
        from_fd: Fd,
        from_path: GuestPtr<str>,
        to_fd: Fd,
        to_path: GuestPtr<str>,
    ) -> Answer {
        self.move_entry(memory, (from_fd, from_path), (to_fd, to_path), |(from, name), (to, new)| {
            renameat(from, name, to, new)
        })
        .await
    }

    async fn path_symlink(
        &mut self,
        memory: &mut GuestMemory<'_>,
        target: GuestPtr<str>,
        fd: Fd,
        path: GuestPtr<str>,
    ) -> Answer {
        let target = text(memory, target)?;
        // On the host it would lead somewhere else.
        if target.as_bytes().starts_with(b"/") {
            self.descriptors.writable_directory(fd)?;
            return Err(Errno::Perm.into());
        }
        self.change(memory, fd, path, move |directory, name| symlinkat(&target, directory, name)).await
    }
}
