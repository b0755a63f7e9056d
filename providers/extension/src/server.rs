//! The discovery server: Envoys ask it for extensions, over gRPC.
//!
//! ```text
//!   TLS ─ Listener ─► Request, Peer ─[services]─► who? [identity] ─► may? [access] ─► DiscoveryStream [stream]
//!                                                                                       │ one of two [variant]s of [xds]
//!   ExtensionTable ──────────────────────────────────────────────────────────────────►──┤
//!                                         Subscribers ◄── acceptances and refusals ─────┤
//!   GrpcBody [body] ◄── parts of a message, shared [wire] ◄─────────────────────────────┘
//!   HTTP, a port of its own ─► /healthz, /readyz, /metrics
//! ```
//!
//! A response is made when the Envoy can take it, of what is published then. What is on its way to it is one resource, whose bytes
//! are those of the table: an Envoy that reads slowly, or not at all, costs no copy and keeps nobody else waiting.

mod body;
mod health;
mod metrics;
mod services;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod variant;
mod wire;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use kubewasm_control::listener::{Listener, ListenerBounds};
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::{
    metrics::{RefusedReason, ServerMetrics},
    streams::StreamTable,
};
use crate::{
    access::AccessGrant,
    identity::Authentication,
    subscribers::Subscribers,
    table::{ExtensionTable, Published},
};

/// What Envoys may take.
#[derive(Clone, Copy, Debug)]
pub struct ServerBounds {
    /// Connections at once.
    pub connections: usize,
    /// Of those, with one address. Envoys may share one, behind a proxy.
    pub connections_of_address: usize,
    /// Streams at once.
    pub streams: usize,
    /// Of those, of one identity, which the replicas of a Deployment share; of one address where nobody is asked who they are.
    pub streams_of_client: usize,
    /// Names that one stream may ask for.
    pub names: usize,
    /// Bytes of one request.
    pub request_size: usize,
    /// How long a stream may take to its first request.
    pub first_message: Duration,
    /// After which time a connection is ended whose client takes nothing of what it is handed.
    pub stall: Duration,
    /// How often a connection is asked whether it lives.
    pub keep_alive: Duration,
    /// After which time, give or take a fifth, a connection has to be made anew: who it is is asked again, and new replicas get
    /// their share.
    pub age: Option<Duration>,
}

impl Default for ServerBounds {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_of_address: 1024,
            streams: 16_384,
            streams_of_client: 8192,
            names: 1024,
            request_size: 1 << 20,
            first_message: Duration::from_secs(15),
            stall: Duration::from_secs(120),
            keep_alive: Duration::from_secs(30),
            age: Some(Duration::from_secs(30 * 60)),
        }
    }
}

/// How a server is run.
#[derive(Debug)]
pub struct ServerOptions {
    /// Where Envoys ask.
    pub address: SocketAddr,
    /// Where health and metrics are, by HTTP.
    pub health_address: SocketAddr,
    /// The TLS of the moment; none: in the clear.
    pub tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    /// How Envoys say who they are.
    pub authentication: Authentication,
    /// What they may have besides what is their own.
    pub grants: Vec<AccessGrant>,
    /// What they may take.
    pub bounds: ServerBounds,
    /// How long connections are taken in after the stop, while readiness is no more.
    pub lame_duck: Duration,
    /// Over which time clients are told to go after that, so that they do not all come to the other replicas at once.
    pub spread: Duration,
    /// How long is waited for those that are told, in all.
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
    table: ExtensionTable,
    published: watch::Receiver<Published>,
    subscribers: Subscribers,
    authentication: Authentication,
    grants: Vec<AccessGrant>,
    streams: StreamTable,
    bounds: ServerBounds,
    metrics: ServerMetrics,
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
pub struct ExtensionServer {
    listener: Listener,
    health: Listener,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    state: Arc<ServerState>,
    lame_duck: Duration,
    goodbye: Duration,
}

impl ExtensionServer {
    /// Takes the ports. What is in the registry is among the metrics; readiness is what `ready` says. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`ListenFailure`].
    pub fn bind(
        options: ServerOptions,
        table: ExtensionTable,
        subscribers: Subscribers,
        registry: Registry,
        ready: watch::Receiver<bool>,
    ) -> Result<Self, ListenFailure> {
        let ServerOptions {
            address,
            health_address,
            tls,
            authentication,
            grants,
            bounds,
            lame_duck,
            spread,
            goodbye,
        } = options;
        let discovery = ListenerBounds {
            connections: bounds.connections,
            connections_of_address: bounds.connections_of_address,
            // Each extension of an Envoy is a stream where it does not use the aggregated service.
            streams: u32::try_from(bounds.names).unwrap_or(u32::MAX),
            // Requests are small.
            stream_window: 64 * 1024,
            connection_window: 1 << 20,
            keep_alive: bounds.keep_alive,
            age: bounds.age,
            spread,
            ..ListenerBounds::default()
        };
        let bind = |address, bounds, what| {
            Listener::bind(address, bounds).map_err(|source| ListenFailure { address, what, source })
        };
        let state = ServerState {
            published: table.subscribe(),
            table,
            subscribers,
            authentication,
            grants,
            streams: StreamTable::new(bounds.streams, bounds.streams_of_client),
            bounds,
            metrics: ServerMetrics::new(registry),
            ready,
            stopping: CancellationToken::new(),
        };
        Ok(Self {
            listener: bind(address, discovery, "discovery")?,
            health: bind(health_address, ListenerBounds::default(), "health and metrics")?,
            tls,
            state: Arc::new(state),
            lame_duck,
            goodbye,
        })
    }

    /// Where Envoys ask.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn health_address(&self) -> SocketAddr {
        self.health.address()
    }

    /// Serves until cancelled, and then until all streams have ended, or their time is over.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { listener, health, tls, state, lame_duck, goodbye } = self;
        let (stop_accepting, stop_health) = (CancellationToken::new(), CancellationToken::new());
        let discovering = async {
            let routes = {
                let state = Arc::clone(&state);
                move |request| services::answer(Arc::clone(&state), request)
            };
            match tls {
                Some(tls) => listener.serve_tls(tls, routes, stop_accepting.clone(), goodbye).await,
                None => listener.serve_plain(routes, stop_accepting.clone(), goodbye).await,
            }
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
            tokio::time::sleep(lame_duck).await;
            stop_accepting.cancel();
        };
        let watching = stop_health.run_until_cancelled(end_stalled(&state));
        tokio::join!(discovering, telling, stopping, watching);
    }
}

/// Ends for ever the connections of Envoys that do not read.
async fn end_stalled(state: &ServerState) {
    let longest = state.bounds.stall;
    let mut looks = tokio::time::interval((longest / 4).max(Duration::from_millis(10)));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let ended = state.streams.end_stalled(longest);
        if ended > 0 {
            state.metrics.refused_by(RefusedReason::Stalled, ended);
        }
    }
}
