//! The pulling half of the [distribution protocol][1]: manifests and blobs over HTTPS.
//!
//! ```text
//! Registry (one per store: connections, trust) ── resolve(reference, credentials) ──► Session + manifest
//!                                                        Session ── manifest(digest), blob(digest) ──► bytes
//! ```
//!
//! This is our own and not a client library's because whatever a registry sends is bounded here before it is
//! in memory (manifests, tokens, texts of errors), and because a token service that is down must not look
//! like a wrong password: the callers tell the two apart.
//!
//! What is trusted: nothing that comes back. Callers check digests; this module checks sizes and never follows
//! a redirect from HTTPS to HTTP. A credential goes to the registry that it is for and to the token service that
//! this registry names itself: a 401 is a challenge only when it comes from the registry's own origin, and never
//! when it comes from where the registry redirects. Token requests follow no redirect. In the clear, credentials
//! go only where the registry itself is spoken to in the clear, because it is on this machine or configured so.
//!
//! [1]: https://github.com/opencontainers/distribution-spec/blob/main/spec.md

mod answer;
mod challenge;
mod session;

use std::{path::PathBuf, sync::OnceLock, time::Duration};

use reqwest::{Certificate, Client, ClientBuilder, redirect};

pub(crate) use answer::next_chunk;
use session::Connector;
pub(crate) use session::{DOCUMENT_LIMIT, RawManifest, Resolution, Resolved, Session};

use crate::{
    digest::Digest,
    error::{PullFailure, StoreError},
    image::Credential,
    reference::Reference,
};

/// How registries are reached.
#[derive(Clone, Debug)]
pub(crate) struct RegistryOptions {
    /// Registries (`host` or `host:port`) that may speak plain HTTP.
    pub(crate) insecure: Vec<String>,
    pub(crate) connect_timeout: Duration,
    /// The longest wait for the next bytes of an answer.
    pub(crate) stall_timeout: Duration,
}

/// The way to all registries.
#[derive(Debug)]
pub(crate) struct Registry {
    options: RegistryOptions,
    authorities: Vec<Certificate>,
    clients: OnceLock<Result<Clients, String>>,
}

/// Connection pools. Registries on this machine are reached past any proxy.
#[derive(Debug)]
struct Clients {
    remote: Connector,
    local: Connector,
}

impl Registry {
    /// Reads the extra certificate authorities. Connects to nothing.
    ///
    /// # Errors
    /// A file that cannot be read or holds no certificate.
    pub(crate) fn new(options: RegistryOptions, authorities: &[PathBuf]) -> Result<Self, StoreError> {
        let mut certificates = Vec::new();
        for path in authorities {
            let pem =
                std::fs::read(path).map_err(StoreError::io("read the certificate authorities in", path))?;
            let bundle = Certificate::from_pem_bundle(&pem).ok().filter(|bundle| !bundle.is_empty());
            let Some(bundle) = bundle else {
                return Err(StoreError::Unusable {
                    path: path.clone(),
                    detail: "as a file of certificate authorities it must hold PEM certificates".to_owned(),
                });
            };
            certificates.extend(bundle);
        }
        Ok(Self { options, authorities: certificates, clients: OnceLock::new() })
    }

    /// Finds the manifest that `reference` names, trying `credentials` in order and then none.
    ///
    /// With the digest that the reference was `known` to mean, a registry that says that it still does is not
    /// asked for the manifest: public registries count those.
    ///
    /// A registry may answer "not found" to those who may not know, so both refusals lead to the next
    /// credential; when all fail, "not found" is the better answer of the two.
    ///
    /// # Errors
    /// [`PullFailure`]; nothing is tried again after [`PullFailure::Unavailable`].
    pub(crate) async fn resolve(
        &self,
        reference: &Reference,
        credentials: &[Credential],
        known: Option<Digest>,
    ) -> Result<Resolution, PullFailure> {
        let mut denied = None;
        let mut absent = None;
        for position in (0..credentials.len()).map(Some).chain([None]) {
            let credential = position.and_then(|position| credentials.get(position));
            match self.open(reference, credential, known).await {
                Ok(resolved) => return Ok(Resolution { resolved, credential: position }),
                Err(PullFailure::Denied(detail)) => denied = denied.or(Some(detail)),
                Err(PullFailure::NotFound(detail)) => absent = absent.or(Some(detail)),
                Err(other) => return Err(other),
            }
        }
        match absent {
            Some(detail) => Err(PullFailure::NotFound(detail)),
            None => Err(PullFailure::Denied(denied_text(&denied.unwrap_or_default(), credentials.len()))),
        }
    }

