use rustls::client::danger::ServerCertVerifier as _;

use super::*;

const LIFE: Duration = Duration::from_secs(90 * 86_400);

fn hosts() -> Vec<String> {
    vec!["policies.kubewasm-system.svc".to_owned(), "10.0.0.1".to_owned()]
}

fn pair() -> ServingPair {
    ServingPair::make(&hosts(), SystemTime::now(), LIFE).unwrap()
}

#[test]
fn a_certificate_is_for_its_hosts_and_for_its_life() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let pair = ServingPair::make(&hosts(), now, LIFE).unwrap();
    assert!(pair.covers(&hosts()));
    assert!(!pair.covers(&["other.kubewasm-system.svc".to_owned()]));
    assert_eq!(pair.validity().unwrap(), now - SKEW..now + LIFE);
    assert_eq!(pair.renewal().unwrap(), now + LIFE / 3 * 2);
}

/// What rustls' own verifier of servers says of it, by its authority alone.
#[test]
fn its_authority_vouches_for_it_and_no_other_does() {
    let verify = |pair: &ServingPair, authority: &str| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let name = rustls_pki_types::ServerName::try_from("policies.kubewasm-system.svc").unwrap();
        verifier
            .verify_server_cert(&pair.leaf().unwrap(), &[], &name, &[], rustls_pki_types::UnixTime::now())
            .is_ok()
    };
    let (one, other) = (pair(), pair());
    assert!(verify(&one, one.authority()));
    assert!(!verify(&one, other.authority()));
}

#[test]
fn what_was_made_is_read_again_and_shows_no_key() {
    let pair = pair();
    let read = ServingPair::read(pair.authority(), pair.certificate(), pair.key()).unwrap();
    assert_eq!(read, pair);
    assert!(format!("{read:?}").contains(&pair.fingerprint()));
    assert!(!format!("{read:?}").contains("PRIVATE"));
}

#[test]
fn what_does_not_fit_together_is_not_read() {
    let (one, other) = (pair(), pair());
    let read = |authority: &str, certificate: &str, key: &str| {
        ServingPair::read(authority, certificate, key).is_ok()
    };
    assert!(!read(one.authority(), one.certificate(), other.key()));
    assert!(!read("", one.certificate(), one.key()));
    assert!(!read(one.authority(), "", one.key()));
    assert!(!read(one.authority(), one.certificate(), ""));
}

#[test]
fn a_bundle_has_each_authority_once() {
    let (one, other) = (pair(), pair());
    let both = bundle([one.authority(), other.authority(), one.authority(), "noise"]);
    assert_eq!(blocks(&both).len(), 2);
    assert!(contains(&both, one.authority()) && contains(&both, other.authority()));
    assert!(!contains(one.authority(), &both));
    assert_eq!(bundle(["", "-----BEGIN CERTIFICATE-----\nhalf"]), "");
}
