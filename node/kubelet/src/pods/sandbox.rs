//! What the network of a pod is made by, where the provider makes one for each ([`PodSandbox`]). Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use super::{files::resolv_conf::Dns, host_ports};
use crate::{
    quantity,
    runtime::{PodSandbox, SandboxPort},
};

/// Annotations with a pod's limits, in bits each second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// What upstream takes for a limit that somebody has meant.
const LEAST_BITS: u64 = 1_000;
const MOST_BITS: u64 = 1_000_000_000_000_000;

/// The sandbox of a pod that resolves names so.
///
/// # Errors
/// The message for the user: an annotation makes no sense.
pub(super) fn of(pod: &Pod, dns: Dns) -> Result<PodSandbox, String> {
    let meta = &pod.metadata;
    let annotations = meta.annotations.clone().unwrap_or_default();
    Ok(PodSandbox {
        pod_uid: meta.uid.clone().unwrap_or_default(),
        pod_namespace: meta.namespace.clone().unwrap_or_default(),
        pod_name: meta.name.clone().unwrap_or_default(),
        host_ports: ports(pod),
        ingress_bandwidth: bandwidth(&annotations, INGRESS)?,
        egress_bandwidth: bandwidth(&annotations, EGRESS)?,
        annotations,
        dns_servers: dns.servers,
        dns_searches: dns.searches,
        dns_options: dns.options,
    })
}

/// The ports of its regular containers, as upstream has it, each once.
fn ports(pod: &Pod) -> Vec<SandboxPort> {
    let mut found = Vec::new();
    for port in host_ports::asked_by(pod.spec.iter().flat_map(|spec| &spec.containers)) {
        if !found.contains(&port) {
            found.push(port);
        }
    }
    found
}

fn bandwidth(annotations: &BTreeMap<String, String>, name: &str) -> Result<u64, String> {
    let Some(text) = annotations.get(name) else { return Ok(0) };
    let wrong = |why: &str| format!("the annotation {name}={text:?} is no bandwidth such as 10M: {why}");
    match quantity::units(text).map_err(|error| wrong(&error.to_string()))? {
        bits if bits < LEAST_BITS => Err(wrong("resource is unreasonably small (< 1kbit)")),
        bits if bits > MOST_BITS => Err(wrong("resource is unreasonably large (> 1Pbit)")),
        bits => Ok(bits),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sandbox(annotations: Value, containers: Value) -> Result<PodSandbox, String> {
        let pod = json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u", "annotations": annotations },
            "spec": { "containers": containers },
        });
        let dns = Dns { servers: vec!["10.96.0.10".to_owned()], ..Dns::default() };
        of(&serde_json::from_value(pod).unwrap(), dns)
    }

    #[test]
    fn host_ports_are_those_of_regular_containers() {
        let containers = json!([
            { "name": "a", "ports": [
                { "containerPort": 80, "hostPort": 8080 },
                { "containerPort": 80, "hostPort": 8080, "name": "twice" },
                { "containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1" },
                { "containerPort": 9000 },
            ]},
            { "name": "b", "ports": [{ "containerPort": 81, "hostPort": 8081 }, { "containerPort": 82, "hostPort": 0 }] },
        ]);
        let ports = sandbox(json!({}), containers).unwrap().host_ports;
        let texts: Vec<_> = ports
            .iter()
            .map(|p| format!("{}:{}->{}/{}", p.host_ip, p.host_port, p.container_port, p.protocol))
            .collect();
        assert_eq!(texts, [":8080->80/tcp", "192.0.2.1:53->53/udp", ":8081->81/tcp"]);
    }

    #[test]
    fn limits_are_annotations() {
        let made = sandbox(json!({ INGRESS: "10M" }), json!([])).unwrap();
        assert_eq!((made.ingress_bandwidth, made.egress_bandwidth), (10_000_000, 0));
        assert_eq!(
            (made.pod_uid.as_str(), made.dns_servers.as_slice()),
            ("u", &["10.96.0.10".to_owned()][..])
        );
        for (text, expected) in
            [("fast", "is no bandwidth"), ("999", "small (< 1kbit)"), ("2P", "large (> 1Pbit)")]
        {
            let error = sandbox(json!({ EGRESS: text }), json!([])).unwrap_err();
            assert!(error.contains(EGRESS) && error.contains(expected), "{error}");
        }
    }
}
