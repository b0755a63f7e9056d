//! How questions about names leave: as anything else that the pod sends.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioHandle, TokioTime, iocompat::AsyncIoTokioAsStd,
};
use kubewasm_rules::Protocol;
use tokio::{
    io::ReadBuf,
    net::{TcpSocket, TcpStream, UdpSocket},
};

use crate::{
    network::{guard::Guard, ports},
    sockets::Pod,
};

/// A pod with addresses of its own, and where its rules let something go.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) pod: Pod,
    pub(super) guard: Arc<Guard>,
}

impl Sender {
    fn ends(&self, tcp: bool, server: SocketAddr) -> io::Result<(SocketAddr, SocketAddr)> {
        let Self { pod, guard } = self;
        let source = pod.addresses.source(server).ok_or(io::ErrorKind::NetworkUnreachable)?;
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let answering = pod.tables.destination(source.ip(), protocol, server);
        let answering =
            answering.map_err(|refused| io::Error::new(io::ErrorKind::ConnectionRefused, refused))?;
        // What goes to the loopback goes to whoever of the pod listens there.
        let here = ports::Transport { tcp, v4: answering.is_ipv4() };
        let actual = pod.addresses.destination(answering, |port| pod.ports.has(here, port));
        let actual = actual.ok_or(io::ErrorKind::HostUnreachable)?;
        if !guard.may_ask(protocol, actual) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok((source, actual))
    }
}

/// What the resolver library opens sockets with, for one server.
#[derive(Clone)]
pub(super) struct Transport {
    /// Whose addresses the sockets have; those of the host without one.
    sender: Option<Sender>,
    /// The interface of a server on a link; 0 for none.
    scope: u32,
    /// Ends what runs in the background with the look-up.
    handle: TokioHandle,
}

impl Transport {
    pub(super) fn new(sender: Option<Sender>, scope: u32) -> Self {
        Self { sender, scope, handle: TokioHandle::default() }
    }

    /// From where and to where a question for `server` goes. A server may be a Service, or on the pod's own loopback.
    fn ends(&self, tcp: bool, server: SocketAddr) -> io::Result<(SocketAddr, SocketAddr)> {
        match &self.sender {
            Some(sender) => sender.ends(tcp, server),
            None => {
                let any = match server {
                    SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                let mut actual = server;
                if let SocketAddr::V6(address) = &mut actual {
                    address.set_scope_id(self.scope);
                }
                Ok((any, actual))
            }
        }
    }
}

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Transport {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Datagrams;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.handle.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _bind: Option<SocketAddr>,
        within: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        let ends = self.ends(true, server);
        Box::pin(async move {
            let (source, actual) = ends?;
            let socket = if actual.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.bind(source)?;
            let connecting = socket.connect(actual);
            let stream = match within {
                Some(within) => tokio::time::timeout(within, connecting).await??,
                None => connecting.await?,
            };
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, _local: SocketAddr, server: SocketAddr) -> Opening<Datagrams> {
        let ends = self.ends(false, server);
        Box::pin(async move {
            let (source, actual) = ends?;
            let socket = UdpSocket::bind(source).await?;
            socket.connect(actual).await?;
            Ok(Datagrams { socket, server })
        })
    }
}

/// A socket that is connected to where a server really is: the kernel drops what others send, and tells that nobody listens
/// there. What comes is shown as the server's.
pub(super) struct Datagrams {
    socket: UdpSocket,
    server: SocketAddr,
}

impl DnsUdpSocket for Datagrams {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        let received = self.socket.poll_recv(context, &mut buffer);
        received.map_ok(|()| (buffer.filled().len(), self.server))
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        bytes: &[u8],
        _target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_send(context, bytes)
    }
}

#[cfg(test)]
mod tests {
    use kubewasm_rules::{Peers, PodRules, Ports, Rule};

