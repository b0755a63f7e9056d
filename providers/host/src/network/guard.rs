//! The one place where it is decided whether a guest may use an address.
//!
//! ```text
//!   wasmtime-wasi asks ─► [SocketGuard] ─► [Guard]: what holds for any guest of its kind ([`super::allowed`]),
//!   before each use         (one socket)              what its own list has       ([`NameGrants`]: the address that it wants)
//!                                                     what the pod's rules allow  ([`Firewall`]: the address of the kernel)
//! ```
//!
//! A socket has a guard of its own, because wasmtime-wasi names the peer alone: which port was connected to, and
//! which datagram is an answer, is known by the socket. A refused connection that comes in is reset, and a refused datagram
//! is dropped, before the guest sees it; what a guest sends is answered `access-denied`.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use kubewasm_rules::Protocol;
use wasmtime_wasi::{
    WasiCtxBuilder,
    sockets::{SocketAddrUse, WasiSocketsCtx},
};

use super::{
    DeniedNetworks, Network, SocketRules, allowed,
    egress::NameGrants,
    firewall::{Firewall, Refusal},
    flows::Flows,
};

/// What one guest may do with addresses.
#[derive(Debug)]
pub(crate) struct Guard {
    network: Network,
    denied: DeniedNetworks,
    firewall: Option<Arc<Firewall>>,
    grants: Option<NameGrants>,
    rules: SocketRules,
}

/// The same, for one socket.
#[derive(Debug)]
pub(crate) struct SocketGuard {
    guard: Arc<Guard>,
    /// That which it is bound to; 0 before that.
    port: AtomicU16,
    flows: Mutex<Flows>,
}

impl Guard {
    #[cfg(test)]
    pub(crate) fn new(
        network: Network,
        denied: DeniedNetworks,
        firewall: Option<Arc<Firewall>>,
        grants: Option<NameGrants>,
    ) -> Arc<Self> {
        Self::with_rules(network, denied, firewall, grants, SocketRules::default())
    }

    pub(crate) fn with_rules(
        network: Network,
        denied: DeniedNetworks,
        firewall: Option<Arc<Firewall>>,
        grants: Option<NameGrants>,
        rules: SocketRules,
    ) -> Arc<Self> {
        Arc::new(Self { network, denied, firewall, grants, rules })
    }

    /// Whether it may ever be about more than what holds for any guest of its kind: rules are for pods with addresses of
    /// their own, a list for any guest, and of ports that are exposed each socket has its own.
    pub(crate) fn looks_at_sockets(&self) -> bool {
        let has_rules = self.firewall.is_some() && matches!(self.network, Network::Pod(_));
        has_rules || self.grants.is_some() || matches!(self.network, Network::Exposed(_))
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        matches!(&self.network, Network::Pod(pod) if pod.has(ip))
    }

    /// Whether a guest of this kind, with these rules, may use an address so.
    fn allowed(&self, address: SocketAddr, what: SocketAddrUse) -> bool {
        match what {
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive
                if self.rules.opens(address) =>
            {
                true
            }
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind
                if self.rules.connects_only && address.port() != 0 =>
            {
                false
            }
            SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept if self.rules.connects_only => false,
            what => allowed(&self.network, &self.denied, address, what),
        }
    }

    fn refuse(&self, refusal: Refusal) -> bool {
        if let Some(firewall) = &self.firewall {
            firewall.refused(refusal);
        }
        false
    }

    /// Whether something may be begun to `actual` of which the guest wants it to go to `wanted`.
    pub(crate) fn may_reach(&self, protocol: Protocol, actual: SocketAddr, wanted: SocketAddr) -> bool {
        if self.is_own(actual.ip()) || self.rules.opens(actual) {
            return true;
        }
        if self.grants.as_ref().is_some_and(|grants| !grants.may_reach(wanted)) {
            return self.refuse(Refusal::Unlisted(protocol, wanted));
        }
        self.may_go(protocol, actual)
    }

