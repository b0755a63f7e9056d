//! Certificates of servers, and clients that trust some of them.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, pki_types::CertificateDer};

/// A certificate that has signed itself, with its key.
#[derive(Debug)]
pub struct ServerIdentity {
    /// The certificate, PEM.
    pub chain: String,
    /// Its key, PEM.
    pub key: String,
    /// The certificate.
    pub der: CertificateDer<'static>,
}

impl ServerIdentity {
    /// A new one for these names.
    ///
    /// # Errors
    /// When a name is none.
    pub fn new(names: &[&str]) -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names)?.self_signed(&key)?;
        let (chain, der) = (certificate.pem(), certificate.der().clone());
        Ok(Self { chain, key: key.serialize_pem(), der })
    }
}

/// A client that trusts these, speaks these versions of TLS, and offers these protocols.
///
/// # Errors
/// When a certificate cannot be trusted.
pub fn client(
    trusted: &[&ServerIdentity],
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for identity in trusted {
        roots.add(identity.der.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}
