//! Connections: how long they may take for what, and what is served on them.

use std::{
    convert::Infallible,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future;
use http::{Request, Response};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::connections::{Connections, RequestMark, Ticket};

/// Streams that a client may have reset before anybody has looked at them; then it is told to go.
const RESETS: usize = 20;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Wait after the system refuses to accept, which is when it is out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why a response's body may break off.
type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What connections may take. The default is for requests that are answered and over.
#[derive(Clone, Copy, Debug)]
pub struct ListenerBounds {
    /// Connections at once. An API server keeps a few.
    pub connections: usize,
    /// Of those, with one address.
    pub connections_of_address: usize,
    /// Bytes that the head of a request may have.
    pub head_size: usize,
    /// Requests at once on one HTTP/2 connection: a server of a busy cluster has that many under way.
    pub streams: u32,
    /// Bytes of bodies that one HTTP/2 stream may send ahead.
    pub stream_window: u32,
    /// Bytes of bodies that all of a connection may send ahead.
    pub connection_window: u32,
    /// How long the head of a request may take, the wait for it included, before HTTP/2.
    pub head: Duration,
    /// How often HTTP/2 connections are asked whether they live.
    pub keep_alive: Duration,
    /// After which time a connection is told to go, give or take a fifth, so that clients spread over new replicas. None: never.
    pub age: Option<Duration>,
    /// Over which time connections are told to go at the stop, so that not all clients come back at once.
    pub spread: Duration,
}

impl Default for ListenerBounds {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_of_address: 512,
            head_size: 32 * 1024,
            streams: 250,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            head: Duration::from_secs(90),
            keep_alive: Duration::from_secs(90),
            age: None,
            spread: Duration::ZERO,
        }
    }
}

/// Who is at the other end of a connection. Each of its requests has it among its extensions, as an `Arc`.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The chain of certificates that TLS has checked, leaf first. Empty where it has shown none.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Cancelled when the client is told to go: what never ends by itself ends now.
    pub going: CancellationToken,
    /// Whoever cancels it ends the connection at once.
    pub abort: CancellationToken,
}

/// A port that is taken.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    bounds: ListenerBounds,
}

impl Listener {
    /// Takes a port, within a tokio runtime.
    ///
    /// # Errors
    /// What the system says, for instance that it is taken.
    pub fn bind(address: SocketAddr, bounds: ListenerBounds) -> io::Result<Self> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener: TcpListener::from_std(listener)?, address, bounds })
    }

    /// The address, with the port that the system chose where it was to choose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves TLS, as the channel has it when a connection comes, until stopped, and what is under way for `goodbye` longer.
    pub async fn serve_tls<F, B>(
        self,
        tls: watch::Receiver<Arc<ServerConfig>>,
        routes: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        stop: CancellationToken,
        goodbye: Duration,
    ) where
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Into<BodyError>> + Unpin + Send + 'static,
    {
        self.accept(stop, goodbye, move |stream: TcpStream, accepted: Accepted| {
            let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
            let routes = routes.clone();
            async move {
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
                        let certificates = shown.iter().map(|one| one.clone().into_owned()).collect();
                        serve(stream, certificates, accepted, routes).await;
                    }
                    Ok(Err(err)) => {
                        tracing::debug!(error = %err, peer = %accepted.address, "a TLS handshake failed");
                    }
                    Err(_) => tracing::debug!(peer = %accepted.address, "a TLS handshake took too long"),
                }
            }
        })
        .await;
    }

    /// Serves in the clear.
    pub async fn serve_plain<F, B>(
        self,
        routes: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        stop: CancellationToken,
        goodbye: Duration,
    ) where
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error: Into<BodyError>> + Unpin + Send + 'static,
    {
        self.accept(stop, goodbye, move |stream, accepted| {
            serve(stream, Vec::new(), accepted, routes.clone())
        })
        .await;
    }

    async fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        stop: CancellationToken,
        goodbye: Duration,
        serve: impl Fn(TcpStream, Accepted) -> F,
    ) {
        let Self { listener, bounds, .. } = self;
        let connections = Connections::new(bounds.connections, bounds.connections_of_address);
        let tasks = TaskTracker::new();
        // Ends what is left after the goodbye.
        let abandon = CancellationToken::new();
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(err) => {
                    tracing::warn!(error = %err, "cannot accept a connection; ending one and trying again");
                    connections.make_room();
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            // Answers are small and wanted at once.
            let _ = stream.set_nodelay(true);
            let ticket = match connections.admit(address.ip()) {
                Ok(ticket) => ticket,
                Err(full) => {
                    tracing::warn!(peer = %address, "{full}; another is refused");
                    continue;
                }
            };
            let abort = CancellationToken::new();
            let accepted = Accepted {
                address,
                ticket: Arc::clone(&ticket),
                stop: stop.clone(),
                abort: abort.clone(),
                bounds,
            };
            let connection = serve(stream, accepted);
            let abandon = abandon.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = connection => {}
                    () = ticket.ended() => tracing::debug!(peer = %address, "a connection has made room for another"),
                    () = abort.cancelled() => {}
                    () = abandon.cancelled() => {}
                }
            });
        }
        drop(listener);
        tasks.close();
        if tokio::time::timeout(goodbye, tasks.wait()).await.is_err() {
            abandon.cancel();
            tasks.wait().await;
        }
    }
}

