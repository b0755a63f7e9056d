//! Public keys, and whether one of them has made a signature.

use std::fmt;

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use x509_parser::{
    oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION},
    prelude::FromDer as _,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

/// Bits that an RSA key may have.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A public key that a policy trusts, and where the policy has it from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TrustedKey {
    origin: String,
    scheme: Scheme,
    /// What the algorithm takes: the point of a curve, or an RSA key in DER.
    material: Vec<u8>,
}

/// How keys of one kind sign, as cosign has them do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// What `cosign generate-key-pair` makes.
    EcdsaP256,
    EcdsaP384,
    RsaPkcs1,
}

impl TrustedKey {
    /// Reads the PEM public keys (`-----BEGIN PUBLIC KEY-----`) of a text, which must have one at least. `origin` is
    /// what the keys are called in messages.
    ///
    /// # Errors
    /// In words that go after the name of the place where the text is.
    pub(crate) fn read_all(pem: &[u8], origin: &str) -> Result<Vec<Self>, String> {
        let mut keys = Vec::new();
        for der in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            let der = der.map_err(|error| format!("is no PEM: {error:?}"))?;
            keys.push(Self::from_spki(&der, origin)?);
        }
        if keys.is_empty() {
            return Err(
                "holds no public key; one begins with -----BEGIN PUBLIC KEY-----, like the cosign.pub that `cosign \
                 generate-key-pair` writes"
                    .to_owned(),
            );
        }
        Ok(keys)
    }

    fn from_spki(der: &[u8], origin: &str) -> Result<Self, String> {
        let Ok(([], info)) = SubjectPublicKeyInfo::from_der(der) else {
            return Err("holds a public key that is damaged".to_owned());
        };
        let material = info.subject_public_key.data.to_vec();
        let curve = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        let algorithm = &info.algorithm.algorithm;
        let scheme = if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256) {
            Scheme::EcdsaP256
        } else if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_NIST_EC_P384) {
            Scheme::EcdsaP384
        } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
            Scheme::RsaPkcs1
        } else {
            return Err(format!(
                "holds a key of the kind {algorithm}, which is not known here; use ECDSA with P-256 (what `cosign \
                 generate-key-pair` makes) or P-384, or RSA"
            ));
        };
        let point = |length: usize| material.len() == length && material.first() == Some(&4);
        match scheme {
            Scheme::EcdsaP256 if point(65) => {}
            Scheme::EcdsaP384 if point(97) => {}
            Scheme::EcdsaP256 | Scheme::EcdsaP384 => {
                return Err("holds a public key whose point is damaged or compressed".to_owned());
            }
            Scheme::RsaPkcs1 => match info.parsed() {
                Ok(PublicKey::RSA(key)) if RSA_BITS.contains(&key.key_size()) => {}
                _ => return Err("holds an RSA key that has not between 2048 and 8192 bits".to_owned()),
            },
        }
        Ok(Self { origin: origin.to_owned(), scheme, material })
    }

    /// Whether this key has signed `message`. With P-384 cosign hashed by SHA-256 before version 3, and does by SHA-384
    /// since.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let by = |algorithm: &'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(algorithm, &self.material).verify(message, signature).is_ok()
        };
        match self.scheme {
            Scheme::EcdsaP256 => by(&ECDSA_P256_SHA256_ASN1),
            Scheme::EcdsaP384 => by(&ECDSA_P384_SHA384_ASN1) || by(&ECDSA_P384_SHA256_ASN1),
            Scheme::RsaPkcs1 => by(&RSA_PKCS1_2048_8192_SHA256),
        }
    }
}

impl fmt::Display for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

impl fmt::Debug for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedKey")
            .field("origin", &self.origin)
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
