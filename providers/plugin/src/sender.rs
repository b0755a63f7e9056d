//! The requests of one plugin: which of them are sent, and what the user is told of the others.
//!
//! ```text
//!   wasi:http of 0.2 and 0.3 ─► [ApiServer::locate] ─► [ApiRequest] ─► [AccessRules] ─► headers ─► ApiClient ─► API server
//!                                     │ elsewhere          │ exec …        │ not in the manifest
//!                                     └────────────────────┴───────────────┴──► denied, and one line for the user
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use kubewasm_host::{HttpError, HttpOptions, HttpOutcome, HttpSender, WasiBody};

use crate::{
    access::AccessRules, api_request::ApiRequest, client::ApiClient, cluster::ClusterChoice,
    console::Console, name::PluginName,
};

/// Lines about requests that were not sent; more of them tell nothing new.
const MOST_LINES: usize = 16;

/// Headers that are the host's to say. What is about the connection is the host's as well.
const DROPPED: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::HOST,
    header::CONNECTION,
    header::UPGRADE,
    header::TRANSFER_ENCODING,
    header::TE,
    HeaderName::from_static("keep-alive"),
];
/// What the names of others begin with: who is asked as, and what front proxies say of it.
const DROPPED_PREFIXES: [&str; 3] = ["impersonate-", "x-remote-", "x-forwarded-"];

/// Sends what a plugin may send.
pub(crate) struct PluginSender {
    name: PluginName,
    access: Option<AccessRules>,
    /// The client, or why there is none, which is told when the plugin asks for something.
    client: Result<Arc<ApiClient>, String>,
    console: Console,
    lines: AtomicUsize,
}

impl std::fmt::Debug for PluginSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginSender").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PluginSender {
    /// For a plugin that may ask for what these rules permit, or for anything.
    pub(crate) fn new(
        name: PluginName,
        access: Option<AccessRules>,
        cluster: ClusterChoice,
        console: Console,
    ) -> Self {
        let client = cluster.access.map_err(|error| error.to_string());
        let client = client.and_then(|access| ApiClient::new(access).map_err(|error| error.to_string()));
        let client = client.map(Arc::new);
        Self { name, access, client, console, lines: AtomicUsize::new(0) }
    }

    /// What is sent in the place of a guest's request, or what the guest is told.
    fn prepare(&self, request: Request<WasiBody>) -> Result<(Arc<ApiClient>, Request<WasiBody>), HttpError> {
        let client = self.client.as_ref().map_err(|reason| {
            self.tell(reason);
            HttpError::ConfigurationError
        })?;
        let server = &client.access().server;
        let (mut parts, body) = request.into_parts();
        let refuse = |why: &str| {
            // The query is the plugin's own affair.
            let wanted = parts.uri.to_string();
            let wanted = wanted.split('?').next().unwrap_or_default();
            self.tell(&format!("refused: {} {wanted}: {why}", parts.method));
            HttpError::HttpRequestDenied
        };
        if parts.method == Method::CONNECT {
            return Err(refuse("a plugin opens no tunnels"));
        }
        let located = server.locate(&parts.uri).map_err(|why| refuse(&why.to_string()))?;
        let asked = ApiRequest::read(&parts.method, server.api_path(&located), located.query());
        if let Ok(Some(upgrade)) = asked.as_ref().map(ApiRequest::upgrade) {
            return Err(refuse(&format!(
                "pods/{upgrade} takes another protocol than HTTP, which plugins are not given"
            )));
        }
        if let Some(access) = &self.access {
            let asked = asked.map_err(|why| refuse(&why.to_string()))?;
            if !access.permits(&asked) {
                return Err(refuse(&format!("the plugin's manifest does not permit it to {asked}")));
            }
        }
        parts.uri = located;
        scrub(&mut parts.headers);
        if let Ok(agent) = HeaderValue::try_from(format!("kubectl-{}", self.name)) {
            parts.headers.entry(header::USER_AGENT).or_insert(agent);
        }
        Ok((Arc::clone(client), Request::from_parts(parts, body)))
    }

    fn tell(&self, what: &str) {
        match self.lines.fetch_add(1, Ordering::Relaxed) {
            line if line < MOST_LINES => self.console.say(&format!("kubectl {}: {what}", self.name)),
            MOST_LINES => {
                self.console.say(&format!("kubectl {}: nothing more is told of its requests", self.name))
            }
            _ => {}
        }
    }
}

/// Takes away what a guest says of who it is, and of the connection.
fn scrub(headers: &mut HeaderMap) {
    for name in &DROPPED {
        headers.remove(name);
    }
    let others: Vec<_> = headers
        .keys()
        .filter(|name| DROPPED_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)))
        .cloned()
        .collect();
    for name in others {
        headers.remove(name);
    }
}

impl HttpSender for PluginSender {
    fn send(&self, request: Request<WasiBody>, options: HttpOptions) -> BoxFuture<'static, HttpOutcome> {
        let (client, request) = match self.prepare(request) {
            Ok(prepared) => prepared,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let (console, name) = (self.console.clone(), self.name.clone());
        Box::pin(async move {
            client.send(request, options).await.map_err(|failure| {
                // A plugin that goes on trying, as a watch does, tells its user as often as it likes.
                console.say(&format!("kubectl {name}: {failure}"));
                failure.into_error()
            })
        })
    }
}

#[cfg(test)]
mod tests;
