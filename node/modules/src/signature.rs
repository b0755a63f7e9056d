//! Signatures of images: which are asked for, and whether they are there.
//!
//! ```text
//! file ─► SignaturePolicy ── ruling(reference) ─► accept │ reject │ signed by one of these keys
//!                                                                        │
//! registry ─► SignatureSource ─► verify: bundles, simple signatures ─► ParsedSignature::check
//!                                                                        ▲           │ evidence
//! store: signatures/<hex>.json ──────────────────────────────────────────┴───────────┘
//! ```
//!
//! Before an image is kept, and each time that one is used that is kept, what the policy asks for is verified, from
//! the signatures in the store if they suffice, else from those in the registry. What makes a signature good is the
//! same for both: a key of the rule has signed a text that names the digest of the image.
//!
//! `parsed`, `simple`, `bundle`, `key` and `policy` are functions of bytes; only `verify` and `evidence` ask anybody.

mod bundle;
pub(crate) mod evidence;
mod key;
mod parsed;
mod policy;
mod simple;
#[cfg(test)]
pub(crate) mod testing;
mod verify;

pub(crate) use self::{key::TrustedKey, policy::Ruling};
#[cfg(fuzzing)]
pub(crate) use policy::read_policy;
pub use policy::{InvalidSignaturePolicy, SignaturePolicy};
pub(crate) use verify::{SignatureDemand, SignatureSource, verify};

use self::{evidence::Evidence, policy::Requirement};
use crate::{
    digest::Digest,
    error::{PullFailure, StoreError},
    image::{Image, ImageName},
    module_url::{ModuleUrl, UrlScheme},
    reference::Reference,
    source::ModuleSource,
    store::{Store, StoreInner},
};

impl StoreInner {
    /// Fails when the policy rejects what `name` means, whatever that is.
    pub(crate) fn check_name(&self, name: &ImageName) -> Result<(), PullFailure> {
        match name {
            ImageName::Reference(reference) => match self.options.signature_policy.ruling(reference) {
                Ruling { requirement: Requirement::Reject, rule, .. } => {
                    Err(PullFailure::SignatureInvalid(rejection(rule)))
                }
                _ => Ok(()),
            },
            ImageName::Url(url) => self.check_url(url).map_err(PullFailure::SignatureInvalid),
            ImageName::Path(_) => Ok(()),
        }
    }

    /// A file at a URL has no signatures, so that only a policy whose default asks for none takes it. What an operator's
    /// own directories hold is there because the operator wants it to be.
    fn check_url(&self, url: &ModuleUrl) -> Result<(), String> {
        if url.scheme() == UrlScheme::File {
            return Ok(());
        }
        match self.options.signature_policy.otherwise() {
            Ruling { requirement: Requirement::Accept, .. } => Ok(()),
            Ruling { requirement: Requirement::Reject, rule, .. } => Err(rejection(rule)),
            Ruling { requirement: Requirement::SignedBy(_), rule, .. } => Err(format!(
                "the rule {rule:?} of the node's signature policy asks for a signature, and a file at a URL has none; push \
                 the module to a registry and sign it there"
            )),
        }
    }

    /// Whether the policy takes an image that is kept, under this name, for what is kept with it.
    ///
    /// # Errors
    /// [`StoreError::SignatureInvalid`] when it does not.
    pub(crate) fn check_kept(&self, name: &ImageName, image: &Image) -> Result<(), StoreError> {
        let invalid = |detail| StoreError::SignatureInvalid { image: name.to_string(), detail };
        let reference = match name {
            ImageName::Reference(reference) => reference,
            ImageName::Url(url) => return self.check_url(url).map_err(invalid),
            // It is there because its owner wants it to be.
            ImageName::Path(_) => return Ok(()),
        };
        let Ruling { requirement, rule, .. } = self.options.signature_policy.ruling(reference);
        match requirement {
            Requirement::Accept => Ok(()),
            Requirement::Reject => Err(invalid(rejection(rule))),
            Requirement::SignedBy(keys) => {
                let kept = evidence::read(&self.layout, &image.digest)?;
                match evidence::signer(&kept, &[image.digest, image.manifest], keys) {
                    Some(_) => Ok(()),
                    None => Err(invalid(format!(
                        "it is on this node without a signature that the rule {rule:?} of the node's signature \
                         policy asks for; pull it again"
                    ))),
                }
            }
        }
    }

    /// Verifies an image that is about to be kept: what the reference names, and what was chosen from that. Says what
    /// to keep with it.
    pub(crate) async fn verify_signature(
        &self,
        reference: &Reference,
        target: Digest,
        chosen: Digest,
        source: &dyn ModuleSource,
    ) -> Result<Vec<Evidence>, PullFailure> {
        let Ruling { requirement: Requirement::SignedBy(keys), rule, .. } =
            self.options.signature_policy.ruling(reference)
        else {
            return Ok(Vec::new());
        };
        let mut images = vec![target, chosen];
        images.dedup();
        let kept = evidence::read(&self.layout, &target)?;
        if let Some(signer) = evidence::signer(&kept, &images, keys) {
            tracing::debug!(image = %reference, %signer, "the image has a good signature, which was kept");
            return Ok(kept);
        }
        let Some(source) = source.signatures() else {
            return Err(PullFailure::SignatureInvalid("its source has no signatures".to_owned()));
        };
        let verified = verify(source, &images, SignatureDemand::of_rule(rule, keys)).await?;
        tracing::info!(image = %reference, signer = %verified.signer, "the image has a good signature");
        Ok(verified.evidence)
    }
}

impl Store {
    /// Who has signed an image that is here: the key of the policy's, as the policy's file names it. `None` where the
    /// policy asks for no signature of it.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store cannot be read.
    pub fn signer(&self, image: &Image) -> Result<Option<String>, StoreError> {
        let ImageName::Reference(reference) = &image.reference else { return Ok(None) };
        let policy = &self.inner.options.signature_policy;
        let Requirement::SignedBy(keys) = policy.ruling(reference).requirement else { return Ok(None) };
        let kept = evidence::read(&self.inner.layout, &image.digest)?;
        Ok(evidence::signer(&kept, &[image.digest, image.manifest], keys).map(ToString::to_string))
    }
}

fn rejection(rule: &str) -> String {
    format!("the rule {rule:?} of the node's signature policy rejects it")
}

/// Reads what a registry has for a signature, in whatever form and part of it that may be. None of it is signed by `key`.
#[cfg(fuzzing)]
pub(crate) fn read_signature(data: &[u8], key: &[u8]) {
    let _ = (bundle::candidates(data), bundle::layer(data), simple::layers(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    let keys = TrustedKey::read_all(key, "the fuzzer").unwrap_or_default();
    let (payload, signature) = text.split_once('\n').unwrap_or((text, ""));
    for parsed in [bundle::parse(text), simple::parse(payload, signature)].into_iter().flatten() {
        let about = parsed.subjects();
        assert!(parsed.check(&about, &keys).is_err(), "nobody has the key, and yet it has signed this");
    }
}
