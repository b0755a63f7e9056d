//! Node labels and taints as they are given on a command line, and which labels a node may give itself.
//!
//! A kubelet's credential is held to the rules of the
//! [NodeRestriction](https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction)
//! admission plugin. They are checked at start, so that a wrong flag is an error message and not a
//! registration that the API server refuses for ever.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;

/// Keys under `kubernetes.io` and `k8s.io` that a node may set on itself.
const OWN_KEYS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Reads `--node-labels`: `key=value,key=value`.
///
/// # Errors
/// A sentence that names the pair and says what is wrong with it.
pub fn parse_labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("node label {pair:?} is not of the form key=value"))?;
        check_label(key, value)?;
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

/// Whether a node may give itself this label, and whether the API server would take it at all.
///
/// # Errors
/// A sentence that names the label and says what to do.
pub fn check_label(key: &str, value: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if !is_label_name(name) || prefix.is_some_and(|prefix| !is_dns_subdomain(prefix)) {
        return Err(format!(
            "node label key {key:?} is not valid: it must be a name of at most 63 letters, digits, '-', '_' and '.', \
             optionally behind a DNS name and '/'"
        ));
    }
    if !(value.is_empty() || is_label_name(value)) {
        return Err(format!(
            "value {value:?} of node label {key:?} is not valid: it must be at most 63 letters, digits, '-', '_' \
             and '.', beginning and ending with a letter or digit"
        ));
    }
    match prefix {
        Some(prefix) if is_reserved(prefix) && !OWN_KEYS.contains(&key) && !is_kubelets_own(prefix) => {
            Err(format!(
                "node label {key:?} cannot be set by the node itself: under kubernetes.io and k8s.io a node may set only \
             {}, and any key under kubelet.kubernetes.io/ or node.kubernetes.io/. Let an administrator set it: \
             kubectl label node NAME {key}={value}",
                OWN_KEYS.join(", ")
            ))
        }
        _ => Ok(()),
    }
}

/// Reads `--register-with-taints`: `key=value:Effect,key:Effect`; the empty text means no taints.
///
/// # Errors
/// A sentence that names the taint and says what is wrong with it.
pub fn parse_taints(text: &str) -> Result<Vec<Taint>, String> {
    text.split(',').map(str::trim).filter(|taint| !taint.is_empty()).map(parse_taint).collect()
}

fn parse_taint(text: &str) -> Result<Taint, String> {
    let (pair, effect) =
        text.rsplit_once(':').ok_or_else(|| format!("taint {text:?} is not of the form key=value:Effect"))?;
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let taint = Taint {
        key: key.to_owned(),
        value: (!value.is_empty()).then(|| value.to_owned()),
        effect: effect.to_owned(),
        time_added: None,
    };
    check_taint(&taint)?;
    Ok(taint)
}

/// Whether the API server would take this taint.
///
/// # Errors
/// A sentence that names the taint and says what is wrong with it.
pub fn check_taint(taint: &Taint) -> Result<(), String> {
    let (prefix, name) = taint.key.split_once('/').map_or((None, taint.key.as_str()), |(p, n)| (Some(p), n));
    let value = taint.value.as_deref().unwrap_or_default();
    if !is_label_name(name) || prefix.is_some_and(|prefix| !is_dns_subdomain(prefix)) {
        return Err(format!("taint key {:?} is not a valid label key", taint.key));
    }
    if !(value.is_empty() || is_label_name(value)) {
        return Err(format!("value {value:?} of taint {:?} is not a valid label value", taint.key));
    }
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&taint.effect.as_str()) {
        return Err(format!(
            "effect {:?} of taint {:?} is not one of NoSchedule, PreferNoSchedule and NoExecute",
            taint.effect, taint.key
        ));
    }
    Ok(())
}

/// A DNS-1123 subdomain, which is also what a Node's name must be.
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    let part = |part: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends(part.chars().next())
            && ends(part.chars().next_back())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

fn is_label_name(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_reserved(prefix: &str) -> bool {
    ["kubernetes.io", "k8s.io"].into_iter().any(|domain| is_within(prefix, domain))
}

fn is_kubelets_own(prefix: &str) -> bool {
    ["kubelet.kubernetes.io", "node.kubernetes.io"].into_iter().any(|domain| is_within(prefix, domain))
}

fn is_within(prefix: &str, domain: &str) -> bool {
    prefix.strip_suffix(domain).is_some_and(|front| front.is_empty() || front.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_set_these_labels() {
        for label in [
            "wasm=true",
            "example.com/pool=edge",
            "node.kubernetes.io/wasm=true",
            "eu.node.kubernetes.io/x=1",
            "kubelet.kubernetes.io/x=",
            "topology.kubernetes.io/zone=a",
            "kubernetes.io/os=wasi",
            "notkubernetes.io/x=1",
        ] {
            assert!(parse_labels(label).is_ok(), "{label}: {:?}", parse_labels(label));
        }
    }

    #[test]
    fn a_node_may_not_set_these_labels() {
        for (label, because) in [
            ("node-role.kubernetes.io/wasm=", "cannot be set by the node"),
            ("node-restriction.kubernetes.io/x=1", "cannot be set by the node"),
            ("k8s.io/x=1", "cannot be set by the node"),
            ("wasm", "key=value"),
            ("-x=1", "not valid"),
            ("a/b/c=1", "not valid"),
            ("x=one two", "not valid"),
        ] {
            let refusal = parse_labels(label).expect_err(label);
            assert!(refusal.contains(because), "{label}: {refusal}");
        }
    }

    #[test]
    fn reads_taints() {
        let taints = parse_taints("kubernetes.io/arch=wasm32-wasi:NoSchedule, dedicated:NoExecute").unwrap();
        assert_eq!(taints.len(), 2);
        assert_eq!(taints[0].value.as_deref(), Some("wasm32-wasi"));
        assert_eq!((taints[1].key.as_str(), taints[1].value.as_deref()), ("dedicated", None));
        assert_eq!(parse_taints(""), Ok(Vec::new()));
        for wrong in ["x=1", "x=1:Never", "=1:NoSchedule", "a b=1:NoSchedule"] {
            assert!(parse_taints(wrong).is_err(), "{wrong}");
        }
    }
}
