//! What a certificate that TLS has accepted says of its holder.

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use super::{EnvoyIdentity, IdentityFailure};

/// Most names of one certificate that are looked at.
const MOST_NAMES: usize = 64;

/// The identity in a certificate: its SPIFFE ids and names of DNS, or its common name where it has none of these.
pub(super) fn identity(
    leaf: &CertificateDer<'_>,
    trust_domains: &BTreeSet<String>,
) -> Result<EnvoyIdentity, IdentityFailure> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| IdentityFailure::Nameless)?;
    let alternatives = certificate.subject_alternative_name().map_err(|_| IdentityFailure::Nameless)?;
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let (mut names, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
    let mut is_foreign = false;
    for alternative in alternatives.take(MOST_NAMES) {
        match alternative {
            GeneralName::URI(uri) => {
                let Some(spiffe) = SpiffeId::parse(uri) else { continue };
                if !trust_domains.is_empty() && !trust_domains.contains(spiffe.trust_domain) {
                    is_foreign = true;
                    continue;
                }
                names.insert((*uri).to_owned());
                namespaces.extend(spiffe.namespace.map(str::to_owned));
            }
            GeneralName::DNSName(name) => {
                names.insert(name.to_ascii_lowercase());
            }
            _ => {}
        }
    }
    // Whoever says to be of another domain is not somebody of this one by another name.
    if is_foreign {
        return Err(IdentityFailure::TrustDomain);
    }
    if names.is_empty() {
        let common = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        names.extend(common.filter(|name| !name.is_empty()).map(str::to_owned));
    }
    if names.is_empty() {
        return Err(IdentityFailure::Nameless);
    }
    Ok(EnvoyIdentity::Known { names, namespaces })
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, or any other path, which is of no namespace.
struct SpiffeId<'a> {
    trust_domain: &'a str,
    namespace: Option<&'a str>,
}

impl<'a> SpiffeId<'a> {
    fn parse(uri: &'a str) -> Option<Self> {
        let (trust_domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let mut segments = path.split('/');
        let mut next = || segments.next();
        let namespace = match (next(), next(), next(), next(), next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None)
                if !namespace.is_empty() && !account.is_empty() =>
            {
                Some(namespace)
            }
            _ => None,
        };
        (!trust_domain.is_empty()).then_some(Self { trust_domain, namespace })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common: Option<&str>, names: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        let alternative = |name: &&str| match name.contains("://") {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(alternative).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn known(names: &[&str], namespaces: &[&str]) -> EnvoyIdentity {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        EnvoyIdentity::Known { names: owned(names), namespaces: owned(namespaces) }
    }

    #[test]
    fn a_certificate_names_its_holder() {
        let spiffe = "spiffe://td/ns/team-a/sa/envoy";
        for (common, names, expected) in [
            (Some("ignored"), &[spiffe][..], known(&[spiffe], &["team-a"])),
            (None, &[spiffe, "Gateway.example.org"], known(&["gateway.example.org", spiffe], &["team-a"])),
            (Some("envoy-1"), &[], known(&["envoy-1"], &[])),
            (Some("ignored"), &["a.example.org"], known(&["a.example.org"], &[])),
            (None, &["spiffe://td/ns/team-a"], known(&["spiffe://td/ns/team-a"], &[])),
            (None, &["spiffe://td/ns//sa/x"], known(&["spiffe://td/ns//sa/x"], &[])),
            (None, &["spiffe://td/ns/a/sa/x/ns/b"], known(&["spiffe://td/ns/a/sa/x/ns/b"], &[])),
        ] {
            let identity = identity(&certificate(common, names), &BTreeSet::new()).unwrap();
            assert_eq!(identity, expected, "{names:?}");
        }
        for names in [&[][..], &["https://td/ns/team-a/sa/envoy"]] {
            let nobody = identity(&certificate(None, names), &BTreeSet::new());
            assert!(matches!(nobody, Err(IdentityFailure::Nameless)), "{nobody:?}");
        }
    }

    #[test]
    fn an_id_of_another_trust_domain_is_nobody_by_any_name() {
        let domains = BTreeSet::from(["td".to_owned()]);
        let ours = certificate(None, &["spiffe://td/ns/a/sa/b"]);
        assert!(identity(&ours, &domains).is_ok());
        for names in [&["spiffe://other/ns/a/sa/b"][..], &["spiffe://other/ns/a/sa/b", "a.example.org"]] {
            let foreign = identity(&certificate(Some("x"), names), &domains);
            assert!(matches!(foreign, Err(IdentityFailure::TrustDomain)), "{foreign:?}");
        }
    }
}
