//! The HTTP clients of probes and hooks. They keep nothing from one request to the next, so that all pods
//! share them.

use std::sync::{Arc, LazyLock};

use reqwest::redirect::{Action, Attempt, Policy};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// Which redirects are followed. Another one is itself the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redirects {
    /// Those to the same host.
    OnHost,
    /// Those to the same port of it, where others may be somebody else's.
    OnPort,
}

/// A client: a connection per request, no proxy, no cookies, no decompression, no verification.
pub(super) fn client(redirects: Redirects) -> Result<&'static reqwest::Client, String> {
    type Made = Result<reqwest::Client, String>;
    static ON_HOST: LazyLock<Made> = LazyLock::new(|| build(Redirects::OnHost));
    static ON_PORT: LazyLock<Made> = LazyLock::new(|| build(Redirects::OnPort));
    let client = match redirects {
        Redirects::OnHost => &ON_HOST,
        Redirects::OnPort => &ON_PORT,
    };
    client.as_ref().map_err(Clone::clone)
}

fn build(redirects: Redirects) -> Result<reqwest::Client, String> {
    let failed = |error: &dyn std::error::Error| format!("the node cannot make HTTP requests: {error}");
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls().map_err(|error| failed(&error))?)
        .http1_only()
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(0)
        .redirect(Policy::custom(move |attempt| redirect(attempt, redirects)))
        .build()
        .map_err(|error| failed(&error))
}

fn redirect(attempt: Attempt<'_>, redirects: Redirects) -> Action {
    let (first, next) = (attempt.previous().first(), attempt.url());
    let same_host = first.and_then(reqwest::Url::host_str) == next.host_str();
    let same_port = first.and_then(reqwest::Url::port_or_known_default) == next.port_or_known_default();
    if !same_host || (redirects == Redirects::OnPort && !same_port) {
        attempt.stop()
    } else if attempt.previous().len() >= REDIRECTS {
        attempt.error(format!("stopped after {REDIRECTS} redirects"))
    } else {
        attempt.follow()
    }
}

fn tls() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Unverified(Arc::clone(&provider)));
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Takes any certificate. A pod's certificate is seldom made out to its IP, and the node, which sends
/// no credentials of its own and looks at a status code only, is not the one to judge it.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
