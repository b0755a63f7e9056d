//! Answers requests of the network with components that export `wasi:http/incoming-handler@0.2` or `wasi:http/handler@0.3`.
//!
//! ```text
//!   listener ─► connection ─► [router]: by the header Host ─► HttpHandler of a component ─► an instance
//!                              400: no Host, 404: nobody has it,         503: too many wait, 504: too late
//! ```
//!
//! A workload says which hosts are its own in the settings of its entry `wasi:http`: `host` (`*`, any that nobody else has, if it
//! says nothing) and `host-aliases`, more of them between commas. Workloads with the same host are asked in turns. The components
//! of one workload that answer requests have all of its hosts, and are asked in turns as well.

mod router;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use kubewasm_host::{GuestState, http::HttpAnswerBody};
pub use router::DynamicRouter;
use router::NoRoute;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wasmtime::component::Linker;

use crate::{
    host_interface::{
        BoundInterface, ComponentBinding, HostInterface, InterfaceError, LinkedImport, Stateless,
        WorkloadIdentity,
    },
    resolved::ResolvedWorkload,
    wit::{WitInterface, WitWorld},
};

/// Connections at a time; further ones wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 4096;
/// For the head of a request, and between two requests of a connection.
const PATIENCE: Duration = Duration::from_secs(75);
/// For a handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Requests at a time of one connection of HTTP/2.
const MOST_STREAMS: u32 = 128;
/// Requests of HTTP/2 that a client has taken back before they were looked at. More than that, and the connection ends.
const RESET_STREAMS: usize = 20;
/// Bytes of a request's head.
const LARGEST_HEAD: usize = 32 << 10;
/// After an error that is not one connection's, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long requests that are under way are waited for when the server stops.
const GRACE: Duration = Duration::from_secs(10);

/// A server of HTTP/1.1 and HTTP/2 in front of workloads. It listens when its host is started.
#[derive(Debug)]
pub struct HttpServer {
    router: DynamicRouter,
    address: SocketAddr,
    tls: Option<Tls>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    address: SocketAddr,
    ends: CancellationToken,
    tasks: TaskTracker,
    kill: CancellationToken,
}

#[derive(Clone)]
struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl HttpServer {
    /// Will listen on this address, with whatever port is free where it is 0.
    #[must_use]
    pub fn new(router: DynamicRouter, address: SocketAddr) -> Self {
        Self { router, address, tls: None, running: Mutex::default() }
    }

    /// Speaks TLS, and nothing else.
    #[must_use]
    pub fn with_tls(self, config: Arc<ServerConfig>) -> Self {
        Self { tls: Some(Tls(TlsAcceptor::from(config))), ..self }
    }

    /// Where it listens; `None` before it is started, and after it has stopped.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.running().as_ref().map(|running| running.address)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(&self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        let running = Running {
            address: listener.local_addr()?,
            ends: CancellationToken::new(),
            tasks: TaskTracker::new(),
            kill: CancellationToken::new(),
        };
        let serving = Serving {
            router: self.router.clone(),
            tls: self.tls.clone(),
            ends: running.ends.clone(),
            kill: running.kill.clone(),
            tasks: running.tasks.clone(),
        };
        running.tasks.spawn(serving.accept(listener));
        *self.running() = Some(running);
        Ok(())
    }
}

