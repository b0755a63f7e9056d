//! The sockets of guests whose pod has no addresses of its own among others': wasmtime-wasi's as they are, but for the ports
//! that are exposed ([`ExposedPorts`]), and for what is remembered of who listens.

pub(super) mod tcp;
pub(super) mod udp;

use std::{net::SocketAddr, sync::Arc};

use kubewasm_rules::Protocol;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

use super::{Binding, GuestSockets, KnownSocket};
use crate::network::{ExposedPorts, PodPorts, node_ports::NodePort, pod::localhost};

/// What guests have of a network that is not theirs alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeSockets {
    /// The ports of it that are the pod's, where not all of them may be.
    pub(crate) exposed: Option<Arc<ExposedPorts>>,
    /// What the pod's guests have bound.
    pub(crate) ports: Arc<PodPorts>,
}

impl NodeSockets {
    /// Where a guest of the pod takes in what is sent to `wanted`, if one does.
    pub(crate) fn home(&self, protocol: Protocol, wanted: SocketAddr) -> Option<SocketAddr> {
        let exposed = self.exposed.as_ref()?;
        let open = self.ports.open_at(protocol, exposed.near(protocol, wanted))?;
        let ip = if open.ip().is_unspecified() { localhost(open.ip()) } else { open.ip() };
        Some(SocketAddr::new(ip, open.port()))
    }

    /// Where something goes that a guest sends to `wanted`: to the pod itself where a guest of it takes that in.
    fn destination(&self, socket: &mut KnownSocket, protocol: Protocol, wanted: SocketAddr) -> SocketAddr {
        match self.home(protocol, wanted) {
            Some(actual) => {
                if let Some(guard) = &socket.guard {
                    guard.leads_home(actual, wanted);
                }
                socket.redirect(actual, wanted);
                actual
            }
            None => {
                if let Some(guard) = &socket.guard {
                    guard.leads_out(wanted);
                }
                wanted
            }
        }
    }
}

impl GuestSockets {
    /// The port of the node that a socket is to be bound to of which its guest wants this; `None` where it is bound as it wants.
    /// Once it is bound, that is for [`KnownSocket::bound_in_node`].
    pub(super) fn claim(
        &mut self,
        rep: u32,
        protocol: Protocol,
        wanted: SocketAddr,
    ) -> Result<Option<NodePort>, ErrorCode> {
        let Some(exposed) = self.node.exposed.clone().filter(|_| wanted.port() != 0) else { return Ok(None) };
        if self.known(rep).lock().bound.is_some() {
            return Err(ErrorCode::InvalidState);
        }
        if exposed.bind(protocol, wanted).next().is_none() {
            return Err(ErrorCode::AccessDenied);
        }
        let port = self.node.ports.claim(protocol, exposed.bind(protocol, wanted));
        port.map(Some).ok_or(ErrorCode::AddressInUse)
    }

    /// Where something goes that a guest sends to `wanted` by a socket or its stream.
    pub(super) fn destination_in_node(
        &mut self,
        rep: u32,
        protocol: Protocol,
        wanted: SocketAddr,
    ) -> SocketAddr {
        if self.node.exposed.is_none() {
            return wanted;
        }
        let known = self.known(rep);
        self.node.destination(&mut known.lock(), protocol, wanted)
    }

    /// A socket listens, at this address if it is known: whoever asks whether the pod does is to know.
    pub(super) fn listens_in_node(&mut self, rep: u32, local: Option<SocketAddr>) {
        let known = self.known(rep);
        let mut known = known.lock();
        match (&mut known.node, local) {
            (Some(port), _) => port.open(),
            (none, Some(local)) => *none = Some(self.node.ports.listening(Protocol::Tcp, local)),
            // It listens, so that it has an address.
            (None, None) => {}
        }
    }
}

impl KnownSocket {
    /// The socket is bound to a port of the node, of which its guest wanted `wanted`. One for datagrams takes them in from then
    /// on.
    pub(super) fn bound_in_node(&mut self, protocol: Protocol, wanted: SocketAddr, mut port: NodePort) {
        if protocol == Protocol::Udp {
            port.open();
            self.bound_to(port.address().port());
        }
        let binding = if wanted.ip().is_unspecified() { Binding::Wildcard } else { Binding::Single };
        (self.bound, self.node) = (Some((wanted, binding)), Some(port));
    }

    /// The address of a socket in the network of the node, as its guest sees it: what it was bound to, by the port of its
    /// container.
    pub(super) fn local_of_node(&self, actual: SocketAddr) -> SocketAddr {
        match (&self.bound, self.remote) {
            (Some((wanted, _)), None) => *wanted,
            (Some((wanted, _)), Some(_)) => SocketAddr::new(actual.ip(), wanted.port()),
            (None, _) => actual,
        }
    }
}
