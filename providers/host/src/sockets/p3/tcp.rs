//! TCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kubewasm_rules::Protocol;
use wasmtime::{
    AsContextMut as _, StoreContextMut,
    component::{Access, Accessor, Linker, Resource, ResourceType, StreamReader},
};
use wasmtime_wasi::{
    p2::bindings::sockets::network::ErrorCode as Code,
    p3::{
        bindings::sockets::types::{
            HostTcpSocket as _, HostTcpSocketWithStore as _, IpAddressFamily, IpSocketAddress,
        },
        sockets::{SocketError, SocketResult},
    },
    sockets::{TcpSocket, WasiSockets, WasiSocketsCtxView, WasiSocketsView as _},
};

use super::{INTERFACE, answer, at_once, refused, view};
use crate::{
    sockets::{
        Binding, again,
        create::guarded,
        routes::{Connection, any_like},
    },
    state::GuestState,
};

type Socket = Resource<TcpSocket>;

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut types = linker.instance(INTERFACE)?;
    types.resource("tcp-socket", ResourceType::host::<TcpSocket>(), |mut store, rep| {
        store.data_mut().guest_sockets.forget(rep);
        store.data_mut().sockets().drop(Socket::new_own(rep))
    })?;
    types.func_wrap(
        "[static]tcp-socket.create",
        |mut store: StoreContextMut<'_, GuestState>, (family,): (IpAddressFamily,)| {
            answer(create(store.data_mut(), family))
        },
    )?;
    types.func_wrap_async(
        "[method]tcp-socket.bind",
        |mut store: StoreContextMut<'_, GuestState>, (socket, address): (Socket, IpSocketAddress)| {
            Box::new(async move { answer(bind(store.data_mut(), socket, address.into()).await) })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]tcp-socket.connect",
        |accessor: &Accessor<GuestState>, (socket, address): (Socket, IpSocketAddress)| {
            Box::pin(async move { answer(connect(accessor, socket, address.into()).await) })
        },
    )?;
    types.func_wrap_async(
        "[method]tcp-socket.listen",
        |store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            Box::new(async move { answer(listen(store, socket).await) })
        },
    )?;
    types.func_wrap(
        "[method]tcp-socket.get-local-address",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(local_address(store.data_mut(), socket))
        },
    )?;
    types.func_wrap(
        "[method]tcp-socket.get-remote-address",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(remote_address(store.data_mut(), socket))
        },
    )
}

fn create(state: &mut GuestState, family: IpAddressFamily) -> SocketResult<Socket> {
    let Some((guard, mut ctx)) = guarded(state) else { return state.sockets().create(family) };
    let table = state.sockets().table;
    let socket = WasiSocketsCtxView { ctx: &mut ctx, table }.create(family)?;
    state.guest_sockets.known(socket.rep()).lock().guard = Some(guard);
    Ok(socket)
}

async fn bind(state: &mut GuestState, socket: Socket, wanted: SocketAddr) -> SocketResult<()> {
    let Some(pod) = state.guest_sockets.pod() else { return bind_in_node(state, socket, wanted).await };
    let bound = pod.addresses.bind(wanted).ok_or_else(|| refused(Code::AddressNotBindable));
    let (actual, binding) = bound?;
    let rep = socket.rep();
    state.sockets().bind(socket, actual.into()).await?;
    state.guest_sockets.known(rep).lock().bound = Some((wanted, binding));
    Ok(())
}

/// The same where the port is one of the node's.
async fn bind_in_node(state: &mut GuestState, socket: Socket, wanted: SocketAddr) -> SocketResult<()> {
    let rep = socket.rep();
    let claimed = state.guest_sockets.claim(rep, Protocol::Tcp, wanted).map_err(refused);
    let Some(port) = claimed? else { return state.sockets().bind(socket, wanted.into()).await };
    state.sockets().bind(socket, port.address().into()).await?;
    state.guest_sockets.known(rep).lock().bound_in_node(Protocol::Tcp, wanted, port);
    Ok(())
}

