//! Ends sockets, by `sock_diag`. A socket whose address is gone stays open, and goes on when somebody gets the address.

use std::io;

use ipnet::IpNet;
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
        NetlinkPayload, NetlinkSerializable,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG},
};

/// Bytes of an answer that are read at a time: more than the kernel puts into one.
const BUFFER: usize = 64 << 10;
/// ENOENT: it has ended by itself.
const GONE: i32 = 2;

/// Ends all sockets of the namespace of this thread whose local address is in one of these networks. Returns how many.
pub(crate) fn end(networks: &[IpNet]) -> io::Result<usize> {
    let mut ended = 0;
    for family in [AF_INET, AF_INET6] {
        let is_of_family = |network: &IpNet| matches!(network, IpNet::V4(_)) == (family == AF_INET);
        if !networks.iter().any(is_of_family) {
            continue;
        }
        for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
            for found in list(family, protocol)? {
                let address = found.socket_id.source_address;
                if networks.iter().any(|network| network.contains(&address)) && destroy(&found, protocol)? {
                    ended += 1;
                }
            }
        }
    }
    Ok(ended)
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn request(family: u8, protocol: u8, socket_id: SocketId) -> InetRequest {
    InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id,
    }
}

fn list(family: u8, protocol: u8) -> io::Result<Vec<InetResponseHeader>> {
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let socket = open()?;
    let message = SockDiagMessage::InetRequest(request(family, protocol, any));
    send(&socket, NLM_F_REQUEST | NLM_F_DUMP, message)?;
    let mut found = Vec::new();
    receive(&socket, |payload: NetlinkPayload<SockDiagMessage>| match payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
            found.push(response.header);
            Ok(false)
        }
        NetlinkPayload::Error(error) if error.raw_code() != 0 => Err(error.to_io()),
        NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => Ok(true),
        _ => Ok(false),
    })?;
    Ok(found)
}

/// True when it has ended by this.
fn destroy(found: &InetResponseHeader, protocol: u8) -> io::Result<bool> {
    let socket = open()?;
    let message = SockDiagMessage::InetRequest(request(found.family, protocol, found.socket_id.clone()));
    send(&socket, NLM_F_REQUEST | NLM_F_ACK, SockDiagDestroy::new(message))?;
    let mut ended = false;
    receive(&socket, |payload: NetlinkPayload<SockDiagMessage>| match payload {
        NetlinkPayload::Error(error) if error.raw_code().abs() == GONE => Ok(true),
        NetlinkPayload::Error(error) if error.raw_code() != 0 => Err(error.to_io()),
        _ => {
            ended = true;
            Ok(true)
        }
    })?;
    Ok(ended)
}

fn send<T: NetlinkSerializable>(socket: &Socket, flags: u16, message: T) -> io::Result<()>
where
    NetlinkPayload<T>: From<T>,
{
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Reads answers until one is the last.
fn receive<T: NetlinkDeserializable>(
    socket: &Socket,
    mut take: impl FnMut(NetlinkPayload<T>) -> io::Result<bool>,
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        buffer.clear();
        let size = socket.recv(&mut buffer, 0)?;
        let mut rest = buffer.get(..size).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other)?;
            // Messages are padded to four bytes; one of no length would be read for ever.
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            if take(message.payload)? {
                return Ok(());
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn sockets_of_an_address_are_ended_and_no_others() {
        let block: IpNet = "127.77.0.0/24".parse().unwrap();
        let listeners = ["127.77.0.1", "127.78.0.1"].map(|ip| TcpListener::bind((ip, 0)).unwrap());
        let udp = UdpSocket::bind("127.77.0.2:0").unwrap();
        let clients = listeners.each_ref().map(|one| TcpStream::connect(one.local_addr().unwrap()).unwrap());
        let (_kept, _) = listeners[1].accept().unwrap();
        match end(&[block]) {
            Ok(ended) => assert!(ended >= 2, "{ended}"),
            Err(error) => {
                eprintln!("skipped: sockets cannot be ended here: {error}");
                return;
            }
        }
        let connect = |index: usize| TcpStream::connect(listeners[index].local_addr().unwrap());
        assert!(connect(0).is_err() && connect(1).is_ok());
        assert!(udp.recv(&mut [0; 1]).is_err(), "it has been told that it is over");
        drop(clients);
    }

    #[test]
    fn addresses_are_compared_in_their_own_family() {
        let block: IpNet = "::/0".parse().unwrap();
        assert!(!block.contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
