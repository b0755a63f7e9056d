//! One conversation with one registry about one repository.

use std::{error::Error as _, fmt::Write as _, sync::Mutex, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue},
};
use serde::Deserialize;

use super::challenge::{self, Challenge};
use crate::{digest::Digest, error::PullFailure, image::Credential, media, reference::Reference};

/// Manifests and configurations above this are refused; the specification asks registries for 4 MiB.
pub(crate) const DOCUMENT_LIMIT: u64 = 4 << 20;
const TOKEN_LIMIT: u64 = 1 << 20;
const ERROR_LIMIT: u64 = 16 << 10;
/// A manifest or a token that takes longer than this is not coming.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The bytes of a manifest, as the registry keeps them, and their digest.
#[derive(Clone, Debug)]
pub(crate) struct RawManifest {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
}

/// A conversation that has one credential, or none, and remembers what the registry made of it.
pub(crate) struct Session {
    client: Client,
    reference: Reference,
    credential: Option<Credential>,
    base: String,
    /// The registry may be reached over plain HTTP, and so may its token service.
    plain: bool,
    /// Value of the `Authorization` header, once the registry has asked for one.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A failed request; tells whether a connection was made at all.
pub(super) struct RequestError {
    pub(super) reason: PullFailure,
    pub(super) not_connected: bool,
}

impl From<PullFailure> for RequestError {
    fn from(reason: PullFailure) -> Self {
        Self { reason, not_connected: false }
    }
}

impl From<RequestError> for PullFailure {
    fn from(error: RequestError) -> Self {
        error.reason
    }
}

impl From<reqwest::Error> for RequestError {
    fn from(error: reqwest::Error) -> Self {
        Self { not_connected: error.is_connect(), reason: PullFailure::Unavailable(describe(error)) }
    }
}

impl Session {
    pub(super) fn new(
        client: Client,
        reference: Reference,
        credential: Option<Credential>,
        scheme: &str,
        plain: bool,
    ) -> Self {
        let base = format!("{scheme}://{}/v2/{}", reference.host(), reference.repository());
        Self { client, reference, credential, base, plain, authorization: Mutex::new(None) }
    }

    /// Fetches the manifest that a tag or a digest names. Against a digest it is checked.
    pub(super) async fn manifest(&self, selector: &str) -> Result<RawManifest, RequestError> {
        let url = format!("{}/manifests/{selector}", self.base);
        let request = || self.client.get(&url).header(ACCEPT, media::MANIFESTS).timeout(DOCUMENT_TIMEOUT);
        let response = self.send(request).await?;
        let bytes = read_bounded(response, DOCUMENT_LIMIT, "the manifest").await?;
        let digest = Digest::of(&bytes);
        if selector.contains(':') && selector != digest.to_string() {
            return Err(PullFailure::Mismatch(format!("manifest {selector} has the digest {digest}")).into());
        }
        Ok(RawManifest { bytes, digest })
    }

    /// Fetches a manifest of an index.
    pub(crate) async fn manifest_by_digest(&self, digest: &Digest) -> Result<RawManifest, PullFailure> {
        Ok(self.manifest(&digest.to_string()).await?)
    }

    /// Begins to fetch a blob. The caller reads it with [`next_chunk`], counts and checks it.
    pub(crate) async fn blob(&self, digest: &Digest) -> Result<Response, PullFailure> {
        let url = format!("{}/blobs/{digest}", self.base);
        match self.send(|| self.client.get(&url)).await {
            Ok(response) => Ok(response),
            // The image was found, a part of it was not: another thing than a wrong name.
            Err(RequestError { reason: PullFailure::NotFound(detail), .. }) => Err(PullFailure::Malformed(format!(
                "its blob {digest} is missing in the registry ({detail}); push the image again"
            ))),
            Err(error) => Err(error.reason),
        }
    }