/// A connection that has come.
struct Accepted {
    address: SocketAddr,
    ticket: Arc<Ticket>,
    stop: CancellationToken,
    abort: CancellationToken,
    bounds: ListenerBounds,
}

/// Serves one connection to its end, or once it is told to go to the end of its requests.
async fn serve<F, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    certificates: Vec<CertificateDer<'static>>,
    accepted: Accepted,
    routes: impl Fn(Request<Incoming>) -> F,
) where
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<BodyError>> + Unpin + Send + 'static,
{
    let Accepted { address, ticket, stop, abort, bounds } = accepted;
    let going = CancellationToken::new();
    let peer = Arc::new(Peer { address, certificates, going: going.clone(), abort });
    let service = service_fn(move |mut request: Request<Incoming>| {
        let mark = ticket.request();
        request.extensions_mut().insert(Arc::clone(&peer));
        let answer = routes(request);
        async move { Ok::<_, Infallible>(answer.await.map(|body| MarkedBody { body, _mark: mark })) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(bounds.head).max_buf_size(bounds.head_size);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(bounds.head_size).unwrap_or(u32::MAX))
        .max_concurrent_streams(bounds.streams)
        .max_pending_accept_reset_streams(RESETS)
        .initial_stream_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window)
        .keep_alive_interval(bounds.keep_alive);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let time_to_go = async {
        let aged = async {
            match bounds.age {
                Some(age) => tokio::time::sleep(age * 4 / 5 + age * 2 / 5 * random_share() / SHARES).await,
                None => future::pending().await,
            }
        };
        let stopped = async {
            stop.cancelled().await;
            tokio::time::sleep(bounds.spread * random_share() / SHARES).await;
        };
        tokio::select! { () = aged => {}, () = stopped => {} }
    };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = time_to_go => {
            connection.as_mut().graceful_shutdown();
            going.cancel();
            connection.await
        }
    };
    if let Err(err) = served {
        tracing::debug!(error = %err, peer = %address, "a connection ended with an error");
    }
}

/// What [`random_share`] is a share of.
const SHARES: u32 = 1 << 10;

/// A number below [`SHARES`].
fn random_share() -> u32 {
    // Each of them is seeded at random.
    let random = RandomState::new().build_hasher().finish();
    u32::try_from(random % u64::from(SHARES)).unwrap_or_default()
}

/// A body whose request is under way until it is sent or given up.
#[derive(Debug)]
struct MarkedBody<B> {
    body: B,
    _mark: RequestMark,
}

impl<B: Body + Unpin> Body for MarkedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