    /// One attempt, with one credential or none: over HTTPS, and over HTTP where that is allowed and nobody
    /// speaks TLS. A certificate that is not trusted is an error, never a reason for plain HTTP.
    async fn open(
        &self,
        reference: &Reference,
        credential: Option<&Credential>,
        known: Option<Digest>,
    ) -> Result<Resolved, PullFailure> {
        let clients = self.clients()?;
        let plain = self.may_be_plain(reference);
        let connector = if reference.is_local() { &clients.local } else { &clients.remote };
        let session = |scheme| {
            let connector = connector.clone();
            Session::new(connector, reference.clone(), credential.cloned(), scheme, &self.options.insecure)
        };
        match session("https")?.resolve(known).await {
            Err(error) if plain && error.no_tls => Ok(session("http")?.resolve(known).await?),
            other => Ok(other?),
        }
    }

    fn may_be_plain(&self, reference: &Reference) -> bool {
        reference.is_local() || self.options.insecure.iter().any(|name| name == reference.registry())
    }

    fn clients(&self) -> Result<&Clients, PullFailure> {
        self.clients.get_or_init(|| self.connectors()).as_ref().map_err(|detail| {
            PullFailure::Unavailable(format!("this machine cannot make TLS connections: {detail}"))
        })
    }

    /// Made at the first pull and not before: a machine without certificate authorities can still run
    /// modules from files.
    fn connectors(&self) -> Result<Clients, String> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err("the process has not chosen a cryptography provider".to_owned());
        }
        let connector = |way: fn(ClientBuilder) -> ClientBuilder| {
            let registry = self.build(|builder| way(builder.redirect(upwards())))?;
            let tokens = self.build(|builder| way(builder.redirect(redirect::Policy::none())))?;
            Ok::<_, String>(Connector { registry, tokens })
        };
        Ok(Clients { remote: connector(|builder| builder)?, local: connector(ClientBuilder::no_proxy)? })
    }

    /// A client, even where the system has no certificate authorities: plain HTTP can still be spoken.
    fn build(&self, configure: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<Client, String> {
        configure(self.builder()).build().or_else(|error| {
            let error = answer::describe(error);
            tracing::warn!(
                %error,
                "without certificate authorities no registry can be trusted: install the ca-certificates package"
            );
            let none_but_ours = self.builder().tls_certs_only(self.authorities.iter().cloned());
            configure(none_but_ours).build().map_err(answer::describe)
        })
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .user_agent(concat!("kubewasm/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.options.connect_timeout)
            .read_timeout(self.options.stall_timeout)
            .tls_certs_merge(self.authorities.iter().cloned())
    }
}

/// Reads what an answer asks for; for fuzzers.
#[cfg(fuzzing)]
pub(crate) fn read_challenge(headers: &reqwest::header::HeaderMap) {
    let _ = challenge::read(headers);
}

/// Redirects of registries, to their storage: followed, but never from HTTPS to HTTP.
fn upwards() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let downgrade =
            attempt.url().scheme() == "http" && attempt.previous().iter().any(|url| url.scheme() == "https");
        if downgrade {
            attempt.error("the registry redirects from HTTPS to HTTP, which is refused")
        } else if attempt.previous().len() > 10 {
            attempt.error("the registry redirects too often")
        } else {
            attempt.follow()
        }
    })
}

fn denied_text(detail: &str, credentials: usize) -> String {
    match credentials {
        0 => format!(
            "{detail}; the repository does not exist or needs a login: name a secret in imagePullSecrets"
        ),
        1 => format!("{detail}; the credential was not accepted: check the secret in imagePullSecrets"),
        n => format!("{detail}; none of {n} credentials was accepted: check the secrets in imagePullSecrets"),
    }
}

#[cfg(test)]
mod tests;
