//! The TLS side of the server: a certificate, and which clients are served.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Why TLS cannot be set up. Keys are never in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsFailure {
    /// A text is not PEM, or not all of it.
    #[error("{what} cannot be read: {source}")]
    Pem {
        /// Which text.
        what: &'static str,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// There is no certificate in it.
    #[error("there is no certificate in {0}")]
    Empty(&'static str),
    /// A certificate and its key do not go together, or are of a kind that is not supported.
    #[error("the certificate cannot be served with its key: {0}")]
    Pair(#[source] rustls::Error),
    /// An authority of clients cannot be one.
    #[error("the authorities of clients cannot be used: {0}")]
    Authority(String),
    /// No certificate could be made.
    #[error("no certificate could be made: {0}")]
    Made(#[from] rcgen::Error),
    /// This machine has no random numbers, say.
    #[error("TLS is not to be had: {0}")]
    Provider(#[source] rustls::Error),
}

/// Which certificates clients have to show. Authorities are PEM, one after the other.
#[derive(Clone, Copy, Debug)]
pub enum ClientCertificates<'a> {
    /// None.
    Unasked,
    /// One of these authorities; nobody is served without.
    Required(&'a [u8]),
    /// One of these authorities, or none. A certificate of anybody else's is refused.
    Optional(&'a [u8]),
}

/// A server with this chain (PEM, leaf first) and key, and with clients that have these certificates.
///
/// # Errors
/// [`TlsFailure`].
pub fn server_config(
    chain: &[u8],
    key: &[u8],
    clients: ClientCertificates<'_>,
) -> Result<Arc<ServerConfig>, TlsFailure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsFailure::Provider)?;
    let builder = match clients {
        ClientCertificates::Unasked => builder.with_no_client_auth(),
        ClientCertificates::Required(authorities) | ClientCertificates::Optional(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(authorities, "the file of clients' authorities")? {
                roots.add(authority).map_err(|error| TlsFailure::Authority(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match clients {
                ClientCertificates::Optional(_) => verifier.allow_unauthenticated(),
                ClientCertificates::Required(_) | ClientCertificates::Unasked => verifier,
            };
            builder.with_client_cert_verifier(
                verifier.build().map_err(|error| TlsFailure::Authority(error.to_string()))?,
            )
        }
    };
    let chain = certificates(chain, "the file of the certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|source| TlsFailure::Pem { what: "the file of the key", source })?;
    let mut config = builder.with_single_cert(chain, key).map_err(TlsFailure::Pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A certificate that has signed itself, for these names and addresses, and its key, both PEM.
///
/// # Errors
/// [`TlsFailure::Made`], for instance when a name is none.
pub fn self_signed(names: Vec<String>) -> Result<(String, String), TlsFailure> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(names)?.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsFailure> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsFailure::Pem { what, source })?;
    if certificates.is_empty() { Err(TlsFailure::Empty(what)) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["localhost".to_owned(), "127.0.0.1".to_owned()]
    }

    #[test]
    fn a_certificate_goes_with_its_key_alone() {
        let (one, key) = self_signed(names()).unwrap();
        let (other, _) = self_signed(names()).unwrap();
        assert!(server_config(one.as_bytes(), key.as_bytes(), ClientCertificates::Unasked).is_ok());
        let clients = ClientCertificates::Required(other.as_bytes());
        let both = server_config(one.as_bytes(), key.as_bytes(), clients).unwrap();
        assert_eq!(both.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
        let wrong = server_config(other.as_bytes(), key.as_bytes(), ClientCertificates::Unasked);
        assert!(matches!(wrong, Err(TlsFailure::Pair(_))));
    }

    #[test]
    fn what_is_no_pem_is_told_without_what_it_is() {
        let (chain, key) = self_signed(names()).unwrap();
        let unasked = ClientCertificates::Unasked;
        for (chain, key, clients, expected) in [
            ("", &*key, unasked, "there is no certificate in the file of the certificate"),
            (&*chain, "", unasked, "the file of the key cannot be read"),
            (
                &chain,
                &key,
                ClientCertificates::Required(b""),
                "there is no certificate in the file of clients' authorities",
            ),
        ] {
            let error = server_config(chain.as_bytes(), key.as_bytes(), clients).unwrap_err().to_string();
            assert!(error.starts_with(expected) && !error.contains("PRIVATE"), "{error}");
        }
    }
}