async fn connect(accessor: &Accessor<GuestState>, socket: Socket, wanted: SocketAddr) -> SocketResult<()> {
    let to = accessor.with(|mut access| route(access.data_mut(), &socket, wanted))?;
    let rep = socket.rep();
    WasiSockets::connect(&view(accessor), socket, to.into()).await?;
    // Nobody drops it meanwhile: it is lent to this call.
    accessor.with(|mut access| {
        access.data_mut().traffic().is_not_counted();
        if let Some(known) = access.data_mut().guest_sockets.get(rep) {
            known.lock().remote = Some(wanted);
        }
    });
    Ok(())
}

/// Where a connection goes, whose socket is bound for it.
fn route(state: &mut GuestState, socket: &Socket, wanted: SocketAddr) -> SocketResult<SocketAddr> {
    let Some(pod) = state.guest_sockets.pod() else {
        return Ok(state.guest_sockets.destination_in_node(socket.rep(), Protocol::Tcp, wanted));
    };
    let known = state.guest_sockets.known(socket.rep());
    let connection = pod.connection(&known.lock(), wanted).map_err(refused);
    let Connection { to, source } = connection?;
    if let Some(source) = source {
        at_once(state.sockets().bind(again(socket), source.into()))?;
        known.lock().bound = Some((pod.addresses.shown(source), Binding::Single));
    }
    known.lock().chose(to, wanted);
    Ok(to)
}

async fn listen(
    mut store: StoreContextMut<'_, GuestState>,
    socket: Socket,
) -> SocketResult<StreamReader<Resource<TcpSocket>>> {
    let state = store.data_mut();
    state.traffic().is_not_counted();
    let Some(pod) = state.guest_sockets.pod() else {
        return listen_in_node(store, socket).await;
    };
    let known = state.guest_sockets.known(socket.rep());
    let is_bound = known.lock().bound.is_some();
    if !is_bound {
        let family = state.sockets().get_address_family(again(&socket));
        let like: IpAddr = match family.map_err(SocketError::trap)? {
            IpAddressFamily::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            IpAddressFamily::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        bind(state, again(&socket), any_like(like)).await?;
    }
    let local = SocketAddr::from(state.sockets().get_local_address(again(&socket))?);
    let access = Access::<_, WasiSockets>::new(store.as_context_mut(), |state| state.sockets());
    let connections = WasiSockets::listen(access, socket).await?;
    let mut known = known.lock();
    if matches!(known.bound, Some((_, Binding::Wildcard))) {
        known.open = Some(pod.open(true, local));
    }
    Ok(connections)
}

/// The same where the network is the node's: whoever asks whether the pod listens is to know.
async fn listen_in_node(
    mut store: StoreContextMut<'_, GuestState>,
    socket: Socket,
) -> SocketResult<StreamReader<Resource<TcpSocket>>> {
    let access = Access::<_, WasiSockets>::new(store.as_context_mut(), |state| state.sockets());
    let connections = WasiSockets::listen(access, again(&socket)).await?;
    let (state, rep) = (store.data_mut(), socket.rep());
    let local = state.sockets().get_local_address(socket);
    state.guest_sockets.listens_in_node(rep, local.ok().map(Into::into));
    Ok(connections)
}

fn local_address(state: &mut GuestState, socket: Socket) -> SocketResult<IpSocketAddress> {
    let rep = socket.rep();
    let remote = state.sockets().get_remote_address(again(&socket)).ok();
    let local = state.sockets().get_local_address(socket)?;
    Ok(state.guest_sockets.shown_local(rep, local.into(), remote.map(Into::into)).into())
}

fn remote_address(state: &mut GuestState, socket: Socket) -> SocketResult<IpSocketAddress> {
    let rep = socket.rep();
    let remote = state.sockets().get_remote_address(socket)?;
    Ok(state.guest_sockets.shown_remote(rep, remote.into()).into())
}
