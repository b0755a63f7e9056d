//! Connections, made as the guest's own sockets would be.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::stream::{FuturesUnordered, StreamExt as _};
use kubewasm_rules::Protocol;
use rustls_pki_types::ServerName;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use wasmtime_wasi_http::Error;

use super::{
    error,
    pool::Fitness,
    proxy::{HttpProxy, is_on_loopback},
    request::{Origin, Security},
    tls::{GuestTls, SystemAuthorities, TlsConfigs},
    tunnel::{self, ProxyTrouble},
};
use crate::{
    account::Account,
    lookup::GuestLookups,
    network::{Network, guard::Guard},
    setup::Setup,
    sockets::{GuestSockets, NodeSockets, Pod},
    traffic::Counted,
};

/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 16;
/// How long an address has before the next one is tried as well (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// Names that are looked up at a time for the requests of a guest; others wait.
const LOOKUPS: usize = 16;
/// Connections of all guests of a host, where its process may open enough files.
const MOST_CONNECTIONS: u64 = 1 << 16;

/// What a host has for the requests of all its guests.
#[derive(Debug)]
pub(crate) struct OutgoingHost {
    authorities: Arc<SystemAuthorities>,
    /// Connections that there may be more.
    places: Arc<Semaphore>,
    proxy_trouble: Arc<ProxyTrouble>,
}

/// How one guest gets to where its requests go.
#[derive(Debug)]
pub(crate) struct OutgoingWay {
    guard: Arc<Guard>,
    lookups: GuestLookups,
    looking_up: Semaphore,
    /// Where its pod has addresses of its own.
    pod: Option<Pod>,
    /// Where it has those of the node.
    node: NodeSockets,
    /// Its pod's, and not that of the node.
    has_own_loopback: bool,
    tls: GuestTls,
    proxy: Option<Arc<HttpProxy>>,
    pub(super) proxy_trouble: Arc<ProxyTrouble>,
    /// See [`OutgoingHost`].
    pub(super) host_places: Arc<Semaphore>,
    pub(super) account: Arc<Account>,
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// What was wanted, perhaps a Service.
    pub(super) wanted: SocketAddr,
    /// Who it is for the kernel.
    pub(super) actual: SocketAddr,
    /// Where it comes from; wherever the kernel likes, if nothing is said.
    source: Option<SocketAddr>,
    /// It goes to the pod itself, at a port of the node that is the pod's: there is nothing to be asked about that.
    is_home: bool,
    /// It goes to a proxy.
    pub(super) proxied: Option<Arc<Proxied>>,
}

/// What is behind a proxy that a connection goes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proxied {
    pub(super) proxy: Arc<HttpProxy>,
    /// What the origin was found to be at here. The proxy may know better, and is not asked to go anywhere else.
    addresses: Vec<SocketAddr>,
}

/// A connection that was made.
#[derive(Debug)]
pub(super) enum Opened {
    Plain(Counted<TcpStream>),
    Tls(Box<TlsStream<Counted<TcpStream>>>),
}

impl OutgoingHost {
    /// In a process that may open so many files: others than these need some, too.
    pub(crate) fn new(open_files: u64) -> Self {
        let places = usize::try_from((open_files / 4).clamp(1, MOST_CONNECTIONS)).unwrap_or(1);
        Self {
            authorities: Arc::default(),
            places: Arc::new(Semaphore::new(places)),
            proxy_trouble: Arc::default(),
        }
    }

    /// The way of a guest.
    pub(crate) fn way(
        &self,
        setup: &Setup<'_>,
        lookups: GuestLookups,
        sockets: &GuestSockets,
    ) -> OutgoingWay {
        OutgoingWay {
            guard: Arc::clone(sockets.guard()),
            lookups,
            looking_up: Semaphore::new(LOOKUPS),
            pod: sockets.pod(),
            node: sockets.node(),
            has_own_loopback: matches!(setup.network, Network::Pod(_) | Network::Namespace),
            tls: GuestTls::new(Arc::clone(&self.authorities), setup.authorities.map(Arc::clone)),
            proxy: setup.http_proxy.map(Arc::clone),
            proxy_trouble: Arc::clone(&self.proxy_trouble),
            host_places: Arc::clone(&self.places),
            account: Arc::clone(setup.account),
        }
    }
}

/// The name of an origin, where it has one.
fn name(origin: &Origin) -> Option<&str> {
    let is_address = origin.host.starts_with('[') || origin.host.parse::<IpAddr>().is_ok();
    (!is_address).then_some(&*origin.host)
}

