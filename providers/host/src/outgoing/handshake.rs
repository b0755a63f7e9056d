//! New connections, from their place to their first request.

use std::{sync::Arc, time::Duration};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use wasmtime_wasi_http::Error;

use super::{
    carrier::Exclusive,
    connect::{Opened, OutgoingWay, Route},
    drive::Driver,
    error,
    pool::{HttpConnections, Lease, Place},
    request::Origin,
};

/// Bytes of the head of a response, and of its trailers: half of what wasmtime takes for a guest's headers, which counts what
/// holds them as well.
const HEAD: u32 = 64 << 10;
/// Fields of the head of a response.
const FIELDS: usize = 128;
/// Bytes of a connection that wait to be read, and as many to be written.
const BUFFER: usize = 64 << 10;
/// Bytes that a server may send ahead, of one response of HTTP/2 and of all on one connection.
const WINDOWS: (u32, u32) = (128 << 10, 256 << 10);
/// How long a connection of HTTP/2 says nothing, while there are requests on it, before it is asked whether it is there; and
/// how long it has to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Bytes that the account of a guest holds for each connection that was made for it: buffers, and the state of TLS. One of
/// HTTP/2 holds its window as well.
pub(super) const HELD: u64 = 2 * BUFFER as u64;

/// Makes a connection for a request.
pub(super) async fn open(
    connections: &Arc<HttpConnections>,
    way: &OutgoingWay,
    origin: &Origin,
    place: Place,
) -> Result<Lease, Error> {
    let (stream, route) = way.connect(origin, &connections.configs).await?;
    let opening = Opening { connections, way, origin, route, place };
    match stream {
        Opened::Plain(stream) => opening.exclusive(stream).await,
        Opened::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            opening.shared(stream).await
        }
        Opened::Tls(stream) => opening.exclusive(stream).await,
    }
}

/// A connection on which nothing was said yet.
struct Opening<'a> {
    connections: &'a Arc<HttpConnections>,
    way: &'a OutgoingWay,
    origin: &'a Origin,
    route: Route,
    place: Place,
}

impl Opening<'_> {
    /// Speaks HTTP/1.1.
    async fn exclusive(
        mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Lease, Error> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER).max_header_size(HEAD as usize).max_headers(FIELDS);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|cause| error::of_response(&cause))?;
        let (driver, tasks) = Driver::new(&self.way.account);
        self.place.connected();
        let place = self.place;
        driver.spawn(async move {
            let _place = place;
            if let Err(cause) = connection.await {
                tracing::debug!(%cause, "a connection of HTTP/1.1 has ended");
            }
        });
        let connection = Exclusive { sender, route: self.route, opened: Instant::now(), _tasks: tasks };
        Ok(self.connections.lease_new(self.origin, connection))
    }

    /// Speaks HTTP/2.
    async fn shared(
        mut self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Lease, Error> {
        let held = self.way.account.hold(WINDOWS.1.into()).map_err(|_| Error::ConnectionLimitReached)?;
        let (driver, tasks) = Driver::new(&self.way.account);
        let mut builder = http2::Builder::new(driver.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .max_header_list_size(HEAD)
            .max_send_buf_size(BUFFER)
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|cause| error::of_response(&cause))?;
        let lease = self.connections.share_new(self.origin, sender, self.route, tasks);
        self.place.connected();
        let place = self.place;
        driver.spawn(async move {
            let _held = (place, held);
            if let Err(cause) = connection.await {
                tracing::debug!(%cause, "a connection of HTTP/2 has ended");
            }
        });
        lease.ok_or(Error::ConnectionLimitReached)
    }
}
