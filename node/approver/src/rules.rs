//! Who gets which certificate.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::{
    NODE_LABEL,
    request::{NODE_USER, NodeRequest, Purpose},
};

/// The architecture that a node says it is of.
const ARCHITECTURE: (&str, &str) = ("kubernetes.io/arch", "wasm32-wasi");

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A pod that is to become a node, with the token that its service account gave it.
    Pod {
        /// Name of the pod.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// A node, of this name.
    Node(String),
    /// The service account, with a token that says no pod.
    Unbound,
    /// Somebody about whom there are no rules here.
    Stranger,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It fits.
    Approve,
    /// It does not, for this reason.
    Deny(String),
    /// It is for others to say.
    Leave,
    /// What it has to be held against is not there yet.
    Later(String),
}

/// Whether anybody here is to look at a request of this asker at all, before it is known what stands in it.
pub(crate) fn concerns(asker: &Asker) -> bool {
    *asker != Asker::Stranger
}

/// What becomes of a request.
///
/// `pods` are those of the service account that say by their label that they are the node that the request is about.
pub(crate) fn judge(
    purpose: Purpose,
    asker: &Asker,
    request: &NodeRequest,
    prefix: &str,
    pods: &[Pod],
    node: Option<&Node>,
) -> Verdict {
    match (asker, purpose) {
        (Asker::Stranger, _) => Verdict::Leave,
        (Asker::Unbound, _) => {
            Verdict::Deny("it was made with a token that is bound to no pod; a pod asks with its own".into())
        }
        (Asker::Pod { .. }, Purpose::Serving) => {
            Verdict::Deny(format!("a serving certificate is asked for by the node itself, {NODE_USER}NAME"))
        }
        (Asker::Pod { name, uid }, Purpose::Client) => {
            first_client(name, uid, &request.node, prefix, pods, node)
        }
        // A node that is no pod of ours may be anybody's.
        (Asker::Node(_), _) if pods.is_empty() => Verdict::Leave,
        (Asker::Node(own), _) if *own != request.node => {
            Verdict::Deny(format!("node {own} asks for a certificate of node {}", request.node))
        }
        (Asker::Node(_), Purpose::Client) => Verdict::Approve,
        (Asker::Node(own), Purpose::Serving) => serving(own, request, pods),
    }
}

fn first_client(
    name: &str,
    uid: &str,
    wanted: &str,
    prefix: &str,
    pods: &[Pod],
    node: Option<&Node>,
) -> Verdict {
    if !wanted.starts_with(prefix) {
        return Verdict::Deny(format!(
            "nodes that run as pods have names that begin with \"{prefix}\" (--node-prefix), and {wanted} does not"
        ));
    }
    let asks =
        |pod: &&Pod| pod.metadata.name.as_deref() == Some(name) && pod.metadata.uid.as_deref() == Some(uid);
    if !pods.iter().any(|pod| asks(&pod)) {
        return Verdict::Deny(format!(
            "pod {name} does not say that it is node {wanted}; its label {NODE_LABEL} would"
        ));
    }
    // A pod must not become a node that is there already, unless that is one of ours.
    match node {
        Some(node) if !is_ours(node) => Verdict::Deny(format!(
            "there is a node {wanted} that is not labelled {}={}",
            ARCHITECTURE.0, ARCHITECTURE.1
        )),
        Some(_) | None => Verdict::Approve,
    }
}

fn is_ours(node: &Node) -> bool {
    node.metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(ARCHITECTURE.0))
        .is_some_and(|value| value == ARCHITECTURE.1)
}

fn serving(own: &str, request: &NodeRequest, pods: &[Pod]) -> Verdict {
    let addresses: Vec<IpAddr> = pods.iter().flat_map(addresses).collect();
    if addresses.is_empty() {
        return Verdict::Later(format!("the pod that is node {own} has no address yet"));
    }
    let names: Vec<&str> = pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).chain([own]).collect();
    if let Some(name) = request.names.iter().find(|name| !names.contains(&name.as_str())) {
        return Verdict::Deny(format!(
            "it asks for the name {name}; node {own} may have {}",
            names.join(", ")
        ));
    }
    if let Some(address) = request.addresses.iter().find(|address| !addresses.contains(address)) {
        let have: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        return Verdict::Deny(format!(
            "it asks for the address {address}; the pod that is node {own} has {}",
            have.join(", ")
        ));
    }
    Verdict::Approve
}

