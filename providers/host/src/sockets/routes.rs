//! Where what a guest sends goes, and how its sockets look to it: what is decided once, for the functions of every version of
//! WASI.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

use super::{Binding, GuestSockets, KnownSocket, Pod};

/// A connection that may be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    /// Where it goes.
    pub(super) to: SocketAddr,
    /// What its socket is to be bound to first, where its guest has bound it to nothing.
    pub(super) source: Option<SocketAddr>,
}

/// The one peer that a socket for datagrams is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Association {
    /// Who it is to the guest.
    pub(super) wanted: SocketAddr,
    /// Who it is to the kernel.
    pub(super) actual: SocketAddr,
}

impl Association {
    /// It is a Service: to the kernel, the socket is not connected.
    pub(super) fn is_to_service(self) -> bool {
        self.actual != self.wanted && !self.wanted.ip().is_loopback()
    }
}

impl Pod {
    /// Where a socket's connection to `wanted` goes.
    pub(super) fn connection(
        &self,
        socket: &KnownSocket,
        wanted: SocketAddr,
    ) -> Result<Connection, ErrorCode> {
        if !socket.reaches(&self.addresses, wanted) {
            return Err(ErrorCode::RemoteUnreachable);
        }
        let to = self.destination(true, wanted)?;
        let source = match socket.bound {
            Some(_) => None,
            None => Some(self.addresses.source(wanted).ok_or(ErrorCode::RemoteUnreachable)?),
        };
        Ok(Connection { to, source })
    }

    /// Whom a socket for datagrams is connected to of which the guest wants this.
    pub(super) fn association(
        &self,
        socket: &KnownSocket,
        wanted: SocketAddr,
    ) -> Result<Association, ErrorCode> {
        if !socket.reaches(&self.addresses, wanted) {
            return Err(ErrorCode::RemoteUnreachable);
        }
        let actual = self.next_destination(socket, wanted)?;
        socket.chose(actual, wanted);
        Ok(Association { wanted, actual })
    }

    /// Where a datagram goes of which the guest wants this; nowhere else than its socket is connected to, where it wants
    /// nothing.
    pub(super) fn datagram(
        &self,
        socket: &mut KnownSocket,
        wanted: Option<SocketAddr>,
    ) -> Result<Option<SocketAddr>, ErrorCode> {
        match (socket.remote, wanted) {
            (Some(remote), Some(wanted)) if remote != wanted => return Err(ErrorCode::InvalidArgument),
            // The kernel knows.
            (Some(_), _) if !socket.to_service => return Ok(None),
            _ => {}
        }
        let Some(wanted) = wanted.or(socket.remote) else { return Ok(None) };
        if !socket.reaches(&self.addresses, wanted) {
            return Err(ErrorCode::RemoteUnreachable);
        }
        let actual = self.next_destination(socket, wanted)?;
        socket.chose(actual, wanted);
        socket.redirect(actual, wanted);
        Ok(Some(actual))
    }
}

impl KnownSocket {
    /// A socket for datagrams is bound: its guest wanted `wanted`, and the kernel calls it `actual`.
    pub(super) fn bound_for_datagrams(
        &mut self,
        pod: &Pod,
        (wanted, binding): (SocketAddr, Binding),
        actual: SocketAddr,
    ) {
        self.bound_to(actual.port());
        self.bound = Some((wanted, binding));
        self.open = (binding == Binding::Wildcard).then(|| pod.open(false, actual));
    }

    /// A socket for datagrams has one peer from now on, or any.
    pub(super) fn associate(&mut self, association: Option<Association>) {
        self.remote = association.map(|association| association.wanted);
        self.to_service = association.is_some_and(Association::is_to_service);
        if let Some(Association { wanted, actual }) = association {
            self.redirect(actual, wanted);
        }
    }

    /// Whether a datagram is for the guest, by whom it is shown to come from: to the kernel, a socket that is connected to a
    /// Service is not connected, so that it takes in those of others.
    pub(super) fn expects(&self, shown: SocketAddr) -> bool {
        self.remote.filter(|_| self.to_service).is_none_or(|remote| remote == shown)
    }
}

impl GuestSockets {
    /// The own address of a TCP socket, as its guest sees it.
    pub(super) fn shown_local(&self, rep: u32, local: SocketAddr, remote: Option<SocketAddr>) -> SocketAddr {
        let Some(Pod { addresses, .. }) = &self.pod else {
            let Some(exposed) = &self.node.exposed else { return local };
            // One that is not known was accepted.
            let known = self.get(rep);
            return known.map_or_else(|| exposed.shown(local), |known| known.lock().local_of_node(local));
        };
        match (self.get(rep), remote) {
            (Some(known), _) => known.lock().local(addresses, local),
            // One that was accepted.
            (None, Some(remote)) => addresses.shown_local(local, remote),
            (None, None) => addresses.shown(local),
        }
    }

    /// The peer of a TCP socket, as its guest sees it.
    pub(super) fn shown_remote(&self, rep: u32, remote: SocketAddr) -> SocketAddr {
        let wanted = self.get(rep).and_then(|known| known.lock().remote);
        wanted.unwrap_or_else(|| match &self.pod {
            Some(Pod { addresses, .. }) => addresses.shown(remote),
            None => remote,
        })
    }
}

/// All addresses of the same family, and any port.
pub(super) fn any_like(ip: IpAddr) -> SocketAddr {
    let ip = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(ip, 0)
}
