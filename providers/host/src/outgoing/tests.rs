//! Requests to servers in this process, without guests.

mod connections;
mod failures;
mod proxies;
mod rules;
mod senders;
pub(crate) mod server;
mod tls;

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Frame;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::{Deadlines, HttpConnections, HttpProxy, OutgoingHost, OutgoingWay, PrivateAuthorities, exchange};
use crate::{
    Account, Capture, CpuShare, DeniedNetworks, EgressList, Firewall, GuestLimits, Network, Output, Resolver,
    Setup,
    lookup::Lookups,
    network::{NetworkTables, PodPorts, egress::NameGrants, guard::Guard},
    sockets::{GuestSockets, NodeSockets, Pod},
};
use server::Server;

/// What is awaited must come; how long it takes on a busy machine is not what these tests are about.
const PATIENCE: Duration = Duration::from_secs(60);
/// Shorter than anything that is awaited in earnest.
const MOMENT: Option<Duration> = Some(Duration::from_millis(200));

/// What a guest may do.
struct GuestOf {
    network: Network,
    denied: DeniedNetworks,
    firewall: Option<Arc<Firewall>>,
    egress: Option<EgressList>,
    tables: Arc<NetworkTables>,
    ports: Arc<PodPorts>,
    authorities: Option<Arc<PrivateAuthorities>>,
    proxy: Option<Arc<HttpProxy>>,
    memory: u64,
}

impl Default for GuestOf {
    fn default() -> Self {
        Self {
            network: Network::Host,
            denied: DeniedNetworks::default(),
            firewall: None,
            egress: None,
            tables: Arc::default(),
            ports: Arc::default(),
            authorities: None,
            proxy: None,
            memory: 1 << 30,
        }
    }
}

/// A guest that sends requests.
struct Client {
    connections: Arc<HttpConnections>,
    way: OutgoingWay,
    account: Arc<Account>,
}

impl GuestOf {
    fn client(self) -> Client {
        self.with(&Arc::default())
    }

    /// One of several that share these.
    fn with(self, connections: &Arc<HttpConnections>) -> Client {
        let limits = GuestLimits { memory_bytes: self.memory, cpu: CpuShare::default() };
        let account = Arc::new(Account::new(limits));
        let grants = self.egress.map(NameGrants::new);
        let guard = Guard::new(self.network.clone(), self.denied.clone(), self.firewall, grants);
        let sockets = match &self.network {
            Network::Pod(addresses) => {
                let pod = Pod {
                    addresses: Arc::new(addresses.clone()),
                    ports: Arc::default(),
                    denied: Arc::new(self.denied.clone()),
                    tables: self.tables,
                    loopback_ports: Arc::default(),
                };
                GuestSockets::of_pod(pod, Arc::clone(&guard))
            }
            _ => {
                let exposed = match &self.network {
                    Network::Exposed(exposed) => Some(Arc::new(exposed.clone())),
                    _ => None,
                };
                GuestSockets::of_node(NodeSockets { exposed, ports: self.ports }, Arc::clone(&guard))
            }
        };
        // Every name that ends in .test is this machine's, if it is not far away.
        let resolver = Resolver::new(|name| {
            let [far, private] = [[192, 0, 2, 10], [10, 1, 2, 3]].map(IpAddr::from);
            match name {
                "metadata.far.test" => Ok(vec![IpAddr::from([169, 254, 169, 254])]),
                "private.far.test" => Ok(vec![private]),
                "both.far.test" => Ok(vec![far, private]),
                "near.far.test" => Ok(vec![IpAddr::from([127, 0, 0, 1]), far]),
                _ if name.ends_with(".far.test") => Ok(vec![far]),
                _ if name.ends_with(".test") => Ok(vec![IpAddr::from([127, 0, 0, 1])]),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        });
        let lookups = Lookups::new(resolver).of_guest(Arc::clone(&guard), None, sockets.pod());
        let output: Arc<dyn Output> = Arc::new(Capture::new(0));
        let setup = Setup {
            network: &self.network,
            denied_networks: &self.denied,
            egress: None,
            http_connections: Some(connections),
            authorities: self.authorities.as_ref(),
            http_proxy: self.proxy.as_ref(),
            terminal: true,
            ..Setup::isolated(&output, &account)
        };
        let way = OutgoingHost::new(1 << 20).way(&setup, lookups, &sockets);
        Client { connections: Arc::clone(connections), way, account }
    }
}

impl Client {
    async fn send(
        &self,
        request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        let sending = exchange::send(&self.connections, &self.way, request, Deadlines::of(Some(options)));
        tokio::time::timeout(PATIENCE, sending).await.expect("a request ends")
    }

    async fn get(&self, url: &str) -> Result<Response<WasiBody>, Error> {
        self.send(get(url), RequestOptions::default()).await
    }

    /// The text of a response.
    async fn text(&self, url: &str) -> String {
        text(self.get(url).await.unwrap()).await
    }
}

/// The memory of all connections is free again.
async fn holds_nothing(account: &Account) {
    let freed = async {
        while account.usage().memory_bytes > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("what is held is given back");
}

fn get(url: &str) -> Request<WasiBody> {
    let body = Empty::new().map_err(Error::from).boxed_unsync();
    Request::get(url).body(body).unwrap()
}

fn post(url: &str, body: &'static str) -> Request<WasiBody> {
    let body = Full::new(Bytes::from_static(body.as_bytes())).map_err(Error::from).boxed_unsync();
    Request::post(url).body(body).unwrap()
}

/// A body of so many pieces.
fn pieces(count: usize, piece: &Bytes) -> WasiBody {
    let piece = piece.clone();
    let frames = (0..count).map(move |_| Ok::<_, Infallible>(Frame::data(piece.clone())));
    StreamBody::new(futures::stream::iter(frames)).map_err(Error::from).boxed_unsync()
}

async fn text(response: Response<WasiBody>) -> String {
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("a body ends");
    String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn what_a_guest_does_not_say_has_a_deadline_all_the_same() {
    let unsaid = Deadlines::of(None);
    assert_eq!(unsaid, Deadlines::of(Some(RequestOptions::default())));
    assert_eq!(unsaid.connect, super::CONNECT);
    let said = RequestOptions {
        connect_timeout: Some(Duration::MAX),
        first_byte_timeout: Some(Duration::ZERO),
        between_bytes_timeout: Some(Duration::from_secs(1)),
    };
    let expected = Deadlines {
        connect: super::LONGEST,
        first_byte: Duration::ZERO,
        between_bytes: Duration::from_secs(1),
    };
    assert_eq!(Deadlines::of(Some(said)), expected);
}
