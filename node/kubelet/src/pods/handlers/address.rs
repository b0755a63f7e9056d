//! Where a handler is to connect: the pod's own address and a port of its container, nothing else.
//!
//! A pod without addresses of its own has those of the node, where anybody may listen. It is asked at the ports of the node
//! that are its own (`hostPort`), and has no others; whether it listens there itself is asked before ([`Target::find`](super::Target::find)).
//!
//! A node reaches much that a pod does not: the services on its loopback, the metadata service of its
//! cloud, other pods behind network policies. A probe makes the node connect in the name of whoever
//! wrote the pod, and says in an event what came of it. Upstream connects to whatever `host` names and
//! leaves it to [Pod Security Admission](https://kubernetes.io/docs/concepts/security/pod-security-standards/)
//! to forbid the field; here `host` may name the pod alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::util::intstr::IntOrString};

use crate::runtime::{ExposedPort, HostPortProtocol};

/// Addresses at which a pod may be asked.
#[derive(Clone, Copy, Debug)]
pub(in crate::pods) struct Addresses<'a> {
    /// The pod's own, the primary first; empty as long as it has none.
    pub(in crate::pods) pod_ips: &'a [IpAddr],
    /// The pod shares the network of the host, so that the host's loopback is the pod's.
    pub(in crate::pods) host_network: bool,
    /// The ports of the node that are the pod's, if its addresses are the node's and not all of the node is its own.
    pub(in crate::pods) exposed: Option<&'a [ExposedPort]>,
}

/// Why there is nowhere to connect to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HandlerAddressError {
    #[error("the pod has no IP address yet")]
    NoPodIp,
    #[error(
        "host \"{0}\" is not this pod, and a node sends probes and hooks to no other; leave `host` out to reach the \
         pod's own IP, and name a virtual host by the HTTP header \"Host\""
    )]
    OtherHost(String),
    #[error("port \"{0}\" is neither a number nor the name of one of the container's ports")]
    UnknownPort(String),
    #[error("invalid port number: {0}; it must be between 1 and 65535")]
    InvalidPort(i64),
    /// It is another's, as far as the node can tell.
    #[error(
        "port {0} of the pod is not exposed: pods of this node have no addresses of their own (--network=host), so that \
         probes and hooks reach a container at its hostPort alone; set `hostPort` for its containerPort {0}, or \
         `hostNetwork: true` for the pod"
    )]
    NotExposed(u16),
}

impl Addresses<'_> {
    /// The socket that `host` (the pod itself where there is none) and `port` stand for.
    pub(super) fn socket(
        self,
        host: Option<&str>,
        port: &IntOrString,
        container: &Container,
    ) -> Result<SocketAddr, HandlerAddressError> {
        let address = SocketAddr::new(self.host(host)?, port_number(port, container)?);
        match self.exposed {
            None => Ok(address),
            Some(ports) => exposed_at(ports, address).ok_or(HandlerAddressError::NotExposed(address.port())),
        }
    }

    /// What answers at the pod's addresses may be another's.
    pub(super) fn are_shared(self) -> bool {
        self.host_network || self.exposed.is_some()
    }

    fn host(self, wanted: Option<&str>) -> Result<IpAddr, HandlerAddressError> {
        let Some(wanted) = wanted.filter(|host| !host.is_empty()) else {
            return self.pod_ips.first().copied().ok_or(HandlerAddressError::NoPodIp);
        };
        let address = match wanted.parse::<IpAddr>() {
            Ok(address) => Some(address),
            Err(_) if wanted.eq_ignore_ascii_case("localhost") => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Err(_) => None,
        };
        // `::ffff:127.0.0.1` is 127.0.0.1 to the one that connects, so it is here.
        let own = |address: &IpAddr| {
            let address = address.to_canonical();
            self.pod_ips.iter().any(|own| own.to_canonical() == address)
                || self.host_network && address.is_loopback()
        };
        address.filter(own).ok_or_else(|| HandlerAddressError::OtherHost(wanted.to_owned()))
    }
}

/// Where the node reaches what a pod calls `wanted`: by the first of its ports that is at an address of that family, or by
/// the first at all. One at all addresses is reached by the pod's.
fn exposed_at(ports: &[ExposedPort], wanted: SocketAddr) -> Option<SocketAddr> {
    let is_it =
        |port: &&ExposedPort| port.protocol == HostPortProtocol::Tcp && port.container_port == wanted.port();
    let fits = |port: &ExposedPort| port.host_ip.is_none_or(|ip| ip.is_ipv4() == wanted.is_ipv4());
    let mut matching = ports.iter().filter(is_it);
    let first = matching.clone().find(|port| fits(port)).or_else(|| matching.next())?;
    let ip = match first.host_ip {
        Some(ip) if !ip.is_unspecified() => ip,
        Some(ip) if ip.is_ipv4() != wanted.is_ipv4() => match ip {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        },
        Some(_) | None => wanted.ip(),
    };
    Some(SocketAddr::new(ip, first.host_port))
}

