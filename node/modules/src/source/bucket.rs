//! A module that is an object of a bucket: S3, and what speaks its protocol.
//!
//! Requests, signatures and credentials are [`object_store`]'s; the connections are those of the rest of the store, so
//! that private authorities, proxies and time limits are the same everywhere.

use std::{net::Ipv4Addr, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Limited};
use object_store::{
    ClientConfigKey, ClientOptions, GetOptions, GetRange, GetResult, ObjectStore as _, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey},
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
        HttpService,
    },
    path::Path,
};
use reqwest::{Client, Url};

use super::{BlobBody, FileVersion, KnownImage, ModuleSource, Part, RemoteFile, Resolution, Target};
use crate::{
    error::PullFailure,
    module_url::ModuleUrl,
    options::S3Options,
    reference::is_local,
    registry::{Registry, describe, http_address},
    text::printable,
};

/// Bytes of an error's body that are read for its text.
const ERROR_LIMIT: usize = 64 << 10;
/// A pull is tried again by those who want it; this is for a single answer that is lost.
const RETRIES: usize = 1;
/// Where an instance asks for its credentials, when nothing else gives any.
const METADATA: &str = "169.254.169.254";
/// What a service on the machine's own link may take; where there is none, nobody answers.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

/// An object, and the version of it that was begun.
pub(super) struct BucketSource {
    store: AmazonS3,
    bucket: String,
    key: Path,
    version: Option<String>,
}

impl BucketSource {
    /// The bucket as the environment, and over it the options, say that it is reached.
    pub(super) fn new(
        registry: &Registry,
        name: &ModuleUrl,
        options: &S3Options,
    ) -> Result<Self, PullFailure> {
        let unusable = |detail: String| PullFailure::Configuration(format!("S3 cannot be used: {detail}"));
        let (bucket, key) =
            name.object().ok_or_else(|| PullFailure::Unsupported("it names no object".to_owned()))?;
        let key = Path::parse(key)
            .map_err(|error| PullFailure::Unsupported(format!("its key cannot be used: {error}")))?;
        let mut builder = AmazonS3Builder::from_env();
        for (name, value) in options.pairs() {
            let known: AmazonS3ConfigKey = name
                .to_ascii_lowercase()
                .parse()
                .map_err(|_| unusable(format!("{name} is no option of it")))?;
            builder = builder.with_config(known, value);
        }
        let get = |key| builder.get_config_value(&key);
        let endpoint = get(AmazonS3ConfigKey::Endpoint);
        let address =
            endpoint.as_deref().and_then(|text| Url::parse(text).ok()).map(|url| http_address(&url));
        let address = address.unwrap_or_default();
        let is_plain = endpoint.is_some_and(|endpoint| !endpoint.starts_with("https://"));
        let is_allowed =
            get(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)).as_deref() == Some("true");
        if is_plain && !is_allowed && !registry.is_insecure(&address) {
            return Err(unusable(format!(
                "its endpoint {address} is spoken to in the clear; give it TLS, set AWS_ALLOW_HTTP=true, or name it with \
                 --insecure-registry"
            )));
        }
        let connector = Connections { remote: registry.client(false)?, local: registry.client(true)? };
        let retry = RetryConfig { max_retries: RETRIES, ..RetryConfig::default() };
        let builder = builder.with_bucket_name(bucket).with_http_connector(connector).with_retry(retry);
        let store = builder.build().map_err(|error| unusable(words(&error)))?;
        Ok(Self { store, bucket: bucket.to_owned(), key, version: None })
    }

    async fn get(&self, options: GetOptions) -> object_store::Result<GetResult> {
        self.store.get_opts(&self.key, options).await
    }

    fn failure(&self, error: &object_store::Error) -> PullFailure {
        use object_store::Error;
        let text = words(error);
        match error {
            Error::NotFound { .. } => PullFailure::NotFound(format!(
                "there is no object {} in the bucket {}, or no such bucket",
                self.key, self.bucket
            )),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => PullFailure::Denied(format!(
                "{text}; the node's own S3 credentials are used: they must open this object"
            )),
            Error::Precondition { .. } => {
                PullFailure::Unavailable("the object was replaced while it was read".to_owned())
            }
            Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::UnknownConfigurationKey { .. } => PullFailure::Configuration(text),
            _ if text.contains(METADATA) => PullFailure::Unavailable(format!(
                "{text}; the node has no S3 credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                 AWS_SKIP_SIGNATURE=true for what is public"
            )),
            _ => PullFailure::Unavailable(text),
        }
    }
}

