//! UDP.

use std::net::SocketAddr;

use kubewasm_rules::Protocol;
use wasmtime::component::Resource;
use wasmtime_wasi::{
    p2::{
        Network, SocketResult, UdpSocket,
        bindings::sockets::{
            network::IpSocketAddress,
            udp::{
                HostIncomingDatagramStream as _, HostOutgoingDatagramStream as _, HostUdpSocket as _,
                IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
            },
        },
    },
    sockets::WasiSocketsView as _,
};

use crate::state::GuestState;

pub(in crate::sockets) async fn bind(
    state: &mut GuestState,
    socket: Resource<UdpSocket>,
    network: Resource<Network>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let (rep, wanted) = (socket.rep(), SocketAddr::from(address));
    let Some(port) = state.guest_sockets.claim(rep, Protocol::Udp, wanted)? else {
        return state.sockets().start_bind(socket, network, address).await;
    };
    state.sockets().start_bind(socket, network, port.address().into()).await?;
    state.guest_sockets.known(rep).lock().bound_in_node(Protocol::Udp, wanted, port);
    Ok(())
}

pub(in crate::sockets) async fn stream(
    state: &mut GuestState,
    socket: Resource<UdpSocket>,
    remote: Option<IpSocketAddress>,
) -> SocketResult<(Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>)> {
    if state.guest_sockets.node().exposed.is_none() {
        return state.sockets().stream(socket, remote).await;
    }
    let (rep, wanted) = (socket.rep(), remote.map(SocketAddr::from));
    let known = state.guest_sockets.known(rep);
    let actual = wanted.map(|wanted| state.guest_sockets.destination_in_node(rep, Protocol::Udp, wanted));
    let (incoming, outgoing) = state.sockets().stream(socket, actual.map(Into::into)).await?;
    known.lock().remote = wanted;
    state.guest_sockets.share(incoming.rep(), &known);
    state.guest_sockets.share(outgoing.rep(), &known);
    Ok((incoming, outgoing))
}

pub(in crate::sockets) fn local(
    state: &mut GuestState,
    socket: Resource<UdpSocket>,
) -> SocketResult<IpSocketAddress> {
    let known = state.guest_sockets.get(socket.rep());
    let local = state.sockets().local_address(socket)?;
    Ok(known.map_or(local, |known| known.lock().local_of_node(local.into()).into()))
}

pub(in crate::sockets) fn receive(
    state: &mut GuestState,
    stream: Resource<IncomingDatagramStream>,
    most: u64,
) -> SocketResult<Vec<IncomingDatagram>> {
    let known = state.guest_sockets.get(stream.rep());
    let mut datagrams = state.sockets().receive(stream, most)?;
    if let Some(known) = known {
        let known = known.lock();
        for datagram in &mut datagrams {
            let sender = SocketAddr::from(datagram.remote_address);
            datagram.remote_address = known.wanted_of(sender).unwrap_or(sender).into();
        }
    }
    Ok(datagrams)
}

pub(in crate::sockets) fn send(
    state: &mut GuestState,
    stream: Resource<OutgoingDatagramStream>,
    mut datagrams: Vec<OutgoingDatagram>,
) -> SocketResult<u64> {
    let rep = stream.rep();
    // One that is not known is of a socket that leads out.
    if state.guest_sockets.get(rep).is_some() {
        for datagram in &mut datagrams {
            let wanted = datagram.remote_address.map(SocketAddr::from);
            let actual =
                wanted.map(|wanted| state.guest_sockets.destination_in_node(rep, Protocol::Udp, wanted));
            datagram.remote_address = actual.map(Into::into);
        }
    }
    state.sockets().send(stream, datagrams)
}
