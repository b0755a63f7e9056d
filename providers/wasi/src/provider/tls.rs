//! The certificates of containers that serve HTTP over TLS: in Secrets that annotations name. Pure.

use std::{collections::BTreeMap, sync::Arc};

use kubewasm_host::http::ServerCertificate;
use kubewasm_kubelet::runtime::ObjectContents;

const TLS: &str = "tls.kubewasm.dev";
/// The type of Secrets with a certificate, and where in them it is, and its key.
const KIND: &str = "kubernetes.io/tls";
const CHAIN: &str = "tls.crt";
const KEY: &str = "tls.key";

/// The annotation of a container.
pub(super) fn annotation(container: &str) -> String {
    format!("{TLS}/{container}")
}

/// The Secret that a container's certificate is in, if it is to have one.
pub(super) fn secret<'a>(container: &str, annotations: &'a BTreeMap<String, String>) -> Option<&'a String> {
    annotations.get(&annotation(container))
}

/// An annotation that is about none of the pod's containers, or does not say about which: whoever has written it would be served without TLS.
///
/// # Errors
/// Which, and what it may be.
pub(super) fn check(annotations: &BTreeMap<String, String>, containers: &[String]) -> Result<(), String> {
    if annotations.contains_key(TLS) {
        let all: Vec<_> = containers.iter().map(|container| annotation(container)).collect();
        return Err(format!(
            "the annotation {TLS} names no container of the pod; it must be one of: {}",
            all.join(", ")
        ));
    }
    let prefix = annotation("");
    let named = annotations.keys().filter_map(|key| key.strip_prefix(&prefix));
    let mut strange = named.filter(|name| !containers.iter().any(|container| container == name));
    match strange.next() {
        None => Ok(()),
        Some(name) => Err(format!(
            "the annotation {prefix}{name} names no container of the pod; behind the slash may be: {}",
            containers.join(", ")
        )),
    }
}

/// The certificate that a container is to have, if any.
///
/// # Errors
/// What is wrong with the Secret, by the name of the annotation, the Secret and its key; nothing of what is in it.
pub(super) fn certificate(
    container: &str,
    annotations: &BTreeMap<String, String>,
    objects: &ObjectContents,
) -> Result<Option<Arc<ServerCertificate>>, String> {
    let Some(name) = secret(container, annotations) else { return Ok(None) };
    let annotation = annotation(container);
    let Some(secret) = objects.secrets.get(name) else {
        return Err(format!("secret {name:?}, which the annotation {annotation} names, was not read"));
    };
    if secret.kind != KIND {
        return Err(format!(
            "the annotation {annotation} names the secret {name:?}, whose type is {:?}, and must be {KIND:?}, as `kubectl create secret \
             tls` makes it",
            secret.kind
        ));
    }
    let value = |key: &str| {
        let value = secret.data.get(key).filter(|value| !value.is_empty());
        value.ok_or_else(|| {
            format!(
                "the annotation {annotation} names the secret {name:?}, which has nothing in its key {key}"
            )
        })
    };
    let certificate = ServerCertificate::from_pem(value(CHAIN)?, value(KEY)?).map_err(|error| {
        let key = if error.is_about_key() { KEY } else { CHAIN };
        format!("the key {key} of the secret {name:?}, which the annotation {annotation} names: {error}")
    })?;
    Ok(Some(Arc::new(certificate)))
}

#[cfg(test)]
mod tests {
    use kubewasm_kubelet::runtime::SecretContent;

    use super::*;

    fn annotations(container: &str) -> BTreeMap<String, String> {
        [(annotation(container), "web".to_owned()), ("other/main".to_owned(), String::new())].into()
    }

    fn read(kind: &str, data: &[(&str, &str)]) -> Result<Option<Arc<ServerCertificate>>, String> {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
        let secrets = [("web".to_owned(), SecretContent { kind: kind.to_owned(), data })].into();
        let objects = ObjectContents { secrets, ..ObjectContents::default() };
        certificate("main", &annotations("main"), &objects)
    }

    fn signed() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_is_in_the_secret_that_the_annotation_names() {
        let (chain, key) = signed();
        assert!(read(KIND, &[(CHAIN, &chain), (KEY, &key), ("ca.crt", "")]).unwrap().is_some());
        assert_eq!(certificate("other", &annotations("main"), &ObjectContents::default()), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_told_by_annotation_secret_and_key() {
        let ((chain, key), (_, other)) = (signed(), signed());
        for (kind, data, expected) in [
            (
                "Opaque",
                &[(CHAIN, chain.as_str()), (KEY, &key)][..],
                "type is \"Opaque\", and must be \"kubernetes.io/tls\"",
            ),
            (KIND, &[(KEY, &key)], "which has nothing in its key tls.crt"),
            (KIND, &[(CHAIN, &chain), (KEY, "")], "which has nothing in its key tls.key"),
            (KIND, &[(CHAIN, "x"), (KEY, &key)], "the key tls.crt of the secret \"web\""),
            (KIND, &[(CHAIN, &chain), (KEY, "x")], "it has no private key that can be read"),
            (KIND, &[(CHAIN, &chain), (KEY, &other)], "is not that of the first certificate"),
        ] {
            let error = read(kind, data).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("tls.kubewasm.dev/main") && error.contains("\"web\""), "{error}");
        }
        let error = certificate("main", &annotations("main"), &ObjectContents::default()).unwrap_err();
        assert!(error.contains("was not read"), "{error}");
    }

    #[test]
    fn an_annotation_must_be_about_a_container_of_the_pod() {
        let containers = ["init", "main"].map(str::to_owned);
        assert_eq!(check(&annotations("main"), &containers), Ok(()));
        let error = check(&annotations("mian"), &containers).unwrap_err();
        assert!(error.contains("tls.kubewasm.dev/mian") && error.ends_with("init, main"), "{error}");
        let bare = [("tls.kubewasm.dev".to_owned(), "web".to_owned())].into();
        let error = check(&bare, &containers).unwrap_err();
        assert!(error.starts_with("the annotation tls.kubewasm.dev names no container"), "{error}");
        assert!(error.ends_with("tls.kubewasm.dev/init, tls.kubewasm.dev/main"), "{error}");
    }
}
