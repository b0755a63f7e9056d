//! The same for `wasi:sockets/ip-name-lookup@0.3`: one call that waits.

use std::net::IpAddr;

use wasmtime::component::{Accessor, Linker};
use wasmtime_wasi::{
    p2::{Pollable as _, bindings::sockets::network::ErrorCode as Code},
    p3::bindings::sockets::{ip_name_lookup::ErrorCode, types::IpAddress},
};

use super::AddressStream;
use crate::state::GuestState;

const INTERFACE: &str = "wasi:sockets/ip-name-lookup@0.3.0";

/// Links the interface over wasmtime-wasi's own. The linker must allow shadowing.
pub(crate) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.instance(INTERFACE)?.func_wrap_concurrent(
        "resolve-addresses",
        |accessor: &Accessor<GuestState>, (name,): (String,)| {
            Box::pin(async move { Ok((look_up(accessor, &name).await.map_err(code),)) })
        },
    )
}

async fn look_up(accessor: &Accessor<GuestState>, name: &str) -> Result<Vec<IpAddress>, Code> {
    let mut answer = accessor.with(|mut access| access.data_mut().lookups.begin(name))?;
    answer.ready().await;
    let addresses = match answer {
        AddressStream::Ready(addresses) => addresses?,
        AddressStream::Pending(_) => return Err(Code::TemporaryResolverFailure),
    };
    Ok(addresses.map(|ip: IpAddr| ip.into()).collect())
}

/// The error in the words of this version. `Code` has more of them, which no look-up ends in.
fn code(code: Code) -> ErrorCode {
    match code {
        Code::AccessDenied => ErrorCode::AccessDenied,
        Code::InvalidArgument => ErrorCode::InvalidArgument,
        Code::NameUnresolvable => ErrorCode::NameUnresolvable,
        Code::TemporaryResolverFailure => ErrorCode::TemporaryResolverFailure,
        Code::PermanentResolverFailure => ErrorCode::PermanentResolverFailure,
        _ => ErrorCode::Other(None),
    }
}