    use super::*;
    use crate::{
        DeniedNetworks, Firewall, Network, PodAddresses,
        network::{NetworkTables, Service, ServiceChanges, ServiceRule, TablesUpdate},
    };

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn transport(firewall: Option<Arc<Firewall>>) -> Transport {
        let addresses = PodAddresses {
            own: vec!["10.244.1.7".parse().unwrap()],
            loopback: "127.0.28.0/22".parse().unwrap(),
            loopback_v6: "fd6b::7:1".parse().unwrap(),
        };
        let network = Network::Pod(addresses.clone());
        let guard = Guard::new(network, DeniedNetworks::default(), firewall, None);
        let rule = |at: &str, endpoints: &[&str]| ServiceRule {
            transport: Protocol::Udp,
            at: vec![at.parse().unwrap()],
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
            node_only: false,
            affinity: None,
            sources: Vec::new(),
        };
        let dns = Service {
            key: "kube-system/kube-dns".to_owned(),
            cluster_ips: ["10.96.0.10", "10.96.0.11"].map(|ip| ip.parse().unwrap()).into(),
            rules: vec![rule("10.96.0.10:53", &["10.244.9.2:5353"]), rule("10.96.0.11:53", &[])],
        };
        let tables = NetworkTables::default();
        let services = ServiceChanges { set: vec![dns], removed: Vec::new() };
        tables.apply(TablesUpdate { base: None, revision: 1, services, rules: None }).unwrap();
        let pod = Pod {
            addresses: Arc::new(addresses),
            ports: Arc::default(),
            denied: Arc::default(),
            tables: Arc::new(tables),
            loopback_ports: Arc::default(),
        };
        Transport::new(Some(Sender { pod, guard }), 0)
    }

    /// The cluster's servers are a Service; those on the loopback are the pod's own.
    #[tokio::test]
    async fn questions_of_a_pod_go_where_its_datagrams_go() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        for (server, expected) in [
            ("10.96.0.10:53", Ok(("10.244.1.7:0", "10.244.9.2:5353"))),
            ("192.0.2.1:53", Ok(("10.244.1.7:0", "192.0.2.1:53"))),
            ("127.0.0.1:53", Ok(("127.0.28.1:0", "127.0.28.1:53"))),
            ("[::1]:53", Ok(("[fd6b::7:1]:0", "[fd6b::7:1]:53"))),
            ("10.96.0.11:53", Err(ConnectionRefused)),
            ("127.9.9.9:53", Err(HostUnreachable)),
            ("[2001:db8::1]:53", Err(NetworkUnreachable)),
        ] {
            let ends = transport(None).ends(false, at(server)).map_err(|error| error.kind());
            assert_eq!(ends, expected.map(|(source, actual)| (at(source), at(actual))), "{server}");
        }
    }

    /// Rules are about who answers for a Service, and a server of the pod's own is nobody else.
    #[tokio::test]
    async fn questions_go_where_the_pods_rules_let_them() {
        let allowed = Rule {
            peers: Peers::These(std::iter::once("192.0.2.0/24".parse::<ipnet::IpNet>().unwrap()).collect()),
            ports: Ports::Any,
        };
        let firewall = Arc::new(Firewall::default());
        firewall.set(Arc::new(PodRules { ingress: None, egress: Some(vec![Arc::new(allowed)]) }));
        for (server, expected) in [
            ("192.0.2.1:53", Ok(())),
            ("127.0.0.1:53", Ok(())),
            ("10.244.1.7:53", Ok(())),
            ("198.51.100.1:53", Err(io::ErrorKind::PermissionDenied)),
            ("10.96.0.10:53", Err(io::ErrorKind::PermissionDenied)),
        ] {
            let ends = transport(Some(Arc::clone(&firewall))).ends(false, at(server));
            assert_eq!(ends.map(drop).map_err(|error| error.kind()), expected, "{server}");
        }
        assert_eq!(firewall.refusals().egress, 2);
    }

    #[tokio::test]
    async fn a_server_on_a_link_is_asked_there() {
        let (_, actual) = Transport::new(None, 7).ends(false, at("[fe80::1]:53")).unwrap();
        let SocketAddr::V6(actual) = actual else { unreachable!("it was of IPv6") };
        assert_eq!(actual.scope_id(), 7);
    }
}
