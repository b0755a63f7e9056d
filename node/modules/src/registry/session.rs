//! One conversation with one registry about one repository.

use std::{sync::Mutex, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue},
};
use serde::Deserialize;

use super::{
    answer::{RequestError, accepted, read_bounded},
    challenge::{self, Challenge},
};
use crate::{
    digest::Digest,
    error::PullFailure,
    image::Credential,
    media,
    reference::{Reference, is_local},
    text::printable,
};

/// Manifests and configurations above this are refused; the specification asks registries for 4 MiB.
pub(crate) const DOCUMENT_LIMIT: u64 = 4 << 20;
const TOKEN_LIMIT: u64 = 1 << 20;
/// A manifest or a token that takes longer than this is not coming.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// The bytes of a manifest, as the registry keeps them, and their digest.
#[derive(Clone, Debug)]
pub(crate) struct RawManifest {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
}

/// What a registry makes of a reference, and of who asks.
pub(crate) struct Resolution {
    pub(crate) resolved: Resolved,
    /// Position of the credential that was taken; `None`: nobody's.
    pub(crate) credential: Option<usize>,
}

/// What a registry makes of a reference.
pub(crate) enum Resolved {
    /// It means what it was known to mean.
    Unchanged,
    /// It means this; the rest is fetched with the same session.
    Manifest(Box<Session>, RawManifest),
}

/// Connection pools for one way to registries.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    /// For registries, whose redirects to storage are followed.
    pub(super) registry: Client,
    /// For token services, whose redirects are not.
    pub(super) tokens: Client,
}

/// A conversation that has one credential, or none, and remembers what the registry made of it.
pub(crate) struct Session {
    connector: Connector,
    reference: Reference,
    credential: Option<Credential>,
    /// URL of the repository: `https://registry/v2/repository`, or `http://…` where the registry may be
    /// spoken to in the clear and does not speak TLS.
    base: Url,
    /// Hosts (`host` or `host:port`) that are configured to be spoken to in the clear.
    insecure: Vec<String>,
    /// Value of the `Authorization` header, once the registry has asked for one.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Session {
    pub(super) fn new(
        connector: Connector,
        reference: Reference,
        credential: Option<Credential>,
        scheme: &str,
        insecure: &[String],
    ) -> Result<Self, PullFailure> {
        let base = format!("{scheme}://{}/v2/{}", reference.host(), reference.repository());
        let base = Url::parse(&base).map_err(|error| {
            PullFailure::Unsupported(format!("{} is no registry: {error}", reference.registry()))
        })?;
        let (insecure, authorization) = (insecure.to_vec(), Mutex::new(None));
        Ok(Self { connector, reference, credential, base, insecure, authorization })
    }

