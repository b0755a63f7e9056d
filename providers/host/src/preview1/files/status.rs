//! What `fd_fdstat_get` says of files and directories.

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use wasmtime_wasi::p1::types::{Fdflags, Fdstat, Filetype, Rights};

use super::{
    descriptors::{Directory, OpenFile},
    stat,
};

/// What programs expect to be allowed to do with a directory: what they are not, the call itself says.
pub(super) fn of_directory(directory: &Directory) -> Fdstat {
    let file_rights = Rights::FD_SEEK | Rights::FD_FILESTAT_SET_SIZE | Rights::PATH_FILESTAT_SET_SIZE;
    let (base, inheriting) = match &directory.preopen {
        // wasi-libc looks at these before it uses a directory that it was given.
        Some(_) => {
            let of_directories = Rights::PATH_CREATE_DIRECTORY
                | Rights::PATH_CREATE_FILE
                | Rights::PATH_LINK_SOURCE
                | Rights::PATH_LINK_TARGET
                | Rights::PATH_OPEN
                | Rights::FD_READDIR
                | Rights::PATH_READLINK
                | Rights::PATH_RENAME_SOURCE
                | Rights::PATH_RENAME_TARGET
                | Rights::PATH_SYMLINK
                | Rights::PATH_REMOVE_DIRECTORY
                | Rights::PATH_UNLINK_FILE
                | Rights::PATH_FILESTAT_GET
                | Rights::PATH_FILESTAT_SET_TIMES
                | Rights::FD_FILESTAT_GET
                | Rights::FD_FILESTAT_SET_TIMES;
            let of_files = Rights::FD_DATASYNC
                | Rights::FD_READ
                | Rights::FD_SEEK
                | Rights::FD_FDSTAT_SET_FLAGS
                | Rights::FD_SYNC
                | Rights::FD_TELL
                | Rights::FD_WRITE
                | Rights::FD_ADVISE
                | Rights::FD_ALLOCATE
                | Rights::FD_FILESTAT_SET_SIZE
                | Rights::POLL_FD_READWRITE;
            (of_directories, of_directories | of_files)
        }
        None => {
            let mut rights = Rights::all() & !file_rights;
            if !directory.writable {
                rights &= !Rights::FD_WRITE;
            }
            (rights, rights)
        }
    };
    Fdstat {
        fs_filetype: Filetype::Directory,
        fs_flags: Fdflags::empty(),
        fs_rights_base: base,
        fs_rights_inheriting: inheriting,
    }
}

/// What it was opened for.
pub(super) fn of_file(file: &OpenFile) -> rustix::io::Result<Fdstat> {
    let kernel = fcntl_getfl(&file.file)?;
    let mut rights = Rights::all();
    if !file.readable {
        rights &= !(Rights::FD_READ | Rights::FD_READDIR);
    }
    if !file.writable {
        rights &= !Rights::FD_WRITE;
    }
    let mut flags = Fdflags::empty();
    // The one of the kernel's includes the other.
    flags.set(Fdflags::SYNC, kernel.contains(OFlags::SYNC));
    flags.set(Fdflags::DSYNC, kernel.contains(OFlags::DSYNC));
    flags.set(Fdflags::APPEND, file.append);
    flags.set(Fdflags::NONBLOCK, file.nonblocking);
    let kind = FileType::from_raw_mode(fstat(&file.file)?.st_mode);
    Ok(Fdstat {
        fs_filetype: stat::file_type(kind),
        fs_flags: flags,
        fs_rights_base: rights,
        fs_rights_inheriting: rights,
    })
}