#[async_trait]
impl HostInterface for HttpServer {
    fn id(&self) -> &'static str {
        "wasi-http"
    }

    fn world(&self) -> WitWorld {
        // Both series of releases; what components import of `wasi:http` is the host's own.
        let imports = ["wasi:http/incoming-handler@0.2.0", "wasi:http/handler@0.3.0"];
        WitWorld { imports: imports.map(WitInterface::from).into(), exports: Vec::new() }
    }

    async fn start(&self) -> Result<(), InterfaceError> {
        self.listen().await.map_err(|error| InterfaceError::Unavailable {
            what: format!("the address {} for HTTP", self.address),
            reason: error.to_string(),
        })
    }

    async fn bind(
        &self,
        _: &Arc<WorkloadIdentity>,
        interfaces: &[WitInterface],
    ) -> Result<(), InterfaceError> {
        interfaces.iter().try_for_each(|interface| router::hosts(interface).map(drop))
    }

    async fn bind_component(&self, _: &ComponentBinding) -> Result<Arc<dyn BoundInterface>, InterfaceError> {
        Ok(Arc::new(Stateless))
    }

    fn link(&self, _: &mut Linker<GuestState>, _: &[LinkedImport]) -> wasmtime::Result<()> {
        Ok(())
    }

    async fn resolved(&self, workload: &ResolvedWorkload) -> Result<(), InterfaceError> {
        let mut hosts = Vec::new();
        for interface in workload.http_interfaces() {
            hosts.extend(router::hosts(interface)?);
        }
        self.router.set(&workload.identity().id, hosts, workload.http());
        Ok(())
    }

    async fn unbind(&self, workload: &WorkloadIdentity) {
        self.router.remove(&workload.id);
    }

    async fn stop(&self) {
        let Some(running) = self.running().take() else { return };
        running.ends.cancel();
        running.tasks.close();
        if tokio::time::timeout(GRACE, running.tasks.wait()).await.is_err() {
            running.kill.cancel();
            running.tasks.wait().await;
        }
    }
}

/// What serves connections.
#[derive(Clone)]
struct Serving {
    router: DynamicRouter,
    tls: Option<Tls>,
    /// No more connections, and those that there are end when they have nothing to do.
    ends: CancellationToken,
    /// At once.
    kill: CancellationToken,
    tasks: TaskTracker,
}

impl Serving {
    async fn accept(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let accepting = async {
                // It is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                Some((place, listener.accept().await))
            };
            let accepted = tokio::select! {
                () = self.ends.cancelled() => return,
                accepted = accepting => accepted,
            };
            match accepted {
                None => return,
                Some((place, Ok((stream, peer)))) => {
                    let (serving, kill) = (self.clone(), self.kill.clone());
                    let connection = async move {
                        serving.connection(stream, peer).await;
                        drop(place);
                    };
                    self.tasks.spawn(kill.run_until_cancelled_owned(connection));
                }
                Some((_, Err(error))) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Some((_, Err(error))) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        // Answers are what is sent, and nobody waits for more of them.
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => self.serve(stream, peer).await,
            Some(Tls(acceptor)) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => self.serve(stream, peer).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a handshake has failed"),
                Err(_) => tracing::debug!(%peer, "a handshake took too long"),
            },
        }
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: SocketAddr) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(LARGEST_HEAD)
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PATIENCE)
            .max_concurrent_streams(MOST_STREAMS)
            .max_pending_accept_reset_streams(RESET_STREAMS);
        let service = service_fn(|request| {
            let router = self.router.clone();
            async move { Ok::<_, std::convert::Infallible>(answer(&router, request, peer).await) }
        });
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.ends.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, %error, "a connection broke off");
        }
    }
}

type AnswerBody = Either<HttpAnswerBody, Full<Bytes>>;
type BoxedBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

async fn answer(router: &DynamicRouter, request: Request<Incoming>, peer: SocketAddr) -> Response<BoxedBody> {
    let found = router.find(request.uri(), request.headers());
    let answer: Response<AnswerBody> = match found {
        Ok(handler) => handler.answer(request, peer.ip()).await.map(Either::Left),
        Err(NoRoute::NoHost) => of_our_own(StatusCode::BAD_REQUEST, "a request has one header Host"),
        Err(NoRoute::Unknown) => of_our_own(StatusCode::NOT_FOUND, "no workload has this host"),
    };
    answer.map(AnswerBody::boxed_unsync)
}

/// An answer that no guest has made.
fn of_our_own(status: StatusCode, reason: &str) -> Response<AnswerBody> {
    let name = status.canonical_reason().unwrap_or_default();
    let text = format!("{} {name}: {reason}\n", status.as_u16());
    let mut answer = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    answer
}
