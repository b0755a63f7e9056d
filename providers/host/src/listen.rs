//! Sockets that a guest of WASI 0.1 has from its start, because it cannot make any: one for each port of its container.
//!
//! It is told of them as services of systemd are: `LISTEN_FDS` says how many there are, from descriptor 3 on, and
//! `LISTEN_FDNAMES` what they are called. See [`preview1`](crate::preview1) for what it does with them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::Arc,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use kubewasm_rules::Protocol;

use crate::{
    network::{Network, PodPorts, node_ports::NodePort, ports::OpenPort},
    setup::PrepareError,
    sockets::Pod,
};

/// Connections that the kernel keeps for a guest until it takes them.
pub(crate) const BACKLOG: i32 = 128;
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
    /// What the loopback of the pod leads to. It is given up before the sockets are closed.
    pub(crate) ports: Vec<OpenPort>,
    /// What is known of them in a network that is not the pod's alone; given up before, too.
    pub(crate) node_ports: Vec<NodePort>,
    /// They do not block.
    pub(crate) sockets: Vec<TcpListener>,
}

/// The ports of a guest on which its network lets it listen: none of a client's ([`Network::Outgoing`]), or those that are
/// exposed.
pub(crate) fn permitted(ports: &[ListenPort], network: &Network) -> Vec<ListenPort> {
    let is_permitted = |port: &&ListenPort| match network {
        Network::Outgoing => false,
        Network::Exposed(exposed) => exposed.listeners(port.port).next().is_some(),
        Network::Pod(_) | Network::Namespace | Network::Host => true,
    };
    ports.iter().filter(is_permitted).cloned().collect()
}

/// Listens on the ports of a guest, each once, which its network lets it ([`permitted`]); so many connections wait there until
/// they are accepted.
pub(crate) fn open(
    ports: &[ListenPort],
    network: &Network,
    pod: Option<&Pod>,
    pod_ports: &Arc<PodPorts>,
    backlog: i32,
) -> Result<Vec<OpenListener>, PrepareError> {
    if ports.len() > MOST {
        return Err(PrepareError::TooManyPorts { wanted: ports.len() });
    }
    ports.iter().map(|port| open_one(port, network, pod, pod_ports, backlog)).collect()
}

fn open_one(
    ListenPort { port, name }: &ListenPort,
    network: &Network,
    pod: Option<&Pod>,
    pod_ports: &Arc<PodPorts>,
    backlog: i32,
) -> Result<OpenListener, PrepareError> {
    let on = |address: SocketAddr| {
        let name = if name.is_empty() { port.to_string() } else { format!("{port} ({name})") };
        listen_near(address, backlog).map_err(|source| PrepareError::Listen { address, port: name, source })
    };
    let places: Vec<SocketAddr> = match network {
        Network::Outgoing => Vec::new(),
        Network::Exposed(exposed) => exposed.listeners(*port).collect(),
        Network::Pod(addresses) => addresses.own.iter().map(|ip| SocketAddr::new(*ip, *port)).collect(),
        Network::Namespace | Network::Host => vec![(Ipv6Addr::UNSPECIFIED, *port).into()],
    };
    let sockets = places.into_iter().map(on).collect::<Result<Vec<_>, _>>()?;
    let local = || sockets.iter().filter_map(|socket| socket.local_addr().ok());
    let ports = pod.map_or_else(Vec::new, |pod| local().map(|address| pod.open(true, address)).collect());
    let node_ports = match pod {
        Some(_) => Vec::new(),
        None => {
            local().flat_map(taken_in).map(|address| pod_ports.listening(Protocol::Tcp, address)).collect()
        }
    };
    Ok(OpenListener { ports, node_ports, sockets })
}

/// The addresses whose connections a socket takes that is bound there: see [`listen`].
fn taken_in(address: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let both = address.is_ipv6() && address.ip().is_unspecified();
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
    std::iter::once(address).chain(both.then_some(v4))
}

/// A socket that listens. Where there is no IPv6, the one of both families cannot be made, and it is one of IPv4.
fn listen_near(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    match listen(address, backlog) {
        Err(error)
            if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && [io::ErrorKind::Unsupported, io::ErrorKind::AddrNotAvailable].contains(&error.kind()) =>
        {
            listen((Ipv4Addr::UNSPECIFIED, address.port()).into(), backlog)
        }
        other => other,
    }
}

/// A socket that listens. That of the unspecified address of IPv6 takes connections of both families.
fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // Connections of an earlier attempt that wait for their last packets hold up nobody.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, backlog)?;
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
    use crate::network::{ExposedPort, ExposedPorts};

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
    fn a_guest_listens_where_its_network_lets_it() {
        assert_eq!(permitted(&ports(), &Network::Outgoing), []);
        assert_eq!(permitted(&ports(), &Network::Host), ports());
        // Which port is free is known by having it for a moment.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let exposed = Network::Exposed(ExposedPorts {
            own: vec![free.ip()],
            ports: vec![ExposedPort {
                protocol: Protocol::Tcp,
                container_port: 9090,
                host_ip: Some(free.ip()),
                host_port: free.port(),
            }],
        });
        let [_, second] = ports();
        let permitted = permitted(&ports(), &exposed);
        assert_eq!(permitted, [second]);
        let known = Arc::default();
        let listeners = open(&permitted, &exposed, None, &known, BACKLOG).unwrap();
        assert_eq!(listeners[0].sockets[0].local_addr().unwrap(), free);
        assert!(known.listens_at(free));
        drop(listeners);
        assert!(!known.listens_at(free));
    }

    #[test]
    fn a_socket_of_both_families_takes_both() {
        let taken = |text: &str| taken_in(text.parse().unwrap()).map(|at| at.to_string()).collect::<Vec<_>>();
        assert_eq!(taken("[::]:80"), ["[::]:80", "0.0.0.0:80"]);
        assert_eq!(taken("0.0.0.0:80"), ["0.0.0.0:80"]);
        assert_eq!(taken("[::1]:80"), ["[::1]:80"]);
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let known = Arc::default();
        let ports = [ListenPort { port, name: "http".into() }];
        let error = open(&ports, &Network::Host, None, &known, BACKLOG).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("port {port} (http)")) && text.contains("in use"), "{text}");
        let many = vec![ListenPort { port: 1, name: String::new() }; MOST + 1];
        assert!(matches!(
            open(&many, &Network::Host, None, &known, BACKLOG),
            Err(PrepareError::TooManyPorts { wanted: 65 })
        ));
    }
}
