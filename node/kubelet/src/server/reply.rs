//! Answers in the shapes that the kubelet gives them.

use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use warp::reply::{Reply as _, Response};

/// Plain text, which is also how errors are told.
pub(crate) fn text(code: StatusCode, body: impl Into<String>) -> Response {
    let mut response = body.into().into_response();
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
