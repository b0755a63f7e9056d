//! The certificate that a server shows, with its private key.

use std::{fmt, sync::Arc};

use rustls::{
    crypto::{CryptoProvider, ring},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};

/// Certificates of a chain.
const MOST: usize = 16;

/// A chain of certificates, the server's own first, and the private key of that.
///
/// Two are equal when their certificates are: a certificate has one key. Its `Debug` shows nothing of the key.
#[derive(Clone)]
pub struct ServerCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) id: CertificateId,
}

/// Tells chains apart: a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CertificateId([u8; 32]);

/// No certificate with its key. The texts name no part of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    /// There is none.
    #[error(
        "it has no certificate: PEM blocks that begin with -----BEGIN CERTIFICATE----- are expected, the server's own first"
    )]
    NoCertificate,
    /// One cannot be read.
    #[error("certificate {number} cannot be read: {reason}")]
    Certificate {
        /// Its place, from 1 on.
        number: usize,
        /// Why not.
        reason: String,
    },
    /// There are too many.
    #[error(
        "it has more than {MOST} certificates: the server's own and those between it and an authority are enough"
    )]
    TooMany,
    /// There is no key.
    #[error("it has no private key that can be read: a PEM block of PKCS#8, PKCS#1 or SEC1 is expected")]
    NoKey,
    /// The key is encrypted.
    #[error("its private key is encrypted, and nobody is here to ask for the password: store it decrypted")]
    EncryptedKey,
    /// The key is of a kind that is not there.
    #[error(
        "its private key is broken, or of a kind that is not supported: RSA of 2,048 to 8,192 bits, ECDSA of P-256 or P-384, and Ed25519 are"
    )]
    UnsupportedKey,
    /// The key is another certificate's.
    #[error("its private key is not that of the first certificate")]
    OtherKey,
    /// TLS cannot be served with it.
    #[error("TLS cannot be served: {0}")]
    Unusable(String),
}

impl InvalidCertificate {
    /// The trouble is with the key, and not with the certificates.
    #[must_use]
    pub fn is_about_key(&self) -> bool {
        match self {
            Self::NoKey | Self::EncryptedKey | Self::UnsupportedKey | Self::OtherKey => true,
            Self::NoCertificate | Self::Certificate { .. } | Self::TooMany | Self::Unusable(_) => false,
        }
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl PartialEq for ServerCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for ServerCertificate {}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl ServerCertificate {
    /// Reads a chain of certificates and a key, both PEM. What stands between blocks is left aside. Nobody asks for how long
    /// a certificate is good, or for which names: clients do.
    ///
    /// # Errors
    /// [`InvalidCertificate`].
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, InvalidCertificate> {
        let certificates = CertificateDer::pem_slice_iter(chain).take(MOST + 1).enumerate();
        let certificates = certificates.map(|(index, certificate)| {
            certificate.map_err(|error| InvalidCertificate::Certificate {
                number: index + 1,
                reason: error.to_string(),
            })
        });
        let certificates = certificates.collect::<Result<_, _>>()?;
        // The error could hold a line of the key.
        let read = PrivateKeyDer::from_pem_slice(key).map_err(|_| match is_encrypted(key) {
            true => InvalidCertificate::EncryptedKey,
            false => InvalidCertificate::NoKey,
        });
        Self::new(certificates, read)
    }

    /// Takes certificates and a key, DER.
    ///
    /// # Errors
    /// [`InvalidCertificate`].
    pub fn from_der(
        chain: impl IntoIterator<Item = Vec<u8>>,
        key: Vec<u8>,
    ) -> Result<Self, InvalidCertificate> {
        let chain = chain.into_iter().take(MOST + 1).map(CertificateDer::from).collect();
        Self::new(chain, PrivateKeyDer::try_from(key).map_err(|_| InvalidCertificate::NoKey))
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Result<PrivateKeyDer<'static>, InvalidCertificate>,
    ) -> Result<Self, InvalidCertificate> {
        match chain.len() {
            0 => return Err(InvalidCertificate::NoCertificate),
            1..=MOST => {}
            _ => return Err(InvalidCertificate::TooMany),
        }
        let mut digest = Sha256::new();
        for (index, certificate) in chain.iter().enumerate() {
            ParsedCertificate::try_from(certificate).map_err(|error| InvalidCertificate::Certificate {
                number: index + 1,
                reason: error.to_string(),
            })?;
            digest.update((certificate.len() as u64).to_be_bytes());
            digest.update(certificate);
        }
        let key = key?;
        let certified = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider());
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => InvalidCertificate::OtherKey,
            _ => InvalidCertificate::UnsupportedKey,
        })?;
        let id = CertificateId(digest.finalize().into());
        Ok(Self { chain, key: Arc::new(key), certified: Arc::new(certified), id })
    }

    /// The certificates, DER.
    pub fn chain_der(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(AsRef::as_ref)
    }

    /// The private key, DER: for whoever is to serve with it, and nobody else.
    #[must_use]
    pub fn key_der(&self) -> &[u8] {
        self.key.secret_der()
    }
}

fn is_encrypted(key: &[u8]) -> bool {
    const MARK: &[u8] = b"ENCRYPTED";
    key.windows(MARK.len()).any(|window| window == MARK)
}

#[cfg(test)]
mod tests;
