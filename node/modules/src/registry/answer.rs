//! Answers of registries: read within bounds, refusals turned into errors that can be shown.

use std::{error::Error, fmt::Write as _, io};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::{Response, StatusCode, header::CONTENT_RANGE};
use serde::Deserialize;

use crate::{error::PullFailure, source::BlobBody, text::printable};

/// Bytes of an error's body that are read for its text.
const ERROR_LIMIT: u64 = 16 << 10;

/// A failed request.
pub(super) struct RequestError {
    pub(super) reason: PullFailure,
    /// No connection was made, and not because of a certificate: who is there may speak plain HTTP.
    pub(super) no_tls: bool,
}

impl From<PullFailure> for RequestError {
    fn from(reason: PullFailure) -> Self {
        Self { reason, no_tls: false }
    }
}

impl From<RequestError> for PullFailure {
    fn from(error: RequestError) -> Self {
        error.reason
    }
}

impl From<reqwest::Error> for RequestError {
    fn from(error: reqwest::Error) -> Self {
        Self {
            no_tls: error.is_connect() && !is_certificate_error(&error),
            reason: PullFailure::Unavailable(describe(error)),
        }
    }
}

/// Turns every answer but a success into an error, with the registry's own words.
pub(super) async fn accepted(response: Response) -> Result<Response, RequestError> {
    accepted_as(response, &[StatusCode::OK, StatusCode::PARTIAL_CONTENT]).await
}

/// The same for requests whose success is told by other statuses.
pub(super) async fn accepted_as(
    response: Response,
    success: &[StatusCode],
) -> Result<Response, RequestError> {
    let status = response.status();
    if success.contains(&status) {
        return Ok(response);
    }
    let detail = match read_bounded(response, ERROR_LIMIT, "the error").await {
        Ok(body) => error_text(status, &body),
        Err(_) => error_text(status, &[]),
    };
    Err(match status.as_u16() {
        401 | 403 => PullFailure::Denied(detail),
        404 => PullFailure::NotFound(detail),
        408 | 429 | 500..=599 => PullFailure::Unavailable(detail),
        _ => PullFailure::Malformed(format!("the registry answered {detail}")),
    }
    .into())
}

/// `404 Not Found: manifest unknown`: the status and the messages of the [error envelope][1], made printable.
///
/// [1]: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes
fn error_text(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut text = status.to_string();
    let errors = serde_json::from_slice::<Envelope>(body).map(|envelope| envelope.errors).unwrap_or_default();
    for (position, error) in errors.iter().take(3).enumerate() {
        let words = if error.message.is_empty() { &error.code } else { &error.message };
        // Writing to a String cannot fail.
        let _ = write!(text, "{} {}", if position == 0 { ":" } else { "," }, printable(words));
    }
    text
}

/// Reads a whole body that must not be longer than `limit` bytes.
pub(super) async fn read_bounded(response: Response, limit: u64, what: &str) -> Result<Bytes, PullFailure> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(PullFailure::TooLarge(format!("{what} is larger than {limit} bytes")));
    }
    body_from(0, response).read_all(limit, what).await
}

/// The body of an answer to a request for the bytes from `offset` on. Who ignores that sends all of them.
pub(crate) fn body_of(response: Response, offset: u64) -> Result<BlobBody, PullFailure> {
    let start = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let start = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
            if start != Some(offset) {
                let what = printable(range.unwrap_or("none at all"));
                return Err(PullFailure::Malformed(format!(
                    "the bytes from {offset} on were asked for, and the range that came is {what}"
                )));
            }
            offset
        }
        _ => 0,
    };
    Ok(body_from(start, response))
}

/// What an answer brings, as the bytes from `offset` on.
fn body_from(offset: u64, response: Response) -> BlobBody {
    let chunks = response.bytes_stream().map_err(|error| PullFailure::Unavailable(describe(error)));
    BlobBody::new(offset, chunks.boxed())
}

/// An error with all its causes, without the URL: storage behind registries puts signatures into it.
pub(crate) fn describe(error: reqwest::Error) -> String {
    let host = error.url().and_then(|url| url.host_str().map(str::to_owned));
    let error = error.without_url();
    let mut text = match host {
        Some(host) => format!("{host}: {error}"),
        None => error.to_string(),
    };
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}

/// True when a connection failed because the other side's certificate is not trusted.
fn is_certificate_error(error: &(dyn Error + 'static)) -> bool {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return matches!(tls, rustls::Error::InvalidCertificate(_));
    }
    // An I/O error hides the error that it wraps from the chain of sources.
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => is_certificate_error(wrapped),
        None => error.source().is_some_and(is_certificate_error),
    }
}
