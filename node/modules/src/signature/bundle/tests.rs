use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::signature::{
    evidence::Evidence,
    key::TrustedKey,
    testing::{BY_COSIGN, STATEMENT, Signer, bundle, digest, statement},
};

fn outcome(evidence: &Evidence, image: &Digest, key: &TrustedKey) -> Result<(), SignatureFlaw> {
    evidence.parse()?.check(&[*image], std::slice::from_ref(key)).map(drop)
}

fn of_value(bundle: &Value) -> Evidence {
    Evidence::Bundle(bundle.to_string())
}

#[test]
fn what_cosign_signs_is_good_for_its_image_and_its_key() {
    for made in &BY_COSIGN {
        let evidence = Evidence::Bundle(made.bundle.to_owned());
        let image: Digest = made.bundle_image.parse().unwrap();
        let key = &TrustedKey::read_all(made.key.as_bytes(), "cosign").unwrap()[0];
        assert_eq!(outcome(&evidence, &image, key), Ok(()));
        assert_eq!(outcome(&evidence, &image, &Signer::new().key()), Err(SignatureFlaw::UnknownKey));
        let flaw = outcome(&evidence, &digest("other"), key);
        assert_eq!(flaw, Err(SignatureFlaw::OtherImage(made.bundle_image.to_owned())));
    }
    let index = include_bytes!("../testdata/cosign.bundle.index.json");
    let manifest = include_bytes!("../testdata/cosign.bundle.manifest.json");
    assert_eq!(candidates(index), Ok(vec![Digest::of(manifest)]));
    let (digest, size) = (digest(BY_COSIGN[0].bundle), BY_COSIGN[0].bundle.len() as u64);
    assert_eq!(layer(manifest), Ok(Some(BundleLayer { digest, size })));
}

#[test]
fn a_statement_that_was_tampered_with_is_not_by_the_key() {
    let (signer, image, other) = (Signer::new(), digest("image"), digest("other"));
    let Evidence::Bundle(text) = signer.bundle(&statement(&other)) else { panic!() };
    let mut forged: Value = serde_json::from_str(&text).unwrap();
    forged["dsseEnvelope"]["payload"] = json!(STANDARD.encode(statement(&image).to_string()));
    assert_eq!(outcome(&of_value(&forged), &image, &signer.key()), Err(SignatureFlaw::UnknownKey));
}

#[test]
fn a_signature_is_over_the_encoding_and_not_over_the_payload() {
    let (signer, image) = (Signer::new(), digest("image"));
    let text = statement(&image).to_string();
    let length = text.len();
    let encoding = |text: &str| signer.sign(text.as_bytes());
    let good = encoding(&format!("DSSEv1 28 {STATEMENT} {length} {text}"));
    let wrong = [
        encoding(&text),
        encoding(&format!("DSSEv1 28 {STATEMENT} {} {text}", length + 1)),
        encoding(&format!("DSSEv1 29 {STATEMENT} {length} {text}")),
        encoding(&format!("DSSEv2 28 {STATEMENT} {length} {text}")),
        encoding(&format!("DSSEv1 16 application/json {length} {text}")),
        signer.sign_plain(format!("DSSEv1 28 {STATEMENT} {length} {text}").as_bytes()),
        Vec::new(),
    ];
    let with = |signatures: &[&[u8]]| {
        outcome(&of_value(&bundle(STATEMENT, text.as_bytes(), signatures)), &image, &signer.key())
    };
    for signature in &wrong {
        assert_eq!(with(&[signature]), Err(SignatureFlaw::UnknownKey));
    }
    assert_eq!(with(&[]), Err(SignatureFlaw::UnknownKey));
    assert_eq!(with(&[&good]), Ok(()));
    assert_eq!(with(&[&wrong[0], &good]), Ok(()), "one of several will do");
    assert!(matches!(with(&[&good[..]; 9]), Err(SignatureFlaw::Malformed(_))));
}

#[test]
fn only_a_statement_that_an_image_is_signed_counts_however_well_it_is_signed() {
    let (signer, image) = (Signer::new(), digest("image"));
    let with = |pointer: &str, value: Value| {
        let mut statement = statement(&image);
        *statement.pointer_mut(pointer).unwrap() = value;
        outcome(&signer.bundle(&statement), &image, &signer.key())
    };
    let other = |flaw| matches!(flaw, Err(SignatureFlaw::OtherStatement(_)));
    assert!(other(with("/predicateType", json!("https://slsa.dev/provenance/v1"))));
    assert!(other(with("/predicateType", json!("https://sigstore.dev/cosign/sign/v2"))));
    assert!(other(with("/_type", json!("https://in-toto.io/Statement/v0.1"))));
    let nothing = Err(SignatureFlaw::OtherImage("none".to_owned()));
    assert_eq!(with("/subject", json!([])), nothing);
    assert_eq!(with("/subject/0/digest", json!({"sha512": image.hex()})), nothing);
    assert_eq!(with("/subject/0/digest/sha256", json!(image.to_string())), nothing);
    assert_eq!(with("/subject/0/digest/sha256", json!(image.hex().to_uppercase())), nothing);
    for (pointer, value) in [
        ("/subject", json!(null)),
        ("/subject/0", json!({})),
        ("/subject/0/digest/sha256", json!(1)),
        ("/predicateType", json!(null)),
    ] {
        let flaw = with(pointer, value).unwrap_err();
        assert!(matches!(flaw, SignatureFlaw::Malformed(_)), "{pointer}: {flaw}");
    }
    let several = json!([{"digest": {"sha256": digest("a").hex()}}, {"digest": {"sha256": image.hex()}}]);
    assert_eq!(with("/subject", several), Ok(()));
}

