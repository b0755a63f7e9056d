//! Health and metrics, on a port of their own.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

use super::{ServerState, metrics};

const TEXT: &str = "text/plain";

/// The answer to a request on the port of health and metrics.
pub(super) fn answer<B>(state: &ServerState, request: &Request<B>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered here\n");
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" if state.is_ready() => text(StatusCode::OK, TEXT, "ready\n"),
        "/readyz" => {
            let why = match state.stopping.is_cancelled() {
                true => "the server stops\n",
                false => "not all extensions are known yet\n",
            };
            text(StatusCode::SERVICE_UNAVAILABLE, TEXT, why)
        }
        "/metrics" => match state.metrics.text() {
            Ok(metrics) => text(StatusCode::OK, metrics::CONTENT_TYPE, metrics),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "a metric could not be written\n"),
        },
        _ => text(StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz and /metrics\n"),
    }
}

fn text(status: StatusCode, kind: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
