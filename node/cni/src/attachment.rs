//! What plugins are told of a pod. Pure.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The interface of every pod.
pub(crate) const INTERFACE: &str = "eth0";

/// Which pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A port of the node that leads to one of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The node's.
    pub host_port: u16,
    /// The pod's.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The node's address; empty for all of them.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
}

/// What a pod may send and receive, in bits each second; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// To the pod.
    pub ingress: u64,
    /// From the pod.
    pub egress: u64,
}

/// How a pod resolves names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDns {
    /// Addresses.
    pub servers: Vec<String>,
    /// Domains.
    pub searches: Vec<String>,
    /// As in `resolv.conf`.
    pub options: Vec<String>,
}

/// A pod that is to have a sandbox. Its `Debug` shows no annotations: they are not for everybody.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SandboxRequest {
    /// Which pod.
    pub pod: PodName,
    /// Its host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Its limits; `None` where it has none.
    pub bandwidth: Option<Bandwidth>,
    /// How it resolves names.
    pub dns: PodDns,
    /// Its annotations, for plugins that ask for them.
    pub annotations: BTreeMap<String, String>,
}

impl fmt::Debug for SandboxRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxRequest")
            .field("pod", &self.pod)
            .field("port_mappings", &self.port_mappings)
            .field("bandwidth", &self.bandwidth)
            .finish_non_exhaustive()
    }
}

/// How much may be sent at once: as much as containerd lets a pod send, which is all that the field holds.
const BURST: u64 = u32::MAX as u64;

/// The attachment of a pod to the network: what all plugins of it are told, and told again when it is removed.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    /// `CNI_CONTAINERID`: the id of the sandbox.
    pub(crate) container_id: String,
    pub(crate) pod: PodName,
    /// Arguments for plugins that have the capability, by its name.
    pub(crate) capabilities: Map<String, Value>,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("container_id", &self.container_id)
            .field("pod", &self.pod)
            .finish_non_exhaustive()
    }
}

/// A pod whose name would be taken for something else among the arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pod's namespace, name or UID has a ';' or a '=' in it, which CNI plugins cannot be told")]
pub(crate) struct UntellableName;

impl Attachment {
    pub(crate) fn of(request: &SandboxRequest) -> Result<Self, UntellableName> {
        let PodName { namespace, name, uid } = &request.pod;
        if [namespace, name, uid].iter().any(|text| text.contains([';', '=', '\0'])) {
            return Err(UntellableName);
        }
        Ok(Self { container_id: id(uid), pod: request.pod.clone(), capabilities: capabilities(request) })
    }

    /// `CNI_ARGS`, as containerd sends them.
    pub(crate) fn arguments(&self) -> String {
        let PodName { namespace, name, uid } = &self.pod;
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={};\
             K8S_POD_UID={uid}",
            self.container_id
        )
    }
}

/// The id of a pod's sandbox, 64 hexadecimal digits: always the same one, so that it is known of a pod of which nothing
/// was written down.
pub(crate) fn id(uid: &str) -> String {
    Sha256::digest(format!("sandbox {uid}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a sandbox's namespace, of the form that the tools of networks look for: `cni-` and a UUID.
pub(crate) fn namespace_name(id: &str) -> String {
    let part = |from: usize, to: usize| id.get(from..to).unwrap_or_default();
    format!("cni-{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// Arguments by the names of the [conventions](https://www.cni.dev/docs/conventions/), and containerd's for annotations.
fn capabilities(request: &SandboxRequest) -> Map<String, Value> {
    let SandboxRequest { port_mappings, bandwidth, dns, annotations, .. } = request;
    let mut all = Map::new();
    all.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(annotations));
    if !port_mappings.is_empty() {
        all.insert("portMappings".to_owned(), json!(port_mappings));
    }
    if let Some(Bandwidth { ingress, egress }) = bandwidth {
        let mut limits = Map::new();
        for (name, rate) in [("ingress", *ingress), ("egress", *egress)] {
            if rate > 0 {
                limits.insert(format!("{name}Rate"), json!(rate));
                limits.insert(format!("{name}Burst"), json!(BURST));
            }
        }
        all.insert("bandwidth".to_owned(), Value::Object(limits));
    }
    if *dns != PodDns::default() {
        all.insert("dns".to_owned(), json!(dns));
    }
    all
}

/// Addresses, of which a pod has at most one of each family: the first.
pub(crate) fn one_of_each(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in addresses {
        if found.iter().all(|other| other.is_ipv4() != address.is_ipv4()) {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> SandboxRequest {
        let [namespace, name, uid] =
            ["ns", "web-0", "0b7f4b53-6a0c-4c53-9e7e-7d3d9f4b0a11"].map(str::to_owned);
        SandboxRequest { pod: PodName { namespace, name, uid }, ..SandboxRequest::default() }
    }

    #[test]
    fn plugins_are_told_what_containerd_tells_them() {
        let attachment = Attachment::of(&request()).unwrap();
        let id = &attachment.container_id;
        assert_eq!(id.len(), 64);
        assert_eq!(
            attachment.arguments(),
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID={id};\
                 K8S_POD_UID=0b7f4b53-6a0c-4c53-9e7e-7d3d9f4b0a11"
            )
        );
        let name = namespace_name(id);
        assert_eq!(name.len(), "cni-".len() + 36);
        assert!(name.starts_with(&format!("cni-{}-", &id[..8])), "{name}");
    }

    #[test]
    fn a_name_cannot_pass_for_another_argument() {
        for part in ["a;K8S_POD_NAME=b", "a=b", "a\0"] {
            let mut request = request();
            request.pod.uid = part.to_owned();
            assert_eq!(Attachment::of(&request), Err(UntellableName));
        }
    }

    #[test]
    fn arguments_have_their_usual_names() {
        let request = SandboxRequest {
            port_mappings: vec![PortMapping {
                host_port: 8080,
                container_port: 80,
                protocol: "tcp".to_owned(),
                host_ip: String::new(),
            }],
            bandwidth: Some(Bandwidth { ingress: 1_000_000, egress: 0 }),
            dns: PodDns { servers: vec!["10.96.0.10".to_owned()], ..PodDns::default() },
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            ..request()
        };
        assert_eq!(
            Value::Object(capabilities(&request)),
            json!({
                "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "" }],
                "bandwidth": { "ingressRate": 1_000_000, "ingressBurst": 4_294_967_295_u64 },
                "dns": { "servers": ["10.96.0.10"], "searches": [], "options": [] },
                "io.kubernetes.cri.pod-annotations": { "a": "b" },
            })
        );
        let none = capabilities(&SandboxRequest::default());
        assert_eq!(none.keys().collect::<Vec<_>>(), ["io.kubernetes.cri.pod-annotations"]);
    }

    #[test]
    fn annotations_are_not_for_logs() {
        let annotations = BTreeMap::from([("token".to_owned(), "hunter2".to_owned())]);
        let request = SandboxRequest { annotations, ..request() };
        let attachment = Attachment::of(&request).unwrap();
        assert!(!format!("{request:?} {attachment:?}").contains("hunter2"));
    }

    #[test]
    fn a_pod_has_one_address_of_each_family() {
        let ips = |text: &str| -> Vec<IpAddr> { text.split(' ').map(|ip| ip.parse().unwrap()).collect() };
        assert_eq!(one_of_each(ips("fd00::1 10.0.0.1 10.0.0.2 fd00::2")), ips("fd00::1 10.0.0.1"));
    }
}
