//! Connections to ports of pods, as a neighbour in the pod makes them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use kubewasm_host::{Network, PortPath};
use tokio::net::{TcpSocket, TcpStream};

use super::Hosting;

/// How long a connection within this machine may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(in crate::worker) enum ForwardError {
    /// There is nobody who could listen.
    #[error("no container of the pod runs")]
    NotRunning,
    /// The pod has no such port that only its guests could have.
    #[error(
        "failed to connect to localhost:{0} inside the pod: connect: connection refused (the pod has no address of its own, and \
         nothing of it listens at a hostPort for this port)"
    )]
    NoPort(u16),
    /// Nobody takes it.
    #[error("failed to connect to localhost:{port} inside the pod: dial tcp {to}: connect: {reason}")]
    Connect {
        /// The port, as the pod's guests call it.
        port: u16,
        /// What was tried first.
        to: SocketAddr,
        /// What the system says.
        reason: String,
    },
}

impl Hosting {
    /// Connects to a TCP port of a pod; `own` are its addresses, as far as the agent has to say them.
    pub(in crate::worker) async fn connect(
        &self,
        pod_uid: &str,
        port: u16,
        own: &[IpAddr],
    ) -> Result<TcpStream, ForwardError> {
        let inner = &self.0;
        let running = inner.table.all_running().into_iter().find(|running| running.spec.pod_uid == pod_uid);
        let network = running.ok_or(ForwardError::NotRunning)?.spec.network.clone();
        let mut ways = PortPath::to(port, &network, &inner.pod_ports.of(pod_uid));
        if network == Network::Namespace {
            // Whoever is in there is the pod.
            ways.extend(own.iter().map(|ip| PortPath { from: None, to: SocketAddr::new(*ip, port) }));
        }
        let mut first = None;
        for way in ways {
            match connect(way).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    let shown = shown(&network, way.to, port);
                    first.get_or_insert(ForwardError::Connect { port, to: shown, reason: reason(&error) });
                }
            }
        }
        Err(first.unwrap_or(ForwardError::NoPort(port)))
    }
}

async fn connect(PortPath { from, to }: PortPath) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = tokio::time::timeout(CONNECT, socket.connect(to)).await;
    let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    // Whoever sends a little waits for an answer.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// An address as the pod's guests call it.
fn shown(network: &Network, to: SocketAddr, port: u16) -> SocketAddr {
    let own = match network {
        Network::Pod(addresses) => addresses.own.contains(&to.ip()),
        Network::Outgoing | Network::Exposed(_) | Network::Namespace | Network::Host => true,
    };
    let loopback: IpAddr = if to.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    SocketAddr::new(if own { to.ip() } else { loopback }, port)
}

/// In the words of those who look for them.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}
