//! Spans of requests, by the names and attributes that OpenTelemetry's instrumentation of Go's `net/http` gives them.

use http::{HeaderMap, HeaderValue, Request, StatusCode};

use super::{Span, SpanContext, SpanKind, TRACEPARENT, TracePlace, Tracer, current};

/// Begins the span of a request that is about to be sent, and tells the one who gets it. What it belongs to is in its
/// extensions (see [`carrying`]); where there is nothing, it is a trace of its own.
pub(crate) fn sending<B>(tracer: &Tracer, request: &mut Request<B>, host: &str) -> Span {
    let name = match request.method().as_str() {
        "GET" => "HTTP GET",
        "POST" => "HTTP POST",
        "PUT" => "HTTP PUT",
        "PATCH" => "HTTP PATCH",
        "DELETE" => "HTTP DELETE",
        _ => "HTTP",
    };
    let mut span = match request.extensions_mut().remove::<TracePlace>() {
        Some(place) => place.child(name, SpanKind::Client),
        None => tracer.root(name, SpanKind::Client),
    };
    let Some(place) = span.place() else { return span };
    if let Ok(value) = HeaderValue::from_str(&place.context().to_string()) {
        request.headers_mut().insert(TRACEPARENT, value);
    }
    span.set("http.request.method", request.method().as_str());
    span.set("server.address", host);
    span.set("url.path", request.uri().path());
    span
}

/// The same request, as a part of what is done here.
pub(crate) fn carrying<B>(mut request: Request<B>) -> Request<B> {
    if let Some(place) = current() {
        request.extensions_mut().insert(place);
    }
    request
}

/// Begins the span of a request that has come, as a part of what its caller does.
pub(crate) fn receiving(tracer: &Tracer, headers: &HeaderMap, name: &'static str) -> Span {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let parent = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().and_then(SpanContext::parse),
        // Of two, none is to be believed.
        _ => None,
    };
    tracer.continuing(parent, name, SpanKind::Server)
}

/// It was answered with this status. An answer of the client's fault is no error of a server.
pub(crate) fn answered(span: &mut Span, status: StatusCode, kind: SpanKind) {
    span.set("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() || (kind == SpanKind::Client && status.is_client_error()) {
        span.fail(status.canonical_reason().unwrap_or_default());
    }
}