    /// Sends a request, proves who asks when the registry wants to know, and turns refusals into errors.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, RequestError> {
        let first = self.with_authorization(request()).send().await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return accepted(first).await;
        }
        let Some(challenge) = challenge::read(first.headers()) else {
            return accepted(first).await;
        };
        match self.authorize(&challenge).await? {
            Some(value) => {
                if let Ok(mut authorization) = self.authorization.lock() {
                    *authorization = Some(value);
                }
                accepted(self.with_authorization(request()).send().await?).await
            }
            None => accepted(first).await,
        }
    }

    fn with_authorization(&self, request: RequestBuilder) -> RequestBuilder {
        match self.authorization.lock().ok().and_then(|value| value.clone()) {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }

    /// The header that answers a challenge; `None` when there is nothing to answer with.
    async fn authorize(&self, challenge: &Challenge) -> Result<Option<HeaderValue>, RequestError> {
        match (challenge, &self.credential) {
            (Challenge::Basic, None) => Ok(None),
            (Challenge::Basic, Some(credential)) => {
                // The library builds the header; the request itself is never sent.
                let request = self.client.get(&self.base).basic_auth(&credential.username, Some(&credential.password));
                Ok(request.build()?.headers().get(AUTHORIZATION).cloned())
            }
            (Challenge::Bearer { realm, service }, credential) => {
                let token = self.token(realm, service.as_deref(), credential.as_ref()).await?;
                let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                    PullFailure::Unavailable("the registry's token service sent a token that is no header".to_owned())
                })?;
                value.set_sensitive(true);
                Ok(Some(value))
            }
        }
    }

    /// Asks the token service for a token that allows to pull this repository.
    ///
    /// An identity token is exchanged by POST ([OAuth 2](https://distribution.github.io/distribution/spec/auth/oauth/));
    /// a password, or nothing, goes by GET.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        credential: Option<&Credential>,
    ) -> Result<String, RequestError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let url = Url::parse(realm).ok().filter(|url| url.scheme() == "https" || (self.plain && url.scheme() == "http"));
        let Some(url) = url else {
            return Err(PullFailure::Denied(format!(
                "the registry names a token service that is not safe to use ({})",
                printable(realm)
            ))
            .into());
        };
        let scope = format!("repository:{}:pull", self.reference.repository());
        let mut parameters = vec![("scope", scope.as_str())];
        parameters.extend(service.map(|service| ("service", service)));
        let request = match credential {
            Some(Credential { username, password }) if username.is_empty() => {
                parameters.extend([
                    ("grant_type", "refresh_token"),
                    ("client_id", "kubewasm"),
                    ("refresh_token", password),
                ]);
                self.client.post(url).form(&parameters)
            }
            Some(Credential { username, password }) => {
                self.client.get(url).query(&parameters).basic_auth(username, Some(password))
            }
            None => self.client.get(url).query(&parameters),
        };
        let response = request.timeout(DOCUMENT_TIMEOUT).send().await?;
        let response = match accepted(response).await {
            Err(RequestError { reason: PullFailure::NotFound(detail) | PullFailure::Malformed(detail), .. }) => {
                return Err(PullFailure::Denied(format!("the token service answered {detail}")).into());
            }
            other => other?,
        };
        let body = read_bounded(response, TOKEN_LIMIT, "the token").await?;
        let answer: Option<Answer> = serde_json::from_slice(&body).ok();
        answer.and_then(|answer| answer.token.or(answer.access_token)).filter(|token| !token.is_empty()).ok_or_else(
            || PullFailure::Unavailable("the registry's token service sent no token".to_owned()).into(),
        )
    }
}

/// Turns every answer but a success into an error, with the registry's own words.
async fn accepted(response: Response) -> Result<Response, RequestError> {
    let status = response.status();
    if status == StatusCode::OK {
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

/// At most 200 characters of somebody else's text, on one line.
fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Reads a whole body that must not be longer than `limit` bytes.
async fn read_bounded(mut response: Response, limit: u64, what: &str) -> Result<Bytes, PullFailure> {
    let too_large = || PullFailure::TooLarge(format!("{what} is larger than {limit} bytes"));
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = next_chunk(&mut response).await? {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > limit {
            return Err(too_large());
        }
    }
    Ok(body.into())
}

/// The next bytes of a body, or `None` at its end.
pub(crate) async fn next_chunk(response: &mut Response) -> Result<Option<Bytes>, PullFailure> {
    response.chunk().await.map_err(|error| PullFailure::Unavailable(describe(error)))
}

/// An error with all its causes, without the URL: storage behind registries puts signatures into it.
pub(super) fn describe(error: reqwest::Error) -> String {
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
