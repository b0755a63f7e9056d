//! The environment variables by which a pod finds services, after upstream's `pkg/kubelet/envvars`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

/// Namespace and name of the API server's own service, which every pod is told of.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// Variables for a pod in `namespace`: always those of the API server's service, and those of all
/// services of the namespace where `links` says so. Services without an address of their own are left out.
#[must_use]
pub(super) fn variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    // By name: a service of the namespace comes before the master service of the same name.
    let mut chosen: BTreeMap<&str, (bool, &Service, &str)> = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let home = service.metadata.namespace.as_deref().unwrap_or_default();
        let Some(ip) = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) else { continue };
        if ip.is_empty() || ip == "None" {
            continue;
        }
        let own = links && home == namespace;
        let master = (home, name) == MASTER;
        if own || (master && !chosen.get(name).is_some_and(|(own, ..)| *own)) {
            chosen.insert(name, (own, service, ip));
        }
    }
    let mut out = BTreeMap::new();
    for (name, (_, service, ip)) in chosen {
        describe(name, service, ip, &mut out);
    }
    out
}

fn describe(name: &str, service: &Service, ip: &str, out: &mut BTreeMap<String, String>) {
    let prefix = variable(name);
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    for (index, port) in ports.iter().enumerate() {
        let number = port.port.to_string();
        if index == 0 {
            out.insert(format!("{prefix}_SERVICE_PORT"), number.clone());
        }
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            out.insert(format!("{prefix}_SERVICE_PORT_{}", variable(name)), number.clone());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let url = format!("{}://{host}:{number}", protocol.to_lowercase());
        if index == 0 {
            out.insert(format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        out.insert(format!("{link}_PROTO"), protocol.to_lowercase());
        out.insert(format!("{link}_PORT"), number);
        out.insert(format!("{link}_ADDR"), ip.to_owned());
        out.insert(link, url);
    }
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(namespace: &str, name: &str, ip: &str, ports: &[(Option<&str>, i32, &str)]) -> Service {
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, port, protocol)| serde_json::json!({"name": name, "port": port, "protocol": protocol}))
            .collect();
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": namespace, "name": name},
            "spec": {"clusterIP": ip, "ports": ports},
        }))
        .unwrap()
    }

    #[test]
    fn one_service_in_full() {
        let services =
            [service("ns", "foo-bar", "10.0.0.5", &[(Some("web-ui"), 80, "TCP"), (None, 53, "UDP")])];
        let variables = variables(&services, "ns", true);
        let expected = [
            ("FOO_BAR_PORT", "tcp://10.0.0.5:80"),
            ("FOO_BAR_PORT_53_UDP", "udp://10.0.0.5:53"),
            ("FOO_BAR_PORT_53_UDP_ADDR", "10.0.0.5"),
            ("FOO_BAR_PORT_53_UDP_PORT", "53"),
            ("FOO_BAR_PORT_53_UDP_PROTO", "udp"),
            ("FOO_BAR_PORT_80_TCP", "tcp://10.0.0.5:80"),
            ("FOO_BAR_PORT_80_TCP_ADDR", "10.0.0.5"),
            ("FOO_BAR_PORT_80_TCP_PORT", "80"),
            ("FOO_BAR_PORT_80_TCP_PROTO", "tcp"),
            ("FOO_BAR_SERVICE_HOST", "10.0.0.5"),
            ("FOO_BAR_SERVICE_PORT", "80"),
            ("FOO_BAR_SERVICE_PORT_WEB_UI", "80"),
        ];
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(variables, expected);
    }

    #[test]
    fn who_is_told_of_what() {
        let services = [
            service("default", "kubernetes", "10.0.0.1", &[(Some("https"), 443, "TCP")]),
            service("default", "other", "10.0.0.2", &[(None, 80, "TCP")]),
            service("ns", "mine", "10.0.0.3", &[(None, 80, "TCP")]),
            service("ns", "headless", "None", &[(None, 80, "TCP")]),
            service("mirror", "kubernetes", "fd00::9", &[(None, 8443, "TCP")]),
        ];
        let hosts = |namespace, links| -> Vec<String> {
            let all = variables(&services, namespace, links);
            all.into_iter()
                .filter(|(k, _)| k.ends_with("_SERVICE_HOST"))
                .map(|(k, v)| format!("{k}={v}"))
                .collect()
        };
        assert_eq!(hosts("ns", true), ["KUBERNETES_SERVICE_HOST=10.0.0.1", "MINE_SERVICE_HOST=10.0.0.3"]);
        assert_eq!(hosts("ns", false), ["KUBERNETES_SERVICE_HOST=10.0.0.1"]);
        assert_eq!(
            hosts("default", true),
            ["KUBERNETES_SERVICE_HOST=10.0.0.1", "OTHER_SERVICE_HOST=10.0.0.2"]
        );
        assert_eq!(hosts("mirror", true), ["KUBERNETES_SERVICE_HOST=fd00::9"]);
        let own = variables(&services, "mirror", true);
        assert_eq!(own.get("KUBERNETES_PORT").map(String::as_str), Some("tcp://[fd00::9]:8443"));
    }
}
