//! The newer form: a bundle of Sigstore that refers to the image, which is what cosign 3 writes.
//! [Cosign's specification](https://github.com/sigstore/cosign/blob/main/specs/BUNDLE_SPEC.md), [DSSE][1],
//! [in-toto statements](https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).
//!
//! ```text
//! referrers/<digest>, or where there is no such API the tag sha256-<hex> ─► index ─► manifest ─► layer: the bundle
//! bundle ─► dsseEnvelope: payload (a statement with subject and predicate type), and signatures over its PAE
//! ```
//!
//! What else a bundle may carry, entries of transparency logs and time stamps, says when something was signed, and
//! adds nothing to a key that the operator has named.
//!
//! [1]: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    parsed::{ParsedSignature, SignatureFlaw, Subject},
    simple::annotations,
};
use crate::{
    digest::Digest,
    manifest::null_is_default,
    referrers::{self, Referrer},
    text::printable,
};

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What registries that look at the configuration alone take a bundle for.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const PREDICATE_ANNOTATION: &str = "dev.sigstore.bundle.predicateType";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://sigstore.dev/cosign/sign/v1";
/// Signatures of one envelope. Sigstore's bundles have one.
const SIGNATURES_LIMIT: usize = 8;

/// A layer that is a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BundleLayer {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// The manifests in a list of referrers that may be signatures, the likeliest first.
pub(super) fn candidates(list: &[u8]) -> Result<Vec<Digest>, SignatureFlaw> {
    let likelihood = |referrer: &Referrer| {
        let predicate = referrer.annotations.get(PREDICATE_ANNOTATION).map(String::as_str);
        match (referrer.artifact_type.as_str(), predicate) {
            (_, Some(PREDICATE_TYPE)) => Some(0),
            (_, Some(_)) => None,
            (MEDIA_TYPE, None) => Some(1),
            (EMPTY_TYPE | "", None) => Some(2),
            _ => None,
        }
    };
    let referrers = referrers::read(list).map_err(SignatureFlaw::malformed)?;
    Ok(referrers::ranked(referrers, likelihood).into_iter().map(|referrer| referrer.digest).collect())
}

/// The bundle of a manifest; `None` for a manifest of something else.
pub(super) fn layer(manifest: &[u8]) -> Result<Option<BundleLayer>, SignatureFlaw> {
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
    }
    let manifest: Manifest = serde_json::from_slice(manifest).map_err(SignatureFlaw::malformed)?;
    let found = manifest.layers.into_iter().find(|layer| layer.media_type == MEDIA_TYPE);
    Ok(found.map(|Layer { digest, size, .. }| BundleLayer { digest, size }))
}

/// Takes a bundle apart.
pub(super) fn parse(bundle: &str) -> Result<ParsedSignature, SignatureFlaw> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Bundle {
        media_type: String,
        verification_material: Material,
        #[serde(default)]
        dsse_envelope: Option<Envelope>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Material {
        #[serde(default)]
        certificate: Option<IgnoredAny>,
        #[serde(default)]
        x509_certificate_chain: Option<IgnoredAny>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope {
        payload: String,
        payload_type: String,
        signatures: Vec<Signature>,
    }
    #[derive(Deserialize)]
    struct Signature {
        sig: String,
    }
    let bundle: Bundle = serde_json::from_str(bundle).map_err(SignatureFlaw::malformed)?;
    if bundle.media_type != MEDIA_TYPE {
        return Err(SignatureFlaw::malformed(format!("a bundle of type {:?}", bundle.media_type)));
    }
    let envelope = bundle.dsse_envelope.ok_or_else(|| SignatureFlaw::malformed("it has no DSSE envelope"))?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(SignatureFlaw::OtherStatement(printable(&envelope.payload_type)));
    }
    if envelope.signatures.len() > SIGNATURES_LIMIT {
        return Err(SignatureFlaw::malformed(format!("it has more than {SIGNATURES_LIMIT} signatures")));
    }
    let material = bundle.verification_material;
    let payload = STANDARD.decode(&envelope.payload).map_err(SignatureFlaw::malformed)?;
    let signatures: Result<Vec<_>, _> =
        envelope.signatures.iter().map(|signature| STANDARD.decode(&signature.sig)).collect();
    Ok(ParsedSignature {
        subjects: subjects(&payload)?,
        message: pae(&envelope.payload_type, &payload),
        signatures: signatures.map_err(SignatureFlaw::malformed)?,
        has_certificate: material.certificate.is_some() || material.x509_certificate_chain.is_some(),
    })
}

/// What a statement says to be signed.
fn subjects(statement: &[u8]) -> Result<Vec<Subject>, SignatureFlaw> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Statement {
        #[serde(rename = "_type")]
        kind: String,
        predicate_type: String,
        subject: Vec<SubjectOfStatement>,
    }
    #[derive(Deserialize)]
    struct SubjectOfStatement {
        digest: BTreeMap<String, String>,
        #[serde(default)]
        annotations: Option<BTreeMap<String, Value>>,
    }
    let statement: Statement = serde_json::from_slice(statement).map_err(SignatureFlaw::malformed)?;
    for (found, expected) in [(&statement.kind, STATEMENT_TYPE), (&statement.predicate_type, PREDICATE_TYPE)]
    {
        if found != expected {
            return Err(SignatureFlaw::OtherStatement(printable(found)));
        }
    }
    // A digest of another algorithm names nothing here.
    let named = |subject: SubjectOfStatement| {
        let digest = format!("sha256:{}", subject.digest.get("sha256")?).parse().ok()?;
        Some(Subject { digest, annotations: annotations(subject.annotations.unwrap_or_default()) })
    };
    Ok(statement.subject.into_iter().filter_map(named).collect())
}

/// DSSE's pre-authentication encoding: what is signed, so that the type of a payload is signed with it.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

#[cfg(test)]
mod tests;
