//! Look-ups by what a pod's files say, as the GNU C library does them.
//!
//! ```text
//!   name ─[hosts]─► known? ─► its addresses
//!        └[candidates: ndots, search]─► each in turn ─► each server in turn, so many times ─► A and AAAA at once
//! ```
//!
//! A server that says nothing or that it cannot answer is followed by the next one; one that knows of no such name has
//! answered, and the next candidate is tried. Nothing is kept: a cluster's names change quickly, its servers keep them, and
//! an idle guest costs nothing. Servers are the resolver library's work (datagrams, their repetition, TCP for what does not
//! fit, aliases), one at a time: with several, it counts the time of one for all of them together.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_resolver::{
    Resolver,
    config::{
        ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
        ServerOrderingStrategy,
    },
    net::{DnsError, NetError},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
};
use wasmtime_wasi::p2::bindings::sockets::network::ErrorCode;

use super::{
    Found, UNKNOWN_TTL,
    files::NameFiles,
    hosts,
    resolv_conf::{NameServer, ResolvConf},
    transport::{Sender, Transport},
};

/// Where servers listen.
const PORT: u16 = 53;

/// Looks names up for the guests of a pod.
#[derive(Debug)]
pub(super) struct PodResolver {
    files: Arc<NameFiles>,
    conf: ResolvConf,
    /// Where the pod has addresses of its own.
    sender: Option<Sender>,
    port: u16,
    /// With `rotate`, the server that is asked first.
    first: AtomicUsize,
}

/// What has come of a question, the better after the worse.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reply {
    /// Nobody said anything.
    Silence,
    /// Whoever was asked does not want to answer such questions.
    Refused,
    /// Whoever was asked could not find out.
    Failure,
    /// There is no such name, or it has no such addresses.
    Absent,
    Found(Found),
}

impl PodResolver {
    pub(super) fn new(files: Arc<NameFiles>, sender: Option<Sender>) -> Self {
        let conf = ResolvConf::parse(files.resolv_conf());
        Self { files, conf, sender, port: PORT, first: AtomicUsize::new(0) }
    }

    /// With servers at another port.
    #[cfg(test)]
    pub(super) fn at_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The addresses of a name; never none.
    pub(super) async fn look_up(&self, name: &str) -> Result<Found, ErrorCode> {
        let known = hosts::find(self.files.hosts(), name);
        if !known.is_empty() {
            return Ok(Found { addresses: known, ttl: UNKNOWN_TTL });
        }
        let (mut failed, mut refused) = (false, false);
        for candidate in self.conf.candidates(name) {
            // With a search domain it may be too long for a name.
            let Ok(candidate) = Name::from_ascii(&candidate) else { continue };
            match self.ask(&candidate).await {
                Reply::Found(Found { addresses, ttl }) => {
                    return Ok(Found { addresses: self.in_order(addresses), ttl });
                }
                Reply::Absent => {}
                Reply::Failure => failed = true,
                Reply::Refused => refused = true,
                Reply::Silence => return Err(ErrorCode::TemporaryResolverFailure),
            }
        }
        Err(match (failed, refused) {
            (true, _) => ErrorCode::TemporaryResolverFailure,
            (false, true) => ErrorCode::PermanentResolverFailure,
            (false, false) => ErrorCode::NameUnresolvable,
        })
    }

    /// Asks the servers about a full name until one has an answer.
    async fn ask(&self, name: &Name) -> Reply {
        let mut servers: Vec<&NameServer> = self.conf.servers.iter().collect();
        if self.conf.rotate {
            let first = self.first.fetch_add(1, Ordering::Relaxed) % servers.len().max(1);
            servers.rotate_left(first);
        }
        let mut best = Reply::Silence;
        for server in servers.iter().cycle().take(servers.len() * self.conf.attempts) {
            best = best.max(self.ask_one(server, name).await);
            if best >= Reply::Absent {
                break;
            }
        }
        best
    }

    /// Asks a server for addresses of every family that the pod has.
    async fn ask_one(&self, server: &NameServer, name: &Name) -> Reply {
        let Some(resolver) = self.resolver(server) else { return Reply::Silence };
        let (v4, v6) = self.families();
        let ask = async |wanted: bool, kind: RecordType| match wanted {
            true => Some(reply(resolver.lookup(name.clone(), kind).await)),
            false => None,
        };
        let (v4, v6) = tokio::join!(ask(v4, RecordType::A), ask(v6, RecordType::AAAA));
        together(v4.into_iter().chain(v6))
    }

