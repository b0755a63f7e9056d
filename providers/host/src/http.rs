//! Serves components that export `wasi:http/incoming-handler@0.2` or `wasi:http/handler@0.3`.
//!
//! ```text
//!   listener ─[server]─► [connection] ─► [check]: refused, or passed on ─► [gate]: a place, the queue, or 503
//!                        HTTP/1.1, HTTP/2     │                              │
//!                                             │                [instances]: kept, or made in the pool
//!   client ◄─[response_body]◄─ answer ◄─[call]┴── request, [request_body] ──►│ guest
//! ```
//!
//! Where a container has a certificate, each connection begins with a handshake of TLS ([`tls`]), and is one of a server without
//! it from then on.
//!
//! A guest has no task of its own: it makes progress when its answer is asked for, in the task of the connection (HTTP/1.1) or of
//! the request (HTTP/2), so that a client that takes nothing holds up the guest that answers it, and nobody copies or hands on what
//! both can have at once. All of these tasks run in turns on the account of their container. Between requests there is no
//! instance, unless the settings keep some.
//!
//! Where several requests are in one instance of WASI 0.3 at a time, that has a task, which lasts as long as there are any:
//!
//! ```text
//!   request ─► [shared]: a seat, the queue, or 503 ─► [occupancy]: who is in the instance ◄─ [driver] ─► guest
//! ```

mod access;
mod answering;
mod call;
mod certificate;
mod check;
mod connection;
mod driver;
mod failures;
mod gate;
mod handler;
mod instances;
mod metrics;
mod occupancy;
mod request_body;
mod response_body;
mod served;
mod server;
mod service;
mod settings;
mod shared;
mod stalls;
mod tls;
mod trace;
mod units;

use std::sync::Arc;

pub use certificate::{InvalidCertificate, ServerCertificate};
pub use failures::{FailureCount, FailureSink, RequestFailures};
pub use handler::{BrokenAnswer, HttpAnswerBody, HttpHandler};
pub(crate) use instances::InTurn;
pub use metrics::{DURATION_BUCKETS_MILLIS, HttpStats};
pub use served::HttpMonitor;
use served::Served;
pub use server::HttpServer;
pub use settings::{AccessLog, HttpSettings, InvalidHttpSettings};
pub use tls::CertificateOutcome;
use tls::ServerTls;

use crate::{
    cache::{EntryPoint, Loaded},
    host::Host,
    listen,
    owned_setup::OwnedSetup,
    setup::{PrepareError, Setup},
};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// How a container is served, and what with. Of settings alone: without TLS, and with failures that nobody is told of.
#[derive(Clone, Debug, Default)]
pub struct HttpServing {
    /// How.
    pub settings: HttpSettings,
    /// The certificate that it has at first, where it speaks TLS. Then it speaks nothing else.
    pub certificate: Option<Arc<ServerCertificate>>,
    /// Who is told of requests that have failed.
    pub failures: Option<FailureSink>,
}

impl From<HttpSettings> for HttpServing {
    fn from(settings: HttpSettings) -> Self {
        Self { settings, ..Self::default() }
    }
}

impl Host {
    /// Makes a server for a module that serves HTTP, which listens on the first of the setup's ports, and accepts when it is run.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn serve(
        self: &Arc<Self>,
        loaded: Arc<Loaded>,
        setup: &Setup<'_>,
        serving: impl Into<HttpServing>,
    ) -> Result<HttpServer, PrepareError> {
        if !matches!(loaded.entry, EntryPoint::Http(_) | EntryPoint::HttpP3(_)) {
            return Err(PrepareError::NoHttp);
        }
        let HttpServing { settings, certificate, failures } = serving.into();
        if settings.instance_concurrency > 1 && !matches!(loaded.entry, EntryPoint::HttpP3(_)) {
            return Err(PrepareError::NoConcurrency);
        }
        let port = setup.listen_ports.get(..1).unwrap_or_default();
        let port = listen::permitted(port, setup.network);
        if port.is_empty() {
            return Err(PrepareError::NoAddress);
        }
        let tls = certificate.as_deref().map(ServerTls::new).transpose()?;
        let held = setup.account.hold(setup.held())?;
        let sockets = self.sockets_of(setup);
        let (pod, node) = (sockets.pod(), sockets.node());
        let listeners = listen::open(&port, setup.network, pod.as_ref(), &node.ports, BACKLOG)?;
        let common = self.common(&loaded, setup, sockets)?;
        let most = (settings.max_connections as usize).min(self.files_for_connections());
        let setup = OwnedSetup::from(setup);
        let mut served = Served::new(Arc::clone(self), loaded, settings, setup, common, held);
        (served.tls, served.failures) = (tls, failures);
        Ok(HttpServer { served: Arc::new(served), listeners, most })
    }
}