/// A number, a number in quotes, or the name of one of the container's ports; a name comes first, as in
/// [`ResolveContainerPort`](https://github.com/kubernetes/kubernetes/blob/v1.36.3/pkg/probe/util.go).
fn port_number(port: &IntOrString, container: &Container) -> Result<u16, HandlerAddressError> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            match named {
                Some(port) => i64::from(port.container_port),
                None => name.parse().map_err(|_| HandlerAddressError::UnknownPort(name.clone()))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or(HandlerAddressError::InvalidPort(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container() -> Container {
        serde_json::from_value(serde_json::json!({
            "name": "c",
            "ports": [{"name": "web", "containerPort": 8080}, {"name": "9", "containerPort": 9090}],
        }))
        .unwrap()
    }

    #[test]
    fn ports_by_number_and_by_name() {
        let text = |text: &str| IntOrString::String(text.to_owned());
        let table = [
            (IntOrString::Int(80), Ok(80)),
            (text("web"), Ok(8080)),
            (text("81"), Ok(81)),
            (text("9"), Ok(9090)),
            (text("metrics"), Err(HandlerAddressError::UnknownPort("metrics".into()))),
            (IntOrString::Int(0), Err(HandlerAddressError::InvalidPort(0))),
            (IntOrString::Int(-1), Err(HandlerAddressError::InvalidPort(-1))),
            (IntOrString::Int(65_536), Err(HandlerAddressError::InvalidPort(65_536))),
        ];
        for (port, expected) in table {
            assert_eq!(port_number(&port, &container()), expected, "{port:?}");
        }
    }

    #[test]
    fn only_the_pod_itself_is_a_host() {
        let pod_ips: [IpAddr; 2] = ["10.1.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        let own = Addresses { pod_ips: &pod_ips, host_network: false, exposed: None };
        let shared = Addresses { pod_ips: &pod_ips, host_network: true, exposed: None };
        let table = [
            (own, None, Some("10.1.0.7")),
            (own, Some(""), Some("10.1.0.7")),
            (own, Some("10.1.0.7"), Some("10.1.0.7")),
            (own, Some("fd00::7"), Some("fd00::7")),
            (own, Some("10.1.0.8"), None),
            (own, Some("127.0.0.1"), None),
            (own, Some("localhost"), None),
            (own, Some("0.0.0.0"), None),
            (own, Some("169.254.169.254"), None),
            (own, Some("metadata.google.internal"), None),
            (own, Some("10.1.0.7.nip.io"), None),
            (own, Some("::ffff:127.0.0.1"), None),
            (shared, Some("127.0.0.1"), Some("127.0.0.1")),
            (shared, Some("::1"), Some("::1")),
            (shared, Some("localhost"), Some("127.0.0.1")),
            (shared, Some("0.0.0.0"), None),
            (shared, Some("example.com"), None),
        ];
        for (addresses, host, expected) in table {
            let expected = expected
                .map(|address| address.parse().unwrap())
                .ok_or_else(|| HandlerAddressError::OtherHost(host.unwrap_or_default().to_owned()));
            assert_eq!(addresses.host(host), expected, "{host:?} with {addresses:?}");
        }
        assert_eq!(Addresses { pod_ips: &[], ..own }.host(None), Err(HandlerAddressError::NoPodIp));
    }

    #[test]
    fn a_pod_of_the_nodes_network_is_asked_at_the_ports_that_are_its_own() {
        let port = |protocol, container_port, host_ip: Option<&str>, host_port| ExposedPort {
            protocol,
            container_port,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
        };
        let ports = [
            port(HostPortProtocol::Udp, 8080, None, 5353),
            port(HostPortProtocol::Tcp, 8080, None, 18080),
            port(HostPortProtocol::Tcp, 8080, Some("127.0.0.1"), 28080),
            port(HostPortProtocol::Tcp, 9090, Some("127.0.0.1"), 19090),
            port(HostPortProtocol::Tcp, 7070, Some("::"), 17070),
            port(HostPortProtocol::Tcp, 6060, Some("0.0.0.0"), 16060),
        ];
        let pod_ips = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let addresses = Addresses { pod_ips: &pod_ips, host_network: false, exposed: Some(&ports) };
        for (host, port, expected) in [
            (None, 8080, Some("192.0.2.1:18080")),
            (Some("2001:db8::1"), 8080, Some("[2001:db8::1]:18080")),
            (None, 9090, Some("127.0.0.1:19090")),
            (None, 7070, Some("[::1]:17070")),
            (Some("2001:db8::1"), 7070, Some("[2001:db8::1]:17070")),
            (None, 6060, Some("192.0.2.1:16060")),
            (None, 18080, None),
            (None, 5353, None),
            (None, 80, None),
        ] {
            let found = addresses.socket(host, &IntOrString::Int(port), &container());
            let expected = expected
                .map(|address| address.parse().unwrap())
                .ok_or(HandlerAddressError::NotExposed(u16::try_from(port).unwrap()));
            assert_eq!(found, expected, "{host:?} {port}");
        }
        let web = addresses.socket(None, &IntOrString::String("web".to_owned()), &container());
        assert_eq!(web, Ok("192.0.2.1:18080".parse().unwrap()));
        let other = addresses.socket(Some("127.0.0.1"), &IntOrString::Int(8080), &container());
        assert_eq!(other, Err(HandlerAddressError::OtherHost("127.0.0.1".to_owned())));
        let text = HandlerAddressError::NotExposed(80).to_string();
        assert!(text.contains("set `hostPort` for its containerPort 80"), "{text}");
        let own = Addresses { exposed: None, ..addresses };
        assert!(addresses.are_shared() && !own.are_shared());
    }
}
