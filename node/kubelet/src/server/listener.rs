//! Connections: how many, how long, how large.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;
use warp::reply::Response;

use super::{
    connections::{Connections, Ticket},
    gate::Gate,
    routes::Routes,
    upgrades::UpgradedConnection,
};

/// Connections that nobody vouches for: those of callers without rights, and of all callers of the plain port.
const STRANGERS: usize = 512;
/// Those from one address. An API server makes a connection for each command, and hundreds may be begun at once.
const STRANGERS_OF_PEER: usize = 256;
/// Bytes that the head of a request may have; a token is one or two thousand.
const HEAD_SIZE: usize = 32 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 100;
/// Streams that a client may have reset before anybody has looked at them; then it is told to go.
const RESETS: usize = 20;
/// Bytes of bodies that one HTTP/2 stream, or all of a connection, may send ahead. No request has a large body.
const WINDOW: u32 = 64 * 1024;
/// How long answers that are under way may go on when the server stops.
const GOODBYE: Duration = Duration::from_secs(1);
/// Wait after the system refuses to accept, which is when it is out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// To say anything at all.
    pub(super) first_byte: Duration,
    /// For the TLS handshake, from then on.
    pub(super) handshake: Duration,
    /// To have a request let through. One that has none is told to go, and closed when it has not gone in the same
    /// time again.
    pub(super) probation: Duration,
    /// For the head of a request, the wait for it included.
    pub(super) head: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            probation: Duration::from_secs(30),
            head: Duration::from_secs(90),
        }
    }
}

/// A port that is taken.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    pub(super) times: Times,
}

impl Listener {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener: TcpListener::from_std(listener)?, address, times: Times::default() })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves TLS: every request passes the gate.
    pub(super) async fn serve_tls(
        self,
        acceptor: TlsAcceptor,
        gate: Arc<Gate>,
        routes: Routes,
        cancel: CancellationToken,
    ) {
        let times = self.times;
        self.accept(cancel, move |stream: TcpStream, ticket: Arc<Ticket>, stop| {
            let (acceptor, gate, routes) = (acceptor.clone(), Arc::clone(&gate), routes.clone());
            async move {
                let stream = match tokio::time::timeout(times.handshake, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(err)) => return tracing::debug!(error = %err, "a TLS handshake failed"),
                    Err(_) => return tracing::debug!("a TLS handshake took too long"),
                };
                ticket.progress();
                let certificates: Option<Arc<[CertificateDer<'static>]>> =
                    stream.get_ref().1.peer_certificates().map(|chain| chain.to_vec().into());
                let guard = Some(Guard { gate, certificates });
                serve(stream, guard, ticket, times, routes, stop).await;
            }
        })
        .await;
    }

    /// Serves in the clear, to anyone: nobody is vouched for, and every request is a progress.
    pub(super) async fn serve_plain(self, routes: Routes, cancel: CancellationToken) {
        let times = self.times;
        self.accept(cancel, move |stream, ticket, stop| {
            serve(stream, None, ticket, times, routes.clone(), stop)
        })
        .await;
    }

    async fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        cancel: CancellationToken,
        serve: impl Fn(TcpStream, Arc<Ticket>, CancellationToken) -> F + Clone + Send + Sync + 'static,
    ) {
        let connections = Connections::new(STRANGERS, STRANGERS_OF_PEER);
        let first_byte = self.times.first_byte;
        let tasks = TaskTracker::new();
        // Ends what is left after the goodbye.
        let abandon = CancellationToken::new();
        while let Some(accepted) = cancel.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok((stream, from)) => {
                    let ticket = connections.admit(from.ip().into());
                    let (serve, stop, abandon) = (serve.clone(), cancel.clone(), abandon.clone());
                    tasks.spawn(async move {
                        let connection = async {
                            match tokio::time::timeout(first_byte, stream.peek(&mut [0])).await {
                                Ok(Ok(1..)) => {
                                    ticket.progress();
                                    serve(stream, Arc::clone(&ticket), stop).await;
                                }
                                Ok(_) => tracing::debug!("a connection ended at once"),
                                Err(_) => tracing::debug!("a connection said nothing"),
                            }
                        };
                        tokio::select! {
                            () = connection => {}
                            () = ticket.ended() => tracing::debug!("a connection has made room for another"),
                            () = abandon.cancelled() => {}
                        }
                    });
                }
                Err(err) => {
                    tracing::warn!(error = %err, "cannot accept a connection; ending one and trying again");
                    connections.make_room();
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(self.listener);
        tasks.close();
        if tokio::time::timeout(GOODBYE, tasks.wait()).await.is_err() {
            abandon.cancel();
            tasks.wait().await;
        }
    }
}

/// What requests of a connection have to pass.
#[derive(Clone)]
struct Guard {
    gate: Arc<Gate>,
    certificates: Option<Arc<[CertificateDer<'static>]>>,
}

/// Serves one connection to its end, whatever it is upgraded to, or to the end of its requests: once `stop` is cancelled, and
/// where there is a gate that has let none of them through in time.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    guard: Option<Guard>,
    ticket: Arc<Ticket>,
    times: Times,
    routes: Routes,
    stop: CancellationToken,
) {
    let is_guarded = guard.is_some();
    let upgraded = UpgradedConnection::default();
    let service = {
        let (ticket, upgraded) = (Arc::clone(&ticket), upgraded.clone());
        service_fn(move |mut request: Request<Incoming>| {
            let (guard, ticket, routes) = (guard.clone(), Arc::clone(&ticket), routes.clone());
            request.extensions_mut().insert(upgraded.clone());
            async move {
                ticket.progress();
                if let Some(Guard { gate, certificates }) = &guard {
                    let admitted = gate.admit(&request, certificates.as_deref(), ticket.peer()).await;
                    if let Err(refusal) = admitted {
                        return Ok::<Response, Infallible>(refusal);
                    }
                    ticket.vouch();
                }
                warp::service(routes).call(request).await
            }
        })
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(times.head).max_buf_size(HEAD_SIZE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_SIZE).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .keep_alive_interval(times.head);
    let mut connection =
        std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let overdue = async {
        match is_guarded {
            true => ticket.unvouched_for(times.probation).await,
            false => std::future::pending().await,
        }
    };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = overdue => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                served = connection => served,
                () = ticket.unvouched_for(times.probation) => {
                    return tracing::debug!("a connection had no request let through");
                }
            }
        }
    };
    if let Err(err) = served {
        return tracing::debug!(error = %err, "a connection ended with an error");
    }
    // What it has become is ended at once when the server stops.
    if let Some(serving) = upgraded.take() {
        stop.run_until_cancelled(serving).await;
    }
}
