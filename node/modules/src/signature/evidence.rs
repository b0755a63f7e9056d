//! The signatures of an image as they came, kept beside it: under another policy they are checked again, without a
//! registry.
//!
//! Nothing here is believed for being here. A signature that is read is verified anew each time, which takes some ten
//! microseconds.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    bundle,
    key::TrustedKey,
    parsed::{ParsedSignature, SignatureFlaw},
    simple,
};
use crate::{
    digest::Digest,
    error::StoreError,
    layout::{self, Layout},
};

/// Signatures that are kept of one image, or of one artifact.
pub(crate) const KEPT_LIMIT: usize = 16;

/// One signature, in the form in which the registry had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Evidence {
    /// See [`simple`].
    Simple {
        /// The bytes of the layer.
        payload: String,
        /// In base64.
        signature: String,
    },
    /// See [`bundle`].
    Bundle(String),
}

impl Evidence {
    pub(super) fn parse(&self) -> Result<ParsedSignature, SignatureFlaw> {
        match self {
            Self::Simple { payload, signature } => simple::parse(payload, signature),
            Self::Bundle(text) => bundle::parse(text),
        }
    }
}

/// The key of `keys` that has made one of `kept` over one of `images`.
pub(crate) fn signer<'a>(
    kept: &[Evidence],
    images: &[Digest],
    keys: &'a [TrustedKey],
) -> Option<&'a TrustedKey> {
    kept.iter().find_map(|evidence| evidence.parse().ok()?.check(images, keys).ok())
}

/// Whether one of `keys` has made one of `kept` over `image`, and has noted all of `annotations` of it.
pub(crate) fn noted_by(
    kept: &[Evidence],
    image: Digest,
    keys: &[TrustedKey],
    annotations: &BTreeMap<String, String>,
) -> bool {
    kept.iter()
        .filter_map(|evidence| evidence.parse().ok())
        .any(|parsed| parsed.check(&[image], keys).is_ok() && parsed.notes(&[image], annotations))
}

/// The signatures that are kept of the image `digest`.
pub(crate) fn read(layout: &Layout, digest: &Digest) -> Result<Vec<Evidence>, StoreError> {
    Ok(layout.read(&place(layout, digest))?.unwrap_or_default())
}

/// Keeps signatures of the image `digest` besides those that are kept, the oldest of which make room. The caller
/// holds the store's lock.
pub(crate) fn add(layout: &Layout, digest: &Digest, new: &[Evidence]) -> Result<(), StoreError> {
    let kept = read(layout, digest)?;
    let mut all = new.to_vec();
    all.extend(kept.iter().filter(|evidence| !new.contains(evidence)).cloned());
    all.truncate(KEPT_LIMIT);
    if all == kept { Ok(()) } else { layout.write(&place(layout, digest), &all) }
}

/// Forgets the signatures of the image `digest`. The caller holds the store's lock.
pub(crate) fn forget(layout: &Layout, digest: &Digest) -> Result<(), StoreError> {
    layout::remove(&place(layout, digest))
}

fn place(layout: &Layout, digest: &Digest) -> PathBuf {
    layout.signatures().join(format!("{}.json", digest.hex()))
}

#[cfg(test)]
mod tests;
