//! Tunnels through a proxy (RFC 9110, 9.3.6), and what is told of proxies that fail.

use std::{
    fmt,
    future::Future,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wasmtime_wasi_http::Error;

use super::{error, proxy::HttpProxy, request::Origin};
use crate::traffic::Counted;

/// Bytes of the head of what a proxy answers.
const HEAD: usize = 16 << 10;
/// Fields of it.
const FIELDS: usize = 64;

/// How often a proxy that fails is told of.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Tells the operator of a proxy that fails: not each time, because guests ask.
#[derive(Debug, Default)]
pub(super) struct ProxyTrouble(Mutex<Option<Instant>>);

impl ProxyTrouble {
    /// Whether there was anything to tell of.
    #[cfg(test)]
    pub(super) fn is_told(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn tell(&self, proxy: &HttpProxy, error: &impl fmt::Debug) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            *told = Some(Instant::now());
            tracing::warn!(
                proxy = proxy.url(),
                ?error,
                "a request of a guest did not get through the proxy; see that it answers pods, and takes the credentials of \
                 --outgoing-proxy-credentials"
            );
        }
    }
}

/// Has a proxy lead a connection on to an origin.
///
/// # Errors
/// What its guest is told.
pub(super) async fn open(
    stream: Counted<TcpStream>,
    proxy: &HttpProxy,
    origin: &Origin,
) -> Result<Counted<TcpStream>, Error> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD).max_headers(FIELDS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(of_proxy)?;
    let target = format!("{}:{}", origin.host, origin.port);
    let uri = Uri::builder().authority(target.as_str()).build();
    let mut request = Request::connect(uri.map_err(|_| Error::HttpRequestUriInvalid)?)
        .header(header::HOST, &target)
        .body(Empty::<Bytes>::new())
        .map_err(|_| Error::HttpRequestUriInvalid)?;
    if let Some(authorization) = proxy.authorization() {
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, authorization);
    }
    // The sender goes with it: a proxy that has refused has nothing more to say.
    let asking = async move {
        let answer = sender.send_request(request).await.map_err(of_proxy)?;
        match answer.status() {
            status if status.is_success() => Ok(hyper::upgrade::on(answer)),
            status => Err(refused(status)),
        }
    };
    let upgraded = driven(asking, connection.with_upgrades()).await?.await.map_err(of_proxy)?;
    let parts = upgraded.downcast::<TokioIo<Counted<TcpStream>>>().map_err(|_| Error::HttpUpgradeFailed)?;
    // The client speaks first in TLS: whoever is behind the tunnel does something else.
    if !parts.read_buf.is_empty() {
        return Err(Error::TlsProtocolError);
    }
    Ok(parts.io.into_inner())
}

/// What comes of a question on a connection, which is driven meanwhile, and to its end if the question is answered well.
async fn driven<T>(
    asking: impl Future<Output = Result<T, Error>>,
    connection: impl Future<Output = Result<(), hyper::Error>>,
) -> Result<T, Error> {
    tokio::pin!(asking, connection);
    tokio::select! {
        biased;
        answer = &mut asking => {
            let answer = answer?;
            connection.await.map_err(of_proxy)?;
            Ok(answer)
        }
        // Whatever it has brought before its end is there.
        _ = &mut connection => asking.await,
    }
}

/// Of a proxy that does not let a guest through.
pub(super) fn refused(status: StatusCode) -> Error {
    tracing::debug!(%status, "a proxy has refused");
    match status {
        // Some say the latter of credentials that are wrong, and the former of none.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED => Error::ConfigurationError,
        StatusCode::FORBIDDEN => Error::HttpRequestDenied,
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => Error::ConnectionTimeout,
        _ => Error::DestinationUnavailable,
    }
}

fn of_proxy(cause: hyper::Error) -> Error {
    tracing::debug!(%cause, "no tunnel through a proxy");
    match error::of_response(&cause) {
        Error::ConnectionTerminated | Error::HttpResponseIncomplete => Error::DestinationUnavailable,
        other => other,
    }
}
