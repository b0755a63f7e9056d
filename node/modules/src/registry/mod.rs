//! The [distribution protocol][1]: manifests and blobs over HTTPS. Pushing is in [`upload`].
//!
//! ```text
//! Registry (one per store: connections, trust) ─► RegistrySource (one per pull) ─► hosts of hosts.toml, the registry
//!                                                      resolve, read ─► Session (one per host and credential) ─► bytes
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
mod hosts;
mod mirrors;
mod session;
mod signatures;
mod source;
mod upload;

use std::{
    path::PathBuf,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

pub(crate) use answer::{body_of, describe};
use mirrors::HostTrust;
use reqwest::{Certificate, Client, ClientBuilder, Url, redirect};
use session::Connector;
pub(crate) use session::DOCUMENT_LIMIT;
pub(crate) use source::{RegistrySource, manifest_of};
pub(crate) use upload::{BlobContent, Listing, Sent, Upload, UploadBlob};

use crate::{
    error::{PullFailure, StoreError},
    reference::is_local,
};

/// Hosts with connections of their own that are kept; what an operator changes makes new ones.
const HOSTS_KEPT: usize = 64;

/// How registries are reached.
#[derive(Clone, Debug)]
pub(crate) struct RegistryOptions {
    /// Registries (`host` or `host:port`) that may speak plain HTTP.
    pub(crate) insecure: Vec<String>,
    /// Directories with a directory for each registry, in which its `hosts.toml` is.
    pub(crate) config_directories: Vec<PathBuf>,
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
    /// Connections to hosts that are trusted, or trust, in a way of their own.
    own: Mutex<Vec<(HostTrust, Connector)>>,
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
        Ok(Self { options, authorities: certificates, clients: OnceLock::new(), own: Mutex::default() })
    }

    /// True for a host (`host` or `host:port`) that may be spoken to in the clear: it is on this machine, or configured so.
    pub(crate) fn is_insecure(&self, address: &str) -> bool {
        is_local(address) || self.options.insecure.iter().any(|name| name == address)
    }

    /// Connections that follow redirects, but never from HTTPS to HTTP; those to this machine go past any proxy.
    pub(crate) fn client(&self, is_local: bool) -> Result<Client, PullFailure> {
        let clients = self.clients()?;
        Ok(if is_local { clients.local.registry.clone() } else { clients.remote.registry.clone() })
    }

    /// Connections to a host, made once for all hosts that are trusted alike.
    fn connector(&self, trust: &HostTrust) -> Result<Connector, String> {
        if trust.is_usual() {
            let clients = self.clients().map_err(|error| error.to_string())?;
            return Ok(if trust.is_local() { clients.local.clone() } else { clients.remote.clone() });
        }
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, connector)) = own.iter().find(|(known, _)| known == trust) {
            return Ok(connector.clone());
        }
        let way = |builder| {
            let builder: ClientBuilder = trust.apply(builder)?;
            Ok(if trust.is_local() { builder.no_proxy() } else { builder })
        };
        let connector = self.connections(way)?;
        if own.len() >= HOSTS_KEPT {
            own.clear();
        }
        own.push((trust.clone(), connector.clone()));
        Ok(connector)
    }

    fn clients(&self) -> Result<&Clients, PullFailure> {
        self.clients.get_or_init(|| self.connectors()).as_ref().map_err(|detail| {
            PullFailure::Unavailable(format!("this machine cannot make TLS connections: {detail}"))
        })
    }

    /// Made at the first pull and not before: a machine without certificate authorities can still run
    /// modules from files.
    fn connectors(&self) -> Result<Clients, String> {
        Ok(Clients {
            remote: self.connections(Ok)?,
            local: self.connections(|builder| Ok(builder.no_proxy()))?,
        })
    }

    fn connections(
        &self,
        way: impl Fn(ClientBuilder) -> Result<ClientBuilder, String>,
    ) -> Result<Connector, String> {
        // Without one, the HTTP client panics.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err("the process has not chosen a cryptography provider".to_owned());
        }
        let stall_timeout = self.options.stall_timeout;
        let answers = |builder: ClientBuilder| way(builder.read_timeout(stall_timeout));
        let registry = self.build(|builder| answers(builder.redirect(upwards())))?;
        let tokens = self.build(|builder| answers(builder.redirect(redirect::Policy::none())))?;
        // The client's own limit is one for the wait for an answer, in which the body is sent.
        let uploads = self.build(|builder| way(builder.redirect(redirect::Policy::none())))?;
        Ok(Connector { registry, tokens, uploads, stall_timeout })
    }

    /// A client, even where the system has no certificate authorities: plain HTTP can still be spoken.
    fn build(
        &self,
        configure: impl Fn(ClientBuilder) -> Result<ClientBuilder, String>,
    ) -> Result<Client, String> {
        configure(self.builder())?.build().or_else(|error| {
            let error = describe(error);
            tracing::warn!(
                %error,
                "without certificate authorities no registry can be trusted: install the ca-certificates package"
            );
            let none_but_ours = self.builder().tls_certs_only(self.authorities.iter().cloned());
            configure(none_but_ours)?.build().map_err(describe)
        })
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .user_agent(concat!("kubewasm/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.options.connect_timeout)
            .tls_certs_merge(self.authorities.iter().cloned())
    }
}

/// Reads what an answer asks for; for fuzzers.
#[cfg(fuzzing)]
pub(crate) fn read_challenge(headers: &reqwest::header::HeaderMap) {
    let _ = challenge::read(headers);
}

/// Reads a `hosts.toml`; for fuzzers.
#[cfg(fuzzing)]
pub(crate) fn read_hosts(text: &str) {
    let _ = hosts::parse(text, std::path::Path::new("/"));
}

/// `host`, or `host:port` where it is not the scheme's own.
pub(crate) fn http_address(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Redirects, of registries to their storage: followed, but never from HTTPS to HTTP.
fn upwards() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let downgrade =
            attempt.url().scheme() == "http" && attempt.previous().iter().any(|url| url.scheme() == "https");
        if downgrade {
            attempt.error("it redirects from HTTPS to HTTP, which is refused")
        } else if attempt.previous().len() > 10 {
            attempt.error("it redirects too often")
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
