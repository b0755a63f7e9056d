//! The sockets that guests of one pod have bound in a network that they share with others: what the pod listens on there,
//! and nobody else.
//!
//! A probe is sent to an address that everybody on the node can listen at. So it is asked here first whether its pod does.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kubewasm_rules::Protocol;

use super::ports::PodPorts;

/// The addresses that sockets of a pod are bound to.
#[derive(Debug, Default)]
pub(crate) struct NodePorts(Mutex<Bound>);

type Bound = HashMap<(Protocol, SocketAddr), Sockets>;

/// The sockets at one address: more than one only where the system lets guests share it.
#[derive(Clone, Copy, Debug, Default)]
struct Sockets {
    all: usize,
    /// Of these, the ones that take something in.
    open: usize,
}

/// An address that a guest's socket is bound to, until this is dropped.
#[derive(Debug)]
pub(crate) struct NodePort {
    ports: Arc<PodPorts>,
    key: (Protocol, SocketAddr),
    is_open: bool,
}

impl NodePorts {
    fn bound(&self) -> MutexGuard<'_, Bound> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PodPorts {
    /// Takes the first of these addresses that no socket of the pod has. `None`: they all have one.
    pub(crate) fn claim(
        self: &Arc<Self>,
        protocol: Protocol,
        mut candidates: impl Iterator<Item = SocketAddr>,
    ) -> Option<NodePort> {
        let mut bound = self.node.bound();
        let free = candidates.find(|address| !bound.contains_key(&(protocol, *address)))?;
        let key = (protocol, free);
        bound.entry(key).or_default().all += 1;
        Some(NodePort { ports: Arc::clone(self), key, is_open: false })
    }

    /// Takes note of a socket that listens.
    pub(crate) fn listening(self: &Arc<Self>, protocol: Protocol, at: SocketAddr) -> NodePort {
        let key = (protocol, at);
        self.node.bound().entry(key).or_default().all += 1;
        let mut port = NodePort { ports: Arc::clone(self), key, is_open: false };
        port.open();
        port
    }

    /// The first of these addresses at which a socket of the pod takes something in.
    pub(crate) fn open_at(
        &self,
        protocol: Protocol,
        mut candidates: impl Iterator<Item = SocketAddr>,
    ) -> Option<SocketAddr> {
        let bound = self.node.bound();
        candidates.find(|address| bound.get(&(protocol, *address)).is_some_and(|sockets| sockets.open > 0))
    }

    /// Whether a guest of the pod takes the connections to this address of the node.
    #[must_use]
    pub fn listens_at(&self, address: SocketAddr) -> bool {
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let places = [address.ip(), any].map(|ip| SocketAddr::new(ip, address.port()));
        self.open_at(Protocol::Tcp, places.into_iter()).is_some()
    }
}

impl NodePort {
    /// The address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.key.1
    }

    /// The socket takes something in from now on.
    pub(crate) fn open(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.ports.node.bound().entry(self.key).or_default().open += 1;
        }
    }
}

impl Drop for NodePort {
    fn drop(&mut self) {
        let mut bound = self.ports.node.bound();
        if let Entry::Occupied(mut sockets) = bound.entry(self.key) {
            let Sockets { all, open } = sockets.get_mut();
            *all = all.saturating_sub(1);
            *open = open.saturating_sub(usize::from(self.is_open));
            if *all == 0 {
                sockets.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Tcp, Udp};

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn both() -> impl Iterator<Item = SocketAddr> {
        ["0.0.0.0:18080", "127.0.0.1:28080"].into_iter().map(at)
    }

    #[test]
    fn each_socket_has_another_address() {
        let ports = Arc::new(PodPorts::default());
        let first = ports.claim(Tcp, both()).unwrap();
        let second = ports.claim(Tcp, both()).unwrap();
        assert_eq!((first.address(), second.address()), (at("0.0.0.0:18080"), at("127.0.0.1:28080")));
        assert!(ports.claim(Tcp, both()).is_none() && ports.claim(Udp, both()).is_some());
        drop(first);
        assert_eq!(ports.claim(Tcp, both()).unwrap().address(), at("0.0.0.0:18080"));
    }

    #[test]
    fn a_pod_listens_from_then_on_and_until_its_socket_is_gone() {
        let ports = Arc::new(PodPorts::default());
        let mut socket = ports.claim(Tcp, both()).unwrap();
        let open = || (ports.open_at(Tcp, both()), ports.listens_at(at("192.0.2.1:18080")));
        assert_eq!(open(), (None, false), "it is only bound");
        socket.open();
        socket.open();
        assert_eq!(open(), (Some(at("0.0.0.0:18080")), true));
        for (address, expected) in [
            ("127.0.0.1:18080", true),
            ("[::1]:18080", false),
            ("192.0.2.1:28080", false),
            ("192.0.2.1:8080", false),
        ] {
            assert_eq!(ports.listens_at(at(address)), expected, "{address}");
        }
        drop(socket);
        assert_eq!(open(), (None, false));
        let one = ports.listening(Tcp, at("127.0.0.1:80"));
        let other = ports.listening(Tcp, at("127.0.0.1:80"));
        drop(one);
        assert!(ports.listens_at(at("127.0.0.1:80")) && !ports.listens_at(at("192.0.2.1:80")));
        drop(other);
        assert!(!ports.listens_at(at("127.0.0.1:80")));
        let _datagrams = ports.listening(Udp, at("127.0.0.1:80"));
        assert!(!ports.listens_at(at("127.0.0.1:80")));
    }
}
