//! The calls of WASI 0.1 that are about sockets, for descriptors that are; the others are wasmtime-wasi's.

use std::{future::poll_fn, io};

use futures::FutureExt as _;
use rustix::net::{RecvFlags, Shutdown};
use wasmtime::{Caller, Linker};
use wasmtime_wasi::p1::{
    types::{Errno, Fdflags, Filetype, Riflags, Rights, Roflags, Sdflags},
    wasi_snapshot_preview1 as wasi,
};
use wiggle::GuestMemory;

use super::{
    MODULE, SUCCESS,
    bytes::Bytes,
    file_calls,
    sockets::{CoreSocket, SocketKind, receive, send},
};
use crate::state::GuestState;

/// What a preopened descriptor is that is no directory: WASI 0.1 has a name for directories alone, and programs that look
/// for theirs pass over what has another one.
const PREOPENED_SOCKET: u8 = 1;

/// A call that failed, unless it is the host that did.
type Answer<T = ()> = Result<T, Errno>;

/// Links the calls over wasmtime-wasi's own. The linker must allow shadowing.
pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    /// A call about a descriptor: ours if it is a socket, and wasmtime-wasi's otherwise.
    macro_rules! either {
        ($name:ident($($arg:ident),*), $($wait:ident)?) => {
            linker.func_wrap_async(
                MODULE,
                stringify!($name),
                |mut caller: Caller<'_, GuestState>, (fd, $($arg),*): (i32, $(either!(@i32 $arg)),*)| {
                    Box::new(async move {
                        let (mut memory, state) = super::guest(&mut caller)?;
                        match state.core_sockets.get(fd) {
                            Some(socket) => {
                                Ok(number($name(socket, &mut memory, $($arg.cast_unsigned()),*).await))
                            }
                            None => wasi::$name(&mut state.core, &mut memory, fd, $($arg),*)$(.$wait)?,
                        }
                    })
                },
            )?;
        };
        (@i32 $arg:ident) => { i32 };
    }
    /// A call that only sockets have.
    macro_rules! only_for_sockets {
        ($name:ident($($arg:ident),*)) => {
            linker.func_wrap_async(
                MODULE,
                stringify!($name),
                |mut caller: Caller<'_, GuestState>, (fd, $($arg),*): (i32, $(only_for_sockets!(@i32 $arg)),*)| {
                    Box::new(async move {
                        let (mut memory, state) = super::guest(&mut caller)?;
                        match state.core_sockets.get(fd) {
                            Some(socket) => {
                                Ok(number($name(socket, &mut memory, $($arg.cast_unsigned()),*).await))
                            }
                            None => no_socket(state, fd).await,
                        }
                    })
                },
            )?;
        };
        (@i32 $arg:ident) => { i32 };
    }
    /// A call that is counted where the descriptor is a file.
    macro_rules! counted {
        ($name:ident, $count:ident) => {
            linker.func_wrap_async(
                MODULE,
                stringify!($name),
                |mut caller: Caller<'_, GuestState>, (fd, list, count, result): (i32, i32, i32, i32)| {
                    Box::new(async move {
                        let (mut memory, state) = super::guest(&mut caller)?;
                        if let Some(socket) = state.core_sockets.get(fd) {
                            let (list, count) = (list.cast_unsigned(), count.cast_unsigned());
                            let answer = $name(socket, &mut memory, list, count, result.cast_unsigned());
                            return Ok(number(answer.await));
                        }
                        let errno =
                            wasi::$name(&mut state.core, &mut memory, fd, list, count, result).await?;
                        file_calls::$count(state, &memory, fd, errno, result);
                        Ok(errno)
                    })
                },
            )?;
        };
    }
    counted!(fd_read, count_read);
    counted!(fd_write, count_written);
    either!(fd_fdstat_get(result), await);
    either!(fd_filestat_get(result), await);
    either!(fd_fdstat_set_flags(flags),);
    either!(fd_prestat_get(result),);
    either!(fd_prestat_dir_name(path, size),);
    only_for_sockets!(sock_recv(list, count, flags, result, out_flags));
    only_for_sockets!(sock_send(list, count, flags, result));
    only_for_sockets!(sock_shutdown(how));
    linker.func_wrap_async(
        MODULE,
        "sock_accept",
        |mut caller: Caller<'_, GuestState>, (fd, flags, result): (i32, i32, i32)| {
            Box::new(async move {
                sock_accept(&mut caller, fd, flags.cast_unsigned(), result.cast_unsigned()).await
            })
        },
    )?;
    Ok(())
}

fn number(answer: Answer) -> i32 {
    match answer {
        Ok(()) => SUCCESS,
        Err(errno) => errno as i32,
    }
}

/// What a call answers that only sockets have: whether the descriptor is something else, or nothing.
async fn no_socket(state: &mut GuestState, fd: i32) -> wasmtime::Result<i32> {
    let mut nobody = [0; 24];
    let status = wasi::fd_fdstat_get(&mut state.core, &mut GuestMemory::Unshared(&mut nobody), fd, 0).await?;
    Ok(if status == Errno::Badf as i32 { status } else { Errno::Notsock as i32 })
}

