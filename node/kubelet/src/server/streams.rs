//! `/exec`, `/attach`, `/portForward` and `/run`: callers connected to what runs here.
//!
//! What can be refused is refused in plain HTTP, before the connection is upgraded, in the kubelet's words and order: what is
//! asked for, the pod, the container, the protocol. What goes wrong later is told on the stream of errors.

#![expect(clippy::result_large_err, reason = "a refusal is the answer itself, made once for a connection")]

mod attach;
mod exec;
mod port_forward;
mod run;
mod target;

use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, header::CONTENT_TYPE};
use hyper::upgrade::OnUpgrade;
use kubewasm_streams::{ConnectionError, negotiation::UpgradeRefusal};
use warp::{Filter as _, filters::BoxedFilter, reply::Response};

use self::target::PodPath;
use super::{reply::text, routes::ServerState, upgrades::UpgradedConnection};
use crate::runtime::Runtime;

type Query = Vec<(String, String)>;

/// A request that wants its connection to become something else.
struct UpgradeRequest {
    state: Arc<ServerState>,
    method: Method,
    headers: HeaderMap,
    query: Query,
    upgrade: Option<OnUpgrade>,
    connection: Option<UpgradedConnection>,
}

/// What answers them.
pub(super) fn routes(state: &Arc<ServerState>) -> BoxedFilter<(Response,)> {
    let with = {
        let state = Arc::clone(state);
        warp::any().map(move || Arc::clone(&state))
    };
    let request = warp::get()
        .or(warp::post())
        .unify()
        .and(with.clone())
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(warp::query::<Query>())
        .and(warp::ext::optional::<OnUpgrade>())
        .and(warp::ext::optional::<UpgradedConnection>())
        .map(|state, method, headers, query, upgrade, connection| UpgradeRequest {
            state,
            method,
            headers,
            query,
            upgrade,
            connection,
        });
    let container = || {
        let plain = warp::path!(String / String / String)
            .map(|namespace, name, container| (PodPath { namespace, name, uid: None }, container));
        let by_uid = warp::path!(String / String / String / String)
            .map(|namespace, name, uid, container| (PodPath { namespace, name, uid: Some(uid) }, container));
        plain.or(by_uid).unify()
    };
    let exec = warp::path("exec")
        .and(container())
        .and(request.clone())
        .map(|(pod, container): (PodPath, String), request| exec::answer(request, pod, container));
    let attach = warp::path("attach")
        .and(container())
        .and(request.clone())
        .map(|(pod, container): (PodPath, String), request| attach::answer(request, pod, container));
    let run =
        warp::path("run").and(container()).and(warp::post()).and(warp::query::<Query>()).and(with).then(
            async |(pod, container): (PodPath, String), query: Query, state: Arc<ServerState>| {
                run::answer(&state, &pod, &container, &query).await
            },
        );
    let plain = warp::path!(String / String).map(|namespace, name| PodPath { namespace, name, uid: None });
    let by_uid = warp::path!(String / String / String).map(|namespace, name, uid| PodPath {
        namespace,
        name,
        uid: Some(uid),
    });
    let port_forward = warp::path("portForward")
        .and(plain.or(by_uid).unify())
        .and(request)
        .map(|pod, request| port_forward::answer(request, pod));
    exec.or(attach).unify().or(run).unify().or(port_forward).unify().boxed()
}

/// The first value of a parameter.
fn value<'q>(query: &'q Query, name: &str) -> Option<&'q str> {
    query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

impl UpgradeRequest {
    /// The connection, where it is one that can become something else: HTTP/1.1 with the headers that ask for it.
    fn connection(&mut self) -> Result<(OnUpgrade, UpgradedConnection), Response> {
        self.upgrade.take().zip(self.connection.take()).ok_or_else(|| {
            let message = "unable to upgrade: it takes HTTP/1.1 and the headers Connection and Upgrade";
            text(StatusCode::BAD_REQUEST, message)
        })
    }

    fn runtime(&self) -> Result<Arc<dyn Runtime>, Response> {
        runtime(&self.state)
    }
}

fn runtime(state: &ServerState) -> Result<Arc<dyn Runtime>, Response> {
    // A server without one: of tests alone.
    state
        .runtime()
        .map(Arc::clone)
        .ok_or_else(|| text(StatusCode::NOT_IMPLEMENTED, "this server runs no containers\n"))
}

fn refused(refusal: UpgradeRefusal) -> Response {
    let mut response = text(refusal.status, refusal.message);
    response.headers_mut().extend(refusal.headers);
    response
}

/// The answer of 101 with the headers of an agreement.
fn upgraded(mut response: Response, headers: HeaderMap) -> Response {
    response.headers_mut().remove(CONTENT_TYPE);
    response.headers_mut().extend(headers);
    response
}

/// Notes how a connection ended.
fn note(what: &'static str, pod: &PodPath, ended: Result<(), ConnectionError>) {
    match ended {
        Ok(()) => tracing::debug!(what, pod = pod.name, namespace = pod.namespace, "a stream has ended"),
        Err(error) => {
            tracing::debug!(%error, what, pod = pod.name, namespace = pod.namespace, "a stream has ended with an error");
        }
    }
}
