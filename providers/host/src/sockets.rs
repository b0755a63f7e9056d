//! The sockets of guests whose pod has addresses of its own (`wasi:sockets`, of 0.2 here and of 0.3 in [`p3`]).
//!
//! ```text
//!   guest ─► bind, connect, send ─► [routes]: [PodAddresses], [NetworkTables] ─► wasmtime-wasi's sockets ─► kernel
//!   guest ◄─ addresses, receive ◄── [routes]: [PodAddresses], what was chosen ◄──────────┘
//! ```
//!
//! wasmtime-wasi asks whether an address may be used, and cannot use another one. So its functions are called with the
//! addresses that the kernel has, and their answers are shown with those that the guest knows. What it asks
//! ([`network`](crate::network)) is then about the kernel's addresses, so that nothing passes that was forgotten here.
//! What is sent to an address of a Service goes to one of its endpoints, and the guest sees the Service. Guests without
//! addresses of their own pass through, but for ports of the node that are their pod's ([`node`]).

mod create;
mod node;
pub(crate) mod p3;
mod routes;
mod tcp;
mod udp;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kubewasm_rules::Protocol;
use tokio::sync::Semaphore;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::{SocketResult, bindings::sockets::network::ErrorCode};

use crate::{
    network::{
        DeniedNetworks, NetworkTables, PodAddresses, PodPorts, Refused,
        guard::{Guard, SocketGuard},
        is_open_to_pods,
        node_ports::NodePort,
        pod::Binding,
        ports::{OpenPort, Transport},
    },
    state::GuestState,
};

pub(crate) use node::NodeSockets;

/// Datagrams whose answers come from elsewhere than they were sent to, of one socket: the newest are remembered.
const REDIRECTED: usize = 64;

/// Datagrams of one guest that wait to be sent at a time: more are refused as by a kernel that has no room for them. Each may
/// have 64 KiB.
const UNSENT: usize = 64;

/// The sockets of one guest.
#[derive(Debug)]
pub(crate) struct GuestSockets {
    /// Its pod's, where they are its own.
    pod: Option<Pod>,
    /// What it has of the network that it is in, where they are not.
    node: NodeSockets,
    /// What the guest may do with addresses.
    guard: Arc<Guard>,
    /// What is remembered of its sockets and their streams, by the number of the resource.
    known: HashMap<u32, Arc<Known>>,
    /// Places for datagrams that wait to be sent, of a guest of WASI 0.3.
    unsent: Arc<Semaphore>,
}

/// What a pod has.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) addresses: Arc<PodAddresses>,
    pub(crate) ports: Arc<PodPorts>,
    /// What it does not reach.
    pub(crate) denied: Arc<DeniedNetworks>,
    /// What is known of the network that it is in.
    pub(crate) tables: Arc<NetworkTables>,
    /// See [`SocketRules`](crate::SocketRules).
    pub(crate) loopback_ports: Arc<[u16]>,
}

