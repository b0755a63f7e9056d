//! Client certificates.

use std::{fmt, path::Path, sync::Arc};

use rustls::{crypto::ring::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use super::decode;
use crate::kubeconfig::UserEntry;

/// A certificate and its key, ready to sign.
pub(crate) struct ClientIdentity(pub(crate) Arc<CertifiedKey>);

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity")
    }
}

impl ClientIdentity {
    /// That of a user's entry, where data go before files.
    pub(super) fn of_user(user: &UserEntry) -> Result<Option<Self>, String> {
        let certificate = user.client_certificate_data.as_deref();
        let certificate = bytes("client-certificate", certificate, user.client_certificate.as_deref())?;
        let key = user.client_key_data.as_ref().map(|data| data.reveal());
        let key = bytes("client-key", key, user.client_key.as_deref())?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Self::from_pem(&certificate, &key).map(Some),
            (None, None) => Ok(None),
            (Some(_), None) => Err("it has a client-certificate and no client-key".to_owned()),
            (None, Some(_)) => Err("it has a client-key and no client-certificate".to_owned()),
        }
    }

    /// A chain of certificates and a key, PEM.
    pub(super) fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| format!("its client certificate is not PEM: {error}"))?;
        if chain.is_empty() {
            return Err("its client certificate has no certificate in it".to_owned());
        }
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|_| "its client key is no key in PEM".to_owned())?;
        let key = any_supported_type(&key).map_err(|_| {
            "its client key is of a kind that is not supported: RSA, ECDSA and Ed25519 are".to_owned()
        })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // A kind of key that cannot tell is tried.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(Self(Arc::new(certified)))
            }
            Err(_) => Err("its client key is not that of its client certificate".to_owned()),
        }
    }
}

fn bytes(field: &str, data: Option<&str>, file: Option<&Path>) -> Result<Option<Vec<u8>>, String> {
    match (data.filter(|data| !data.is_empty()), file) {
        (Some(data), _) => decode(&format!("{field}-data"), data).map(Some),
        (None, Some(path)) => match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(format!("its {field} {} cannot be read: {error}", path.display())),
        },
        (None, None) => Ok(None),
    }
}
