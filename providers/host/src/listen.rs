//! Sockets that a guest of WASI 0.1 has from its start, because it cannot make any: one for each port of its container.
//!
//! It is told of them as services of systemd are: `LISTEN_FDS` says how many there are, from descriptor 3 on, and
//! `LISTEN_FDNAMES` what they are called. See [`preview1`](crate::preview1) for what it does with them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::{
    network::{Network, ports::OpenPort},
    setup::PrepareError,
    sockets::Pod,
};

/// Connections that the kernel keeps for a guest until it takes them.
const BACKLOG: i32 = 128;
/// Ports of one guest.
pub(crate) const MOST: usize = 64;

/// A port on which a guest of WASI 0.1 listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenPort {
    /// The port, of TCP.
    pub port: u16,
    /// What it is called; empty where nobody has named it.
    pub name: String,
}

/// One port that is listened on: a guest has one descriptor for it, whichever families its pod has.
#[derive(Debug)]
pub(crate) struct OpenListener {
    /// They do not block.
    pub(crate) sockets: Vec<TcpListener>,
    /// What the loopback of the pod leads to.
    pub(crate) ports: Vec<OpenPort>,
}

/// Listens on the ports of a guest, each once. A client ([`Network::Outgoing`]) has none.
pub(crate) fn open(
    ports: &[ListenPort],
    network: &Network,
    pod: Option<&Pod>,
) -> Result<Vec<OpenListener>, PrepareError> {
    if matches!(network, Network::Outgoing) {
        return Ok(Vec::new());
    }
    if ports.len() > MOST {
        return Err(PrepareError::TooManyPorts { wanted: ports.len() });
    }
    ports.iter().map(|port| open_one(port, network, pod)).collect()
}

fn open_one(
    ListenPort { port, name }: &ListenPort,
    network: &Network,
    pod: Option<&Pod>,
) -> Result<OpenListener, PrepareError> {
    let on = |address: SocketAddr| {
        listen(address).map_err(|source| PrepareError::Listen {
            address,
            port: if name.is_empty() { port.to_string() } else { format!("{port} ({name})") },
            source,
        })
    };
    let sockets = match network {
        Network::Outgoing => Vec::new(),
        Network::Pod(addresses) => {
            let own = addresses.own.iter().map(|ip| on(SocketAddr::new(*ip, *port)));
            own.collect::<Result<_, _>>()?
        }
        // Where there is no IPv6, the socket of both families cannot be made.
        Network::Namespace | Network::Host => match on((Ipv6Addr::UNSPECIFIED, *port).into()) {
            Err(PrepareError::Listen { source, .. })
                if [io::ErrorKind::Unsupported, io::ErrorKind::AddrNotAvailable].contains(&source.kind()) =>
            {
                vec![on((Ipv4Addr::UNSPECIFIED, *port).into())?]
            }
            other => vec![other?],
        },
    };
    let ports = pod.map_or_else(Vec::new, |pod| {
        let local = sockets.iter().filter_map(|socket| socket.local_addr().ok());
        local.map(|address| pod.open(true, address)).collect()
    });
    Ok(OpenListener { sockets, ports })
}

/// A socket that listens. That of the unspecified address of IPv6 takes connections of both families.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // Connections of an earlier attempt that wait for their last packets hold up nobody.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The environment of a guest that has listeners: what it was given, and what tells of them. The variables of the same
/// names that it was given are not about these.
pub(crate) fn environment(env: &[(String, String)], ports: &[ListenPort]) -> Vec<(String, String)> {
    const COUNT: &str = "LISTEN_FDS";
    const NAMES: &str = "LISTEN_FDNAMES";
    // A process that has a number looks whether the variables are for it; a guest has none.
    const PROCESS: &str = "LISTEN_PID";
    let names: Vec<String> = ports
        .iter()
        .map(|ListenPort { port, name }| if name.is_empty() { port.to_string() } else { name.clone() })
        .collect();
    let own = [(COUNT.to_owned(), ports.len().to_string()), (NAMES.to_owned(), names.join(":"))];
    let given = env.iter().filter(|(name, _)| ![COUNT, NAMES, PROCESS].contains(&name.as_str()));
    given.cloned().chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> [ListenPort; 2] {
        [(8080, "http"), (9090, "")].map(|(port, name)| ListenPort { port, name: name.into() })
    }

    #[test]
    fn a_guest_is_told_of_its_listeners() {
        let given = [("A", "1"), ("LISTEN_FDS", "9"), ("LISTEN_PID", "1"), ("B", "2")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env = environment(&given, &ports());
        let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(env, [("A", "1"), ("B", "2"), ("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "http:9090")]);
    }

    #[test]
    fn a_client_has_no_listeners() {
        assert!(open(&ports(), &Network::Outgoing, None).unwrap().is_empty());
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = open(&[ListenPort { port, name: "http".into() }], &Network::Host, None).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("port {port} (http)")) && text.contains("in use"), "{text}");
        let many = vec![ListenPort { port: 1, name: String::new() }; MOST + 1];
        assert!(matches!(open(&many, &Network::Host, None), Err(PrepareError::TooManyPorts { wanted: 65 })));
    }
}
