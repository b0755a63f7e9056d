//! WASI 0.1, as wasmtime-wasi has it, but for files, sockets, and a few calls.
//!
//! - `proc_exit` takes every code. wasmtime-wasi takes codes of 126 and above for an error, and they are
//!   ordinary: 127 is a shell's command not found. As for any process, the lowest eight bits count.
//! - [`files`] are ours.
//! - Sockets are ours: those that a guest has from its start ([`crate::listen`]), and those that it accepts. wasmtime-wasi
//!   answers that nothing is a socket.
//! - What is read from files and written to them is counted.
//! - `random_get` takes any length. wasmtime-wasi makes all bytes at once, with everybody waiting, and ends
//!   the guest that wants too many.

mod bytes;
mod file_calls;
pub(super) mod files;
mod poll;
mod socket_calls;
pub(super) mod sockets;

use wasmtime::{AsContextMut as _, Caller, Engine, Extern, Linker};
use wasmtime_wasi::{
    I32Exit,
    p1::{
        types,
        wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1 as _},
    },
};

use wiggle::GuestMemory;

use super::state::GuestState;

const MODULE: &str = "wasi_snapshot_preview1";
const SUCCESS: i32 = types::Errno::Success as i32;
/// The first descriptor after these.
const STANDARD_STREAMS_END: i32 = 3;
/// Random bytes that are made before others have a turn.
const RANDOM_PIECE: u32 = 64 << 10;

/// Everything that a guest of WASI 0.1 imports.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    wasi::add_to_linker(&mut linker, |state: &mut GuestState| &mut state.core)?;
    linker.allow_shadowing(true);
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> {
        Err(I32Exit(code & 0xff).into())
    })?;
    socket_calls::link(&mut linker)?;
    file_calls::link(&mut linker)?;
    poll::link(&mut linker)?;
    linker.func_wrap_async(
        MODULE,
        "fd_close",
        |mut caller: Caller<'_, GuestState>, (descriptor,): (i32,)| {
            Box::new(async move { fd_close(&mut caller, descriptor).await })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_renumber",
        |mut caller: Caller<'_, GuestState>, (from, to): (i32, i32)| {
            Box::new(async move { fd_renumber(&mut caller, from, to).await })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "random_get",
        |mut caller: Caller<'_, GuestState>, (buffer, length): (i32, i32)| {
            Box::new(async move { random_get(&mut caller, buffer, length).await })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// Memory and state of the guest that calls, prepared as for any call of WASI 0.1.
fn guest<'a>(
    caller: &'a mut Caller<'_, GuestState>,
) -> wasmtime::Result<(GuestMemory<'a>, &'a mut GuestState)> {
    let fuel = caller.as_context_mut().hostcall_fuel();
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        wasmtime::bail!("missing required memory export");
    };
    let (memory, state) = memory.data_and_store_mut(caller);
    state.core.set_hostcall_fuel(fuel);
    Ok((GuestMemory::Unshared(memory), state))
}

async fn fd_close(caller: &mut Caller<'_, GuestState>, descriptor: i32) -> wasmtime::Result<i32> {
    let (mut memory, state) = guest(caller)?;
    let errno = wasi::fd_close(&mut state.core, &mut memory, descriptor).await?;
    if errno == SUCCESS {
        state.core_sockets.close(descriptor);
    }
    Ok(errno)
}

/// Closes `to` and gives its number to `from`.
async fn fd_renumber(caller: &mut Caller<'_, GuestState>, from: i32, to: i32) -> wasmtime::Result<i32> {
    let (mut memory, state) = guest(caller)?;
    let errno = wasi::fd_renumber(&mut state.core, &mut memory, from, to).await?;
    if errno == SUCCESS && from != to {
        state.core_sockets.renumber(from, to);
    }
    Ok(errno)
}

async fn random_get(caller: &mut Caller<'_, GuestState>, buffer: i32, length: i32) -> wasmtime::Result<i32> {
    let (mut at, mut left) = (buffer.cast_unsigned(), length.cast_unsigned());
    loop {
        let piece = left.min(RANDOM_PIECE);
        let (mut memory, state) = guest(caller)?;
        let errno = wasi::random_get(&mut state.core, &mut memory, at.cast_signed(), piece.cast_signed())?;
        left -= piece;
        if errno != SUCCESS || left == 0 {
            return Ok(errno);
        }
        // The piece was inside the memory, so that there is an address behind it, or none is left to fill.
        at = at.wrapping_add(piece);
        tokio::task::yield_now().await;
    }
}
