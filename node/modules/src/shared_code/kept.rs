//! Compiled code as it came, kept so that it can be verified again without a registry.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::artifact::{self, CodeManifest};
use crate::{
    compile::Facts,
    digest::Digest,
    signature::{
        TrustedKey,
        evidence::{self, Evidence},
    },
};

/// All of an artifact but the code. Nothing here is believed for being here: the signatures are of the manifest's
/// digest, and the facts are those whose digest it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeptCode {
    /// Its bytes.
    pub(crate) manifest: String,
    /// Their bytes.
    pub(crate) facts: String,
    pub(crate) evidence: Vec<Evidence>,
    /// What the policy called the key by which it was trusted when it came, for people.
    pub(crate) signer: String,
    /// With which image it came, for people.
    pub(crate) image: String,
}

impl KeptCode {
    /// Digest of the manifest, which is what is signed.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    /// What the manifest says, and the facts.
    ///
    /// # Errors
    /// In words, when they cannot be read or do not belong together.
    pub(crate) fn open(&self) -> Result<(CodeManifest, Facts), String> {
        let manifest = artifact::parse(self.manifest.as_bytes())?;
        if Digest::of(self.facts.as_bytes()) != manifest.facts.digest {
            return Err(format!("its facts are not those of the digest {}", manifest.facts.digest));
        }
        let facts = artifact::facts(self.facts.as_bytes())?;
        Ok((manifest, facts))
    }

    /// The key of `keys` that has signed it.
    pub(crate) fn signer_among<'a>(&self, keys: &'a [TrustedKey]) -> Option<&'a TrustedKey> {
        evidence::signer(&self.evidence, &[self.digest()], keys)
    }
}

/// Whether a file beside compiled code is a [`KeptCode`].
pub(super) fn is_record(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}
