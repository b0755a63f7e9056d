//! One conversation with one registry about one repository.

mod signatures;

use std::{sync::Mutex, time::Duration};

use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE},
};
use serde::Deserialize;

use super::{
    answer::{RequestError, accepted, body_of, read_bounded},
    challenge::{self, Challenge},
    http_address,
    mirrors::Endpoint,
};
use crate::{
    digest::Digest,
    error::PullFailure,
    image::Credential,
    media,
    reference::{Reference, is_local},
    source::{BlobBody, Part, RawManifest, Target},
    text::printable,
};

/// Manifests and configurations above this are refused; the specification asks registries for 4 MiB.
pub(crate) const DOCUMENT_LIMIT: u64 = 4 << 20;
const TOKEN_LIMIT: u64 = 1 << 20;
/// A manifest or a token that takes longer than this is not coming.
pub(super) const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Connection pools for one way to registries.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    /// For registries, whose redirects to storage are followed.
    pub(super) registry: Client,
    /// For token services, whose redirects are not.
    pub(super) tokens: Client,
    /// For the bodies of uploads, which take as long as they take: see [`super::upload`].
    pub(super) uploads: Client,
    /// The longest wait for the other side to go on.
    pub(super) stall_timeout: Duration,
}

/// What a token is to allow.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    Pull,
    PullAndPush,
}

impl Access {
    /// As the scope of a token names it.
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::PullAndPush => "pull,push",
        }
    }
}

/// A conversation that has one credential, or none, and remembers what the registry made of it.
pub(super) struct Session {
    connector: Connector,
    reference: Reference,
    credential: Option<Credential>,
    access: Access,
    /// URL of the repository: `https://registry/v2/repository`, or `http://…` where the registry may be
    /// spoken to in the clear and does not speak TLS.
    base: Url,
    /// The registry's name, for a mirror of several.
    namespace: Option<String>,
    /// Hosts (`host` or `host:port`) that are configured to be spoken to in the clear.
    insecure: Vec<String>,
    /// What the host's configuration has sent with each request.
    headers: HeaderMap,
    /// Value of the `Authorization` header, once the registry has asked for one.
    authorization: Mutex<Option<HeaderValue>>,
}

impl Session {
    /// A conversation at one of the URLs of `endpoint`.
    pub(super) fn new(
        endpoint: &Endpoint,
        url: &Url,
        reference: Reference,
        credential: Option<Credential>,
        access: Access,
        insecure: &[String],
    ) -> Result<Self, PullFailure> {
        let base = format!("{}/{}", url.as_str().trim_end_matches('/'), reference.repository());
        let base = Url::parse(&base).map_err(|error| {
            PullFailure::Unsupported(format!("{} is no registry: {error}", reference.registry()))
        })?;
        let mut headers = endpoint.header_map();
        let authorization = Mutex::new(headers.remove(AUTHORIZATION));
        Ok(Self {
            connector: endpoint.connector.clone(),
            reference,
            credential,
            access,
            base,
            namespace: endpoint.namespace.clone(),
            insecure: insecure.to_vec(),
            headers,
            authorization,
        })
    }

    /// URL of the repository.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// The tag or the digest that the reference names.
    pub(super) fn selector(&self) -> &str {
        self.reference.selector()
    }

