//! Connections through a Service: a guest's, whose node chooses the endpoint when it connects, and those of a program on a machine
//! with a kube-proxy. Both go to one server of this process, which counts; each goes there directly as well.

use std::{
    io::{self, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, api::PostParams};
use kubewasm_tests::{
    beside::{Beside, HERE},
    cluster::Cluster,
    home::Home,
    wait,
};
use serde::Serialize;
use serde_json::json;

use crate::guest::{Guest, Site};

/// For how long connections are counted.
const WINDOW: Duration = Duration::from_secs(5);
/// How often each side is measured; the best counts.
const ROUNDS: usize = 3;
/// Time for the first connection through the Service.
const SOON: Duration = Duration::from_secs(60);
const PORT: u16 = 80;

/// Connections per second, one after the other.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct ServiceRates {
    /// Of a guest.
    pub(crate) guest: Rates,
    /// Of a program behind a kube-proxy.
    pub(crate) kube_proxy: Rates,
}

/// Connections per second, one after the other.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Rates {
    /// To the server itself.
    pub(crate) direct: f64,
    /// To the Service's address.
    pub(crate) by_service: f64,
}

/// Measures both.
pub(super) async fn measure(site: Site<'_>, home: &Home, cluster: &Cluster) -> Result<ServiceRates> {
    let beside = Beside::start(home, cluster).await?;
    let server = Server::start()?;
    let service = expose(site, server.address).await?;
    let ask = move || drop_one(service);
    wait::until("kube-proxy to know a Service", SOON, async || {
        beside.run(ask).await.map_err(|error| error.to_string())
    })
    .await?;
    let mut rates = ServiceRates::default();
    for _ in 0..ROUNDS {
        let guest = Rates {
            direct: of_guest(site, &server, server.address).await?,
            by_service: of_guest(site, &server, service).await?,
        };
        let kube_proxy = Rates {
            direct: of_machine(&beside, &server, server.address).await?,
            by_service: of_machine(&beside, &server, service).await?,
        };
        rates = ServiceRates {
            guest: rates.guest.better(guest),
            kube_proxy: rates.kube_proxy.better(kube_proxy),
        };
    }
    beside.end().await?;
    Ok(rates)
}

impl Rates {
    fn better(self, other: Self) -> Self {
        Self { direct: self.direct.max(other.direct), by_service: self.by_service.max(other.by_service) }
    }
}

/// Ends each connection as it comes, and counts.
struct Server {
    address: SocketAddr,
    taken: Arc<AtomicU64>,
}

impl Server {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind((HERE[0], 0)).context("cannot listen for connections")?;
        let (address, taken) = (listener.local_addr()?, Arc::<AtomicU64>::default());
        let count = Arc::clone(&taken);
        std::thread::spawn(move || {
            for _stream in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { address, taken })
    }

    /// Connections per second, from the next one on.
    async fn rate(&self) -> Result<f64> {
        let taken = || self.taken.load(Ordering::Relaxed);
        let before = taken();
        wait::until(
            "a connection",
            SOON,
            async || if taken() > before { Ok(()) } else { Err("none".to_owned()) },
        )
        .await?;
        let (start, from) = (Instant::now(), taken());
        // Time is what is measured here, not waited for.
        tokio::time::sleep(WINDOW).await;
        Ok((taken() - from) as f64 / start.elapsed().as_secs_f64())
    }
}

/// Makes a Service with this endpoint, and returns its address.
async fn expose(site: Site<'_>, endpoint: SocketAddr) -> Result<SocketAddr> {
    let services = Api::<Service>::default_namespaced(site.client.clone());
    let service = json!({
        "metadata": { "name": "counted" },
        "spec": { "ports": [{ "port": PORT, "targetPort": endpoint.port() }] },
    });
    let service = services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    let slices = Api::<EndpointSlice>::default_namespaced(site.client.clone());
    let slice = json!({
        "metadata": { "name": "counted", "labels": { "kubernetes.io/service-name": "counted" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [endpoint.ip()], "conditions": { "ready": true } }],
        "ports": [{ "name": "", "port": endpoint.port(), "protocol": "TCP" }],
    });
    slices.create(&PostParams::default(), &serde_json::from_value(slice)?).await?;
    let ip = service.spec.and_then(|spec| spec.cluster_ip).context("a Service has no address")?;
    Ok(SocketAddr::new(ip.parse().context("a Service's address is none")?, PORT))
}

async fn of_guest(site: Site<'_>, server: &Server, to: SocketAddr) -> Result<f64> {
    let guest = Guest::start(site, "asks", &["tcp-ask-often", &to.to_string()], false).await?;
    let rate = server.rate().await;
    guest.end().await?;
    rate
}

async fn of_machine(beside: &Beside, server: &Server, to: SocketAddr) -> Result<f64> {
    let stop = Arc::<AtomicBool>::default();
    let asks = {
        let (stop, namespace) = (Arc::clone(&stop), Arc::clone(beside.namespace()));
        std::thread::spawn(move || {
            namespace.run(|| {
                while !stop.load(Ordering::Relaxed) {
                    drop_one(to)?;
                }
                Ok(())
            })
        })
    };
    let rate = server.rate().await;
    stop.store(true, Ordering::Relaxed);
    tokio::task::spawn_blocking(|| asks.join())
        .await?
        .map_err(|_| io::Error::other("a client has failed"))??;
    rate
}

/// Connects, and reads what comes to its end.
fn drop_one(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    while stream.read(&mut [0; 256])? > 0 {}
    Ok(())
}
