//! TCP.

use std::net::SocketAddr;

use kubewasm_rules::Protocol;
use wasmtime::component::Resource;
use wasmtime_wasi::{
    p2::{
        Network, SocketResult, TcpSocket,
        bindings::sockets::{
            network::{ErrorCode, IpSocketAddress},
            tcp::HostTcpSocket as _,
        },
    },
    sockets::WasiSocketsView as _,
};

use super::binding;
use crate::state::GuestState;

pub(in crate::sockets) async fn bind(
    state: &mut GuestState,
    socket: Resource<TcpSocket>,
    network: Resource<Network>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let (node, wanted) = (state.guest_sockets.node(), SocketAddr::from(address));
    let Some(exposed) = node.exposed.as_ref().filter(|_| wanted.port() != 0) else {
        return state.sockets().start_bind(socket, network, address).await;
    };
    let known = state.guest_sockets.known(socket.rep());
    if known.lock().bound.is_some() {
        return Err(ErrorCode::InvalidState.into());
    }
    let port = node.claim(exposed, Protocol::Tcp, wanted)?;
    state.sockets().start_bind(socket, network, port.address().into()).await?;
    let mut known = known.lock();
    (known.bound, known.node) = (Some((wanted, binding(wanted))), Some(port));
    Ok(())
}

pub(in crate::sockets) async fn listen(
    state: &mut GuestState,
    socket: Resource<TcpSocket>,
) -> SocketResult<()> {
    let rep = socket.rep();
    let local = state.sockets().local_address(Resource::new_borrow(rep));
    state.sockets().start_listen(socket).await?;
    let ports = state.guest_sockets.node().ports;
    let known = state.guest_sockets.known(rep);
    let mut known = known.lock();
    match (&mut known.node, local) {
        (Some(port), _) => port.open(),
        (none, Ok(local)) => *none = Some(ports.listening(Protocol::Tcp, local.into())),
        // It has listened, so that it has an address.
        (None, Err(_)) => {}
    }
    Ok(())
}

pub(in crate::sockets) fn connect(
    state: &mut GuestState,
    socket: Resource<TcpSocket>,
    network: Resource<Network>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let (node, wanted) = (state.guest_sockets.node(), SocketAddr::from(address));
    if node.exposed.is_none() {
        return state.sockets().start_connect(socket, network, address);
    }
    let known = state.guest_sockets.known(socket.rep());
    let actual = node.destination(&mut known.lock(), Protocol::Tcp, wanted);
    state.sockets().start_connect(socket, network, actual.into())?;
    known.lock().remote = Some(wanted);
    Ok(())
}