fn stream(socket: &CoreSocket) -> Answer<&tokio::net::TcpStream> {
    match &socket.kind {
        SocketKind::Stream(stream) => Ok(stream),
        SocketKind::Listener(_) => Err(Errno::Notconn),
    }
}

/// The code of an error of the kernel's.
fn code(error: &io::Error) -> Errno {
    use rustix::io::Errno as Kernel;
    match Kernel::from_io_error(error) {
        Some(Kernel::AGAIN) => Errno::Again,
        Some(Kernel::CONNABORTED) => Errno::Connaborted,
        Some(Kernel::CONNRESET) => Errno::Connreset,
        Some(Kernel::HOSTUNREACH) => Errno::Hostunreach,
        Some(Kernel::INTR) => Errno::Intr,
        Some(Kernel::MFILE) => Errno::Mfile,
        Some(Kernel::NETDOWN) => Errno::Netdown,
        Some(Kernel::NETUNREACH) => Errno::Netunreach,
        Some(Kernel::NFILE) => Errno::Nfile,
        Some(Kernel::NOBUFS) => Errno::Nobufs,
        Some(Kernel::NOMEM) => Errno::Nomem,
        Some(Kernel::NOTCONN) => Errno::Notconn,
        Some(Kernel::PIPE) => Errno::Pipe,
        Some(Kernel::TIMEDOUT) => Errno::Timedout,
        _ => Errno::Io,
    }
}

async fn fd_read(
    socket: &mut CoreSocket,
    memory: &mut GuestMemory<'_>,
    list: u32,
    count: u32,
    result: u32,
) -> Answer {
    let size = read(socket, memory, (list, count), RecvFlags::empty(), false).await?;
    Bytes::of(memory)?.put_size(result, size)
}

/// Reads into the first buffer with room; with `whole`, until that is full or the other side sends no more.
async fn read(
    socket: &mut CoreSocket,
    memory: &mut GuestMemory<'_>,
    (list, count): (u32, u32),
    flags: RecvFlags,
    whole: bool,
) -> Answer<usize> {
    let (stream, wait) = (stream(socket)?, !socket.nonblocking);
    let mut bytes = Bytes::of(memory)?;
    let buffer = bytes.buffer(list, count)?;
    let mut size = 0;
    while size < buffer.len() {
        match receive(stream, &mut buffer[size..], flags, wait).await {
            Ok(0) => break,
            Ok(more) => size += more,
            // What has come is told first; the error comes again.
            Err(_) if size > 0 => break,
            Err(error) => return Err(code(&error)),
        }
        if !whole {
            break;
        }
    }
    // What was only looked at comes again.
    if !flags.contains(RecvFlags::PEEK) {
        socket.traffic.received(size);
    }
    Ok(size)
}

async fn fd_write(
    socket: &mut CoreSocket,
    memory: &mut GuestMemory<'_>,
    list: u32,
    count: u32,
    result: u32,
) -> Answer {
    let (stream, wait) = (stream(socket)?, !socket.nonblocking);
    let mut bytes = Bytes::of(memory)?;
    let sent = send(stream, bytes.buffer(list, count)?, wait).await.map_err(|error| code(&error))?;
    socket.traffic.sent(sent);
    bytes.put_size(result, sent)
}

async fn sock_recv(
    socket: &mut CoreSocket,
    memory: &mut GuestMemory<'_>,
    list: u32,
    count: u32,
    flags: u32,
    result: u32,
    out_flags: u32,
) -> Answer {
    let flags = u16::try_from(flags).ok().and_then(Riflags::from_bits).ok_or(Errno::Inval)?;
    let peek = flags.contains(Riflags::RECV_PEEK);
    let kernel = if peek { RecvFlags::PEEK } else { RecvFlags::empty() };
    // What was only looked at would be found again.
    let whole = flags.contains(Riflags::RECV_WAITALL) && !peek;
    let size = read(socket, memory, (list, count), kernel, whole).await?;
    let mut bytes = Bytes::of(memory)?;
    bytes.put(out_flags, &Roflags::empty().bits().to_le_bytes())?;
    bytes.put_size(result, size)
}

async fn sock_send(
    socket: &mut CoreSocket,
    memory: &mut GuestMemory<'_>,
    list: u32,
    count: u32,
    flags: u32,
    result: u32,
) -> Answer {
    // WASI 0.1 has no flags for it.
    if flags != 0 {
        return Err(Errno::Inval);
    }
    fd_write(socket, memory, list, count, result).await
}