    /// Finds out what the reference means; see [`super::Registry::resolve`].
    pub(super) async fn resolve(self, known: Option<Digest>) -> Result<Resolved, RequestError> {
        let selector = self.reference.selector().to_owned();
        if let Some(known) = known {
            match self.digest(&selector).await {
                Ok(now) if now == Some(known) => return Ok(Resolved::Unchanged),
                // A registry that does not answer HEAD is asked by GET.
                Ok(_) | Err(RequestError { reason: PullFailure::Malformed(_), .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let manifest = self.manifest(&selector).await?;
        Ok(Resolved::Manifest(Box::new(self), manifest))
    }

    /// Asks for the digest of a manifest. Nothing vouches for the answer.
    async fn digest(&self, selector: &str) -> Result<Option<Digest>, RequestError> {
        let url = format!("{}/manifests/{selector}", self.base);
        let request =
            || self.connector.registry.head(&url).header(ACCEPT, media::MANIFESTS).timeout(DOCUMENT_TIMEOUT);
        let response = self.send(request).await?;
        let header = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        Ok(header.and_then(|text| text.parse().ok()))
    }

    /// Fetches the manifest that a tag or a digest names. Against a digest it is checked.
    async fn manifest(&self, selector: &str) -> Result<RawManifest, RequestError> {
        let url = format!("{}/manifests/{selector}", self.base);
        let request =
            || self.connector.registry.get(&url).header(ACCEPT, media::MANIFESTS).timeout(DOCUMENT_TIMEOUT);
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

    /// Begins to fetch a blob. The caller reads it with [`super::next_chunk`], counts and checks it.
    pub(crate) async fn blob(&self, digest: &Digest) -> Result<Response, PullFailure> {
        let url = format!("{}/blobs/{digest}", self.base);
        match self.send(|| self.connector.registry.get(&url)).await {
            Ok(response) => Ok(response),
            // The image was found, a part of it was not: another thing than a wrong name.
            Err(RequestError { reason: PullFailure::NotFound(detail), .. }) => Err(PullFailure::Malformed(
                format!("its blob {digest} is missing in the registry ({detail}); push the image again"),
            )),
            Err(error) => Err(error.reason),
        }
    }

    /// Sends a request, proves who asks when the registry wants to know, and turns refusals into errors.
    ///
    /// Only the registry itself may want to know: a 401 of a host that it has redirected to is a refusal.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, RequestError> {
        let first = self.with_authorization(request()).send().await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return accepted(first).await;
        }
        if first.url().origin() != self.base.origin() {
            return Err(PullFailure::Malformed(format!(
                "the registry redirects to {}, which answered 401 Unauthorized; credentials are for the registry alone, \
                 and nobody it redirects to gets them",
                first.url().host_str().unwrap_or("nowhere")
            ))
            .into());
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
                let request = self.connector.registry.get(self.base.clone());
                let request = request.basic_auth(&credential.username, Some(&credential.password));
                Ok(request.build()?.headers().get(AUTHORIZATION).cloned())
            }
            (Challenge::Bearer { realm, service }, credential) => {
                let token = self.token(realm, service.as_deref(), credential.as_ref()).await?;
                let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                    PullFailure::Unavailable(
                        "the registry's token service sent a token that is no header".to_owned(),
                    )
                })?;
                value.set_sensitive(true);
                Ok(Some(value))
            }
        }
    }

    /// Asks the token service for a token that allows to pull this repository.
    ///
    /// An identity token is exchanged by POST ([OAuth 2](https://distribution.github.io/distribution/spec/auth/oauth/));
    /// a password, or nothing, goes by GET. The service may be on any host, as for other clients: many registries
    /// have it elsewhere. A redirect of it is a refusal.
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
        let Some(url) = Url::parse(realm).ok().filter(|url| self.may_have_credentials(url)) else {
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
                self.connector.tokens.post(url).form(&parameters)
            }
            Some(Credential { username, password }) => {
                self.connector.tokens.get(url).query(&parameters).basic_auth(username, Some(password))
            }
            None => self.connector.tokens.get(url).query(&parameters),
        };
        // That a token service does not speak TLS is no reason to speak to the registry in the clear.
        let response = request
            .timeout(DOCUMENT_TIMEOUT)
            .send()
            .await
            .map_err(|error| RequestError::from(error).reason)?;
        if response.status().is_redirection() {
            return Err(PullFailure::Denied(format!(
                "the token service answered {}; credentials go to the service that the registry names and no further",
                response.status()
            ))
            .into());
        }
        let response = match accepted(response).await {
            Err(RequestError {
                reason: PullFailure::NotFound(detail) | PullFailure::Malformed(detail),
                ..
            }) => {
                return Err(PullFailure::Denied(format!("the token service answered {detail}")).into());
            }
            other => other?,
        };
        let body = read_bounded(response, TOKEN_LIMIT, "the token").await?;
        let answer: Option<Answer> = serde_json::from_slice(&body).ok();
        answer
            .and_then(|answer| answer.token.or(answer.access_token))
            .filter(|token| !token.is_empty())
            .ok_or_else(|| {
                PullFailure::Unavailable("the registry's token service sent no token".to_owned()).into()
            })
    }

    /// Whether a token service is safe to send credentials to: over TLS, or in the clear if that is how the
    /// registry itself is spoken to, and the service is on its host, on this machine like the registry, or
    /// configured to be spoken to in the clear, too.
    fn may_have_credentials(&self, service: &Url) -> bool {
        match service.scheme() {
            "https" => true,
            "http" if self.base.scheme() == "http" => {
                let Some(host) = service.host_str() else { return false };
                let address = service.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
                self.base.host_str() == Some(host)
                    || (self.reference.is_local() && is_local(host))
                    || self.insecure.contains(&address)
            }
            _ => false,
        }
    }
}
