//! Bytes between a guest's memory and a file.
//!
//! What the page cache has is read where the guest runs (`preadv2` with `RWF_NOWAIT`), straight into its memory. What has to
//! come from a disk is read on a thread of the pool. Writes go to the page cache. Both are done in pieces, with others having
//! a turn in between.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::OwnedFd,
    sync::Arc,
};

use rustix::{
    fs::fstat,
    io::{Errno, ReadWriteFlags, Result, pread, preadv2, pwritev2},
};
use wiggle::{GuestMemory, GuestPtr};

use super::inline::{self, Permit};

/// Bytes that are moved at a time: to copy them takes some microseconds.
const PIECE: u32 = 128 << 10;

/// Where in a file bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteAt {
    /// At so many bytes from its beginning.
    Offset(u64),
    /// At its end, wherever that is by then.
    End,
}

/// A buffer in a guest's memory.
type Buffer = GuestPtr<[u8]>;

/// Reads from a place in a file until a buffer is full, or the file is at its end. Returns the bytes that were read: an error
/// after some of them comes again with the next call.
pub(super) async fn read(
    file: &Arc<OwnedFd>,
    memory: &mut GuestMemory<'_>,
    buffer: Buffer,
    offset: u64,
    is_special: bool,
) -> Result<u32> {
    let mut done = 0;
    while done < buffer.len() {
        let piece = piece(buffer, done);
        let at = offset.checked_add(u64::from(done)).ok_or(Errno::OVERFLOW)?;
        match read_piece(file, memory, piece, at, is_special).await {
            Ok(0) => break,
            Ok(size) => done += size,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        // Whoever waits at a terminal is given the line that has come.
        if is_special {
            break;
        }
        if done < buffer.len() {
            tokio::task::consume_budget().await;
        }
    }
    Ok(done)
}

async fn read_piece(
    file: &Arc<OwnedFd>,
    memory: &mut GuestMemory<'_>,
    piece: Buffer,
    at: u64,
    is_special: bool,
) -> Result<u32> {
    if !is_special {
        let bytes = memory.as_slice_mut(piece).ok().flatten().ok_or(Errno::FAULT)?;
        match preadv2(file, &mut [IoSliceMut::new(bytes)], at, ReadWriteFlags::NOWAIT) {
            // It is not in memory, or the file system does not say whether it is.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => {}
            read => return read.map(count),
        }
    }
    let (file, size) = (Arc::clone(file), piece.len() as usize);
    let work = move || {
        let mut bytes = vec![0; size];
        let read = pread(&file, &mut bytes, at)?;
        bytes.truncate(read);
        Ok(bytes)
    };
    let bytes = inline::wait(work).await?;
    let read = count(bytes.len());
    memory.copy_from_slice(&bytes, within(piece, 0, read)).map_err(|_| Errno::FAULT)?;
    Ok(read)
}

/// Writes a buffer to a place in a file. Returns the bytes that were written, as [`read`] does.
pub(super) async fn write(
    file: &Arc<OwnedFd>,
    memory: &GuestMemory<'_>,
    buffer: Buffer,
    place: WriteAt,
    is_special: bool,
) -> Result<u32> {
    let mut done = 0;
    loop {
        let piece = piece(buffer, done);
        let place = match place {
            WriteAt::End => WriteAt::End,
            WriteAt::Offset(offset) => {
                WriteAt::Offset(offset.checked_add(u64::from(done)).ok_or(Errno::OVERFLOW)?)
            }
        };
        match write_piece(file, memory, piece, place, is_special).await {
            Ok(size) => {
                done += size;
                // A full disk says so with the next call.
                if done >= buffer.len() || size < piece.len() {
                    return Ok(done);
                }
            }
            Err(_) if done > 0 => return Ok(done),
            Err(error) => return Err(error),
        }
        tokio::task::consume_budget().await;
    }
}

async fn write_piece(
    file: &Arc<OwnedFd>,
    memory: &GuestMemory<'_>,
    piece: Buffer,
    place: WriteAt,
    is_special: bool,
) -> Result<u32> {
    if !is_special && let Some(_permit) = Permit::take() {
        let bytes = memory.as_slice(piece).ok().flatten().ok_or(Errno::FAULT)?;
        return put(file, bytes, place).map(count);
    }
    let bytes = memory.to_vec(piece).map_err(|_| Errno::FAULT)?;
    let file = Arc::clone(file);
    inline::wait(move || put(&file, &bytes, place)).await.map(count)
}

fn put(file: &OwnedFd, bytes: &[u8], place: WriteAt) -> Result<usize> {
    let (offset, flags) = match place {
        WriteAt::Offset(offset) => (offset, ReadWriteFlags::empty()),
        WriteAt::End => (0, ReadWriteFlags::APPEND),
    };
    pwritev2(file, &[IoSlice::new(bytes)], offset, flags)
}

/// Where a file ends, in bytes.
pub(super) fn end(file: &OwnedFd) -> Result<u64> {
    Ok(fstat(file)?.st_size.try_into().unwrap_or_default())
}

fn piece(buffer: Buffer, done: u32) -> Buffer {
    within(buffer, done, (buffer.len() - done).min(PIECE))
}

/// A part of a buffer, which lies in it.
fn within(buffer: Buffer, from: u32, size: u32) -> Buffer {
    GuestPtr::new((buffer.offset_base().wrapping_add(from), size))
}

/// A part of a buffer is never longer than the guest's memory.
fn count(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
