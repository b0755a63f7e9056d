//! Ports of the node that are a pod's, which has no other address than the node's: `hostPort`. Pure.
//!
//! A guest names the port of its container, and its socket is bound to the port of the node. It is shown its own:
//!
//! ```text
//!   guest: bind 0.0.0.0:8080 ─► [ExposedPorts::bind] ─► 0.0.0.0:18080 ─► kernel
//!   guest: it is 0.0.0.0:8080 ◄─ [ExposedPorts::shown] ◄─ 192.0.2.1:18080 ◄──┘
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kubewasm_rules::Protocol;

/// A port of the node that is a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExposedPort {
    /// What it carries.
    pub protocol: Protocol,
    /// What the pod's guests call it.
    pub container_port: u16,
    /// The address of the node that it is at, which may be the unspecified one of a family; `None` for all of both.
    pub host_ip: Option<IpAddr>,
    /// Its number there.
    pub host_port: u16,
}

/// The ports of the node that are a pod's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposedPorts {
    /// The addresses that the pod's guests may call their own. They are the node's.
    pub own: Vec<IpAddr>,
    /// The ports, in the order of the pod's spec.
    pub ports: Vec<ExposedPort>,
}

impl ExposedPort {
    /// Where a socket of one family is bound; `None` where the port is at an address of the other.
    fn at(&self, is_ipv4: bool) -> Option<SocketAddr> {
        let ip = match self.host_ip {
            Some(ip) => Some(ip).filter(|ip| ip.is_ipv4() == is_ipv4)?,
            None if is_ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            None => Ipv6Addr::UNSPECIFIED.into(),
        };
        Some(SocketAddr::new(ip, self.host_port))
    }
}

impl ExposedPorts {
    fn of(&self, protocol: Protocol) -> impl Iterator<Item = &ExposedPort> {
        self.ports.iter().filter(move |port| port.protocol == protocol)
    }

    /// Where a socket may be bound of which its guest wants this. A socket is at one of these alone; there are none where
    /// the port is not exposed, or the address is not the pod's.
    pub(crate) fn bind(&self, protocol: Protocol, wanted: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        let is_own = wanted.ip().is_unspecified() || self.own.contains(&wanted.ip());
        self.at_port(protocol, wanted).filter(move |_| is_own)
    }

    /// Where a guest may listen that another one of the pod names so: by the loopback, or by an address of the pod.
    pub(crate) fn near(&self, protocol: Protocol, wanted: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        let is_near = wanted.ip().is_loopback() || self.own.contains(&wanted.ip());
        self.at_port(protocol, wanted).filter(move |_| is_near)
    }

    fn at_port(&self, protocol: Protocol, wanted: SocketAddr) -> impl Iterator<Item = SocketAddr> {
        let ports = self.of(protocol).filter(move |port| port.container_port == wanted.port());
        ports.filter_map(move |port| port.at(wanted.is_ipv4()))
    }

    /// Whether a socket may be bound to this address of the kernel's.
    pub(crate) fn has(&self, protocol: Protocol, actual: SocketAddr) -> bool {
        self.of(protocol).any(|port| port.at(actual.is_ipv4()) == Some(actual))
    }

    /// Where a guest of WASI 0.1 listens for a port of its container. The unspecified address of IPv6 is meant for both
    /// families.
    pub(crate) fn listeners(&self, container_port: u16) -> impl Iterator<Item = SocketAddr> {
        let ports = self.of(Protocol::Tcp).filter(move |port| port.container_port == container_port);
        ports.filter_map(|port| port.at(port.host_ip.is_some_and(|ip| ip.is_ipv4())))
    }

    /// The guest's own end of a connection that has come in at a port of the node, as the guest sees it.
    pub(crate) fn shown(&self, local: SocketAddr) -> SocketAddr {
        let is_at = |port: &&ExposedPort| {
            port.host_port == local.port()
                && port.host_ip.is_none_or(|ip| {
                    ip == local.ip() || (ip.is_unspecified() && ip.is_ipv4() == local.is_ipv4())
                })
        };
        let port = self.of(Protocol::Tcp).find(is_at);
        SocketAddr::new(local.ip(), port.map_or(local.port(), |port| port.container_port))
    }
}

#[cfg(test)]
mod tests;