/// What is remembered of a socket.
#[derive(Debug, Default)]
struct Known {
    socket: Mutex<KnownSocket>,
    /// Held by the one call that waits for a datagram: each has a buffer.
    receiving: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct KnownSocket {
    /// What its guest has bound it to, and how.
    bound: Option<(SocketAddr, Binding)>,
    /// The port that it had when that was looked at last.
    has_port: u16,
    /// Where its guest has connected it to.
    remote: Option<SocketAddr>,
    /// That is an address of a Service, and it is one for datagrams: to the kernel it is not connected, so that it can go to
    /// another endpoint when the one that was chosen is gone.
    to_service: bool,
    /// It listens on all addresses.
    open: Option<OpenPort>,
    /// What it has of a network that is not its pod's alone.
    node: Option<NodePort>,
    /// Where datagrams went, and where the guest had sent them.
    redirected: VecDeque<(SocketAddr, SocketAddr)>,
    /// What it may do with addresses.
    guard: Option<Arc<SocketGuard>>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, KnownSocket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownSocket {
    /// Takes note that what the guest sends to `wanted` goes to `actual`.
    fn redirect(&mut self, actual: SocketAddr, wanted: SocketAddr) {
        if actual == wanted {
            return;
        }
        self.redirected.retain(|(known, _)| *known != actual);
        self.redirected.truncate(REDIRECTED - 1);
        self.redirected.push_front((actual, wanted));
    }

    /// What the guest sends to `wanted` goes to `actual`: what it may reach is about both.
    fn chose(&self, actual: SocketAddr, wanted: SocketAddr) {
        if let Some(guard) = &self.guard {
            guard.chose(actual, wanted);
        }
    }

    /// The socket is bound to a port.
    fn bound_to(&mut self, port: u16) {
        self.has_port = port;
        if let Some(guard) = &self.guard {
            guard.bound(port);
        }
    }

    /// Whether the socket can send there: one that is bound to the loopback sends to addresses of the pod alone.
    fn reaches(&self, addresses: &PodAddresses, wanted: SocketAddr) -> bool {
        let bound_near = self.bound.is_some_and(|(bound, _)| bound.ip().is_loopback());
        !bound_near || wanted.ip().is_loopback() || addresses.own.contains(&wanted.ip())
    }

    /// Where the last datagram for `wanted` has gone that went elsewhere.
    fn redirected_to(&self, wanted: SocketAddr) -> Option<SocketAddr> {
        self.redirected.iter().find(|(_, known)| *known == wanted).map(|(actual, _)| *actual)
    }

    /// Where its guest had sent what went there last, if that was elsewhere.
    fn wanted_of(&self, actual: SocketAddr) -> Option<SocketAddr> {
        self.redirected.iter().find(|(known, _)| *known == actual).map(|(_, wanted)| *wanted)
    }

    /// Whom a datagram comes from, as the guest sees it.
    fn sender(&self, addresses: &PodAddresses, actual: SocketAddr) -> SocketAddr {
        self.wanted_of(actual).unwrap_or_else(|| addresses.shown(actual))
    }

    /// The socket's own address, as the guest sees it.
    fn local(&self, addresses: &PodAddresses, actual: SocketAddr) -> SocketAddr {
        match (&self.bound, self.remote) {
            (Some((wanted, Binding::Wildcard)), None) => SocketAddr::new(wanted.ip(), actual.port()),
            (Some((_, Binding::Wildcard)), Some(remote)) if remote.ip().is_loopback() => {
                SocketAddr::new(crate::network::pod::localhost(actual.ip()), actual.port())
            }
            _ => addresses.shown(actual),
        }
    }
}

impl GuestSockets {
    /// Those of a guest whose pod has addresses of its own.
    pub(crate) fn of_pod(pod: Pod, guard: Arc<Guard>) -> Self {
        Self { pod: Some(pod), ..Self::of_node(NodeSockets::default(), guard) }
    }

    /// Those of a guest that has none.
    pub(crate) fn of_node(node: NodeSockets, guard: Arc<Guard>) -> Self {
        Self { pod: None, node, guard, known: HashMap::new(), unsent: Arc::new(Semaphore::new(UNSENT)) }
    }

    /// Those of another guest of the same setup.
    pub(crate) fn for_another(&self) -> Self {
        let (node, guard) = (self.node.clone(), Arc::clone(&self.guard));
        Self { pod: self.pod.clone(), ..Self::of_node(node, guard) }
    }

    /// What the guest may do with addresses.
    pub(crate) fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    pub(crate) fn pod(&self) -> Option<Pod> {
        self.pod.clone()
    }

    pub(crate) fn node(&self) -> NodeSockets {
        self.node.clone()
    }

    /// What is remembered of a resource; nothing yet for one that was not seen.
    fn known(&mut self, rep: u32) -> Arc<Known> {
        Arc::clone(self.known.entry(rep).or_default())
    }

    fn get(&self, rep: u32) -> Option<Arc<Known>> {
        self.known.get(&rep).map(Arc::clone)
    }

    /// A stream is remembered as its socket is.
    fn share(&mut self, rep: u32, known: &Arc<Known>) {
        self.known.insert(rep, Arc::clone(known));
    }

    /// A resource is gone; its number will be another's.
    fn forget(&mut self, rep: u32) {
        self.known.remove(&rep);
    }
}

impl Pod {
    /// Where a connection to `wanted` goes, or a datagram for it.
    pub(crate) fn destination(&self, tcp: bool, wanted: SocketAddr) -> Result<SocketAddr, ErrorCode> {
        let ip = wanted.ip();
        if ip.is_loopback() && self.loopback_ports.contains(&wanted.port()) {
            return Ok(wanted);
        }
        if ip.is_loopback() {
            let transport = Transport { tcp, v4: wanted.is_ipv4() };
            let mapped = self.addresses.destination(wanted, |port| self.ports.has(transport, port));
            return mapped.ok_or(ErrorCode::RemoteUnreachable);
        }
        // What may not be reached by its name is no matter of Services: the refusal is wasmtime-wasi's question's.
        let client = self.addresses.own_like(ip).filter(|_| is_open_to_pods(&self.denied, ip));
        let Some(client) = client else { return Ok(wanted) };
        let transport = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let destination = self.tables.destination(client, transport, wanted);
        // What the network would lose fails at once, too, and otherwise than a refusal.
        let code = |refused: Refused| {
            if refused.is_lost() { ErrorCode::RemoteUnreachable } else { ErrorCode::ConnectionRefused }
        };
        destination.map_err(code)
    }

    /// Where a socket's datagram for `wanted` goes: where the last has gone, for as long as that answers for the Service.
    fn next_destination(&self, socket: &KnownSocket, wanted: SocketAddr) -> Result<SocketAddr, ErrorCode> {
        let known = socket.redirected_to(wanted);
        let known = known.filter(|known| self.tables.is_endpoint(Protocol::Udp, wanted, *known));
        known.map_or_else(|| self.destination(false, wanted), Ok)
    }

    /// Takes note of a socket that listens on all addresses.
    pub(crate) fn open(&self, tcp: bool, local: SocketAddr) -> OpenPort {
        self.ports.open(Transport { tcp, v4: local.is_ipv4() }, local.port())
    }
}

/// Links the functions over wasmtime-wasi's own. The linker must allow shadowing.
pub(crate) fn link(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    create::link(linker)?;
    tcp::link(linker)?;
    udp::link(linker)
}

/// The same resource once more, for another call.
fn again<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

/// What a host function returns.
type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

fn answer<T>(result: SocketResult<T>) -> Answer<T> {
    Ok((match result {
        Ok(value) => Ok(value),
        Err(error) => Err(error.downcast()?),
    },))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn addresses() -> PodAddresses {
        PodAddresses {
            own: vec!["10.0.0.7".parse().unwrap()],
            loopback: "127.0.28.0/22".parse().unwrap(),
            loopback_v6: "fd6b::7:1".parse().unwrap(),
        }
    }

    /// Who asks 127.0.0.1 is answered by 127.0.0.1, wherever the answer has come from.
    #[test]
    fn answers_come_from_where_the_question_went() {
        let mut socket = KnownSocket::default();
        for port in 0..1000 {
            socket.redirect(SocketAddr::new("10.0.0.7".parse().unwrap(), port), at("127.0.0.1:1"));
        }
        assert_eq!(socket.redirected.len(), REDIRECTED);
        socket.redirect(at("10.0.0.7:53"), at("127.0.0.1:53"));
        assert_eq!(socket.sender(&addresses(), at("10.0.0.7:53")), at("127.0.0.1:53"));
        assert_eq!(socket.sender(&addresses(), at("10.0.0.7:54")), at("10.0.0.7:54"));
        assert_eq!(socket.sender(&addresses(), at("127.0.28.1:9")), at("127.0.0.1:9"));
    }

    /// As with any kernel's, whose packets from the loopback do not leave the machine.
    #[test]
    fn what_is_bound_to_the_loopback_stays_there() {
        for (bound, to, expected) in [
            ("127.0.0.1:80", "127.0.0.1:81", true),
            ("127.0.0.1:80", "10.0.0.7:81", true),
            ("127.0.0.1:80", "10.0.0.8:81", false),
            ("[::1]:80", "[2001:db8::1]:81", false),
            ("0.0.0.0:80", "10.0.0.8:81", true),
            ("10.0.0.7:80", "127.0.0.1:81", true),
        ] {
            let bound = Some((at(bound), Binding::Single));
            let socket = KnownSocket { bound, ..KnownSocket::default() };
            assert_eq!(socket.reaches(&addresses(), at(to)), expected, "{to}");
        }
    }

    #[test]
    fn a_socket_shows_what_it_was_bound_to() {
        let wildcard = Some((at("0.0.0.0:0"), Binding::Wildcard));
        let single = Some((at("10.0.0.7:0"), Binding::Single));
        for (bound, remote, actual, shown) in [
            (wildcard, None, "10.0.0.7:80", "0.0.0.0:80"),
            (wildcard, Some("192.0.2.1:1"), "10.0.0.7:80", "10.0.0.7:80"),
            (wildcard, Some("127.0.0.1:1"), "10.0.0.7:80", "127.0.0.1:80"),
            (single, None, "10.0.0.7:80", "10.0.0.7:80"),
            (single, Some("127.0.0.1:1"), "10.0.0.7:80", "10.0.0.7:80"),
            (None, Some("127.0.0.1:1"), "127.0.28.1:80", "127.0.0.1:80"),
        ] {
            let socket = KnownSocket { bound, remote: remote.map(at), ..KnownSocket::default() };
            assert_eq!(socket.local(&addresses(), at(actual)), at(shown), "{actual} {remote:?}");
        }
    }
}