    /// Whether the host may connect to `actual` for the guest, which wants something to go to `wanted`.
    pub(crate) fn may_connect(&self, actual: SocketAddr, wanted: SocketAddr) -> bool {
        self.allowed(actual, SocketAddrUse::TcpConnect) && self.may_reach(Protocol::Tcp, actual, wanted)
    }

    /// Whether a connection that the host has already made to `actual`, for something that was to go to `wanted`, may carry
    /// something of this guest's. `name` is what was looked up for it. It is the same question as for a new connection, but
    /// what was answered about the name need not count any more, and a no is no refusal: the guest has not heard it yet.
    pub(crate) fn may_use(&self, actual: SocketAddr, wanted: SocketAddr, name: Option<&str>) -> bool {
        let is_listed = || self.grants.as_ref().is_none_or(|grants| grants.lists(wanted, name));
        let may_go =
            || self.firewall.as_ref().is_none_or(|firewall| firewall.rules().may_go(actual, Protocol::Tcp));
        self.allowed(actual, SocketAddrUse::TcpConnect)
            && (self.is_own(actual.ip()) || self.rules.opens(actual) || (is_listed() && may_go()))
    }

    /// Whether the pod's rules let something go there that the host sends for the guest: questions about names. The guest's
    /// own list is about what it asks, and not whom.
    pub(crate) fn may_ask(&self, protocol: Protocol, server: SocketAddr) -> bool {
        self.is_own(server.ip()) || self.may_go(protocol, server)
    }

    fn may_go(&self, protocol: Protocol, actual: SocketAddr) -> bool {
        match &self.firewall {
            Some(firewall) if !firewall.rules().may_go(actual, protocol) => {
                self.refuse(Refusal::To(protocol, actual))
            }
            Some(_) | None => true,
        }
    }

    /// Whether a connection may be accepted that has come in at a port of the pod, by a socket that wasmtime-wasi does not
    /// know.
    pub(crate) fn may_accept(&self, peer: SocketAddr, port: u16) -> bool {
        allowed(&self.network, &self.denied, peer, SocketAddrUse::TcpAccept)
            && self.may_come(Protocol::Tcp, peer, port)
    }

    /// Whether something that a peer begins may come in at a port of the pod.
    pub(crate) fn may_come(&self, protocol: Protocol, peer: SocketAddr, port: u16) -> bool {
        match &self.firewall {
            Some(firewall)
                if !self.is_own(peer.ip()) && !firewall.rules().may_come(peer.ip(), protocol, port) =>
            {
                self.refuse(Refusal::From(protocol, peer, port))
            }
            Some(_) | None => true,
        }
    }

    /// Whether a name may be looked up.
    pub(crate) fn may_look_up(&self, name: &str) -> bool {
        match &self.grants {
            Some(grants) if !grants.may_look_up(name) => self.refuse(Refusal::UnlistedName(name.to_owned())),
            Some(_) | None => true,
        }
    }

    /// A look-up was answered with these addresses, which counts for `ttl`.
    pub(crate) fn looked_up(&self, name: &str, addresses: &[IpAddr], ttl: Duration) {
        if let Some(grants) = &self.grants {
            grants.grant(name, addresses, ttl);
        }
    }

    /// Nothing is refused by rules or a list.
    fn is_open(&self) -> bool {
        self.grants.is_none()
            && self.firewall.as_ref().is_none_or(|firewall| firewall.rules().allow_everything())
    }
}

impl SocketGuard {
    pub(crate) fn new(guard: Arc<Guard>) -> Arc<Self> {
        Arc::new(Self { guard, port: AtomicU16::new(0), flows: Mutex::default() })
    }

    /// The socket is bound to this port.
    pub(crate) fn bound(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
    }

