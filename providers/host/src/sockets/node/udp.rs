//! UDP.

use std::net::SocketAddr;

use kubewasm_rules::Protocol;
use wasmtime::component::Resource;
use wasmtime_wasi::{
    p2::{
        Network, SocketResult, UdpSocket,
        bindings::sockets::{
            network::{ErrorCode, IpSocketAddress},
            udp::{
                HostIncomingDatagramStream as _, HostOutgoingDatagramStream as _, HostUdpSocket as _,
                IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
            },
        },
    },
    sockets::WasiSocketsView as _,
};

use super::binding;
use crate::state::GuestState;

pub(in crate::sockets) async fn bind(
    state: &mut GuestState,
    socket: Resource<UdpSocket>,
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
    let mut port = node.claim(exposed, Protocol::Udp, wanted)?;
    state.sockets().start_bind(socket, network, port.address().into()).await?;
    port.open();
    let mut known = known.lock();
    known.bound_to(port.address().port());
    (known.bound, known.node) = (Some((wanted, binding(wanted))), Some(port));
    Ok(())
}

pub(in crate::sockets) async fn stream(
    state: &mut GuestState,
    socket: Resource<UdpSocket>,
    remote: Option<IpSocketAddress>,
) -> SocketResult<(Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>)> {
    let node = state.guest_sockets.node();
    if node.exposed.is_none() {
        return state.sockets().stream(socket, remote).await;
    }
    let known = state.guest_sockets.known(socket.rep());
    let wanted = remote.map(SocketAddr::from);
    let actual = wanted.map(|wanted| node.destination(&mut known.lock(), Protocol::Udp, wanted));
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
    let (node, known) = (state.guest_sockets.node(), state.guest_sockets.get(stream.rep()));
    if let (Some(_), Some(known)) = (&node.exposed, known) {
        let mut known = known.lock();
        for datagram in &mut datagrams {
            let wanted = datagram.remote_address.map(SocketAddr::from);
            let actual = wanted.map(|wanted| node.destination(&mut known, Protocol::Udp, wanted));
            datagram.remote_address = actual.map(Into::into);
        }
    }
    state.sockets().send(stream, datagrams)
}