/// The addresses at which a pod is reached.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    status.pod_ips.iter().flatten().filter_map(|address| address.ip.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{PodIP, PodStatus},
        apimachinery::pkg::apis::meta::v1::ObjectMeta,
    };

    use super::*;

    fn pod(name: &str, addresses: &[&str]) -> Pod {
        let pod_ips = addresses.iter().map(|&ip| PodIP { ip: ip.into() }).collect();
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                uid: Some(format!("{name}-uid")),
                ..ObjectMeta::default()
            },
            status: Some(PodStatus { pod_ips: Some(pod_ips), ..PodStatus::default() }),
            ..Pod::default()
        }
    }

    fn node(architecture: &str) -> Node {
        let labels = [(ARCHITECTURE.0.to_owned(), architecture.to_owned())].into();
        Node { metadata: ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }, ..Node::default() }
    }

    fn request(names: &[&str], addresses: &[&str]) -> NodeRequest {
        NodeRequest {
            node: "wasm-1".into(),
            names: names.iter().map(|&name| name.into()).collect(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    fn asker(name: &str) -> Asker {
        Asker::Pod { name: name.into(), uid: format!("{name}-uid") }
    }

    fn denied(verdict: Verdict) -> String {
        match verdict {
            Verdict::Deny(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_becomes_the_node_that_its_label_names() {
        let judge = |asker: &Asker, prefix: &str, pods: &[Pod], node: Option<&Node>| {
            judge(Purpose::Client, asker, &request(&[], &[]), prefix, pods, node)
        };
        let pods = [pod("a", &[])];
        assert_eq!(judge(&asker("a"), "wasm-", &pods, None), Verdict::Approve);
        assert_eq!(judge(&asker("a"), "", &pods, Some(&node("wasm32-wasi"))), Verdict::Approve);
        assert!(denied(judge(&asker("a"), "edge-", &pods, None)).contains("--node-prefix"));
        assert!(denied(judge(&asker("b"), "wasm-", &pods, None)).contains("kubewasm.dev/node"));
        let of_before = Asker::Pod { name: "a".into(), uid: "another".into() };
        assert!(denied(judge(&of_before, "wasm-", &pods, None)).contains("kubewasm.dev/node"));
        assert!(denied(judge(&asker("a"), "wasm-", &pods, Some(&node("amd64")))).contains("wasm32-wasi"));
        assert!(denied(judge(&asker("a"), "wasm-", &pods, Some(&Node::default()))).contains("wasm32-wasi"));
        assert!(denied(judge(&Asker::Unbound, "wasm-", &pods, None)).contains("bound to no pod"));
    }

    #[test]
    fn a_node_serves_at_the_addresses_of_its_pod_and_nowhere_else() {
        let pods = [pod("a", &["10.0.0.1", "fd00::1"])];
        let own = Asker::Node("wasm-1".into());
        let judge = |names: &[&str], addresses: &[&str]| {
            judge(Purpose::Serving, &own, &request(names, addresses), "", &pods, None)
        };
        assert_eq!(judge(&["wasm-1", "a"], &["10.0.0.1", "fd00::1"]), Verdict::Approve);
        assert!(denied(judge(&["wasm-1", "kubernetes.default"], &[])).contains("kubernetes.default"));
        assert!(denied(judge(&["wasm-1"], &["10.0.0.2"])).contains("10.0.0.2"));
    }

    #[test]
    fn a_node_whose_pod_has_no_address_yet_is_looked_at_again() {
        let own = Asker::Node("wasm-1".into());
        let verdict = judge(Purpose::Serving, &own, &request(&["wasm-1"], &[]), "", &[pod("a", &[])], None);
        assert!(matches!(verdict, Verdict::Later(_)), "{verdict:?}");
    }

    #[test]
    fn nodes_renew_their_own_certificate_and_get_nobody_elses() {
        let pods = [pod("a", &["10.0.0.1"])];
        let judge = |name: &str, purpose| {
            judge(purpose, &Asker::Node(name.into()), &request(&[], &[]), "", &pods, None)
        };
        assert_eq!(judge("wasm-1", Purpose::Client), Verdict::Approve);
        for purpose in [Purpose::Client, Purpose::Serving] {
            assert!(denied(judge("wasm-2", purpose)).contains("wasm-2"));
        }
    }

    #[test]
    fn what_is_not_of_ours_is_left_to_others() {
        let request = request(&["wasm-1"], &["10.0.0.1"]);
        for purpose in [Purpose::Client, Purpose::Serving] {
            for asker in [Asker::Node("wasm-1".into()), Asker::Stranger] {
                assert_eq!(judge(purpose, &asker, &request, "", &[], None), Verdict::Leave, "{asker:?}");
            }
        }
        assert!(!concerns(&Asker::Stranger));
    }

    #[test]
    fn a_pod_gets_no_serving_certificate() {
        let verdict =
            judge(Purpose::Serving, &asker("a"), &request(&["wasm-1"], &[]), "", &[pod("a", &[])], None);
        assert!(denied(verdict).contains("system:node:NAME"));
    }
}
