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
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;
use warp::reply::Response;

use super::{gate::Gate, routes::Routes};

/// Connections at once; more wait in the system's queue.
const CONNECTIONS: usize = 1024;
/// The longest that a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest that the head of a request may take, and that a connection may wait for its next one.
const HEAD: Duration = Duration::from_secs(90);
/// Bytes that the head of a request may have.
const HEAD_SIZE: usize = 1024 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 100;
/// How long answers that are under way may go on when the server stops.
const GOODBYE: Duration = Duration::from_secs(1);
/// Wait after the system refuses to accept, which is when it is out of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A port that is taken.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = StdListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener: TcpListener::from_std(listener)?, address })
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
        self.accept(cancel, |stream, stop| {
            let (acceptor, gate, routes) = (acceptor.clone(), Arc::clone(&gate), routes.clone());
            async move {
                let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(err)) => return tracing::debug!(error = %err, "a TLS handshake failed"),
                    Err(_) => return tracing::debug!("a TLS handshake took too long"),
                };
                let certificates: Option<Arc<[CertificateDer<'static>]>> =
                    stream.get_ref().1.peer_certificates().map(|chain| chain.to_vec().into());
                let guard = Some((gate, certificates));
                serve(stream, guard, routes, stop).await;
            }
        })
        .await;
    }

    /// Serves in the clear, to anyone.
    pub(super) async fn serve_plain(self, routes: Routes, cancel: CancellationToken) {
        self.accept(cancel, |stream, stop| serve(stream, None, routes.clone(), stop)).await;
    }

    async fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        cancel: CancellationToken,
        mut serve: impl FnMut(TcpStream, CancellationToken) -> F,
    ) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let connections = TaskTracker::new();
        // Aborts connections that are still open after the graceful shutdown.
        let abandon = CancellationToken::new();
        loop {
            let accepted = cancel.run_until_cancelled(async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.listener.accept().await)
            });
            match accepted.await {
                None => break,
                Some((permit, Ok((stream, _)))) => {
                    let (connection, abandon) = (serve(stream, cancel.clone()), abandon.clone());
                    connections.spawn(async move {
                        abandon.run_until_cancelled(connection).await;
                        drop(permit);
                    });
                }
                Some((_, Err(err))) => {
                    tracing::warn!(error = %err, "cannot accept a connection; trying again");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(self.listener);
        connections.close();
        if tokio::time::timeout(GOODBYE, connections.wait()).await.is_err() {
            abandon.cancel();
            connections.wait().await;
        }
    }
}

type Guard = (Arc<Gate>, Option<Arc<[CertificateDer<'static>]>>);

/// Serves one connection to its end, or to the end of its requests once `stop` is cancelled.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    guard: Option<Guard>,
    routes: Routes,
    stop: CancellationToken,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (guard, routes) = (guard.clone(), routes.clone());
        async move {
            if let Some((gate, certificates)) = &guard
                && let Err(refusal) = gate.admit(&request, certificates.as_deref()).await
            {
                return Ok::<Response, Infallible>(refusal);
            }
            warp::service(routes).call(request).await
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_SIZE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_SIZE).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(HEAD);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = served {
        tracing::debug!(error = %err, "a connection ended with an error");
    }
}