    /// What the guest sends to `wanted` goes to `actual`.
    pub(crate) fn chose(&self, actual: SocketAddr, wanted: SocketAddr) {
        if actual != wanted {
            self.flows().choose(actual, wanted);
        }
    }

    /// What the guest sends to `wanted` goes to `actual`, where its own pod takes it in.
    pub(crate) fn leads_home(&self, actual: SocketAddr, wanted: SocketAddr) {
        self.flows().choose(actual, wanted);
    }

    /// What the guest sends to an address goes there.
    pub(crate) fn leads_out(&self, wanted: SocketAddr) {
        self.flows().unchoose(wanted);
    }

    fn flows(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers what wasmtime-wasi asks.
    pub(crate) fn allows(&self, address: SocketAddr, what: SocketAddrUse) -> bool {
        let guard = &*self.guard;
        if matches!(guard.network, Network::Exposed(_)) && self.is_of_exposed(address, what) {
            return true;
        }
        if !guard.allowed(address, what) {
            return false;
        }
        match what {
            SocketAddrUse::TcpConnect => {
                let wanted = self.flows().wanted(address);
                guard.may_reach(Protocol::Tcp, address, wanted)
            }
            SocketAddrUse::TcpAccept => guard.may_come(Protocol::Tcp, address, self.port()),
            SocketAddrUse::UdpSend => {
                self.exchanges(address, |wanted| guard.may_reach(Protocol::Udp, address, wanted))
            }
            SocketAddrUse::UdpReceive => {
                self.exchanges(address, |_| guard.may_come(Protocol::Udp, address, self.port()))
            }
            SocketAddrUse::TcpListen => {
                self.bound(address.port());
                true
            }
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => true,
        }
    }

    /// Whether something is allowed by ports that are exposed, whatever else is not: what the pod sends itself, and datagrams
    /// at a port that is open to everybody, with the answers to them.
    fn is_of_exposed(&self, peer: SocketAddr, what: SocketAddrUse) -> bool {
        // Of such a guest, only those sockets are told of that are bound to what is exposed.
        let is_open = self.port() != 0;
        let mut flows = self.flows();
        match what {
            SocketAddrUse::TcpConnect => flows.is_chosen(peer),
            SocketAddrUse::UdpSend => flows.is_chosen(peer) || (is_open && flows.renew(peer, Instant::now())),
            SocketAddrUse::UdpReceive if is_open => {
                flows.open(peer, Instant::now());
                true
            }
            SocketAddrUse::UdpReceive => flows.is_chosen(peer),
            SocketAddrUse::TcpBind
            | SocketAddrUse::UdpBind
            | SocketAddrUse::TcpListen
            | SocketAddrUse::TcpAccept => false,
        }
    }

    fn port(&self) -> u16 {
        self.port.load(Ordering::Relaxed)
    }

    /// Whether a datagram passes: as part of what has been allowed, or on its own account.
    fn exchanges(&self, peer: SocketAddr, allows: impl FnOnce(SocketAddr) -> bool) -> bool {
        if self.guard.is_open() || self.guard.is_own(peer.ip()) {
            return true;
        }
        let now = Instant::now();
        let mut flows = self.flows();
        let passes = flows.renew(peer, now) || allows(flows.wanted(peer));
        if passes {
            flows.open(peer, now);
        }
        passes
    }

    /// With which the socket is made.
    pub(crate) fn context(self: &Arc<Self>) -> WasiSocketsCtx {
        let mut builder = WasiCtxBuilder::new();
        self.guard_all(&mut builder);
        builder.build().sockets().clone()
    }

    /// Has wasmtime-wasi ask this.
    pub(crate) fn guard_all(self: &Arc<Self>, wasi: &mut WasiCtxBuilder) {
        let guard = Arc::clone(self);
        wasi.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true);
        wasi.socket_addr_check(move |address, what| {
            Box::pin(std::future::ready(guard.allows(address, what)))
        });
    }
}

#[cfg(test)]
mod tests;
