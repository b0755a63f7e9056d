//! What guests of WASI 0.3 import: wasmtime-wasi's functions, and laid over them what is done otherwise here, as for those of
//! 0.2. Each of these is beside the functions of 0.2 whose rules it shares.

use wasmtime::component::Linker;
use wasmtime_wasi::p3;

use crate::{directory, errno, lookup, sockets, state::GuestState};

/// Links WASI 0.3, but for `wasi:http`.
pub(crate) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    p3::add_to_linker(linker)?;
    linker.allow_shadowing(true);
    errno::p3::wrap(linker)?;
    directory::link(linker)?;
    lookup::p3::link(linker)?;
    sockets::p3::link(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}
