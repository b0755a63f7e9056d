//! Errors of the kernel's in the words of WASI 0.1.

use rustix::io::Errno as Kernel;
use wasmtime_wasi::p1::types::{self, Errno};

/// What a call of the kernel's about a file answered.
pub(super) fn of(error: Kernel) -> types::Error {
    code(error).into()
}

/// The same, as a number of WASI's. What it has no number for is an I/O error.
fn code(error: Kernel) -> Errno {
    match error {
        Kernel::ACCESS => Errno::Acces,
        Kernel::AGAIN => Errno::Again,
        Kernel::BADF => Errno::Badf,
        Kernel::BUSY => Errno::Busy,
        Kernel::DQUOT => Errno::Dquot,
        Kernel::EXIST => Errno::Exist,
        Kernel::FBIG => Errno::Fbig,
        Kernel::ILSEQ => Errno::Ilseq,
        Kernel::INTR => Errno::Intr,
        Kernel::INVAL => Errno::Inval,
        Kernel::ISDIR => Errno::Isdir,
        Kernel::LOOP => Errno::Loop,
        Kernel::MFILE => Errno::Mfile,
        Kernel::MLINK => Errno::Mlink,
        Kernel::NAMETOOLONG => Errno::Nametoolong,
        Kernel::NFILE => Errno::Nfile,
        Kernel::NODEV => Errno::Nodev,
        Kernel::NOENT => Errno::Noent,
        Kernel::NOLCK => Errno::Nolck,
        Kernel::NOMEM => Errno::Nomem,
        Kernel::NOSPC => Errno::Nospc,
        Kernel::NOSYS => Errno::Nosys,
        Kernel::NOTDIR => Errno::Notdir,
        Kernel::NOTEMPTY => Errno::Notempty,
        Kernel::NOTSUP => Errno::Notsup,
        Kernel::NXIO => Errno::Nxio,
        Kernel::OVERFLOW => Errno::Overflow,
        Kernel::PERM => Errno::Perm,
        Kernel::PIPE => Errno::Pipe,
        Kernel::ROFS => Errno::Rofs,
        Kernel::SPIPE => Errno::Spipe,
        Kernel::STALE => Errno::Stale,
        Kernel::TIMEDOUT => Errno::Timedout,
        Kernel::TXTBSY => Errno::Txtbsy,
        Kernel::XDEV => Errno::Xdev,
        _ => Errno::Io,
    }
}
