//! Certificates of servers, and clients that trust some of them.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

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

    /// A new one for these names that an authority has signed, and the certificate of that, PEM.
    ///
    /// # Errors
    /// When a name is none.
    pub fn signed(names: &[&str]) -> anyhow::Result<(Self, String)> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key)?.pem();
        let issuer = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate()?;
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let (chain, der) = (certificate.pem(), certificate.der().clone());
        Ok((Self { chain, key: key.serialize_pem(), der }, authority))
    }

    /// A server that has it, and offers these protocols.
    ///
    /// # Errors
    /// When the key is not that of the certificate.
    pub fn server(&self, protocols: &[&str]) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let mut config = builder.with_no_client_auth().with_single_cert(vec![self.der.clone()], key)?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
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

/// An authority, and what it signs for servers and for clients.
#[derive(Debug)]
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    /// Its certificate, PEM.
    pub certificate: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When a key cannot be made.
    pub fn new() -> anyhow::Result<Self> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: rcgen::Issuer::new(params, key), certificate })
    }

    /// A server of these names.
    ///
    /// # Errors
    /// When a name is none.
    pub fn server(&self, names: &[&str]) -> anyhow::Result<ServerIdentity> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign(rcgen::CertificateParams::new(names)?)
    }

    /// A client with this common name, and these URIs as what else it is called.
    ///
    /// # Errors
    /// When a URI is none.
    pub fn client(&self, common_name: &str, uris: &[&str]) -> anyhow::Result<ServerIdentity> {
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        for &uri in uris {
            params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into()?));
        }
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, params: rcgen::CertificateParams) -> anyhow::Result<ServerIdentity> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let (chain, der) = (certificate.pem(), certificate.der().clone());
        Ok(ServerIdentity { chain, key: key.serialize_pem(), der })
    }

    /// A client of HTTP/2 that trusts whom this has signed, and shows a certificate or none.
    ///
    /// # Errors
    /// When the key is not that of the certificate.
    pub fn trusting(&self, identity: Option<&ServerIdentity>) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
                builder.with_client_auth_cert(vec![identity.der.clone()], key)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}
