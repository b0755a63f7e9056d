use super::*;
use crate::signature::testing::{BY_COSIGN, Signer};

const ED25519: &str = include_str!("../testdata/ed25519.pub");

fn read(pem: &str) -> Result<Vec<TrustedKey>, String> {
    TrustedKey::read_all(pem.as_bytes(), "team.pub")
}

#[test]
fn keys_that_cosign_makes_and_imports_are_read() {
    for (made, scheme) in BY_COSIGN.iter().zip([Scheme::EcdsaP256, Scheme::RsaPkcs1, Scheme::EcdsaP384]) {
        let keys = read(made.key).unwrap();
        assert_eq!(keys.iter().map(|key| key.scheme).collect::<Vec<_>>(), [scheme]);
        assert_eq!(keys[0].to_string(), "team.pub");
    }
    let both = format!("a comment\n{}\n{}", BY_COSIGN[0].key, BY_COSIGN[1].key);
    assert_eq!(read(&both).unwrap().len(), 2);
}

#[test]
fn texts_without_a_key_that_can_be_used_say_what_would_be_one() {
    let armour =
        |label: &str, base64: &str| format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
    let mut truncated = BY_COSIGN[0].key.lines().collect::<Vec<_>>();
    truncated.remove(2);
    let compressed = "MDkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDIgACQdJivcF3IufEyCZAE246fZbNfsPR2vTjMecYl3TCYW0=";
    let small_rsa = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDK9X5uuk9bzqltv81MOW9J9eOvUX99mvpwOjucot5L07GEemzGe36dohz79K7W7qRFI6VsPYa8yMx/SWoZLPvQHGyUg66pltG+vP2MrYz0u+RhgREtZLkKoFl6YXngz1InLJii99aS7bPGpHfc5mlHd+cW6rvolMetdEfLx6QdgwIDAQAB";
    for (pem, problem) in [
        (String::new(), "holds no public key"),
        ("ssh-ed25519 AAAA".to_owned(), "holds no public key"),
        (armour("ENCRYPTED SIGSTORE PRIVATE KEY", "AAAA"), "holds no public key"),
        (armour("PUBLIC KEY", "!"), "is no PEM"),
        (armour("PUBLIC KEY", "AAAA"), "damaged"),
        (truncated.join("\n"), "damaged"),
        (armour("PUBLIC KEY", compressed), "compressed"),
        (armour("PUBLIC KEY", small_rsa), "between 2048 and 8192 bits"),
        (ED25519.to_owned(), "1.3.101.112, which is not known here; use ECDSA with P-256"),
    ] {
        let error = read(&pem).unwrap_err();
        assert!(error.contains(problem), "{pem:?}: {error}");
    }
}

#[test]
fn a_key_takes_its_own_signatures_in_der_and_no_others() {
    let (signer, stranger) = (Signer::new(), Signer::new());
    let key = signer.key();
    let signature = signer.sign(b"text");
    assert!(key.has_signed(b"text", &signature));
    assert!(!key.has_signed(b"test", &signature), "another text");
    assert!(!stranger.key().has_signed(b"text", &signature), "another key");
    assert!(!key.has_signed(b"text", &signer.sign_plain(b"text")), "two plain numbers are no DER");
    assert!(!key.has_signed(b"text", &[signature.clone(), vec![0]].concat()), "bytes behind it");
    assert!(!key.has_signed(b"text", &signature[..signature.len() - 1]));
    assert!(!key.has_signed(b"text", &[]));
}
