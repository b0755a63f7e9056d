//! Requests to the API server, with the user's credentials, over connections of the host's own.
//!
//! ```text
//!   request ─► Credentials::for_request ─► [hyper's pool, one for each identity] ─[connector]─► API server
//!       ▲                                                                    401 │
//!       └──────────── once more, with what a program newly says ◄────────────────┘
//! ```

mod body;
mod connector;
mod failure;
mod tls;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Incoming};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use kubewasm_host::{HttpError, HttpOptions, WasiBody};

use self::{
    body::PatientBody,
    connector::{ApiConnector, InvalidProxy},
};
use crate::{
    cluster::ClusterAccess,
    credentials::{ClientIdentity, NoCredentials, RequestCredentials},
};
pub(crate) use failure::RequestFailure;

/// How long a connection may take where its guest does not say.
const CONNECT: Duration = Duration::from_secs(30);
/// How often a connection of HTTP/2 is asked whether it still is one, and how long it has for an answer: as client-go does.
/// Otherwise a watch would wait for ever on a connection that nobody told us was gone.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(15);
/// Connections that wait for another request.
const IDLE: usize = 8;

type Pool = Client<ApiConnector, WasiBody>;

/// Sends requests to one API server.
pub(crate) struct ApiClient {
    access: ClusterAccess,
    connector: ApiConnector,
    /// The pool of the identity that was used last.
    pool: Mutex<Option<(Option<Arc<ClientIdentity>>, Pool)>>,
}

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiClient").field("access", &self.access).finish_non_exhaustive()
    }
}

impl ApiClient {
    /// A client that connects to nothing yet.
    ///
    /// # Errors
    /// [`InvalidProxy`].
    pub(crate) fn new(access: ClusterAccess) -> Result<Self, InvalidProxy> {
        let connector = ApiConnector::new(&access)?;
        Ok(Self { access, connector, pool: Mutex::default() })
    }

    /// What it leads to.
    pub(crate) fn access(&self) -> &ClusterAccess {
        &self.access
    }

    /// Sends a request, whose address is one of the server's and which has no credentials of its own.
    ///
    /// # Errors
    /// [`RequestFailure`], for the user and for the guest.
    pub(crate) async fn send(
        &self,
        request: Request<WasiBody>,
        options: HttpOptions,
    ) -> Result<Response<WasiBody>, RequestFailure> {
        let used = self.access.credentials.for_request().await?;
        // One that is refused can be sent again if there is nothing in it and it does nothing.
        let again = (matches!(*request.method(), Method::GET | Method::HEAD)
            && request.body().is_end_stream())
        .then(|| copy(&request));
        let response = self.send_with(request, &used, options).await?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(again) = again
            && let Some(renewed) = self.access.credentials.renew(&used).await?
        {
            let empty = Empty::new().map_err(HttpError::from).boxed_unsync();
            let response = self.send_with(again.map(|()| empty), &renewed, options).await?;
            return finish(response, options);
        }
        finish(response, options)
    }

    async fn send_with(
        &self,
        mut request: Request<WasiBody>,
        credentials: &RequestCredentials,
        options: HttpOptions,
    ) -> Result<Response<Incoming>, RequestFailure> {
        let headers = request.headers_mut();
        if let Some(authorization) = &credentials.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        extend(headers, &self.access.impersonation);
        let sending = self.pool(credentials.identity.as_ref())?.request(request);
        let sent = match options.first_byte_timeout {
            // The connection counts as well: the pool does not tell when it is there.
            Some(limit) => {
                let limit = limit.saturating_add(options.connect_timeout.unwrap_or(CONNECT));
                tokio::time::timeout(limit, sending).await.map_err(|_| RequestFailure::silent())?
            }
            None => sending.await,
        };
        sent.map_err(|error| RequestFailure::of_client(&error))
    }

    /// Connections on which this identity has said who it is.
    fn pool(&self, identity: Option<&Arc<ClientIdentity>>) -> Result<Pool, RequestFailure> {
        let mut kept = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |kept: &Option<Arc<ClientIdentity>>| match (kept, identity) {
            (Some(kept), Some(identity)) => Arc::ptr_eq(kept, identity),
            (None, None) => true,
            _ => false,
        };
        if let Some((_, pool)) = kept.as_ref().filter(|(kept, _)| is_same(kept)) {
            return Ok(pool.clone());
        }
        let connector = self.connector.as_identity(&self.access, identity)?;
        let pool = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PONG)
            .build(connector);
        *kept = Some((identity.cloned(), pool.clone()));
        Ok(pool)
    }
}

/// The head of a request.
fn copy(request: &Request<WasiBody>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn extend(headers: &mut HeaderMap, more: &HeaderMap) {
    for (name, value) in more {
        headers.append(name.clone(), value.clone());
    }
}

/// The response as its guest gets it.
fn finish(response: Response<Incoming>, options: HttpOptions) -> Result<Response<WasiBody>, RequestFailure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(RequestFailure::upgraded());
    }
    let limit = options.between_bytes_timeout;
    let mut response = response.map(|body| PatientBody::new(body, limit).boxed_unsync());
    let headers = response.headers_mut();
    // What is about the connection; and cookies, which are credentials where something in front of the server hands them out.
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::SET_COOKIE,
        header::HeaderName::from_static("keep-alive"),
        header::HeaderName::from_static("proxy-connection"),
    ] {
        headers.remove(name);
    }
    Ok(response)
}

impl From<NoCredentials> for RequestFailure {
    fn from(error: NoCredentials) -> Self {
        Self::no_credentials(error.0)
    }
}

#[cfg(test)]
mod tests;
