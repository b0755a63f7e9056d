//! The older form: an image manifest under the tag `sha256-<hex>.sig`, each of whose layers is a payload that was
//! signed. [Cosign's specification](https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md).
//!
//! ```text
//! tag sha256-<hex>.sig ─► manifest ─► layer: {"critical":{"image":{"docker-manifest-digest":"sha256:…"},…}}
//!                                     └ annotation dev.cosignproject.cosign/signature: base64 over the layer's bytes
//! ```
//!
//! `critical.identity.docker-reference` is not compared: cosign itself does not, and writes there what the image was
//! called where it was signed, which a mirror calls otherwise.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;

use super::parsed::{ParsedSignature, SignatureFlaw, Subject};
use crate::{digest::Digest, manifest::null_is_default};

const LAYER_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// `critical.type` of what cosign signs.
const PAYLOAD_TYPE: &str = "cosign container image signature";

/// Bytes of a signature in base64; those of the largest RSA keys have less than 1,400.
const ENCODED_LIMIT: usize = 16 << 10;

/// A layer that is a payload, with the signature over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SignedLayer {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// In base64.
    pub(super) signature: String,
}

/// The tag under which the signatures of `image` are.
pub(super) fn tag(image: &Digest) -> String {
    format!("sha256-{}.sig", image.hex())
}

/// The signatures in a manifest, the newest (which cosign puts last) first. Layers of other types, and those without
/// a signature, are not meant for us.
pub(super) fn layers(manifest: &[u8]) -> Result<Vec<SignedLayer>, SignatureFlaw> {
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(default, deserialize_with = "null_is_default")]
        layers: Vec<Layer>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layer {
        #[serde(default)]
        media_type: String,
        digest: Digest,
        size: u64,
        #[serde(default, deserialize_with = "null_is_default")]
        annotations: BTreeMap<String, String>,
    }
    let manifest: Manifest = serde_json::from_slice(manifest).map_err(SignatureFlaw::malformed)?;
    let signed = |mut layer: Layer| {
        let signature = layer.annotations.remove(SIGNATURE)?;
        let is_payload = layer.media_type == LAYER_TYPE;
        is_payload.then_some(SignedLayer { digest: layer.digest, size: layer.size, signature })
    };
    Ok(manifest.layers.into_iter().rev().filter_map(signed).collect())
}

/// Takes a payload and the signature over it apart.
pub(super) fn parse(payload: &str, signature: &str) -> Result<ParsedSignature, SignatureFlaw> {
    #[derive(Deserialize)]
    struct Payload {
        critical: Critical,
        /// What the signer has noted, if anything.
        #[serde(default)]
        optional: Option<BTreeMap<String, Value>>,
    }
    #[derive(Deserialize)]
    struct Critical {
        image: Image,
        #[serde(rename = "type")]
        kind: String,
    }
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "docker-manifest-digest")]
        digest: Digest,
    }
    let parsed: Payload = serde_json::from_str(payload).map_err(SignatureFlaw::malformed)?;
    if parsed.critical.kind != PAYLOAD_TYPE {
        return Err(SignatureFlaw::OtherStatement(crate::text::printable(&parsed.critical.kind)));
    }
    if signature.len() > ENCODED_LIMIT {
        return Err(SignatureFlaw::malformed(format!(
            "its signature has {} bytes, and {ENCODED_LIMIT} is the limit",
            signature.len()
        )));
    }
    let signature = STANDARD.decode(signature).map_err(SignatureFlaw::malformed)?;
    Ok(ParsedSignature {
        message: payload.as_bytes().to_vec(),
        signatures: vec![signature],
        subjects: vec![Subject {
            digest: parsed.critical.image.digest,
            annotations: annotations(parsed.optional.unwrap_or_default()),
        }],
        has_certificate: false,
    })
}

/// Those of what a signer has noted that are texts.
pub(super) fn annotations(noted: BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let text = |(name, value)| match value {
        Value::String(value) => Some((name, value)),
        _ => None,
    };
    noted.into_iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests;