#[test]
fn bundles_of_other_kinds_say_what_they_are() {
    let (signer, image) = (Signer::new(), digest("image"));
    let Evidence::Bundle(text) = signer.bundle(&statement(&image)) else { panic!() };
    let with = |pointer: &str, value: Value| {
        let mut bundle: Value = serde_json::from_str(&text).unwrap();
        *bundle.pointer_mut(pointer).unwrap() = value;
        outcome(&of_value(&bundle), &image, &signer.key())
    };
    for (pointer, value) in [
        ("/mediaType", json!("application/vnd.dev.sigstore.bundle+json;version=0.1")),
        ("/dsseEnvelope", json!(null)),
        ("/dsseEnvelope/payload", json!("%%%%")),
        ("/dsseEnvelope/payload", json!("")),
        ("/dsseEnvelope/signatures/0/sig", json!("AAA")),
        ("/dsseEnvelope/signatures", json!({})),
        ("/verificationMaterial", json!(null)),
    ] {
        let flaw = with(pointer, value.clone()).unwrap_err();
        assert!(matches!(flaw, SignatureFlaw::Malformed(_)), "{pointer} {value}: {flaw}");
    }
    assert!(matches!(
        with("/dsseEnvelope/payloadType", json!("text/plain")),
        Err(SignatureFlaw::OtherStatement(_))
    ));
    // A certificate beside a good signature does no harm, and beside another explains it.
    let certificate = json!({"certificate": {"rawBytes": "AAAA"}});
    assert_eq!(with("/verificationMaterial", certificate.clone()), Ok(()));
    let mut keyless: Value = serde_json::from_str(&text).unwrap();
    keyless["verificationMaterial"] = certificate;
    let flaw = outcome(&of_value(&keyless), &image, &Signer::new().key());
    assert_eq!(flaw, Err(SignatureFlaw::Certificate));
}

#[test]
fn candidates_come_likeliest_first_and_without_what_cannot_be_one() {
    let entry = |name: &str, artifact_type: Value, predicate: Option<&str>| {
        let annotations = predicate.map(|predicate| json!({PREDICATE_ANNOTATION: predicate}));
        json!({"digest": digest(name), "size": 1, "artifactType": artifact_type, "annotations": annotations})
    };
    let index = json!({"manifests": [
        entry("sbom", json!("application/spdx+json"), None),
        entry("unknown", json!(null), None),
        entry("empty", json!(EMPTY_TYPE), None),
        entry("provenance", json!(MEDIA_TYPE), Some("https://slsa.dev/provenance/v1")),
        entry("bundle", json!(MEDIA_TYPE), None),
        entry("signature", json!(EMPTY_TYPE), Some(PREDICATE_TYPE)),
    ]});
    let expected = ["signature", "bundle", "unknown", "empty"].map(digest);
    assert_eq!(candidates(index.to_string().as_bytes()).unwrap(), expected);
    assert_eq!(candidates(br#"{"manifests":null}"#), Ok(Vec::new()));
    for text in ["", "[", "<html>", r#"{"manifests":[{"digest":"sha256:x"}]}"#] {
        assert!(matches!(candidates(text.as_bytes()), Err(SignatureFlaw::Malformed(_))), "{text}");
    }
    assert_eq!(layer(br#"{"layers":[]}"#), Ok(None));
    assert_eq!(layer(b"{}"), Ok(None));
    assert!(layer(b"null").is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>, text: String) {
        let _ = candidates(&bytes);
        let _ = layer(&bytes);
        let _ = parse(&text);
        let _ = subjects(&bytes);
    }

    #[test]
    fn no_damage_to_a_bundle_forges_anything(at in 0..667_usize, bit in 0..7_u8) {
        let made = &BY_COSIGN[0];
        let mut bytes = made.bundle.as_bytes().to_vec();
        bytes[at] ^= 1 << bit;
        // Damage outside the envelope may leave it good, for its own image and for no other.
        let evidence = Evidence::Bundle(String::from_utf8(bytes).unwrap());
        let key = &TrustedKey::read_all(made.key.as_bytes(), "cosign").unwrap()[0];
        if let Ok(parsed) = evidence.parse() {
            let images = [made.bundle_image.parse().unwrap()];
            if parsed.check(&images, std::slice::from_ref(key)).is_ok() {
                let original = parse(made.bundle).unwrap();
                prop_assert_eq!((&parsed.message, &parsed.subjects), (&original.message, &original.subjects));
            }
        }
    }
}
