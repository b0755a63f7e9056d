//! Lists of what refers to a manifest, such as its signatures and the compiled forms of its module: [by the API for
//! that][1], or under a tag where a registry has none.
//!
//! What a list says of a manifest was written by whoever pushed it, and by some registries wrongly or not at all: it says
//! where to look first, and where not to. The manifest itself decides.
//!
//! [1]: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{digest::Digest, manifest::null_is_default};

/// What a list says of one manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Referrer {
    pub(crate) digest: Digest,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) artifact_type: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The tag under which the referrers of a manifest are listed where the registry has no API for that.
pub(crate) fn fallback_tag(manifest: &Digest) -> String {
    format!("sha256-{}", manifest.hex())
}

/// Reads a list, which is an index of manifests.
pub(crate) fn read(list: &[u8]) -> serde_json::Result<Vec<Referrer>> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(default, deserialize_with = "null_is_default")]
        manifests: Vec<Referrer>,
    }
    Ok(serde_json::from_slice::<Index>(list)?.manifests)
}

/// Those that have a rank, the lowest first, and within a rank in the registry's order.
pub(crate) fn ranked(referrers: Vec<Referrer>, rank: impl Fn(&Referrer) -> Option<u8>) -> Vec<Referrer> {
    let with_rank = |referrer: Referrer| Some((rank(&referrer)?, referrer));
    let mut ranked: Vec<_> = referrers.into_iter().filter_map(with_rank).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, referrer)| referrer).collect()
}