impl OutgoingWay {
    /// Whom the guest trusts.
    pub(super) fn tls(&self) -> &GuestTls {
        &self.tls
    }

    /// Whether a connection that is open may carry a request of this guest.
    pub(super) fn fitness(&self, origin: &Origin, route: &Route) -> Fitness {
        let Route { wanted, actual, is_home, .. } = *route;
        let proxied = route.proxied.as_deref();
        let addresses = proxied.map_or(std::slice::from_ref(&wanted), |proxied| &proxied.addresses);
        if self.proxy_for(origin, addresses) != proxied.map(|proxied| &proxied.proxy) {
            return Fitness::Forbidden;
        }
        if is_home {
            let is_there = self.node.home(Protocol::Tcp, wanted) == Some(actual);
            return if is_there { Fitness::Fit } else { Fitness::Stale };
        }
        let is_elsewhere = wanted != actual && !wanted.ip().is_loopback();
        let is_endpoint = |pod: &Pod| pod.tables.is_endpoint(Protocol::Tcp, wanted, actual);
        if is_elsewhere && !self.pod.as_ref().is_some_and(is_endpoint) {
            return Fitness::Stale;
        }
        let may_use = match proxied {
            Some(_) => addresses.iter().all(|at| self.guard.may_use(*at, *at, name(origin))),
            None => self.guard.may_use(actual, wanted, name(origin)),
        };
        if may_use { Fitness::Fit } else { Fitness::Forbidden }
    }

