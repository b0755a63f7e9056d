//! Connections to S3, as `object_store` asks for them.

use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Limited};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
        HttpService,
    },
};
use reqwest::{Client, redirect};

/// Bytes of an error's body that are read for its text.
const ERROR_LIMIT: usize = 64 << 10;

/// Connections that do not follow redirects: what is signed is for one server.
#[derive(Clone, Debug)]
pub(super) struct Connections(Client);

impl Connections {
    pub(super) fn new(deadline: Duration) -> Result<Self, String> {
        // Without one, the client panics. One that the process has chosen stays.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("kubewasm/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(deadline)
            .read_timeout(deadline)
            .redirect(redirect::Policy::none())
            .build();
        client
            .map(Self)
            .map_err(|error| format!("this machine cannot make TLS connections: {}", error.without_url()))
    }
}

impl HttpConnector for Connections {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connections {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let bytes = body.as_bytes().cloned();
        let request = self.0.request(parts.method, parts.uri.to_string()).headers(parts.headers);
        let request = match bytes {
            Some(bytes) => request.body(bytes),
            None => request.body(reqwest::Body::wrap(body)),
        };
        let response = request.send().await.map_err(http_error)?;
        let is_error = !response.status().is_success();
        let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
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
    HttpError::new(kind, error.without_url())
}
