//! TCP.

use std::{net::SocketAddr, sync::Arc};

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    p2::{
        DynInputStream, DynOutputStream, Network, SocketResult, TcpSocket,
        bindings::sockets::{
            network::{ErrorCode, IpSocketAddress},
            tcp::HostTcpSocket as _,
        },
    },
    sockets::WasiSocketsView as _,
};

use super::{Binding, again, answer, node, routes::Connection};
use crate::{
    state::GuestState,
    traffic::{count_input, count_output},
};

const INTERFACE: &str = "wasi:sockets/tcp@0.2.12";

type Socket = Resource<TcpSocket>;
type Input = Resource<DynInputStream>;
type Output = Resource<DynOutputStream>;

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut tcp = linker.instance(INTERFACE)?;
    tcp.resource("tcp-socket", ResourceType::host::<TcpSocket>(), |mut store, rep| {
        store.data_mut().guest_sockets.forget(rep);
        store.data_mut().sockets().drop(Resource::new_own(rep))
    })?;
    tcp.func_wrap_async(
        "[method]tcp-socket.start-bind",
        |mut store: StoreContextMut<'_, GuestState>,
         (socket, network, address): (Socket, Resource<Network>, IpSocketAddress)| {
            Box::new(async move { answer(start_bind(store.data_mut(), socket, network, address).await) })
        },
    )?;
    tcp.func_wrap_async(
        "[method]tcp-socket.start-connect",
        |mut store: StoreContextMut<'_, GuestState>,
         (socket, network, address): (Socket, Resource<Network>, IpSocketAddress)| {
            Box::new(async move { answer(start_connect(store.data_mut(), socket, network, address).await) })
        },
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.finish-connect",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(finish_connect(store.data_mut(), socket))
        },
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.accept",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(accept(store.data_mut(), socket))
        },
    )?;
    tcp.func_wrap_async(
        "[method]tcp-socket.start-listen",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            Box::new(async move { answer(start_listen(store.data_mut(), socket).await) })
        },
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.local-address",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(local_address(store.data_mut(), socket))
        },
    )?;
    tcp.func_wrap(
        "[method]tcp-socket.remote-address",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(remote_address(store.data_mut(), socket))
        },
    )
}

async fn start_bind(
    state: &mut GuestState,
    socket: Socket,
    network: Resource<Network>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let Some(pod) = state.guest_sockets.pod() else {
        return node::tcp::bind(state, socket, network, address).await;
    };
    let wanted = SocketAddr::from(address);
    let (actual, binding) = pod.addresses.bind(wanted).ok_or(ErrorCode::AddressNotBindable)?;
    let rep = socket.rep();
    state.sockets().start_bind(socket, network, actual.into()).await?;
    state.guest_sockets.known(rep).lock().bound = Some((wanted, binding));
    Ok(())
}

async fn start_connect(
    state: &mut GuestState,
    socket: Socket,
    network: Resource<Network>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let Some(pod) = state.guest_sockets.pod() else {
        return node::tcp::connect(state, socket, network, address);
    };
    let wanted = SocketAddr::from(address);
    let known = state.guest_sockets.known(socket.rep());
    let Connection { to, source } = pod.connection(&known.lock(), wanted)?;
    if let Some(source) = source {
        let permission = Resource::new_borrow(network.rep());
        state.sockets().start_bind(again(&socket), permission, source.into()).await?;
        state.sockets().finish_bind(again(&socket))?;
        known.lock().bound = Some((pod.addresses.shown(source), Binding::Single));
    }
    known.lock().chose(to, wanted);
    state.sockets().start_connect(socket, network, to.into())?;
    known.lock().remote = Some(wanted);
    Ok(())
}

fn finish_connect(state: &mut GuestState, socket: Socket) -> SocketResult<(Input, Output)> {
    let streams = state.sockets().finish_connect(socket)?;
    count(state, streams)
}

fn accept(state: &mut GuestState, socket: Socket) -> SocketResult<(Socket, Input, Output)> {
    let (accepted, input, output) = state.sockets().accept(socket)?;
    let (input, output) = count(state, (input, output))?;
    Ok((accepted, input, output))
}

/// Has the bytes of a connection counted.
fn count(state: &mut GuestState, (input, output): (Input, Output)) -> SocketResult<(Input, Output)> {
    let traffic = Arc::clone(state.traffic());
    let table = state.sockets().table;
    count_input(table.get_mut(&input)?, &traffic);
    count_output(table.get_mut(&output)?, &traffic);
    Ok((input, output))
}

async fn start_listen(state: &mut GuestState, socket: Socket) -> SocketResult<()> {
    let Some(pod) = state.guest_sockets.pod() else { return node::tcp::listen(state, socket).await };
    let rep = socket.rep();
    let local = state.sockets().local_address(again(&socket));
    state.sockets().start_listen(socket).await?;
    let (Some(known), Ok(local)) = (state.guest_sockets.get(rep), local) else { return Ok(()) };
    let mut known = known.lock();
    if matches!(known.bound, Some((_, Binding::Wildcard))) {
        known.open = Some(pod.open(true, local.into()));
    }
    Ok(())
}

fn local_address(state: &mut GuestState, socket: Socket) -> SocketResult<IpSocketAddress> {
    let rep = socket.rep();
    let remote = state.sockets().remote_address(again(&socket)).ok();
    let local = state.sockets().local_address(socket)?;
    Ok(state.guest_sockets.shown_local(rep, local.into(), remote.map(Into::into)).into())
}

fn remote_address(state: &mut GuestState, socket: Socket) -> SocketResult<IpSocketAddress> {
    let rep = socket.rep();
    let remote = state.sockets().remote_address(socket)?;
    Ok(state.guest_sockets.shown_remote(rep, remote.into()).into())
}