    /// The connections to the registry.
    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Finds out what the reference means. With the digest that it was `known` to mean, a registry that says that it
    /// still does is not asked for the manifest: public registries count those.
    pub(super) async fn resolve(&self, known: Option<Digest>) -> Result<Target, RequestError> {
        let selector = self.reference.selector().to_owned();
        if let Some(known) = known {
            match self.digest(&selector).await {
                Ok(now) if now == Some(known) => return Ok(Target::Unchanged),
                // A registry that does not answer HEAD is asked by GET.
                Ok(_) | Err(RequestError { reason: PullFailure::Malformed(_), .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let body = self.manifest(&selector).await?;
        Ok(Target::Manifest(read_manifest(body, &selector).await?))
    }

    /// Asks for the digest of a manifest. Nothing vouches for the answer.
    async fn digest(&self, selector: &str) -> Result<Option<Digest>, RequestError> {
        let url = self.url("manifests", selector);
        let request =
            || self.connector.registry.head(&url).header(ACCEPT, media::MANIFESTS).timeout(DOCUMENT_TIMEOUT);
        let response = self.send(request).await?;
        let header = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        Ok(header.and_then(|text| text.parse().ok()))
    }

    /// Begins to fetch the manifest that a tag or a digest names; [`read_manifest`] reads and checks it.
    async fn manifest(&self, selector: &str) -> Result<BlobBody, RequestError> {
        let url = self.url("manifests", selector);
        let request =
            || self.connector.registry.get(&url).header(ACCEPT, media::MANIFESTS).timeout(DOCUMENT_TIMEOUT);
        let response = self.send(request).await?;
        if response.content_length().is_some_and(|length| length > DOCUMENT_LIMIT) {
            return Err(too_large().into());
        }
        Ok(body_of(response, 0)?)
    }

    /// Begins to fetch a part of the image, at byte `offset` where the registry can do that.
    pub(super) async fn read(&self, part: Part, offset: u64) -> Result<BlobBody, RequestError> {
        let digest = match part {
            Part::Manifest(digest) => return self.manifest(&digest.to_string()).await,
            Part::Blob(digest) => digest,
            Part::File => {
                return Err(PullFailure::Unsupported("a registry has images, and no files".to_owned()).into());
            }
        };
        let url = self.url("blobs", &digest.to_string());
        let request = || {
            let request = self.connector.registry.get(&url);
            if offset > 0 { request.header(RANGE, format!("bytes={offset}-")) } else { request }
        };
        match self.send(request).await {
            Ok(response) => Ok(body_of(response, offset)?),
            // The image was found, a part of it was not: another thing than a wrong name.
            Err(RequestError { reason: PullFailure::NotFound(detail), .. }) => Err(PullFailure::Malformed(
                format!("its blob {digest} is missing in the registry ({detail}); push the image again"),
            )
            .into()),
            Err(error) => Err(error),
        }
    }

    /// URL of something in the repository. A mirror is told whose it is, as containerd does.
    fn url(&self, kind: &str, name: &str) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}/{kind}/{name}?ns={namespace}", self.base),
            None => format!("{}/{kind}/{name}", self.base),
        }
    }

    /// Sends a request, and turns refusals into errors.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, RequestError> {
        accepted(self.exchange(|| Ok(request())).await?).await
    }

    /// Sends a request, and again with proof of who asks when the registry wants to know; the answer may be a refusal.
    ///
    /// Only the registry itself may want to know: a 401 of a host that it has redirected to is a refusal.
    pub(super) async fn exchange(
        &self,
        request: impl Fn() -> Result<RequestBuilder, RequestError>,
    ) -> Result<Response, RequestError> {
        let first = self.with_authorization(request()?).send().await?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return Ok(first);
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
            return Ok(first);
        };
        match self.authorize(&challenge).await? {
            Some(value) => {
                if let Ok(mut authorization) = self.authorization.lock() {
                    *authorization = Some(value);
                }
                Ok(self.with_authorization(request()?).send().await?)
            }
            None => Ok(first),
        }
    }

    fn with_authorization(&self, request: RequestBuilder) -> RequestBuilder {
        let request = request.headers(self.headers.clone());
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

    /// Asks the token service for a token that allows what this session is for.
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
        let scope = format!("repository:{}:{}", self.reference.repository(), self.access.actions());
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
                let is_local_base = self.base.host_str().is_some_and(is_local);
                self.base.host_str() == Some(host)
                    || (is_local_base && is_local(host))
                    || self.insecure.contains(&http_address(service))
            }
            _ => false,
        }
    }
}

fn too_large() -> PullFailure {
    PullFailure::TooLarge(format!("the manifest is larger than {DOCUMENT_LIMIT} bytes"))
}

/// Reads a manifest, within bounds. Against a digest it is checked.
pub(super) async fn read_manifest(body: BlobBody, selector: &str) -> Result<RawManifest, PullFailure> {
    let bytes = body.read_all(DOCUMENT_LIMIT, "the manifest").await?;
    let digest = Digest::of(&bytes);
    if selector.contains(':') && selector != digest.to_string() {
        return Err(PullFailure::Mismatch(format!("manifest {selector} has the digest {digest}")));
    }
    Ok(RawManifest { bytes, digest })
}
