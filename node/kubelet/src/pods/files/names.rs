//! A pod's host name and domain, after upstream's `GeneratePodHostNameAndDomain`.

use k8s_openapi::api::core::v1::Pod;

/// The longest name that a Linux host can have.
const FQDN_LIMIT: usize = 64;

/// Names of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// What the guest finds in `HOSTNAME` and in `/etc/hostname`.
    pub hostname: String,
    /// What follows the host name in the pod's full name; `None` where it has no subdomain.
    pub domain: Option<String>,
}

impl Names {
    /// The names of a pod: `hostnameOverride`, `hostname`, or the pod's own name, of which the first 63
    /// characters are kept. With `subdomain` there is a full name, too, below `cluster_domain`. A pod that
    /// shares the node's network has the name of the node, `node`.
    ///
    /// # Errors
    /// The message for the user, when `setHostnameAsFQDN` asks for a name that is too long.
    pub fn of(pod: &Pod, node: &str, cluster_domain: &str) -> Result<Self, String> {
        let Some(spec) = pod.spec.as_ref() else { return Ok(Self::default()) };
        fn given(text: &Option<String>) -> Option<&str> {
            text.as_deref().filter(|text| !text.is_empty())
        }
        if let Some(name) = given(&spec.hostname_override) {
            return Ok(Self { hostname: name.to_owned(), domain: None });
        }
        if spec.host_network == Some(true) && !node.is_empty() {
            return Ok(Self { hostname: node.to_owned(), domain: None });
        }
        let own = pod.metadata.name.as_deref().unwrap_or_default();
        let hostname = given(&spec.hostname).map_or_else(|| first_label(own), str::to_owned);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let domain = given(&spec.subdomain)
            .map(|subdomain| format!("{subdomain}.{namespace}.svc.{cluster_domain}"))
            .map(|domain| domain.trim_end_matches('.').to_owned());
        match &domain {
            Some(domain) if spec.set_hostname_as_fqdn == Some(true) => {
                let name = format!("{hostname}.{domain}");
                if name.len() > FQDN_LIMIT {
                    return Err(format!(
                        "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {name} is too long \
                         ({FQDN_LIMIT} characters is the max, {} characters requested)",
                        name.len()
                    ));
                }
                Ok(Self { hostname: name, domain: None })
            }
            _ => Ok(Self { hostname, domain }),
        }
    }
}

fn first_label(name: &str) -> String {
    let kept: String = name.chars().take(63).collect();
    if kept.len() == name.len() { kept } else { kept.trim_end_matches(['-', '.']).to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn host_names() {
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        let cut = "a".repeat(62);
        let table: Vec<(&str, Value, &str, Option<&str>)> = vec![
            ("web-0", json!({}), "web-0", None),
            ("web-0", json!({"hostname": ""}), "web-0", None),
            ("web-0", json!({"hostname": "h"}), "h", None),
            ("web-0", json!({"hostname": "h", "hostnameOverride": "o.example"}), "o.example", None),
            ("web-0", json!({"subdomain": "db"}), "web-0", Some("db.ns.svc.cluster.local")),
            ("web-0", json!({"hostname": "h", "subdomain": "db"}), "h", Some("db.ns.svc.cluster.local")),
            (
                "web-0",
                json!({"subdomain": "db", "setHostnameAsFQDN": true}),
                "web-0.db.ns.svc.cluster.local",
                None,
            ),
            ("web-0", json!({"setHostnameAsFQDN": true}), "web-0", None),
            ("web-0", json!({"hostNetwork": true}), "node-1", None),
            (&long, json!({}), &cut, None),
        ];
        for (name, mut spec, hostname, domain) in table {
            spec["containers"] = json!([]);
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec}))
                    .unwrap();
            let names = Names::of(&pod, "node-1", "cluster.local").unwrap();
            assert_eq!((names.hostname.as_str(), names.domain.as_deref()), (hostname, domain), "{pod:?}");
        }
    }

    #[test]
    fn a_full_name_that_is_too_long_is_an_error() {
        let spec = json!({"containers": [], "subdomain": "d".repeat(63), "setHostnameAsFQDN": true});
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}))
                .unwrap();
        let error = Names::of(&pod, "n", "cluster.local").unwrap_err();
        assert!(error.contains("(64 characters is the max, 86 characters requested)"), "{error}");
    }

    #[test]
    fn a_node_without_a_cluster_domain() {
        let spec = json!({"containers": [], "subdomain": "db"});
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}))
                .unwrap();
        assert_eq!(Names::of(&pod, "n", "").unwrap().domain.as_deref(), Some("db.ns.svc"));
    }
}
