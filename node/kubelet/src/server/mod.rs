//! The node's HTTPS API: logs, metrics, health, and what the API server and scrapers ask of a kubelet.
//!
//! ```text
//! TCP ─ listener (limits, connections) ─ TLS (certificate asked for, not demanded)
//!        └─ gate: who is it (authn) ─ may they (authz) ─► 401, 403, 500
//!             └─ routes (warp) ─► handlers ─► Pods, logs, metrics
//!                                    └─ upgrades ─► streams ─► Runtime: exec, attach, port-forward
//! TCP, plain, on loopback ─► health
//! ```
//!
//! Every request on the HTTPS port passes the gate before a route is looked for, so that no route can
//! forget it and nobody learns which routes there are. Nothing fails open: a question that cannot be asked
//! is a refusal. The endpoints, their texts and their authorization follow the kubelet; see
//! [Kubelet authentication/authorization](https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/).

mod attributes;
mod authn;
mod authz;
pub(crate) mod cipher_suites;
mod connections;
mod container_logs;
mod features;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod gate;
mod health;
mod listener;
mod metrics;
pub(crate) mod reply;
mod requests;
mod reviews;
mod routes;
mod slis;
mod stats;
mod streams;
mod system_logs;
mod tls;
mod tokens;
mod upgrades;
mod user;
mod x509;
mod zpages;

use std::{io, net::SocketAddr, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use prometheus_client::registry::Registry;
use rustls::server::ResolvesServerCert;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::{gate::Gate, listener::Listener, routes::ServerState};
use crate::{config::Config, runtime::Runtime, stats::NodeStats, traces::Tracer};

/// What the server shows of the node's pods.
pub trait Pods: Send + Sync + 'static {
    /// A pod by name, with the status as it was last computed here.
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>>;

    /// Whether a UID is that of the mirror by which the API server shows a static pod.
    fn is_mirror_of(&self, uid: &str, pod: &Pod) -> bool;

    /// All pods, with the statuses as they were last computed here.
    fn pods(&self) -> Vec<Arc<Pod>>;

    /// Whether a pod that is not here is none of this node's. A node that has just started does not know yet.
    fn are_all_known(&self) -> bool;

    /// Whether the pods are being looked after.
    ///
    /// # Errors
    /// What is wrong, for `/healthz`.
    fn healthy(&self) -> Result<(), String>;
}

/// Why the server cannot start. Every message is meant for the user as it is.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port cannot be listened on.
    #[error("cannot listen on {address} for {what}: {source}; another port is chosen with {flag}")]
    Listen {
        /// The address and port.
        address: SocketAddr,
        /// What would be served there.
        what: &'static str,
        /// The flag that changes it.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The authorities of client certificates cannot be read.
    #[error("authentication.x509.clientCAFile {}: {message}", path.display())]
    ClientCa {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[source] rustls::Error),
}

/// The ports, taken and not answered on yet. A node takes them before all else, so that one which finds them
/// taken has asked for nothing and registered nowhere.
#[derive(Debug)]
pub struct Ports {
    https: Option<Listener>,
    healthz: Option<Listener>,
}

impl Ports {
    /// Takes the ports that the configuration names. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ServerError::Listen`].
    pub fn bind(config: &Config) -> Result<Self, ServerError> {
        let kubelet = &config.kubelet;
        let bind = |address: SocketAddr, what: &'static str, flag: &'static str| {
            Listener::bind(address).map_err(|source| ServerError::Listen { address, what, flag, source })
        };
        let https = kubelet
            .enable_server
            .then(|| bind(SocketAddr::new(kubelet.address, kubelet.port), "the HTTPS API", "--port"))
            .transpose()?;
        let healthz = (kubelet.healthz_port != 0)
            .then(|| {
                let address = SocketAddr::new(kubelet.healthz_bind_address, kubelet.healthz_port);
                bind(address, "health checks", "--healthz-port")
            })
            .transpose()?;
        Ok(Self { https, healthz })
    }
}

/// The server, with nothing served yet.
pub struct Server {
    ports: Ports,
    port: u16,
    acceptor: TlsAcceptor,
    gate: Gate,
    state: ServerState,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl Server {
    /// Reads what the configuration names. `certificate` is what handshakes are answered with; `reviews` is
    /// whom to ask about callers.
    ///
    /// # Errors
    /// [`ServerError::ClientCa`] and [`ServerError::Tls`].
    pub fn new(
        config: &Config,
        ports: Ports,
        certificate: Arc<dyn ResolvesServerCert>,
        reviews: Client,
        pods: Arc<dyn Pods>,
    ) -> Result<Self, ServerError> {
        let kubelet = &config.kubelet;
        let gate = Gate::new(config, reviews)?;
        let suites = cipher_suites::read(&kubelet.tls_cipher_suites, &kubelet.tls_min_version)
            .map_err(|message| ServerError::Tls(rustls::Error::General(message)))?;
        let acceptor =
            TlsAcceptor::from(Arc::new(tls::server_config(&kubelet.tls_min_version, suites, certificate)?));
        Ok(Self {
            port: ports.https.as_ref().map_or(kubelet.port, |https| https.address().port()),
            ports,
            acceptor,
            gate,
            state: ServerState::new(config, pods),
        })
    }

    /// The port of the HTTPS API, which the Node announces; with `enableServer: false`, the configured one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of the plain health checks; `None` when they are off.
    #[must_use]
    pub fn healthz_address(&self) -> Option<SocketAddr> {
        self.ports.healthz.as_ref().map(Listener::address)
    }

    /// Adds metrics to what `/metrics` shows, before the server runs.
    pub fn register_metrics(&mut self, register: impl FnOnce(&mut Registry)) {
        register(self.state.metrics.registry());
    }

    /// Adds metrics to what `/metrics/probes` shows, before the server runs.
    pub fn register_probe_metrics(&mut self, register: impl FnOnce(&mut Registry)) {
        register(self.state.metrics.probes());
    }

    /// What the paths of numbers are answered from, before the server runs.
    pub fn serve_stats(&mut self, stats: NodeStats) {
        self.state.set_stats(stats);
    }

    /// Who connects callers to containers, before the server runs.
    pub fn serve_streams(&mut self, runtime: Arc<dyn Runtime>) {
        self.state.set_runtime(runtime);
    }

    /// What records requests, before the server runs.
    pub fn trace(&mut self, tracer: Tracer) {
        self.state.set_tracer(tracer);
    }

    /// Serves until cancelled; answers that are under way get a moment to end.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { ports: Ports { https, healthz }, port: _, acceptor, gate, state } = self;
        let state = Arc::new(state);
        let https_serving = async {
            if let Some(https) = https {
                let routes = routes::service(Arc::clone(&state));
                https.serve_tls(acceptor, Arc::new(gate), routes, cancel.clone()).await;
            }
        };
        let healthz_serving = async {
            if let Some(healthz) = healthz {
                healthz.serve_plain(routes::health_service(Arc::clone(&state)), cancel.clone()).await;
            }
        };
        tokio::join!(https_serving, healthz_serving);
    }
}

#[cfg(test)]
mod tests;
