//! Readiness and metrics, on a port of their own.

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;

use super::{
    ServerState, metrics,
    routes::{Answer, Refusal},
};

/// The answer to a request on the port of readiness and metrics.
pub(super) fn answer<B>(state: &ServerState, request: &Request<B>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Refusal::method("GET").into();
    }
    match request.uri().path() {
        "/readiness" if state.is_ready() => text(StatusCode::OK, "text/plain", "ready\n".to_owned()),
        "/readiness" => {
            let why = match state.stopping.is_cancelled() {
                true => "the server stops\n",
                false => "not all policies are loaded\n",
            };
            text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", why.to_owned())
        }
        "/metrics" => match state.metrics.text() {
            Ok(metrics) => text(StatusCode::OK, metrics::CONTENT_TYPE, metrics),
            Err(_) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "a metric could not be written").into(),
        },
        _ => Refusal::new(StatusCode::NOT_FOUND, "there are /readiness and /metrics").into(),
    }
}

fn text(status: StatusCode, kind: &'static str, text: String) -> Answer {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
