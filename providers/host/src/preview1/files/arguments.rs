//! What calls are handed by guests.

use std::ffi::CString;

use rustix::fs::OFlags;
use wasmtime_wasi::p1::types::{CiovecArray, Errno, Error, Fdflags, IovecArray, Lookupflags, Oflags};
use wiggle::{GuestMemory, GuestPtr};

use super::path;

/// Buffers that one call takes at most, as for `readv` on Linux.
const BUFFERS: u32 = 1024;

/// A path in the guest's memory.
pub(super) fn text(memory: &GuestMemory<'_>, path: GuestPtr<str>) -> Result<CString, Error> {
    if path.len() as usize >= path::LONGEST {
        return Err(Errno::Nametoolong.into());
    }
    let text = memory.as_cow_str(path)?.into_owned();
    Ok(CString::new(text).map_err(|_| Errno::Inval)?)
}

/// The first buffer of a list that has room. A call may do less than it is asked for.
pub(super) fn first_input(memory: &GuestMemory<'_>, list: IovecArray) -> Result<GuestPtr<[u8]>, Error> {
    if list.len() > BUFFERS {
        return Err(Errno::Inval.into());
    }
    for entry in list.iter() {
        let buffer = memory.read(entry?)?;
        if buffer.buf_len > 0 {
            return Ok(buffer.buf.as_array(buffer.buf_len));
        }
    }
    Ok(GuestPtr::new((0, 0)))
}

/// The first buffer of a list that holds something.
pub(super) fn first_output(memory: &GuestMemory<'_>, list: CiovecArray) -> Result<GuestPtr<[u8]>, Error> {
    if list.len() > BUFFERS {
        return Err(Errno::Inval.into());
    }
    for entry in list.iter() {
        let buffer = memory.read(entry?)?;
        if buffer.buf_len > 0 {
            return Ok(buffer.buf.as_array(buffer.buf_len));
        }
    }
    Ok(GuestPtr::new((0, 0)))
}

/// How a file is opened that is asked for in these words.
pub(super) fn open_flags(
    lookup: Lookupflags,
    open: Oflags,
    flags: Fdflags,
    readable: bool,
    writable: bool,
) -> OFlags {
    let mut kernel = OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    kernel |= match (readable, writable) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    let more = [
        (!lookup.contains(Lookupflags::SYMLINK_FOLLOW), OFlags::NOFOLLOW),
        (open.contains(Oflags::CREAT), OFlags::CREATE),
        (open.contains(Oflags::DIRECTORY), OFlags::DIRECTORY),
        (open.contains(Oflags::EXCL), OFlags::EXCL),
        (open.contains(Oflags::TRUNC), OFlags::TRUNC),
        (flags.contains(Fdflags::DSYNC), OFlags::DSYNC),
        (flags.intersects(Fdflags::SYNC | Fdflags::RSYNC), OFlags::SYNC),
    ];
    for (_, flag) in more.into_iter().filter(|(wanted, _)| *wanted) {
        kernel |= flag;
    }
    kernel
}
