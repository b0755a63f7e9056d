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
    request::{Origin, Security},
    tls::{GuestTls, SystemAuthorities, TlsConfigs},
};
use crate::{
    account::Account,
    lookup::GuestLookups,
    network::guard::Guard,
    setup::Setup,
    sockets::{GuestSockets, NodeSockets, Pod},
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
    tls: GuestTls,
    /// See [`OutgoingHost`].
    pub(super) host_places: Arc<Semaphore>,
    pub(super) account: Arc<Account>,
}

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// What was wanted, perhaps a Service.
    pub(super) wanted: SocketAddr,
    /// Who it is for the kernel.
    pub(super) actual: SocketAddr,
    /// Where it comes from; wherever the kernel likes, if nothing is said.
    source: Option<SocketAddr>,
    /// It goes to the pod itself, at a port of the node that is the pod's: there is nothing to be asked about that.
    is_home: bool,
}

/// A connection that was made.
#[derive(Debug)]
pub(super) enum Opened {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl OutgoingHost {
    /// In a process that may open so many files: others than these need some, too.
    pub(crate) fn new(open_files: u64) -> Self {
        let places = usize::try_from((open_files / 4).clamp(1, MOST_CONNECTIONS)).unwrap_or(1);
        Self { authorities: Arc::default(), places: Arc::new(Semaphore::new(places)) }
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
            tls: GuestTls::new(Arc::clone(&self.authorities), setup.authorities.map(Arc::clone)),
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
        if is_home {
            let is_there = self.node.home(Protocol::Tcp, wanted) == Some(actual);
            return if is_there { Fitness::Fit } else { Fitness::Stale };
        }
        let is_elsewhere = wanted != actual && !wanted.ip().is_loopback();
        let is_endpoint = |pod: &Pod| pod.tables.is_endpoint(Protocol::Tcp, wanted, actual);
        if is_elsewhere && !self.pod.as_ref().is_some_and(is_endpoint) {
            return Fitness::Stale;
        }
        if self.guard.may_use(actual, wanted, name(origin)) { Fitness::Fit } else { Fitness::Forbidden }
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
        let (stream, route) = self.connect_any(addresses, origin.port).await?;
        // What is written is meant to be sent; where that cannot be said, it is sent all the same.
        let _ = stream.set_nodelay(true);
        let Security::Tls(_) = origin.security else { return Ok((Opened::Plain(stream), route)) };
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
    async fn connect_any(&self, addresses: Vec<IpAddr>, port: u16) -> Result<(TcpStream, Route), Error> {
        let mut left = addresses.into_iter().take(MOST_ADDRESSES).map(|ip| SocketAddr::new(ip, port));
        let (mut running, mut first_error) = (FuturesUnordered::new(), None);
        loop {
            let next = left.next();
            match next.map(|wanted| self.route(wanted)) {
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

    /// Where a connection goes that is to reach an address.
    fn route(&self, wanted: SocketAddr) -> Result<Route, Error> {
        if let Some(actual) = self.node.home(Protocol::Tcp, wanted) {
            return Ok(Route { wanted, actual, source: None, is_home: true });
        }
        let (actual, source) = match &self.pod {
            Some(pod) => {
                let source = pod.addresses.source(wanted).ok_or(Error::DestinationIpUnroutable)?;
                let actual = pod.destination(true, wanted).map_err(error::of_destination)?;
                (actual, Some(source))
            }
            None => (wanted, None),
        };
        if !self.guard.may_connect(actual, wanted) {
            return Err(Error::DestinationIpProhibited);
        }
        Ok(Route { wanted, actual, source, is_home: false })
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
