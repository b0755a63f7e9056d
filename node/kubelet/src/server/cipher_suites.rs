//! `tlsCipherSuites`: which cipher suites of TLS 1.2 the HTTPS API takes, by the names that Go has for them.
//!
//! Those of TLS 1.3 cannot be chosen, as in Go; naming them is no mistake. Of those of TLS 1.2, what Go has beyond ECDHE with
//! AES-GCM or ChaCha20 is not here, because it is not safe: such names are passed over, if others are left.

use rustls::{CipherSuite, SupportedCipherSuite, crypto::ring};

/// By which names suites of TLS 1.2 are chosen that are here.
const CHOSEN: [(&str, CipherSuite); 8] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Other names that upstream takes: of TLS 1.3, and of what is not here.
const PASSED_OVER: [&str; 19] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

/// The suites that these names leave, in the order in which they are preferred here.
///
/// # Errors
/// What is wrong with the names, for people.
pub(crate) fn read(names: &[String], min_version: &str) -> Result<Vec<SupportedCipherSuite>, String> {
    let all = ring::DEFAULT_CIPHER_SUITES;
    if names.is_empty() {
        return Ok(all.to_vec());
    }
    let mut chosen = Vec::new();
    for name in names {
        match CHOSEN.iter().find(|(known, _)| known == name) {
            Some((_, suite)) => chosen.push(*suite),
            None if PASSED_OVER.contains(&name.as_str()) => {}
            None => return Err(format!("cipher suite {name} not supported or doesn't exist")),
        }
    }
    if chosen.is_empty() && min_version != "VersionTLS13" {
        let here: Vec<_> = CHOSEN.iter().map(|(name, _)| *name).collect();
        return Err(format!(
            "none of these is a suite of TLS 1.2 that this node has; name one of {}, or set tlsMinVersion: VersionTLS13",
            here.join(", ")
        ));
    }
    let is_left = |suite: &&SupportedCipherSuite| suite.tls13().is_some() || chosen.contains(&suite.suite());
    Ok(all.iter().filter(is_left).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites(names: &[&str], min_version: &str) -> Result<Vec<CipherSuite>, String> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let of_tls12 = |suite: SupportedCipherSuite| suite.tls13().is_none().then(|| suite.suite());
        read(&names, min_version).map(|suites| suites.into_iter().filter_map(of_tls12).collect())
    }

    #[test]
    fn names_choose_suites_of_tls_1_2_and_those_of_1_3_stay() {
        assert_eq!(suites(&[], "").unwrap().len(), 6, "all");
        let chosen = suites(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_RSA_WITH_AES_128_GCM_SHA256"], "");
        assert_eq!(chosen.unwrap(), [CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]);
        for (name, _) in CHOSEN {
            assert_eq!(suites(&[name], "").unwrap().len(), 1, "{name}");
        }
        let left = read(&["TLS_AES_128_GCM_SHA256".to_owned()], "VersionTLS13").unwrap();
        assert_eq!(left.len(), 3, "all of TLS 1.3");
    }

    #[test]
    fn names_that_leave_nothing_or_that_nobody_knows_are_refused() {
        for (names, version, expected) in [
            (vec!["TLS_NULL"], "", "cipher suite TLS_NULL not supported or doesn't exist"),
            (vec!["TLS_RSA_WITH_AES_128_CBC_SHA"], "", "name one of TLS_ECDHE_ECDSA"),
            (vec!["TLS_AES_128_GCM_SHA256"], "VersionTLS12", "name one of"),
        ] {
            let error = suites(&names, version).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
