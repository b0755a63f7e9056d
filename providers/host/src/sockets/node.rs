//! The sockets of guests whose pod has no addresses of its own among others': wasmtime-wasi's as they are, but for the ports
//! that are exposed ([`ExposedPorts`]), and for what is remembered of who listens.

pub(super) mod tcp;
pub(super) mod udp;

use std::{net::SocketAddr, sync::Arc};

use kubewasm_rules::Protocol;
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

use super::{Binding, KnownSocket};
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
    /// Takes an address for a socket of which its guest wants this.
    pub(super) fn claim(
        &self,
        exposed: &ExposedPorts,
        protocol: Protocol,
        wanted: SocketAddr,
    ) -> Result<NodePort, ErrorCode> {
        if exposed.bind(protocol, wanted).next().is_none() {
            return Err(ErrorCode::AccessDenied);
        }
        self.ports.claim(protocol, exposed.bind(protocol, wanted)).ok_or(ErrorCode::AddressInUse)
    }

    /// Where a guest of the pod takes in what is sent to `wanted`, if one does.
    pub(crate) fn home(&self, protocol: Protocol, wanted: SocketAddr) -> Option<SocketAddr> {
        let exposed = self.exposed.as_ref()?;
        let open = self.ports.open_at(protocol, exposed.near(protocol, wanted))?;
        let ip = if open.ip().is_unspecified() { localhost(open.ip()) } else { open.ip() };
        Some(SocketAddr::new(ip, open.port()))
    }

    /// Where something goes that a guest sends to `wanted`: to the pod itself where a guest of it takes that in.
    pub(super) fn destination(
        &self,
        socket: &mut KnownSocket,
        protocol: Protocol,
        wanted: SocketAddr,
    ) -> SocketAddr {
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

impl KnownSocket {
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

/// How a socket is bound that has a port of the node.
pub(super) fn binding(wanted: SocketAddr) -> Binding {
    if wanted.ip().is_unspecified() { Binding::Wildcard } else { Binding::Single }
}
