//! HTTP requests that guests send, `wasi:http/outgoing-handler` of 0.2 and `wasi:http/client` of 0.3: all of them come through
//! [`OutgoingHttp`].
//!
//! ```text
//!   guest ─► send_request ─[request: what may be sent, and to which origin]─► HttpConnections, one for a pod
//!                                                                               │
//!              one that is open and leads where this guest may go ◄─[pool]──────┤
//!              a new one, where there is a place ◄─[connect, tls, handshake]────┘
//!                      │   as the guest's own socket would be made: names, Services, rules, the pod's address
//!                      ▼
//!              the request's turn ─[exchange]─► response ─[body]─► guest, and the connection back to the pool
//! ```
//!
//! Connections belong to the pod, and what is asked of them to a guest ([`OutgoingWay`]): its rules are asked for each
//! request, and for one on a connection that is open already as well. What runs beside the guests are the drivers of
//! connections, of which there is a bounded number, and which end with the pod. Whatever the host does here is on the account
//! of a guest.
//!
//! Where the operator has named a proxy ([`proxy`]), a connection is one to it, or a tunnel through it ([`tunnel`]). Where a guest
//! may go is asked as before, of the addresses that the origin has here.

mod body;
mod carrier;
mod connect;
mod drive;
mod error;
mod exchange;
mod handshake;
mod pool;
mod proxy;
mod request;
mod rule;
mod sender;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod tunnel;

use std::{sync::Arc, time::Duration};

use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

pub(crate) use connect::{OutgoingHost, OutgoingWay};
pub use pool::HttpConnections;
pub use proxy::{HttpProxy, InvalidHttpProxy, PastProxy, ProxyCredentials};
pub use rule::HttpRule;
pub use sender::{HttpOutcome, HttpSender};
pub use tls::{InvalidAuthorities, PrivateAuthorities};

use crate::state::GuestState;

/// How long a request waits for a connection where its guest does not say: for a place among the pod's, for the name, for
/// the server, and for its certificate.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a guest that does not say waits for the head of a response, from the moment at which the last of its request was
/// taken.
const FIRST_BYTE: Duration = Duration::from_secs(5 * 60);
/// How long a guest that does not say waits for more of a response.
const BETWEEN_BYTES: Duration = Duration::from_secs(5 * 60);
/// No deadline is later than this: a clock can be read so far ahead.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What a guest has of `wasi:http`.
pub(crate) struct GuestHttp {
    context: WasiHttpCtx,
    outgoing: OutgoingHttp,
}

/// Sends the requests of one guest.
#[derive(Debug)]
struct OutgoingHttp {
    connections: Arc<HttpConnections>,
    way: Arc<OutgoingWay>,
    /// Whoever sends them in the place of this host.
    sender: Option<Arc<dyn HttpSender>>,
    /// Whoever is asked first.
    rule: Option<Arc<dyn HttpRule>>,
}

/// How long what may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Deadlines {
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Deadlines {
    fn of(options: Option<RequestOptions>) -> Self {
        let RequestOptions { connect_timeout, first_byte_timeout, between_bytes_timeout } =
            options.unwrap_or_default();
        let or = |wanted: Option<Duration>, default| wanted.unwrap_or(default).min(LONGEST);
        Self {
            connect: or(connect_timeout, CONNECT),
            first_byte: or(first_byte_timeout, FIRST_BYTE),
            between_bytes: or(between_bytes_timeout, BETWEEN_BYTES),
        }
    }
}

impl GuestHttp {
    /// A guest's, with the connections of its pod, or with somebody who sends what it asks for.
    pub(crate) fn new(
        connections: Arc<HttpConnections>,
        way: OutgoingWay,
        sender: Option<Arc<dyn HttpSender>>,
        rule: Option<Arc<dyn HttpRule>>,
    ) -> Self {
        let outgoing = OutgoingHttp { connections, way: Arc::new(way), sender, rule };
        Self { context: WasiHttpCtx::default(), outgoing }
    }
}

type Done = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(http::Response<WasiBody>, Done), Error>;

impl WasiHttpHooks for OutgoingHttp {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Done,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let (connections, way) = (Arc::clone(&self.connections), Arc::clone(&self.way));
        let account = Arc::clone(&way.account);
        if self.rule.as_ref().is_some_and(|rule| !rule.allows(request.uri())) {
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        }
        if let Some(sender) = &self.sender {
            let sending = sender.send(request, options.unwrap_or_default());
            let sending = async move { Ok((sending.await?, Box::new(std::future::ready(Ok(()))) as Done)) };
            return Box::new(drive::Metered::new(sending, account));
        }
        let sending = async move {
            let response = exchange::send(&connections, &way, request, Deadlines::of(options)).await?;
            // Connections are driven elsewhere: there is nothing left to do.
            Ok((response, Box::new(std::future::ready(Ok(()))) as Done))
        };
        Box::new(drive::Metered::new(sending, account))
    }
}

impl WasiHttpView for GuestState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let GuestHttp { context, outgoing } = &mut self.http;
        WasiHttpCtxView { hooks: outgoing, table: self.core.context().table, ctx: context }
    }
}
