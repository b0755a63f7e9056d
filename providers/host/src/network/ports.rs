//! Which ports of a pod its guests listen on with all addresses, or in a network that it shares.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::node_ports::NodePorts;

/// TCP and UDP, by family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transport {
    pub(crate) tcp: bool,
    pub(crate) v4: bool,
}

/// The ports on which guests of one pod listen. Each of its containers is given the same one.
///
/// With addresses of the pod's own: those with all of its addresses. Such a socket is bound to the pod's own address, and
/// what a guest sends to its loopback is sent there instead. Without: see [`node_ports`](super::node_ports).
#[derive(Debug, Default)]
pub struct PodPorts {
    own: Mutex<Counts>,
    pub(super) node: NodePorts,
}

/// How many sockets there are on each.
type Counts = HashMap<(Transport, u16), usize>;

impl PodPorts {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody listens there.
    pub(crate) fn has(&self, transport: Transport, port: u16) -> bool {
        self.counts().contains_key(&(transport, port))
    }

    /// Takes note of one more socket, until what is returned is dropped.
    pub(crate) fn open(self: &Arc<Self>, transport: Transport, port: u16) -> OpenPort {
        *self.counts().entry((transport, port)).or_default() += 1;
        OpenPort { ports: Arc::clone(self), key: (transport, port) }
    }
}

/// A socket that is there.
#[derive(Debug)]
pub(crate) struct OpenPort {
    ports: Arc<PodPorts>,
    key: (Transport, u16),
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        let mut counts = self.ports.counts();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_open_for_as_long_as_a_socket_is() {
        let ports = Arc::new(PodPorts::default());
        let tcp = Transport { tcp: true, v4: true };
        let (first, second) = (ports.open(tcp, 80), ports.open(tcp, 80));
        assert!(ports.has(tcp, 80) && !ports.has(tcp, 81) && !ports.has(Transport { v4: false, ..tcp }, 80));
        drop(first);
        assert!(ports.has(tcp, 80));
        drop(second);
        assert!(!ports.has(tcp, 80));
    }
}
