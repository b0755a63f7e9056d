//! A signature of either form, taken apart, and what makes it good.

use std::collections::BTreeMap;

use super::key::TrustedKey;
use crate::{digest::Digest, text::printable};

/// What was signed, by which bytes, and which image it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParsedSignature {
    /// The bytes that the key has signed.
    pub(super) message: Vec<u8>,
    /// One of these must be a trusted key's.
    pub(super) signatures: Vec<Vec<u8>>,
    /// What the signed text says that it is about.
    pub(super) subjects: Vec<Subject>,
    /// A certificate came with it, which says nothing here but why no key of the operator's has made it.
    pub(super) has_certificate: bool,
}

/// What a signed text is about, and what its signer has noted of it (`cosign sign -a key=value`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(super) digest: Digest,
    pub(super) annotations: BTreeMap<String, String>,
}

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum SignatureFlaw {
    /// It cannot be read.
    #[error("malformed ({0})")]
    Malformed(String),
    /// It says something else than that an image is signed.
    #[error("no signature of an image but {0:?}")]
    OtherStatement(String),
    /// Whoever signed it has signed another image.
    #[error("of another image ({0})")]
    OtherImage(String),
    /// No key of the rule has made it, or it was tampered with.
    #[error("not by a trusted key, or tampered with")]
    UnknownKey,
    /// It was made with a certificate, which is not understood here.
    #[error("made with a certificate and not with a key (keyless)")]
    Certificate,
    /// The key is right, and its owner has not noted what is asked for.
    #[error("without the annotations that are asked for")]
    Annotations,
    /// It cannot be had.
    #[error("not to be had ({0})")]
    Unreachable(String),
}

impl SignatureFlaw {
    pub(super) fn malformed(what: impl std::fmt::Display) -> Self {
        Self::Malformed(printable(&what.to_string()))
    }
}

impl ParsedSignature {
    /// Whether it is about one of `images`.
    pub(super) fn is_about(&self, images: &[Digest]) -> bool {
        self.subjects.iter().any(|subject| images.contains(&subject.digest))
    }

    /// Whether its signer has noted all of `annotations` of one of `images`.
    pub(super) fn notes(&self, images: &[Digest], annotations: &BTreeMap<String, String>) -> bool {
        self.subjects.iter().filter(|subject| images.contains(&subject.digest)).any(|subject| {
            annotations.iter().all(|(name, value)| subject.annotations.get(name) == Some(value))
        })
    }

    /// Whatever it says that it is about.
    #[cfg(fuzzing)]
    pub(super) fn subjects(&self) -> Vec<Digest> {
        self.subjects.iter().map(|subject| subject.digest).collect()
    }

    /// The key of `keys` by which one of `images` is signed.
    pub(crate) fn check<'a>(
        &self,
        images: &[Digest],
        keys: &'a [TrustedKey],
    ) -> Result<&'a TrustedKey, SignatureFlaw> {
        if !self.is_about(images) {
            let subject =
                self.subjects.first().map_or_else(|| "none".to_owned(), |subject| subject.digest.to_string());
            return Err(SignatureFlaw::OtherImage(subject));
        }
        let is_signer = |key: &&TrustedKey| {
            self.signatures.iter().any(|signature| key.has_signed(&self.message, signature))
        };
        keys.iter().find(is_signer).ok_or(match self.has_certificate {
            true => SignatureFlaw::Certificate,
            false => SignatureFlaw::UnknownKey,
        })
    }
}
