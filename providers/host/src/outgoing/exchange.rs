//! One request, from its guest to the head of its response.

use std::{sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::{
    pin,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use wasmtime_wasi_http::{Error, WasiBody};

use super::{
    Deadlines,
    body::{RequestBody, ResponseBody, SendProgress},
    carrier::Carrier,
    connect::OutgoingWay,
    error, handshake,
    pool::{Checkout, HttpConnections, Lease, Place},
    request::{self, Origin, Outgoing, Security},
    tunnel,
};

/// Connections on which a request is tried that none of them has taken.
const TRIES: usize = 4;
/// How long a connection is waited for that is about to be free, before another one is made.
const MOMENT: Duration = Duration::from_millis(50);

/// Headers of a response that are about the connection that it came over, and mean nothing to a guest.
const OF_CONNECTION: [header::HeaderName; 5] = [
    header::CONNECTION,
    header::HeaderName::from_static("keep-alive"),
    header::HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Why there is no response.
struct Failure {
    error: Error,
    /// The request, where nothing of it was sent.
    unsent: Option<Request<RequestBody>>,
    /// The connection was closed, before anything of a response has come.
    is_closed: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, unsent: None, is_closed: false }
    }
}

/// Sends a request of a guest.
pub(super) async fn send(
    connections: &Arc<HttpConnections>,
    way: &OutgoingWay,
    request: Request<WasiBody>,
    deadlines: Deadlines,
) -> Result<Response<WasiBody>, Error> {
    let progress = SendProgress::default();
    let Outgoing { origin, mut request, is_safe } =
        request::prepare(request, way.tls().id(), progress.clone())?;
    let connect_by = Instant::now() + deadlines.connect;
    let place = timeout_at(connect_by, Arc::clone(&connections.requests).acquire_owned()).await;
    // It is never closed.
    let place = place.ok().and_then(Result::ok).ok_or(Error::ConnectionLimitReached)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let mut lease = lease(connections, way, &origin, connect_by).await?;
        let again = (is_safe && lease.is_used).then(|| copy(&request));
        let is_used = lease.is_used;
        match exchange(&mut lease, &origin, request, &progress, deadlines.first_byte).await {
            Ok(response) => {
                let between_bytes = deadlines.between_bytes;
                let body = |body| ResponseBody::new(body, (lease, place), progress, between_bytes);
                return Ok(respond(response, body));
            }
            Err(Failure { error, unsent, is_closed }) => {
                // Within a tunnel, it is the origin that fails.
                if origin.security == Security::Plain
                    && let Some(proxied) = &lease.carrier.route().proxied
                {
                    way.refused_by(&proxied.proxy, &error);
                }
                if let Carrier::Stream(shared, _) = &lease.carrier
                    && (unsent.is_some() || is_closed)
                {
                    connections.retire(&origin, shared);
                }
                // A connection that had been idle may be closed at the moment at which it is used.
                let again = unsent.or_else(|| Some(as_request(again?, &progress)).filter(|_| is_closed));
                match again {
                    Some(unsent) if is_used && tries < TRIES => request = unsent,
                    Some(_) | None => return Err(progress.failure().unwrap_or(error)),
                }
            }
        }
    }
}

/// The head of a request that has no body.
fn copy(request: &Request<RequestBody>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn as_request(head: Request<()>, progress: &SendProgress) -> Request<RequestBody> {
    head.map(|()| RequestBody::empty(progress.clone()))
}

/// A connection for a request: one that is open, or a new one.
async fn lease(
    connections: &Arc<HttpConnections>,
    way: &OutgoingWay,
    origin: &Origin,
    by: Instant,
) -> Result<Lease, Error> {
    let mut has_waited = false;
    loop {
        let freed = connections.freed();
        pin!(freed);
        freed.as_mut().enable();
        match connections.check_out(origin, |route| way.fitness(origin, route)) {
            Checkout::Open(lease) => return Ok(*lease),
            // A guest that asks again as soon as a body ends is often quicker than the connection's own task.
            Checkout::Room { is_settling: true } if !has_waited => {
                has_waited = true;
                let _ = timeout(MOMENT, freed).await;
            }
            Checkout::Room { .. } => {
                if let Some(place) = place(connections, way, origin)? {
                    let opening = handshake::open(connections, way, origin, place);
                    return timeout_at(by, opening).await.unwrap_or(Err(Error::ConnectionTimeout));
                }
            }
            Checkout::Nothing => {
                timeout_at(by, freed).await.map_err(|_| Error::ConnectionLimitReached)?;
            }
        }
    }
}

/// A place for a connection, which its guest and the host can afford.
fn place(
    connections: &Arc<HttpConnections>,
    way: &OutgoingWay,
    origin: &Origin,
) -> Result<Option<Place>, Error> {
    let of_host = Semaphore::try_acquire_owned(Arc::clone(&way.host_places));
    let of_host = of_host.map_err(|_| Error::ConnectionLimitReached)?;
    let held = way.account.hold(handshake::HELD).map_err(|_| Error::ConnectionLimitReached)?;
    Ok(connections.place(origin, of_host, held))
}

/// Sends a request on a connection, and waits for the head of the response. The time runs from when the last of the request
/// was taken: a body may take as long as it likes, and must go on.
async fn exchange(
    lease: &mut Lease,
    origin: &Origin,
    mut request: Request<RequestBody>,
    progress: &SendProgress,
    first_byte: Duration,
) -> Result<Response<Incoming>, Failure> {
    let is_of_proxy = origin.security == Security::Plain && lease.carrier.route().proxied.is_some();
    type Answer = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;
    let sending: std::pin::Pin<Box<dyn Future<Output = Answer> + Send>> = match &mut lease.carrier {
        Carrier::Exclusive(connection) => {
            origin.address(&mut request, Version::HTTP_11)?;
            if let Some(proxied) = &connection.route.proxied {
                origin.ask(&proxied.proxy, &mut request)?;
            }
            Box::pin(connection.sender.try_send_request(request))
        }
        Carrier::Stream(shared, _) => {
            origin.address(&mut request, Version::HTTP_2)?;
            Box::pin(shared.sender().try_send_request(request))
        }
    };
    let begun = Instant::now();
    let mut sending = sending;
    let answer = loop {
        let until = begun.max(progress.last()) + first_byte;
        match timeout_at(until, &mut sending).await {
            Ok(answer) => break answer,
            Err(_) if begun.max(progress.last()) + first_byte > until => {}
            Err(_) => return Err(Error::ConnectionReadTimeout.into()),
        }
    };
    let response = answer.map_err(|mut failed| {
        let unsent = failed.take_message();
        let cause = failed.into_error();
        tracing::debug!(host = origin.host, port = origin.port, %cause, "no response");
        let is_closed = error::is_of_connection(&cause);
        Failure { error: error::of_response(&cause), unsent, is_closed }
    })?;
    if is_of_proxy && response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        // It is about what the node has said, and not the guest.
        return Err(tunnel::refused(response.status()).into());
    }
    // Nobody has asked for another protocol.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::HttpUpgradeFailed.into());
    }
    Ok(response)
}

/// The response as its guest gets it.
fn respond(response: Response<Incoming>, body: impl FnOnce(Incoming) -> ResponseBody) -> Response<WasiBody> {
    let mut response = response.map(|incoming| body(incoming).boxed_unsync());
    let headers = response.headers_mut();
    let named: Vec<header::HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in OF_CONNECTION.iter().chain(&named) {
        headers.remove(name);
    }
    response
}
