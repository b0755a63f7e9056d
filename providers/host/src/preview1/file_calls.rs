//! The calls of WASI 0.1 that read files and write them, counted.

use wasmtime::{Caller, Linker};
use wasmtime_wasi::p1::wasi_snapshot_preview1 as wasi;
use wiggle::{GuestMemory, GuestPtr};

use super::{MODULE, STANDARD_STREAMS_END, SUCCESS};
use crate::state::GuestState;

/// Links the calls at a place in a file over those of [`files`](super::files). The linker must allow shadowing. Those without a place are of
/// sockets, too: see [`super::socket_calls`].
pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    macro_rules! counted {
        ($name:ident, $count:ident) => {
            linker.func_wrap_async(
                MODULE,
                stringify!($name),
                |mut caller: Caller<'_, GuestState>,
                 (fd, list, count, offset, result): (i32, i32, i32, i64, i32)| {
                    Box::new(async move {
                        let (mut memory, state) = super::guest(&mut caller)?;
                        let errno =
                            wasi::$name(&mut state.core, &mut memory, fd, list, count, offset, result)
                                .await?;
                        $count(state, &memory, fd, errno, result);
                        Ok(errno)
                    })
                },
            )?;
        };
    }
    counted!(fd_pread, count_read);
    counted!(fd_pwrite, count_written);
    Ok(())
}

/// Counts what a call has read, whose answer is at `result` where it has succeeded.
pub(super) fn count_read(state: &GuestState, memory: &GuestMemory<'_>, fd: i32, errno: i32, result: i32) {
    if let Some(bytes) = size(memory, fd, errno, result) {
        state.files().received(bytes);
    }
}

/// The same for what it has written.
pub(super) fn count_written(state: &GuestState, memory: &GuestMemory<'_>, fd: i32, errno: i32, result: i32) {
    if let Some(bytes) = size(memory, fd, errno, result) {
        state.files().sent(bytes);
    }
}

fn size(memory: &GuestMemory<'_>, fd: i32, errno: i32, result: i32) -> Option<usize> {
    if errno != SUCCESS || fd < STANDARD_STREAMS_END {
        return None;
    }
    let bytes = memory.read(GuestPtr::<u32>::new(result.cast_unsigned())).ok()?;
    usize::try_from(bytes).ok()
}
