//! Whose certificates the API server may have, and which one is shown to it.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::failure::RequestFailure;
use crate::{cluster::Trust, credentials::ClientIdentity};
use kubewasm_host::HttpError;

/// What is offered to the server, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// This side of connections as `identity`, to servers that `trust` takes.
pub(super) fn config(
    trust: &Trust,
    identity: Option<&Arc<ClientIdentity>>,
) -> Result<ClientConfig, RequestFailure> {
    let failed = |what: String| RequestFailure::new(what, HttpError::ConfigurationError);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(format!("TLS is not to be had: {error}")))?;
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anyone => Arc::new(AnyServer(provider)),
        Trust::Authorities(_) | Trust::System => {
            let roots = Arc::new(roots(trust)?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
            verifier.map_err(|error| failed(format!("no certificate of a server can be checked: {error}")))?
        }
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some(identity) => {
            let resolver: Arc<dyn ResolvesClientCert> =
                Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&identity.0)));
            builder.with_client_cert_resolver(resolver)
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(config)
}

fn roots(trust: &Trust) -> Result<RootCertStore, RequestFailure> {
    let failed = |what: &str| RequestFailure::new(what, HttpError::TlsCertificateError);
    let mut roots = RootCertStore::empty();
    match trust {
        Trust::Authorities(certificates) => {
            for certificate in certificates {
                roots.add(certificate.clone()).map_err(|error| {
                    failed(&format!("a certificate authority of the kubeconfig cannot be used: {error}"))
                })?;
            }
        }
        Trust::System | Trust::Anyone => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    match roots.is_empty() {
        true => Err(failed(
            "the kubeconfig names no certificate authority, and this machine trusts none: install ca-certificates",
        )),
        false => Ok(roots),
    }
}

/// `insecure-skip-tls-verify`: the user has said so. Whoever answers must have the key of its certificate all the same.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
