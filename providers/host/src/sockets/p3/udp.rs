//! UDP.

use std::{net::SocketAddr, sync::Arc};

use kubewasm_rules::Protocol;
use wasmtime::{
    StoreContextMut,
    component::{Accessor, Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    p2::bindings::sockets::network::ErrorCode as Code,
    p3::{
        bindings::sockets::types::{
            ErrorCode, HostUdpSocket as _, HostUdpSocketWithStore as _, IpAddressFamily, IpSocketAddress,
        },
        sockets::{SocketError, SocketResult},
    },
    sockets::{UdpSocket, WasiSockets, WasiSocketsCtxView, WasiSocketsView as _},
};

use super::{INTERFACE, answer, at_once, refused, view};
use crate::{
    sockets::{Pod, again, create::guarded, routes::any_like},
    state::GuestState,
};

type Socket = Resource<UdpSocket>;

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance(INTERFACE)?;
    types.resource("udp-socket", ResourceType::host::<UdpSocket>(), |mut store, rep| {
        store.data_mut().guest_sockets.forget(rep);
        store.data_mut().sockets().drop(Socket::new_own(rep))
    })?;
    types.func_wrap_async(
        "[static]udp-socket.create",
        |mut store: StoreContextMut<'_, GuestState>, (family,): (IpAddressFamily,)| {
            Box::new(async move { answer(create(store.data_mut(), family).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.bind",
        |mut store: StoreContextMut<'_, GuestState>, (socket, address): (Socket, IpSocketAddress)| {
            Box::new(async move { answer(bind(store.data_mut(), socket, address.into()).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]udp-socket.connect",
        |mut store: StoreContextMut<'_, GuestState>, (socket, address): (Socket, IpSocketAddress)| {
            Box::new(async move { answer(connect(store.data_mut(), socket, address.into()).await) })
        },
    )?;
    types.func_wrap(
        "[method]udp-socket.disconnect",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(disconnect(store.data_mut(), &socket))
        },
    )?;
    types.func_wrap_concurrent(
        "[method]udp-socket.send",
        |accessor: &Accessor<GuestState>,
         (socket, data, remote): (Socket, Vec<u8>, Option<IpSocketAddress>)| {
            Box::pin(async move { answer(send(accessor, socket, data, remote.map(Into::into)).await) })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]udp-socket.receive",
        |accessor: &Accessor<GuestState>, (socket,): (Socket,)| {
            Box::pin(async move { answer(receive(accessor, socket).await) })
        },
    )?;
    types.func_wrap(
        "[method]udp-socket.get-local-address",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(local_address(store.data_mut(), socket))
        },
    )?;
    types.func_wrap(
        "[method]udp-socket.get-remote-address",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(remote_address(store.data_mut(), socket))
        },
    )
}

async fn create(state: &mut GuestState, family: IpAddressFamily) -> SocketResult<Socket> {
    let Some((guard, mut ctx)) = guarded(state) else { return state.sockets().create(family).await };
    let table = state.sockets().table;
    let socket = WasiSocketsCtxView { ctx: &mut ctx, table }.create(family).await?;
    state.guest_sockets.known(socket.rep()).lock().guard = Some(guard);
    Ok(socket)
}

async fn bind(state: &mut GuestState, socket: Socket, wanted: SocketAddr) -> SocketResult<()> {
    let Some(pod) = state.guest_sockets.pod() else { return bind_in_node(state, socket, wanted).await };
    let bound = pod.addresses.bind(wanted).ok_or_else(|| refused(Code::AddressNotBindable));
    let (actual, binding) = bound?;
    state.sockets().bind(again(&socket), actual.into()).await?;
    let known = state.guest_sockets.known(socket.rep());
    let local = state.sockets().get_local_address(socket)?;
    known.lock().bound_for_datagrams(&pod, (wanted, binding), local.into());
    Ok(())
}

/// The same where the port is one of the node's.
async fn bind_in_node(state: &mut GuestState, socket: Socket, wanted: SocketAddr) -> SocketResult<()> {
    let rep = socket.rep();
    let claimed = state.guest_sockets.claim(rep, Protocol::Udp, wanted).map_err(refused);
    let Some(port) = claimed? else { return state.sockets().bind(socket, wanted.into()).await };
    state.sockets().bind(socket, port.address().into()).await?;
    state.guest_sockets.known(rep).lock().bound_in_node(Protocol::Udp, wanted, port);
    Ok(())
}

/// Binds a socket that its guest has not bound, as a kernel would: to all addresses of the family that is sent to.
async fn bind_like(state: &mut GuestState, socket: &Socket, wanted: SocketAddr) -> SocketResult<()> {
    let is_bound = state.guest_sockets.known(socket.rep()).lock().bound.is_some();
    if is_bound { Ok(()) } else { bind(state, again(socket), any_like(wanted.ip())).await }
}

async fn connect(state: &mut GuestState, socket: Socket, wanted: SocketAddr) -> SocketResult<()> {
    let Some(pod) = state.guest_sockets.pod() else {
        let rep = socket.rep();
        let actual = state.guest_sockets.destination_in_node(rep, Protocol::Udp, wanted);
        state.sockets().connect(socket, actual.into()).await?;
        state.guest_sockets.known(rep).lock().remote = Some(wanted);
        return Ok(());
    };
    bind_like(state, &socket, wanted).await?;
    let known = state.guest_sockets.known(socket.rep());
    let association = pod.association(&known.lock(), wanted).map_err(refused);
    let association = association?;
    if association.is_to_service() {
        let family = state.sockets().get_address_family(again(&socket));
        if matches!(family.map_err(SocketError::trap)?, IpAddressFamily::Ipv4) != wanted.is_ipv4() {
            return Err(ErrorCode::InvalidArgument.into());
        }
        let is_connected = state.sockets().get_remote_address(again(&socket)).is_ok();
        if is_connected {
            state.sockets().disconnect(again(&socket))?;
        }
    } else {
        state.sockets().connect(again(&socket), association.actual.into()).await?;
    }
    known.lock().associate(Some(association));
    renumber(state, &pod, &socket);
    Ok(())
}

fn disconnect(state: &mut GuestState, socket: &Socket) -> SocketResult<()> {
    let Some(pod) = state.guest_sockets.pod() else {
        state.sockets().disconnect(again(socket))?;
        state.guest_sockets.known(socket.rep()).lock().remote = None;
        return Ok(());
    };
    let known = state.guest_sockets.known(socket.rep());
    let to_service = known.lock().to_service;
    if !to_service {
        state.sockets().disconnect(again(socket))?;
    }
    known.lock().associate(None);
    renumber(state, &pod, socket);
    Ok(())
}

/// Takes note of the port that a socket has now. A kernel that has chosen it takes it back when the socket is disconnected,
/// and chooses another when it sends again.
fn renumber(state: &mut GuestState, pod: &Pod, socket: &Socket) {
    let Ok(local) = state.sockets().get_local_address(again(socket)).map(SocketAddr::from) else { return };
    let known = state.guest_sockets.known(socket.rep());
    let mut known = known.lock();
    if let Some(bound) = known.bound
        && known.has_port != local.port()
    {
        known.bound_for_datagrams(pod, bound, local);
    }
}

async fn send(
    accessor: &Accessor<GuestState>,
    socket: Socket,
    data: Vec<u8>,
    wanted: Option<SocketAddr>,
) -> SocketResult<()> {
    let (to, place) = accessor.with(|mut access| {
        let state = access.data_mut();
        let place = Arc::clone(&state.guest_sockets.unsent).try_acquire_owned();
        let place = place.map_err(|_| ErrorCode::OutOfMemory)?;
        SocketResult::Ok((route(state, &socket, wanted)?, place))
    })?;
    let size = data.len();
    WasiSockets::send(&view(accessor), again(&socket), data, to.map(Into::into)).await?;
    drop(place);
    accessor.with(|mut access| {
        let state = access.data_mut();
        state.traffic().sent(size);
        if let Some(pod) = state.guest_sockets.pod() {
            renumber(state, &pod, &socket);
        }
    });
    Ok(())
}

/// Where a datagram goes, whose socket is bound for it.
fn route(
    state: &mut GuestState,
    socket: &Socket,
    wanted: Option<SocketAddr>,
) -> SocketResult<Option<SocketAddr>> {
    let Some(pod) = state.guest_sockets.pod() else {
        let sockets = &mut state.guest_sockets;
        return Ok(wanted.map(|wanted| sockets.destination_in_node(socket.rep(), Protocol::Udp, wanted)));
    };
    if let Some(wanted) = wanted {
        at_once(bind_like(state, socket, wanted))?;
    }
    let known = state.guest_sockets.known(socket.rep());
    let to = pod.datagram(&mut known.lock(), wanted);
    to.map_err(refused)
}

async fn receive(
    accessor: &Accessor<GuestState>,
    socket: Socket,
) -> SocketResult<(Vec<u8>, IpSocketAddress)> {
    let (pod, known, traffic) = accessor.with(|mut access| {
        let state = access.data_mut();
        let traffic = Arc::clone(state.traffic());
        (state.guest_sockets.pod(), state.guest_sockets.known(socket.rep()), traffic)
    });
    let _turn = known.receiving.lock().await;
    let view = view(accessor);
    loop {
        let (data, from) = WasiSockets::receive(&view, again(&socket)).await?;
        let (known, from) = (known.lock(), SocketAddr::from(from));
        let shown = match &pod {
            Some(Pod { addresses, .. }) => known.sender(addresses, from),
            None => known.wanted_of(from).unwrap_or(from),
        };
        if known.expects(shown) {
            traffic.received(data.len());
            return Ok((data, shown.into()));
        }
    }
}

fn local_address(state: &mut GuestState, socket: Socket) -> SocketResult<IpSocketAddress> {
    let known = state.guest_sockets.known(socket.rep());
    let local = state.sockets().get_local_address(socket)?;
    let known = known.lock();
    let shown = match state.guest_sockets.pod() {
        Some(Pod { addresses, .. }) => known.local(&addresses, local.into()),
        None => known.local_of_node(local.into()),
    };
    Ok(shown.into())
}

fn remote_address(state: &mut GuestState, socket: Socket) -> SocketResult<IpSocketAddress> {
    let known = state.guest_sockets.known(socket.rep());
    let (wanted, to_service) = {
        let known = known.lock();
        (known.remote, known.to_service)
    };
    match wanted {
        Some(wanted) if to_service => Ok(wanted.into()),
        wanted => {
            let remote = state.sockets().get_remote_address(socket)?;
            Ok(wanted.map_or(remote, Into::into))
        }
    }
}
