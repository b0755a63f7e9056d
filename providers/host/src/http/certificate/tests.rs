use super::*;

struct Signed {
    chain: String,
    key: String,
}

fn signed(name: &str) -> Signed {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    Signed { chain: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn read(chain: &str, key: &str) -> Result<ServerCertificate, InvalidCertificate> {
    ServerCertificate::from_pem(chain.as_bytes(), key.as_bytes())
}

#[test]
fn a_chain_is_read_and_carried_with_its_key() {
    let (own, between) = (signed("a.example"), signed("ca.example"));
    let chain = format!("# ours\n{}\nits issuer:\r\n{}", own.chain, between.chain);
    let certificate = read(&chain, &format!("a key\n{}", own.key)).unwrap();
    assert_eq!(certificate.chain_der().count(), 2);
    let der = certificate.chain_der().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let carried = ServerCertificate::from_der(der, certificate.key_der().to_vec()).unwrap();
    assert_eq!(carried, certificate);
    assert_eq!(carried.key_der(), certificate.key_der());
    assert_ne!(read(&own.chain, &own.key).unwrap(), certificate);
}

#[test]
fn what_is_wrong_is_told_and_where() {
    use InvalidCertificate::{EncryptedKey, NoCertificate, NoKey, OtherKey, TooMany, UnsupportedKey};
    let (own, other) = (signed("a.example"), signed("b.example"));
    for chain in ["", "hello", &own.key] {
        assert_eq!(read(chain, &own.key), Err(NoCertificate), "{chain}");
    }
    let broken = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let error = read(&format!("{}{broken}", own.chain), &own.key).unwrap_err();
    assert!(matches!(error, InvalidCertificate::Certificate { number: 2, .. }), "{error}");
    assert!(!error.is_about_key());
    assert_eq!(read(&own.chain.repeat(MOST + 1), &own.key), Err(TooMany));
    let pkcs8 = |text: &str| format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\naGVsbG8=\n-----END RSA PRIVATE KEY-----\n";
    for (key, expected) in [
        ("", NoKey),
        (&own.chain, NoKey),
        (&pkcs8("!"), NoKey),
        (&pkcs8("aGVsbG8="), UnsupportedKey),
        (encrypted, EncryptedKey),
        (legacy, EncryptedKey),
        (&other.key, OtherKey),
    ] {
        let error = read(&own.chain, key).unwrap_err();
        assert_eq!(error, expected, "{key}");
        assert!(error.is_about_key());
    }
}

#[test]
fn nothing_shows_the_key() {
    let own = signed("a.example");
    let certificate = read(&own.chain, &own.key).unwrap();
    let bytes = format!("{:?}", certificate.key_der());
    let middle = &bytes[bytes.len() / 3..bytes.len() / 2];
    let text = format!("{certificate:?}");
    assert!(!text.contains(middle) && text.len() < 100, "{text}");
    // A line that looks like the beginning of a block is in the reader's own error.
    let leaky = "-----BEGIN hunter2\n";
    let error = read(&own.chain, leaky).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}
