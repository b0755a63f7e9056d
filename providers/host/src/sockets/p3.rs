//! The same for `wasi:sockets@0.3`.
//!
//! What is defined here is laid over wasmtime-wasi's functions, and carries out what [`super::routes`] decides. A socket is
//! bound to an address of its pod before it does anything else, so that nothing is left to what a kernel binds it to. The
//! functions that are not defined here are about a socket that is there: its options, and the streams of its connection.
//!
//! A host function that may wait holds the store only while it does not. What is asked of [`Guard`](crate::network::guard)
//! is answered at once.

mod tcp;
mod udp;

use futures::FutureExt as _;
use wasmtime::component::{Accessor, Linker};
use wasmtime_wasi::{
    p2::bindings::sockets::network::ErrorCode as Code,
    p3::{
        bindings::sockets::types::ErrorCode,
        sockets::{SocketError, SocketResult},
    },
    sockets::{WasiSockets, WasiSocketsView as _},
};

use crate::state::GuestState;

/// Of the one interface that both kinds of sockets are in.
const INTERFACE: &str = "wasi:sockets/types@0.3.0";

/// Links the functions over wasmtime-wasi's own. The linker must allow shadowing.
pub(crate) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    tcp::link(linker)?;
    udp::link(linker)
}

/// wasmtime-wasi's own view of a guest.
fn view(accessor: &Accessor<GuestState>) -> Accessor<GuestState, WasiSockets> {
    accessor.with_getter(|state| state.sockets())
}

/// What has come of something that waits for nothing but the answer to whether it may be done.
fn at_once<T>(done: impl Future<Output = SocketResult<T>>) -> SocketResult<T> {
    let waits = || SocketError::trap(wasmtime::format_err!("a question about an address was not answered"));
    done.now_or_never().unwrap_or_else(|| Err(waits()))
}

/// What a host function returns.
type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

fn answer<T>(result: SocketResult<T>) -> Answer<T> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

/// The error of what was decided, in the words of this version. `Code` has more of them: what is not decided is not here.
fn refused(code: Code) -> SocketError {
    let code = match code {
        Code::AccessDenied => ErrorCode::AccessDenied,
        Code::AddressInUse => ErrorCode::AddressInUse,
        Code::InvalidState => ErrorCode::InvalidState,
        Code::AddressNotBindable => ErrorCode::AddressNotBindable,
        Code::ConnectionRefused => ErrorCode::ConnectionRefused,
        Code::InvalidArgument => ErrorCode::InvalidArgument,
        Code::RemoteUnreachable => ErrorCode::RemoteUnreachable,
        _ => ErrorCode::Other(None),
    };
    code.into()
}
