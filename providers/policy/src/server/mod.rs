//! Policies as a service: admission webhooks of a Kubernetes API server, or judges of any JSON.
//!
//! ```text
//!   HTTPS ─ listener (connections, TLS) ─ routes ─► body ─► Question ─► PolicyRegistry::get(id) ─► ServedPolicy::judge
//!                          ▲                                                                          │ AdmissionResponse
//!     a channel of ServerConfig                 review, or JSON ◄── constrain (mode, changes) ◄───────┘─► metrics, log
//!   HTTP, a port of its own ─► /readiness, /metrics
//! ```
//!
//! Paths, bodies and statuses are those of Kubewarden's policy-server. Whoever embeds it fills the [registry](registry), says when it
//! is ready, and hands over certificates.

mod body;
pub mod failure;
mod health;
mod metrics;
pub mod observer;
pub mod registry;
mod routes;
pub mod served;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timeout;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use kubewasm_control::listener::{Listener, ListenerBounds};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::{body::Bodies, metrics::ServerMetrics, observer::EvaluationObserver, registry::PolicyRegistry};

/// Why a request is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Somebody wants it done.
    Validate,
    /// It was done, and somebody wants to know.
    Audit,
}

impl Origin {
    fn name(self) -> &'static str {
        match self {
            Self::Validate => "validate",
            Self::Audit => "audit",
        }
    }
}

/// How a server is run.
#[derive(Clone, Copy, Debug)]
pub struct PolicyServerOptions {
    /// Where requests are judged, by HTTPS.
    pub address: SocketAddr,
    /// Where readiness and metrics are, by HTTP.
    pub health_address: SocketAddr,
    /// How long a request waits for a policy that is not there: a cluster may have heard of it a little earlier than its server.
    pub wait: Duration,
    /// How long requests are taken in after the stop, while readiness is no more: whoever sends them has to hear of it first.
    pub lame_duck: Duration,
    /// How long requests that are under way may go on after that.
    pub goodbye: Duration,
}

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {what}: {source}")]
pub struct ListenFailure {
    /// The address and the port.
    pub address: SocketAddr,
    /// What would be served there.
    pub what: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// What all requests are answered from.
#[derive(Debug)]
struct ServerState {
    policies: Arc<PolicyRegistry>,
    metrics: ServerMetrics,
    bodies: Bodies,
    wait: Duration,
    /// Whoever else wants to know.
    observer: Option<Arc<dyn EvaluationObserver>>,
    /// What whoever fills the registry says.
    ready: watch::Receiver<bool>,
    /// Cancelled at the stop.
    stopping: CancellationToken,
}

impl ServerState {
    fn is_ready(&self) -> bool {
        *self.ready.borrow() && !self.stopping.is_cancelled()
    }
}

/// The server, with both ports taken and nothing served yet.
#[derive(Debug)]
pub struct PolicyServer {
    listener: Listener,
    health: Listener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    state: Arc<ServerState>,
    options: PolicyServerOptions,
}

impl PolicyServer {
    /// Takes the ports. Connections get the TLS of the moment at which they come; readiness is what `ready` says.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ListenFailure`].
    pub fn bind(
        options: PolicyServerOptions,
        policies: Arc<PolicyRegistry>,
        observer: Option<Arc<dyn EvaluationObserver>>,
        tls: watch::Receiver<Arc<ServerConfig>>,
        ready: watch::Receiver<bool>,
    ) -> Result<Self, ListenFailure> {
        let bind = |address, what| {
            Listener::bind(address, ListenerBounds::default()).map_err(|source| ListenFailure {
                address,
                what,
                source,
            })
        };
        let state = ServerState {
            policies,
            metrics: ServerMetrics::default(),
            bodies: Bodies::default(),
            wait: options.wait,
            observer,
            ready,
            stopping: CancellationToken::new(),
        };
        Ok(Self {
            listener: bind(options.address, "requests")?,
            health: bind(options.health_address, "readiness and metrics")?,
            tls,
            state: Arc::new(state),
            options,
        })
    }

    /// Where requests are judged.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Where readiness and metrics are.
    #[must_use]
    pub fn health_address(&self) -> SocketAddr {
        self.health.address()
    }

    /// Serves until cancelled, and then until what is under way has ended, or its time is over.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { listener, health, tls, state, options } = self;
        let (stop_accepting, stop_health) = (CancellationToken::new(), CancellationToken::new());
        let judging = async {
            let routes = {
                let state = Arc::clone(&state);
                move |request| routes::answer(Arc::clone(&state), request)
            };
            listener.serve_tls(tls, routes, stop_accepting.clone(), options.goodbye).await;
            stop_health.cancel();
        };
        let telling = async {
            let routes = {
                let state = Arc::clone(&state);
                move |request| std::future::ready(health::answer(&state, &request))
            };
            health.serve_plain(routes, stop_health.clone(), Duration::ZERO).await;
        };
        let stopping = async {
            cancel.cancelled().await;
            state.stopping.cancel();
            tokio::time::sleep(options.lame_duck).await;
            stop_accepting.cancel();
        };
        tokio::join!(judging, telling, stopping);
    }
}