    /// Connects to an origin.
    pub(super) async fn connect(
        &self,
        origin: &Origin,
        configs: &TlsConfigs,
    ) -> Result<(Opened, Route), Error> {
        let addresses = {
            // It is never closed.
            let _place = self.looking_up.acquire().await.map_err(|_| Error::DnsTimeout)?;
            self.lookups.addresses(&origin.host).await.map_err(error::of_lookup)?
        };
        let addresses: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, origin.port)).collect();
        let proxy = self.proxy_for(origin, &addresses).map(Arc::clone);
        let (stream, route) = match proxy {
            Some(proxy) => self.connect_to_proxy(proxy, addresses).await?,
            None => self.connect_any(addresses, |wanted| self.route(wanted)).await?,
        };
        // What is written is meant to be sent; where that cannot be said, it is sent all the same.
        let _ = stream.set_nodelay(true);
        let stream = Counted::new(stream, self.account.traffic());
        let Security::Tls(_) = origin.security else { return Ok((Opened::Plain(stream), route)) };
        let stream = match &route.proxied {
            Some(proxied) => {
                let tunnel = tunnel::open(stream, &proxied.proxy, origin).await;
                tunnel.inspect_err(|error| self.refused_by(&proxied.proxy, error))?
            }
            None => stream,
        };
        let host = origin.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server = ServerName::try_from(host).map_err(|_| Error::HttpRequestUriInvalid)?;
        let connector = TlsConnector::from(configs.of(&self.tls).await?);
        let stream = connector.connect(server, stream).await.map_err(|cause| {
            tracing::debug!(host = origin.host, port = origin.port, %cause, "no TLS with a server");
            error::of_tls(&cause)
        })?;
        Ok((Opened::Tls(Box::new(stream)), route))
    }

    /// Connects to the first address that answers. Each has a moment before the next is tried beside it.
    async fn connect_any(
        &self,
        addresses: Vec<SocketAddr>,
        route: impl Fn(SocketAddr) -> Result<Route, Error>,
    ) -> Result<(TcpStream, Route), Error> {
        let mut left = addresses.into_iter().take(MOST_ADDRESSES);
        let (mut running, mut first_error) = (FuturesUnordered::new(), None);
        loop {
            let next = left.next();
            match next.map(&route) {
                Some(Ok(route)) => running.push(dial(route)),
                Some(Err(error)) => {
                    first_error.get_or_insert(error);
                    continue;
                }
                None if running.is_empty() => return Err(first_error.unwrap_or(Error::DestinationNotFound)),
                None => {}
            }
            let is_last = left.len() == 0;
            let moment = async {
                if is_last {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(STAGGER).await;
            };
            tokio::select! {
                Some(result) = running.next() => match result {
                    Ok(connected) => return Ok(connected),
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                },
                () = moment => {}
            }
        }
    }

    /// A proxy did not let a request through.
    pub(super) fn refused_by(&self, proxy: &HttpProxy, error: &Error) {
        // What it has against the origin is no trouble of its own.
        if matches!(error, Error::ConfigurationError | Error::HttpProtocolError) {
            self.proxy_trouble.tell(proxy, error);
        }
    }

    /// The proxy for an origin at these addresses, if one is named, and the origin is not reached past it: what is the pod's own,
    /// a Service, or on this machine or its link is, by all of its addresses.
    fn proxy_for(&self, origin: &Origin, addresses: &[SocketAddr]) -> Option<&Arc<HttpProxy>> {
        let proxy = self.proxy.as_ref()?;
        let is_near = !addresses.is_empty() && addresses.iter().all(|at| self.is_near(*at));
        let is_past = is_near || proxy.is_passed(&origin.host, addresses, origin.port);
        (!is_past).then_some(proxy)
    }

    fn is_near(&self, at: SocketAddr) -> bool {
        let is_on_link = match at.ip().to_canonical() {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let is_of_pod = |pod: &Pod| pod.addresses.has(at.ip()) || pod.tables.is_service(Protocol::Tcp, at);
        is_on_loopback(at.ip())
            || is_on_link
            || self.node.home(Protocol::Tcp, at).is_some()
            || self.pod.as_ref().is_some_and(is_of_pod)
    }

    /// Whether the guest's own pod is at an address, or answers there.
    fn is_own(&self, at: SocketAddr) -> bool {
        let at = SocketAddr::new(at.ip().to_canonical(), at.port());
        (self.has_own_loopback && is_on_loopback(at.ip()))
            || self.pod.as_ref().is_some_and(|pod| pod.addresses.has(at.ip()))
            || self.node.ports.listens_at(at)
    }

    /// Connects to a proxy that shall lead on to what is at one of these addresses: which one it takes is not known, so that the
    /// guest must be allowed to go to all of them.
    async fn connect_to_proxy(
        &self,
        proxy: Arc<HttpProxy>,
        addresses: Vec<SocketAddr>,
    ) -> Result<(TcpStream, Route), Error> {
        if addresses.is_empty() {
            return Err(Error::DestinationNotFound);
        }
        if !addresses.iter().all(|at| self.guard.may_connect(*at, *at)) {
            return Err(Error::DestinationIpProhibited);
        }
        let unreachable = |proxy: &HttpProxy, cause: &dyn std::fmt::Debug| {
            self.proxy_trouble.tell(proxy, &cause);
            Error::DestinationUnavailable
        };
        let found = self.lookups.addresses_for_host(proxy.host()).await;
        let found = found.map_err(|cause| unreachable(&proxy, &cause))?;
        let at = found.iter().map(|ip| SocketAddr::new(*ip, proxy.port()));
        // A guest that listens where the proxy is looked for must not be given its credentials.
        let at: Vec<_> = at.filter(|at| !self.is_own(*at)).collect();
        if at.is_empty() && !found.is_empty() {
            self.proxy_trouble.tell(&proxy, &"it is at an address of the pod's own: name one of the node's");
            return Err(Error::ConfigurationError);
        }
        let proxied = Arc::new(Proxied { proxy, addresses });
        let route = |wanted| Ok(Route { proxied: Some(Arc::clone(&proxied)), ..self.way_to(wanted)? });
        self.connect_any(at, route).await.map_err(|cause| match cause {
            Error::ConnectionLimitReached => cause,
            cause => unreachable(&proxied.proxy, &cause),
        })
    }

    /// Where a connection of the guest's goes that is to reach an address.
    fn route(&self, wanted: SocketAddr) -> Result<Route, Error> {
        if let Some(actual) = self.node.home(Protocol::Tcp, wanted) {
            return Ok(Route { wanted, actual, source: None, is_home: true, proxied: None });
        }
        let route = self.way_to(wanted)?;
        if !self.guard.may_connect(route.actual, wanted) {
            return Err(Error::DestinationIpProhibited);
        }
        Ok(route)
    }

    /// How an address is reached from where the guest is, whoever may go there.
    fn way_to(&self, wanted: SocketAddr) -> Result<Route, Error> {
        let (actual, source) = match &self.pod {
            Some(pod) => {
                let source = pod.addresses.source(wanted).ok_or(Error::DestinationIpUnroutable)?;
                let actual = pod.destination(true, wanted).map_err(error::of_destination)?;
                (actual, Some(source))
            }
            None => (wanted, None),
        };
        Ok(Route { wanted, actual, source, is_home: false, proxied: None })
    }
}

async fn dial(route: Route) -> Result<(TcpStream, Route), Error> {
    let connect = async {
        let socket = if route.actual.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(source) = route.source {
            socket.bind(source)?;
        }
        socket.connect(route.actual).await
    };
    let stream = connect.await.map_err(|error| error::of_connect(&error))?;
    Ok((stream, route))
}
