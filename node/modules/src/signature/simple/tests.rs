use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::signature::{
    evidence::Evidence,
    key::TrustedKey,
    testing::{BY_COSIGN, Signer, digest, payload},
};

/// What comes of one signature and one key.
fn outcome(evidence: &Evidence, image: &Digest, key: &TrustedKey) -> Result<(), SignatureFlaw> {
    evidence.parse()?.check(&[*image], std::slice::from_ref(key)).map(drop)
}

#[test]
fn what_cosign_signs_is_good_for_its_image_and_its_key() {
    for made in &BY_COSIGN {
        let image: Digest = made.payload_image.parse().unwrap();
        let layers = layers(made.manifest.as_bytes()).unwrap();
        let [layer] = layers.as_slice() else { panic!("{layers:?}") };
        assert_eq!((layer.digest, layer.size), (digest(made.payload), made.payload.len() as u64));
        let evidence =
            Evidence::Simple { payload: made.payload.to_owned(), signature: layer.signature.clone() };
        let key = &TrustedKey::read_all(made.key.as_bytes(), "cosign").unwrap()[0];
        assert_eq!(outcome(&evidence, &image, key), Ok(()));
        assert_eq!(outcome(&evidence, &image, &Signer::new().key()), Err(SignatureFlaw::UnknownKey));
        let other = digest("other");
        assert_eq!(
            outcome(&evidence, &other, key),
            Err(SignatureFlaw::OtherImage(made.payload_image.to_owned()))
        );
    }
}

#[test]
fn a_payload_that_was_tampered_with_is_not_by_the_key() {
    let (signer, image, other) = (Signer::new(), digest("image"), digest("other"));
    let Evidence::Simple { payload: text, signature } = signer.simple(&payload(&other)) else { panic!() };
    // The digest of the image that the attacker wants, in a payload that was signed for another.
    let forged = text.replace(&other.hex(), &image.hex());
    let evidence = Evidence::Simple { payload: forged, signature: signature.clone() };
    assert_eq!(outcome(&evidence, &image, &signer.key()), Err(SignatureFlaw::UnknownKey));
    let evidence = Evidence::Simple { payload: format!("{text} "), signature };
    assert_eq!(outcome(&evidence, &other, &signer.key()), Err(SignatureFlaw::UnknownKey));
}

#[test]
fn only_what_says_that_an_image_is_signed_counts_however_well_it_is_signed() {
    let (signer, image) = (Signer::new(), digest("image"));
    let with = |pointer: &str, value: Value| {
        let mut payload = payload(&image);
        *payload.pointer_mut(pointer).unwrap() = value;
        outcome(&signer.simple(&payload), &image, &signer.key())
    };
    assert_eq!(outcome(&signer.simple(&payload(&image)), &image, &signer.key()), Ok(()));
    assert!(matches!(
        with("/critical/type", json!("atomic container signature")),
        Err(SignatureFlaw::OtherStatement(kind)) if kind == "atomic container signature"
    ));
    for (pointer, value) in [
        ("/critical/type", json!(null)),
        ("/critical/image", json!({})),
        ("/critical/image/docker-manifest-digest", json!("sha256:00")),
        ("/critical/image/docker-manifest-digest", json!([image])),
        ("/critical", json!([])),
    ] {
        let flaw = with(pointer, value.clone()).unwrap_err();
        assert!(matches!(flaw, SignatureFlaw::Malformed(_)), "{pointer} {value}: {flaw}");
    }
    // Two digests: which of them a reader takes must not be a matter of taste.
    let twice = payload(&image).to_string().replacen(
        "\"docker-manifest-digest\"",
        &format!("\"docker-manifest-digest\":\"{}\",\"docker-manifest-digest\"", digest("other")),
        1,
    );
    assert!(matches!(parse(&twice, ""), Err(SignatureFlaw::Malformed(text)) if text.contains("duplicate")));
}

#[test]
fn signatures_that_are_none_are_flaws() {
    let (signer, image) = (Signer::new(), digest("image"));
    let text = payload(&image).to_string();
    let plain = STANDARD.encode(signer.sign_plain(text.as_bytes()));
    for (signature, is_read) in
        [("", true), ("AAAA", true), (&plain, true), ("%", false), ("AAA", false), ("é", false)]
    {
        let evidence = Evidence::Simple { payload: text.clone(), signature: signature.to_owned() };
        match outcome(&evidence, &image, &signer.key()).unwrap_err() {
            SignatureFlaw::UnknownKey => assert!(is_read, "{signature}"),
            SignatureFlaw::Malformed(_) => assert!(!is_read, "{signature}"),
            other => panic!("{signature}: {other}"),
        }
    }
    let evidence = Evidence::Simple { payload: text, signature: "A".repeat(1 << 20) };
    let flaw = outcome(&evidence, &image, &signer.key()).unwrap_err();
    assert!(flaw.to_string().contains("1048576 bytes, and 16384 is the limit"), "{flaw}");
}

#[test]
fn layers_are_those_with_a_signature_the_newest_first() {
    let layer = |media_type: &str, annotations: Value| json!({"mediaType": media_type, "digest": digest("x"), "size": 1, "annotations": annotations});
    let manifest = json!({"layers": [
        layer(LAYER_TYPE, json!({SIGNATURE: "first"})),
        layer("text/plain", json!({SIGNATURE: "of text"})),
        layer(LAYER_TYPE, json!({})),
        layer(LAYER_TYPE, json!(null)),
        layer(LAYER_TYPE, json!({SIGNATURE: "second"})),
    ]});
    let found = layers(manifest.to_string().as_bytes()).unwrap();
    let signatures: Vec<_> = found.iter().map(|layer| layer.signature.as_str()).collect();
    assert_eq!(signatures, ["second", "first"]);
    assert_eq!(layers(b"{}"), Ok(Vec::new()));
    assert_eq!(layers(br#"{"layers":null}"#), Ok(Vec::new()));
    for text in ["", "[1]", "<html>", r#"{"layers":[{"digest":"sha256:0","size":1}]}"#] {
        assert!(matches!(layers(text.as_bytes()), Err(SignatureFlaw::Malformed(_))), "{text}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes: Vec<u8>, text: String, signature: String) {
        let _ = layers(&bytes);
        let _ = parse(&text, &signature);
    }

    #[test]
    fn no_damage_to_a_payload_is_good(at in 0..239_usize, bit in 0..7_u8) {
        let made = &BY_COSIGN[0];
        let signature = layers(made.manifest.as_bytes()).unwrap().remove(0).signature;
        let mut bytes = made.payload.as_bytes().to_vec();
        bytes[at] ^= 1 << bit;
        let evidence = Evidence::Simple { payload: String::from_utf8(bytes).unwrap(), signature };
        let key = &TrustedKey::read_all(made.key.as_bytes(), "cosign").unwrap()[0];
        prop_assert!(outcome(&evidence, &made.payload_image.parse().unwrap(), key).is_err());
    }
}
