//! TCP.

use std::net::SocketAddr;

use kubewasm_rules::Protocol;
use wasmtime::component::Resource;
use wasmtime_wasi::{
    p2::{
        Network, SocketResult, TcpSocket,
        bindings::sockets::{network::IpSocketAddress, tcp::HostTcpSocket as _},
    },
    sockets::WasiSocketsView as _,
};

use crate::state::GuestState;

pub(in crate::sockets) async fn bind(
    state: &mut GuestState,
    socket: Resource<TcpSocket>,
    network: Resource<Network>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let (rep, wanted) = (socket.rep(), SocketAddr::from(address));
    let Some(port) = state.guest_sockets.claim(rep, Protocol::Tcp, wanted)? else {
        return state.sockets().start_bind(socket, network, address).await;
    };
    state.sockets().start_bind(socket, network, port.address().into()).await?;
    state.guest_sockets.known(rep).lock().bound_in_node(Protocol::Tcp, wanted, port);
    Ok(())
}

pub(in crate::sockets) async fn listen(
    state: &mut GuestState,
    socket: Resource<TcpSocket>,
) -> SocketResult<()> {
    let rep = socket.rep();
    let local = state.sockets().local_address(Resource::new_borrow(rep));
    state.sockets().start_listen(socket).await?;
    state.guest_sockets.listens_in_node(rep, local.ok().map(Into::into));
    Ok(())
}

pub(in crate::sockets) fn connect(
    state: &mut GuestState,
    socket: Resource<TcpSocket>,
    network: Resource<Network>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let (rep, wanted) = (socket.rep(), SocketAddr::from(address));
    if state.guest_sockets.node().exposed.is_none() {
        return state.sockets().start_connect(socket, network, address);
    }
    let actual = state.guest_sockets.destination_in_node(rep, Protocol::Tcp, wanted);
    state.sockets().start_connect(socket, network, actual.into())?;
    state.guest_sockets.known(rep).lock().remote = Some(wanted);
    Ok(())
}
