//! Trust anchors from ClusterTrustBundles.

use std::collections::BTreeSet;

use base64::Engine as _;
use k8s_openapi::{
    api::core::v1::ClusterTrustBundleProjection, apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::core::{Selector, SelectorExt as _};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::pods::objects::TrustBundle;

/// The certificates that a projection selects, each once, as PEM. Their order says nothing.
///
/// # Errors
/// Upstream's words for what is missing and not optional.
pub(super) fn anchors(
    projection: &ClusterTrustBundleProjection,
    bundles: Result<&[TrustBundle], &str>,
) -> Result<Vec<u8>, String> {
    let bundles = bundles.map_err(str::to_owned)?;
    let optional = projection.optional == Some(true);
    let selected: Vec<&TrustBundle> = match (&projection.name, &projection.signer_name) {
        (Some(name), _) => {
            let found = bundles.iter().find(|bundle| bundle.name == *name);
            if found.is_none() && !optional {
                return Err(format!("clustertrustbundle.certificates.k8s.io \"{name}\" not found"));
            }
            found.into_iter().collect()
        }
        (None, Some(signer)) => {
            let of_signer = bundles.iter().filter(|bundle| bundle.signer == *signer);
            let selected: Vec<_> = match &projection.label_selector {
                None => Vec::new(),
                Some(selector) => {
                    let selector = parse(selector)?;
                    of_signer.filter(|bundle| selector.matches(&bundle.labels)).collect()
                }
            };
            if selected.is_empty() && !optional {
                return Err(
                    "combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned()
                );
            }
            selected
        }
        (None, None) => {
            return Err(
                "ClusterTrustBundle projection requires either name or signerName to be set".to_owned()
            );
        }
    };
    let mut certificates = BTreeSet::new();
    for bundle in selected {
        for certificate in CertificateDer::pem_slice_iter(bundle.pem.as_bytes()) {
            let certificate = certificate
                .map_err(|error| format!("ClusterTrustBundle {} holds no valid PEM: {error}", bundle.name))?;
            certificates.insert(certificate.to_vec());
        }
    }
    Ok(certificates.iter().map(|der| pem(der)).collect::<String>().into_bytes())
}

fn parse(selector: &LabelSelector) -> Result<Selector, String> {
    Selector::try_from(selector.clone()).map_err(|error| format!("while parsing label selector: {error}"))
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for (index, character) in text.chars().enumerate() {
        if index > 0 && index.is_multiple_of(64) {
            out.push('\n');
        }
        out.push(character);
    }
    out.push_str("\n-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    fn bundles() -> Vec<TrustBundle> {
        let bundle = |name: &str, signer: &str, env: &str, ders: &[&[u8]]| TrustBundle {
            name: name.to_owned(),
            labels: BTreeMap::from([("env".to_owned(), env.to_owned())]),
            signer: signer.to_owned(),
            pem: ders.iter().map(|der| format!("text\n{}", pem(der))).collect(),
        };
        vec![
            bundle("plain", "", "x", &[b"one"]),
            bundle("s:a", "example.com/s", "prod", &[b"two", b"one"]),
            bundle("s:b", "example.com/s", "prod", &[b"two"]),
            bundle("s:c", "example.com/s", "test", &[b"three"]),
            bundle("bad", "", "x", &[]),
        ]
    }

    #[test]
    fn by_name_and_by_signer() {
        let two = format!("{}{}", pem(b"one"), pem(b"two"));
        let prod = json!({"matchLabels": {"env": "prod"}});
        let table: Vec<(Value, Result<String, &str>)> = vec![
            (json!({"name": "plain"}), Ok(pem(b"one"))),
            (json!({"name": "none"}), Err("clustertrustbundle.certificates.k8s.io \"none\" not found")),
            (json!({"name": "none", "optional": true}), Ok(String::new())),
            (json!({"signerName": "example.com/s", "labelSelector": prod}), Ok(two)),
            (
                json!({"signerName": "example.com/s", "labelSelector": {}}),
                Ok(format!("{}{}{}", pem(b"one"), pem(b"three"), pem(b"two"))),
            ),
            (
                json!({"signerName": "example.com/s"}),
                Err("combination of signerName and labelSelector matched zero ClusterTrustBundles"),
            ),
            (json!({"signerName": "other/s", "labelSelector": {}, "optional": true}), Ok(String::new())),
            (json!({}), Err("ClusterTrustBundle projection requires either name or signerName to be set")),
        ];
        let all = bundles();
        for (mut projection, expected) in table {
            projection["path"] = json!("ca.pem");
            let parsed = serde_json::from_value(projection.clone()).unwrap();
            let found = anchors(&parsed, Ok(&all)).map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(found, expected.map_err(str::to_owned), "{projection}");
        }
        let parsed = serde_json::from_value(json!({"path": "x", "name": "plain"})).unwrap();
        assert_eq!(anchors(&parsed, Err("no such API")), Err("no such API".to_owned()));
    }
}
