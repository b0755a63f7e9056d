//! UDP.

use std::{net::SocketAddr, sync::Arc};

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    p2::{
        Network, SocketResult, UdpSocket,
        bindings::sockets::{
            network::{ErrorCode, IpSocketAddress},
            udp::{
                HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagram,
                IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream,
            },
        },
    },
    sockets::WasiSocketsView as _,
};

use super::{Pod, again, answer, node};
use crate::state::GuestState;

const INTERFACE: &str = "wasi:sockets/udp@0.2.12";

type Socket = Resource<UdpSocket>;
type Incoming = Resource<IncomingDatagramStream>;
type Outgoing = Resource<OutgoingDatagramStream>;

pub(super) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    let mut udp = linker.instance(INTERFACE)?;
    udp.resource("udp-socket", ResourceType::host::<UdpSocket>(), |mut store, rep| {
        store.data_mut().guest_sockets.forget(rep);
        HostUdpSocket::drop(&mut store.data_mut().sockets(), Socket::new_own(rep))
    })?;
    udp.resource(
        "incoming-datagram-stream",
        ResourceType::host::<IncomingDatagramStream>(),
        |mut store, rep| {
            store.data_mut().guest_sockets.forget(rep);
            HostIncomingDatagramStream::drop(&mut store.data_mut().sockets(), Incoming::new_own(rep))
        },
    )?;
    udp.resource_async(
        "outgoing-datagram-stream",
        ResourceType::host::<OutgoingDatagramStream>(),
        |mut store, rep| {
            Box::new(async move {
                store.data_mut().guest_sockets.forget(rep);
                HostOutgoingDatagramStream::drop(&mut store.data_mut().sockets(), Outgoing::new_own(rep))
                    .await
            })
        },
    )?;
    udp.func_wrap_async(
        "[method]udp-socket.start-bind",
        |mut store: StoreContextMut<'_, GuestState>,
         (socket, network, address): (Socket, Resource<Network>, IpSocketAddress)| {
            Box::new(async move { answer(start_bind(store.data_mut(), socket, network, address).await) })
        },
    )?;
    udp.func_wrap_async(
        "[method]udp-socket.stream",
        |mut store: StoreContextMut<'_, GuestState>, (socket, remote): (Socket, Option<IpSocketAddress>)| {
            Box::new(async move { answer(stream(store.data_mut(), socket, remote).await) })
        },
    )?;
    udp.func_wrap(
        "[method]udp-socket.local-address",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(local_address(store.data_mut(), socket))
        },
    )?;
    udp.func_wrap(
        "[method]udp-socket.remote-address",
        |mut store: StoreContextMut<'_, GuestState>, (socket,): (Socket,)| {
            answer(remote_address(store.data_mut(), socket))
        },
    )?;
    udp.func_wrap(
        "[method]incoming-datagram-stream.receive",
        |mut store: StoreContextMut<'_, GuestState>, (stream, most): (Incoming, u64)| {
            let state = store.data_mut();
            let received = receive(state, stream, most);
            let bytes = |datagrams: &Vec<IncomingDatagram>| datagrams.iter().map(|d| d.data.len()).sum();
            state.traffic().received(received.as_ref().map_or(0, bytes));
            answer(received)
        },
    )?;
    udp.func_wrap(
        "[method]outgoing-datagram-stream.send",
        |mut store: StoreContextMut<'_, GuestState>,
         (stream, datagrams): (Outgoing, Vec<OutgoingDatagram>)| {
            let state = store.data_mut();
            let sizes: Vec<usize> = datagrams.iter().map(|datagram| datagram.data.len()).collect();
            let sent = send(state, stream, datagrams);
            let count = sent.as_ref().map_or(0, |count| usize::try_from(*count).unwrap_or(usize::MAX));
            state.traffic().sent(sizes.into_iter().take(count).sum());
            answer(sent)
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
        return node::udp::bind(state, socket, network, address).await;
    };
    let wanted = SocketAddr::from(address);
    let (actual, binding) = pod.addresses.bind(wanted).ok_or(ErrorCode::AddressNotBindable)?;
    let known = state.guest_sockets.known(socket.rep());
    state.sockets().start_bind(again(&socket), network, actual.into()).await?;
    let local = state.sockets().local_address(socket)?;
    known.lock().bound_for_datagrams(&pod, (wanted, binding), local.into());
    Ok(())
}