#[async_trait::async_trait]
impl ModuleSource for BucketSource {
    async fn resolve(&mut self, known: Option<&KnownImage>) -> Result<Resolution, PullFailure> {
        let if_none_match = match known.and_then(|known| known.version.clone()) {
            Some(FileVersion::EntityTag(tag)) => Some(tag),
            _ => None,
        };
        let target = match self.get(GetOptions { if_none_match, ..GetOptions::default() }).await {
            Ok(object) => {
                self.version.clone_from(&object.meta.e_tag);
                let (size, version) =
                    (Some(object.meta.size), self.version.clone().map(FileVersion::EntityTag));
                Target::File(RemoteFile { size, version, body: body(object, 0) })
            }
            Err(object_store::Error::NotModified { .. }) => Target::Unchanged,
            Err(error) => return Err(self.failure(&error)),
        };
        Ok(Resolution { target, credential: None })
    }

    async fn read(&self, _part: Part, offset: u64) -> Result<BlobBody, PullFailure> {
        // Without a version, nothing tells whether the rest is of the same object.
        let offset = if self.version.is_some() { offset } else { 0 };
        let range = (offset > 0).then_some(GetRange::Offset(offset));
        let options = GetOptions { range, if_match: self.version.clone(), ..GetOptions::default() };
        self.get(options).await.map(|object| body(object, offset)).map_err(|error| self.failure(&error))
    }
}

fn body(object: GetResult, offset: u64) -> BlobBody {
    let broken = |error: object_store::Error| PullFailure::Unavailable(words(&error));
    BlobBody::new(offset, object.into_stream().map_err(broken).boxed())
}

/// An error with its causes, on one line.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    printable(&text)
}

/// The store's own connections, as `object_store` asks for them. This machine's loopback, and the link-local services that
/// give out credentials of instances and containers, are reached past any proxy.
#[derive(Clone, Debug)]
struct Connections {
    remote: Client,
    local: Client,
}

impl HttpConnector for Connections {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait::async_trait]
impl HttpService for Connections {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = Url::parse(&parts.uri.to_string())
            .map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let bytes = body.as_bytes().cloned().unwrap_or_default();
        let is_link_local = url
            .host_str()
            .and_then(|host| host.parse::<Ipv4Addr>().ok())
            .is_some_and(|host| host.is_link_local());
        let client = if is_link_local || is_local(&http_address(&url)) { &self.local } else { &self.remote };
        let mut request = client.request(parts.method, url).headers(parts.headers).body(bytes);
        if is_link_local {
            request = request.timeout(METADATA_TIMEOUT);
        }
        let response = request.send().await.map_err(http_error)?;
        let is_error = !response.status().is_success();
        let (parts, body) = ::http::Response::<reqwest::Body>::from(response).into_parts();
        let body = body.map_err(http_error);
        let body = if is_error {
            let limited = Limited::new(body, ERROR_LIMIT);
            HttpResponseBody::new(limited.map_err(|error| HttpError::new_boxed(HttpErrorKind::Decode, error)))
        } else {
            HttpResponseBody::new(body)
        };
        Ok(HttpResponse::from_parts(parts, body))
    }
}

/// An error without its URL.
fn http_error(error: reqwest::Error) -> HttpError {
    let kind = match &error {
        error if error.is_timeout() => HttpErrorKind::Timeout,
        error if error.is_connect() => HttpErrorKind::Connect,
        error if error.is_request() || error.is_body() => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, std::io::Error::other(describe(error)))
}