    /// The pod's own addresses, where it has some.
    fn own(&self) -> Option<&[IpAddr]> {
        Some(&self.sender.as_ref()?.pod.addresses.own)
    }

    /// Of which families addresses are looked for: those of the pod's own, or any where it has the host's.
    fn families(&self) -> (bool, bool) {
        let (v4, v6) = match self.own() {
            Some(own) => (own.iter().any(IpAddr::is_ipv4), own.iter().any(IpAddr::is_ipv6)),
            None => (true, true),
        };
        let v6 = v6 && !self.conf.no_aaaa;
        // Without any family there would be no question.
        (v4 || !v6, v6)
    }

    /// What asks one server.
    fn resolver(&self, NameServer { ip, zone }: &NameServer) -> Option<Resolver<Transport>> {
        let at = |mut connection: ConnectionConfig| {
            connection.port = self.port;
            connection
        };
        let mut connections = vec![at(ConnectionConfig::tcp())];
        if !self.conf.by_tcp {
            connections.insert(0, at(ConnectionConfig::udp()));
        }
        let mut options = ResolverOpts::default();
        options.timeout = self.conf.timeout;
        options.attempts = 0;
        options.edns0 = self.conf.edns;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.num_concurrent_reqs = 1;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.os_port_selection = true;
        options.preserve_intermediates = false;
        let config = ResolverConfig::from_name_servers(vec![NameServerConfig::new(*ip, true, connections)]);
        let transport = Transport::new(self.sender.clone(), zone.as_deref().map_or(0, scope));
        let resolver = Resolver::builder_with_config(config, transport).with_options(options).build();
        resolver.inspect_err(|error| tracing::warn!(%error, "cannot look up names")).ok()
    }

    /// Addresses in the order in which they should be tried: as the server gave them, the pod's first family first, and
    /// where it has the host's addresses, families that lead somewhere first, that of IPv6 before the other.
    fn in_order(&self, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let v6_first = match self.own() {
            Some(own) => own.first().is_some_and(IpAddr::is_ipv6),
            None => addresses.iter().find(|ip| ip.is_ipv6()).is_some_and(|ip| leads_somewhere(*ip)),
        };
        addresses.sort_by_key(|ip| ip.is_ipv6() != v6_first);
        addresses
    }
}

/// Whether the host has a way to an address. Nothing is sent.
fn leads_somewhere(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((ip, PORT))).is_ok()
}

/// The number of an interface; 0 where there is none of this name.
fn scope(zone: &str) -> u32 {
    let by_name = || {
        let any = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok()?;
        rustix::net::netdevice::name_to_index(any, zone).ok()
    };
    zone.parse().ok().or_else(by_name).unwrap_or(0)
}

/// What a server has said of one kind of address.
fn reply(result: Result<hickory_resolver::lookup::Lookup, NetError>) -> Reply {
    match result {
        Ok(lookup) => {
            let records = lookup.answers();
            let addresses = records.iter().filter_map(|record| match &record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            });
            let addresses: Vec<_> = addresses.collect();
            let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(0);
            if addresses.is_empty() {
                return Reply::Absent;
            }
            Reply::Found(Found { addresses, ttl: Duration::from_secs(ttl.into()) })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Reply::Absent,
        Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail))) => Reply::Failure,
        Err(NetError::Dns(_)) => Reply::Refused,
        Err(error) => {
            tracing::debug!(%error, "a name server has not answered");
            Reply::Silence
        }
    }
}

/// What the replies about the families of one name mean together: addresses of one are enough, and that there are none has
/// to be said of all.
fn together(replies: impl Iterator<Item = Reply>) -> Reply {
    let (mut found, mut others): (Option<Found>, _) = (None, Vec::new());
    for reply in replies {
        match (reply, &mut found) {
            (Reply::Found(more), Some(found)) => {
                found.addresses.extend(more.addresses);
                found.ttl = found.ttl.min(more.ttl);
            }
            (Reply::Found(first), found @ None) => *found = Some(first),
            (other, _) => others.push(other),
        }
    }
    found.map_or_else(|| others.into_iter().min().unwrap_or(Reply::Absent), Reply::Found)
}

#[cfg(test)]
mod tests;
