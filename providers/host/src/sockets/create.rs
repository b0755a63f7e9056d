//! Sockets are made with a guard of their own: what wasmtime-wasi asks about one of them is answered by what is known of
//! it.

use std::sync::Arc;

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi::{
    p2::{
        SocketResult, TcpSocket, UdpSocket,
        bindings::sockets::{
            network::IpAddressFamily, tcp_create_socket::Host as _, udp_create_socket::Host as _,
        },
    },
    sockets::{WasiSocketsCtx, WasiSocketsCtxView, WasiSocketsView as _},
};

use super::answer;
use crate::{network::guard::SocketGuard, state::GuestState};

const TCP: &str = "wasi:sockets/tcp-create-socket@0.2.12";
const UDP: &str = "wasi:sockets/udp-create-socket@0.2.12";

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.instance(TCP)?.func_wrap(
        "create-tcp-socket",
        |mut store: StoreContextMut<'_, GuestState>, (family,): (IpAddressFamily,)| {
            answer(create_tcp(store.data_mut(), family))
        },
    )?;
    linker.instance(UDP)?.func_wrap_async(
        "create-udp-socket",
        |mut store: StoreContextMut<'_, GuestState>, (family,): (IpAddressFamily,)| {
            Box::new(async move { answer(create_udp(store.data_mut(), family).await) })
        },
    )
}

fn create_tcp(state: &mut GuestState, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
    let Some((guard, mut ctx)) = guarded(state) else { return state.sockets().create_tcp_socket(family) };
    let table = state.sockets().table;
    let socket = WasiSocketsCtxView { ctx: &mut ctx, table }.create_tcp_socket(family)?;
    state.guest_sockets.known(socket.rep()).lock().guard = Some(guard);
    Ok(socket)
}

async fn create_udp(state: &mut GuestState, family: IpAddressFamily) -> SocketResult<Resource<UdpSocket>> {
    let Some((guard, mut ctx)) = guarded(state) else {
        return state.sockets().create_udp_socket(family).await;
    };
    let table = state.sockets().table;
    let socket = WasiSocketsCtxView { ctx: &mut ctx, table }.create_udp_socket(family).await?;
    state.guest_sockets.known(socket.rep()).lock().guard = Some(guard);
    Ok(socket)
}

/// A guard for one more socket, where more is looked at than what holds for any guest.
pub(super) fn guarded(state: &GuestState) -> Option<(Arc<SocketGuard>, WasiSocketsCtx)> {
    let guard = state.guest_sockets.guard();
    guard.looks_at_sockets().then(|| {
        let guard = SocketGuard::new(Arc::clone(guard));
        let ctx = guard.context();
        (guard, ctx)
    })
}