async fn stream(
    state: &mut GuestState,
    socket: Socket,
    remote: Option<IpSocketAddress>,
) -> SocketResult<(Incoming, Outgoing)> {
    let Some(pod) = state.guest_sockets.pod() else { return node::udp::stream(state, socket, remote).await };
    let known = state.guest_sockets.known(socket.rep());
    let association = match remote {
        Some(wanted) => Some(pod.association(&known.lock(), wanted.into())?),
        None => None,
    };
    let connected = association.filter(|association| !association.is_to_service());
    let connected = connected.map(|association| association.actual.into());
    let (incoming, outgoing) = state.sockets().stream(socket, connected).await?;
    known.lock().associate(association);
    state.guest_sockets.share(incoming.rep(), &known);
    state.guest_sockets.share(outgoing.rep(), &known);
    Ok((incoming, outgoing))
}

fn local_address(state: &mut GuestState, socket: Socket) -> SocketResult<IpSocketAddress> {
    let Some(Pod { addresses, .. }) = state.guest_sockets.pod() else {
        return node::udp::local(state, socket);
    };
    let known = state.guest_sockets.known(socket.rep());
    let local = state.sockets().local_address(socket)?;
    let shown = known.lock().local(&addresses, local.into());
    Ok(shown.into())
}

fn remote_address(state: &mut GuestState, socket: Socket) -> SocketResult<IpSocketAddress> {
    let known = state.guest_sockets.get(socket.rep());
    let (wanted, to_service) = known.map_or((None, false), |known: Arc<_>| {
        let known = known.lock();
        (known.remote, known.to_service)
    });
    match wanted {
        Some(wanted) if to_service => Ok(wanted.into()),
        wanted => {
            let remote = state.sockets().remote_address(socket)?;
            Ok(wanted.map_or(remote, Into::into))
        }
    }
}

fn receive(state: &mut GuestState, stream: Incoming, most: u64) -> SocketResult<Vec<IncomingDatagram>> {
    let Some(Pod { addresses, .. }) = state.guest_sockets.pod() else {
        return node::udp::receive(state, stream, most);
    };
    let known = state.guest_sockets.get(stream.rep());
    let mut datagrams = state.sockets().receive(stream, most)?;
    if let Some(known) = known {
        let known = known.lock();
        for datagram in &mut datagrams {
            datagram.remote_address = known.sender(&addresses, datagram.remote_address.into()).into();
        }
        datagrams.retain(|datagram| known.expects(datagram.remote_address.into()));
    }
    Ok(datagrams)
}

/// Sends datagrams up to the first that cannot be sent; that one's error is told where it is the first of all.
fn send(state: &mut GuestState, stream: Outgoing, datagrams: Vec<OutgoingDatagram>) -> SocketResult<u64> {
    let Some(pod) = state.guest_sockets.pod() else { return node::udp::send(state, stream, datagrams) };
    let Some(known) = state.guest_sockets.get(stream.rep()) else {
        return state.sockets().send(stream, datagrams);
    };
    if datagrams.is_empty() {
        return state.sockets().send(stream, datagrams);
    }
    let (mut translated, mut failure) = (Vec::with_capacity(datagrams.len()), None);
    for mut datagram in datagrams {
        let to = pod.datagram(&mut known.lock(), datagram.remote_address.map(SocketAddr::from));
        match to {
            Ok(to) => datagram.remote_address = to.map(Into::into),
            Err(code) => {
                failure = Some(code);
                break;
            }
        }
        translated.push(datagram);
    }
    match failure {
        Some(code) if translated.is_empty() => Err(code.into()),
        _ => state.sockets().send(stream, translated),
    }
}
