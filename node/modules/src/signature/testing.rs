//! Keys that sign what cosign would never sign, and what cosign itself has signed.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
        KeyPair as _,
    },
};
use serde_json::{Value, json};

use super::{SignaturePolicy, evidence::Evidence, key::TrustedKey};
use crate::digest::Digest;

/// What comes before the point in the DER of a P-256 key.
const SPKI_HEAD: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";

pub(crate) const STATEMENT: &str = "application/vnd.in-toto+json";

/// A pair of keys of the kind that `cosign generate-key-pair` makes.
pub(crate) struct Signer {
    pkcs8: Vec<u8>,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
        Self { pkcs8: pkcs8.as_ref().to_vec() }
    }

    fn pair(&self, algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
        EcdsaKeyPair::from_pkcs8(algorithm, &self.pkcs8, &SystemRandom::new()).unwrap()
    }

    pub(crate) fn pem(&self) -> String {
        let pair = self.pair(&ECDSA_P256_SHA256_ASN1_SIGNING);
        let der = [SPKI_HEAD, pair.public_key().as_ref()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    pub(crate) fn key(&self) -> TrustedKey {
        TrustedKey::read_all(self.pem().as_bytes(), "test").unwrap().remove(0)
    }

    /// A policy that trusts what this signs of compiled code for images below `r.io/team`; its files are in `folder`.
    pub(crate) fn trusted_with_code(&self, folder: &Path) -> SignaturePolicy {
        let path = folder.join("policy.yaml");
        fs::write(folder.join("builder.pub"), self.pem()).unwrap();
        let policy = "default: {action: accept}\n\
             rules: [{prefix: r.io/team, action: accept, precompiledKeys: [{file: builder.pub}]}]\n";
        fs::write(&path, policy).unwrap();
        SignaturePolicy::read(&path).unwrap()
    }

    /// A signature in DER.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let pair = self.pair(&ECDSA_P256_SHA256_ASN1_SIGNING);
        pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    /// A signature as two plain numbers (IEEE P1363).
    pub(crate) fn sign_plain(&self, message: &[u8]) -> Vec<u8> {
        let pair = self.pair(&ECDSA_P256_SHA256_FIXED_SIGNING);
        pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    pub(crate) fn simple(&self, payload: &Value) -> Evidence {
        let payload = payload.to_string();
        let signature = STANDARD.encode(self.sign(payload.as_bytes()));
        Evidence::Simple { payload, signature }
    }

    pub(crate) fn bundle(&self, statement: &Value) -> Evidence {
        let statement = statement.to_string();
        let message = format!("DSSEv1 {} {STATEMENT} {} {statement}", STATEMENT.len(), statement.len());
        Evidence::Bundle(
            bundle(STATEMENT, statement.as_bytes(), &[&self.sign(message.as_bytes())]).to_string(),
        )
    }
}

pub(crate) fn bundle(payload_type: &str, payload: &[u8], signatures: &[&[u8]]) -> Value {
    let signatures: Vec<Value> =
        signatures.iter().map(|signature| json!({"sig": STANDARD.encode(signature)})).collect();
    json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "x"}},
        "dsseEnvelope": {
            "payload": STANDARD.encode(payload), "payloadType": payload_type, "signatures": signatures,
        },
    })
}

pub(crate) fn payload(image: &Digest) -> Value {
    json!({
        "critical": {
            "identity": {"docker-reference": "r.io/team/app"},
            "image": {"docker-manifest-digest": image},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
}

pub(crate) fn statement(image: &Digest) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": image.hex()}, "annotations": {}}],
        "predicateType": "https://sigstore.dev/cosign/sign/v1",
        "predicate": {},
    })
}

pub(crate) fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// What cosign has signed with a key of one kind; see `testdata/README.md`.
pub(crate) struct ByCosign {
    pub(crate) key: &'static str,
    pub(crate) bundle: &'static str,
    /// The image that the bundle is about.
    pub(crate) bundle_image: &'static str,
    pub(crate) manifest: &'static str,
    pub(crate) payload: &'static str,
    /// The image that the payload is about.
    pub(crate) payload_image: &'static str,
}

macro_rules! by_cosign {
    ($name:literal, $bundle_image:literal, $payload_image:literal) => {
        ByCosign {
            key: include_str!(concat!("testdata/", $name, ".pub")),
            bundle: include_str!(concat!("testdata/", $name, ".bundle.json")),
            bundle_image: concat!("sha256:", $bundle_image),
            manifest: include_str!(concat!("testdata/", $name, ".sig.manifest.json")),
            payload: include_str!(concat!("testdata/", $name, ".sig.payload.json")),
            payload_image: concat!("sha256:", $payload_image),
        }
    };
}

pub(crate) const BY_COSIGN: [ByCosign; 3] = [
    by_cosign!(
        "cosign",
        "d97e2e33335a480ed76f8cd3cd43f0d61b242c8f8dd32004e0d41a68bf96bf88",
        "d81b250a923fe2dedddb8413ab265ede1d8759ad1c9b436aa521d9ff58d6f4be"
    ),
    by_cosign!(
        "rsa",
        "02c1dda8fc137923b712621b1b44bc571051bc4b3accef52e92c29a724454ab1",
        "005bf322a8327fd99ef568781f86f287d2dd8f750f6292478490c97ff7c771e8"
    ),
    by_cosign!(
        "p384",
        "3f3ab98a00da23341b605ca4f2bf82335cefc8287354d1409b8dabc26d708ddb",
        "db8f38f931bab86a8dffedf1b041f5b228c6053b1e365512644cb8f5ebb18974"
    ),
];