async fn sock_shutdown(socket: &mut CoreSocket, _memory: &mut GuestMemory<'_>, how: u32) -> Answer {
    let how = u8::try_from(how).ok().and_then(Sdflags::from_bits).ok_or(Errno::Inval)?;
    let how = match (how.contains(Sdflags::RD), how.contains(Sdflags::WR)) {
        (true, true) => Shutdown::Both,
        (true, false) => Shutdown::Read,
        (false, true) => Shutdown::Write,
        (false, false) => return Err(Errno::Inval),
    };
    rustix::net::shutdown(stream(socket)?, how).map_err(|error| code(&error.into()))
}

async fn fd_fdstat_get(socket: &mut CoreSocket, memory: &mut GuestMemory<'_>, result: u32) -> Answer {
    let common = Rights::FD_FDSTAT_SET_FLAGS | Rights::FD_FILESTAT_GET | Rights::POLL_FD_READWRITE;
    let rights = common
        | match socket.kind {
            SocketKind::Listener(_) => Rights::SOCK_ACCEPT,
            SocketKind::Stream(_) => Rights::FD_READ | Rights::FD_WRITE | Rights::SOCK_SHUTDOWN,
        };
    let flags = if socket.nonblocking { Fdflags::NONBLOCK } else { Fdflags::empty() };
    let mut status = [0; 24];
    status[0] = Filetype::SocketStream as u8;
    status[2..4].copy_from_slice(&flags.bits().to_le_bytes());
    status[8..16].copy_from_slice(&rights.bits().to_le_bytes());
    // What is accepted may be used as any connection.
    let inherited = Rights::FD_READ | Rights::FD_WRITE | Rights::SOCK_SHUTDOWN | common;
    status[16..].copy_from_slice(&inherited.bits().to_le_bytes());
    Bytes::of(memory)?.put(result, &status)
}

async fn fd_fdstat_set_flags(socket: &mut CoreSocket, _memory: &mut GuestMemory<'_>, flags: u32) -> Answer {
    let flags = u16::try_from(flags).ok().and_then(Fdflags::from_bits).ok_or(Errno::Inval)?;
    if !Fdflags::NONBLOCK.contains(flags) {
        return Err(Errno::Inval);
    }
    socket.nonblocking = flags.contains(Fdflags::NONBLOCK);
    Ok(())
}

async fn fd_filestat_get(_socket: &mut CoreSocket, memory: &mut GuestMemory<'_>, result: u32) -> Answer {
    let mut status = [0; 64];
    status[16] = Filetype::SocketStream as u8;
    Bytes::of(memory)?.put(result, &status)
}

async fn fd_prestat_get(socket: &mut CoreSocket, memory: &mut GuestMemory<'_>, result: u32) -> Answer {
    if let SocketKind::Stream(_) = socket.kind {
        return Err(Errno::Badf);
    }
    Bytes::of(memory)?.put(result, &[PREOPENED_SOCKET, 0, 0, 0, 0, 0, 0, 0])
}

/// A socket has no name. Some programs ask for the name of whatever is preopened, and end where there is an error.
async fn fd_prestat_dir_name(
    socket: &mut CoreSocket,
    _memory: &mut GuestMemory<'_>,
    _path: u32,
    _size: u32,
) -> Answer {
    match socket.kind {
        SocketKind::Listener(_) => Ok(()),
        SocketKind::Stream(_) => Err(Errno::Notdir),
    }
}

/// Takes the next connection of a listener, waiting for it unless the listener is not to block.
async fn sock_accept(
    caller: &mut Caller<'_, GuestState>,
    fd: i32,
    flags: u32,
    result: u32,
) -> wasmtime::Result<i32> {
    let (mut memory, state) = super::guest(caller)?;
    let Some(flags) = u16::try_from(flags).ok().and_then(Fdflags::from_bits) else {
        return Ok(Errno::Inval as i32);
    };
    let Some(socket) = state.core_sockets.get(fd) else { return no_socket(state, fd).await };
    let wait = !socket.nonblocking;
    let SocketKind::Listener(listener) = &mut socket.kind else { return Ok(Errno::Inval as i32) };
    if !Fdflags::NONBLOCK.contains(flags) {
        return Ok(Errno::Inval as i32);
    }
    if state.core.is_full() {
        return Ok(Errno::Mfile as i32);
    }
    let mut found = poll_fn(|context| listener.poll_waiting(context));
    let found = if wait { Some(found.await) } else { (&mut found).now_or_never() };
    match found {
        Some(Ok(())) => {}
        Some(Err(error)) => return Ok(code(&error) as i32),
        None => return Ok(Errno::Again as i32),
    }
    let Some(stream) = listener.take() else { return Ok(Errno::Again as i32) };
    let accepted = match state.core.push_socket() {
        Ok(number) => u32::from(number).cast_signed(),
        Err(errno) => return Ok(errno as i32),
    };
    state.core_sockets.insert(accepted, stream, flags.contains(Fdflags::NONBLOCK));
    Ok(number(Bytes::of(&mut memory).and_then(|mut bytes| bytes.put(result, &accepted.to_le_bytes()))))
}
