//! Connections: how long they may take for what, and what is served on them.

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
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connections::{Connections, Ticket},
    routes::Answer,
};

/// Connections at once. An API server keeps a few.
const MOST_CONNECTIONS: usize = 512;
/// Bytes that the head of a request may have.
const HEAD_SIZE: usize = 32 * 1024;
/// Requests at once on one HTTP/2 connection: a server of a busy cluster has that many under way.
const STREAMS: u32 = 250;
/// Streams that a client may have reset before anybody has looked at them; then it is told to go.
const RESETS: usize = 20;
/// Bytes of bodies that one HTTP/2 stream, and all of a connection, may send ahead.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the head of a request may take, the wait for it included; HTTP/2 connections are asked whether they live.
const HEAD: Duration = Duration::from_secs(90);
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

    /// Serves TLS, as the channel has it when a connection comes, until stopped, and what is under way for `goodbye` longer.
    pub(super) async fn serve_tls<F>(
        self,
        tls: watch::Receiver<Arc<ServerConfig>>,
        routes: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        stop: CancellationToken,
        goodbye: Duration,
    ) where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.accept(stop, goodbye, move |stream: TcpStream, ticket: Arc<Ticket>, stop| {
            let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
            let routes = routes.clone();
            async move {
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => serve(stream, ticket, routes, stop).await,
                    Ok(Err(err)) => tracing::debug!(error = %err, "a TLS handshake failed"),
                    Err(_) => tracing::debug!("a TLS handshake took too long"),
                }
            }
        })
        .await;
    }

    /// Serves in the clear.
    pub(super) async fn serve_plain<F>(
        self,
        routes: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        stop: CancellationToken,
        goodbye: Duration,
    ) where
        F: Future<Output = Answer> + Send + 'static,
    {
        self.accept(stop, goodbye, move |stream, ticket, stop| serve(stream, ticket, routes.clone(), stop))
            .await;
    }

    async fn accept<F: Future<Output = ()> + Send + 'static>(
        self,
        stop: CancellationToken,
        goodbye: Duration,
        serve: impl Fn(TcpStream, Arc<Ticket>, CancellationToken) -> F,
    ) {
        let connections = Connections::new(MOST_CONNECTIONS);
        let tasks = TaskTracker::new();
        // Ends what is left after the goodbye.
        let abandon = CancellationToken::new();
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(err) => {
                    tracing::warn!(error = %err, "cannot accept a connection; ending one and trying again");
                    connections.make_room();
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            // Answers are small and wanted at once.
            let _ = stream.set_nodelay(true);
            let Some(ticket) = connections.admit() else {
                tracing::warn!("all {MOST_CONNECTIONS} connections are busy; another is refused");
                continue;
            };
            let connection = serve(stream, Arc::clone(&ticket), stop.clone());
            let abandon = abandon.clone();
            tasks.spawn(async move {
                tokio::select! {
                    () = connection => {}
                    () = ticket.ended() => tracing::debug!("a connection has made room for another"),
                    () = abandon.cancelled() => {}
                }
            });
        }
        drop(self.listener);
        tasks.close();
        if tokio::time::timeout(goodbye, tasks.wait()).await.is_err() {
            abandon.cancel();
            tasks.wait().await;
        }
    }
}

/// Serves one connection to its end, or once stopped to the end of its requests.
async fn serve<F>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ticket: Arc<Ticket>,
    routes: impl Fn(Request<Incoming>) -> F,
    stop: CancellationToken,
) where
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let mark = ticket.request();
        let answer = routes(request);
        async move {
            let answer = answer.await;
            drop(mark);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_SIZE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_SIZE).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
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
