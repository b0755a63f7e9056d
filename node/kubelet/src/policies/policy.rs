//! NetworkPolicies as they are worked with: read once, with defaults filled in. Pure.
//!
//! The rules are those of the [API](https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/).

use std::collections::BTreeMap;

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::core::{Selector, SelectorExt as _};
use kubewasm_rules::{Addresses, Protocol};

/// Labels of an object.
pub(super) type Labels = BTreeMap<String, String>;

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Which pods of its namespace it selects.
    pods: Selector,
    /// What may come in; `None` where it says nothing of that.
    pub(super) ingress: Option<Vec<Clause>>,
    /// What may go out; `None` where it says nothing of that.
    pub(super) egress: Option<Vec<Clause>>,
}

/// One rule of a NetworkPolicy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Clause {
    /// With whom; `None` is everybody.
    pub(super) peers: Option<Vec<Peer>>,
    /// At which ports; `None` is all of them.
    pub(super) ports: Option<Vec<PolicyPort>>,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Peer {
    /// `ipBlock`, without what it excepts.
    Block(Addresses),
    /// Pods with labels, in namespaces.
    Pods {
        /// Where they are.
        namespaces: Namespaces,
        /// Which of them.
        pods: Selector,
    },
}

/// Where a rule's pods are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Namespaces {
    /// In the policy's own.
    Own,
    /// Anywhere.
    All,
    /// In those with labels.
    Labelled(Selector),
}

/// Ports that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PolicyPort {
    pub(super) protocol: Protocol,
    pub(super) port: PortName,
}

/// Which of a protocol's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PortName {
    All,
    Range(u16, u16),
    /// That of a container's port of this name.
    Named(String),
}

impl Policy {
    pub(super) fn of(policy: &NetworkPolicy) -> Self {
        let spec = policy.spec.clone().unwrap_or_default();
        let (ingress, egress) = (spec.ingress.unwrap_or_default(), spec.egress);
        let types = spec.policy_types.unwrap_or_default();
        let has = |name: &str| types.iter().any(|kind| kind == name);
        let (is_ingress, is_egress) =
            if types.is_empty() { (true, egress.is_some()) } else { (has("Ingress"), has("Egress")) };
        let ingress = ingress.into_iter().map(|rule| clause(rule.from, rule.ports));
        let egress = egress.unwrap_or_default().into_iter().map(|rule| clause(rule.to, rule.ports));
        Self {
            namespace: policy.metadata.namespace.clone().unwrap_or_default(),
            name: policy.metadata.name.clone().unwrap_or_default(),
            // The API server takes no selector that cannot be read; of one, all pods would be closed, and not open.
            pods: spec.pod_selector.and_then(selector).unwrap_or_default(),
            ingress: is_ingress.then(|| ingress.collect()),
            egress: is_egress.then(|| egress.collect()),
        }
    }

    /// Whether it is about a pod of its namespace with these labels.
    pub(super) fn selects(&self, labels: &Labels) -> bool {
        self.pods.matches(labels)
    }

    /// Its rules of both kinds.
    pub(super) fn clauses(&self) -> impl Iterator<Item = (Direction, &Clause)> {
        let ingress = self.ingress.iter().flatten().map(|clause| (Direction::Ingress, clause));
        ingress.chain(self.egress.iter().flatten().map(|clause| (Direction::Egress, clause)))
    }
}

/// Which way a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

fn clause(peers: Option<Vec<NetworkPolicyPeer>>, ports: Option<Vec<NetworkPolicyPort>>) -> Clause {
    let peers = peers.filter(|peers| !peers.is_empty());
    let ports = ports.filter(|ports| !ports.is_empty());
    Clause {
        peers: peers.map(|peers| peers.into_iter().filter_map(peer).collect()),
        ports: ports.map(|ports| ports.iter().filter_map(port).collect()),
    }
}

/// `None` is nobody: what the API server does not take.
fn peer(peer: NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = peer.ip_block {
        return Some(Peer::Block(addresses(&block)?));
    }
    let namespaces = match peer.namespace_selector {
        None => {
            peer.pod_selector.as_ref()?;
            Namespaces::Own
        }
        Some(namespaces) => match selector(namespaces)? {
            all if all.selects_all() => Namespaces::All,
            labelled => Namespaces::Labelled(labelled),
        },
    };
    let pods = match peer.pod_selector {
        None => Selector::default(),
        Some(pods) => selector(pods)?,
    };
    Some(Peer::Pods { namespaces, pods })
}

fn selector(selector: LabelSelector) -> Option<Selector> {
    selector.try_into().ok()
}

fn addresses(block: &IPBlock) -> Option<Addresses> {
    let networks = |texts: &mut dyn Iterator<Item = &String>| -> Option<Addresses> {
        texts.map(|text| text.parse::<IpNet>().ok()).collect()
    };
    let all = networks(&mut std::iter::once(&block.cidr))?;
    Some(all.without(&networks(&mut block.except.iter().flatten())?))
}

/// `None` matches nothing that guests have sockets for, as SCTP.
fn port(port: &NetworkPolicyPort) -> Option<PolicyPort> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
    let number = |number: i32| u16::try_from(number).ok();
    let port = match &port.port {
        None => PortName::All,
        Some(IntOrString::Int(first)) => {
            let last = port.end_port.unwrap_or(*first);
            PortName::Range(number(*first)?, number(last)?)
        }
        Some(IntOrString::String(name)) => PortName::Named(name.clone()),
    };
    Some(PolicyPort { protocol, port })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(spec: Value) -> Policy {
        let object = json!({"metadata": {"namespace": "ns", "name": "p"}, "spec": spec});
        Policy::of(&serde_json::from_value(object).unwrap())
    }

    /// How many rules there are of each kind.
    fn kinds(spec: Value) -> (Option<usize>, Option<usize>) {
        let policy = policy(spec);
        (policy.ingress.map(|rules| rules.len()), policy.egress.map(|rules| rules.len()))
    }

    #[test]
    fn without_types_a_policy_is_about_what_it_names_and_always_about_ingress() {
        for (spec, expected) in [
            (json!({"podSelector": {}}), (Some(0), None)),
            (json!({"podSelector": {}, "ingress": [{}]}), (Some(1), None)),
            (json!({"podSelector": {}, "egress": [{}]}), (Some(0), Some(1))),
            (json!({"podSelector": {}, "egress": []}), (Some(0), Some(0))),
            (json!({"podSelector": {}, "policyTypes": ["Egress"]}), (None, Some(0))),
            (json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{}]}), (None, Some(0))),
            (json!({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]}), (Some(0), None)),
            (json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}), (Some(0), Some(0))),
        ] {
            assert_eq!(kinds(spec.clone()), expected, "{spec}");
        }
    }

    #[test]
    fn selectors_select_as_everywhere() {
        let labels = |text: &str| -> Labels {
            let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
            pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        for (selector, text, expected) in [
            (json!({}), "", true),
            (json!({"matchLabels": {"a": "1"}}), "a=1 b=2", true),
            (json!({"matchLabels": {"a": "1"}}), "a=2", false),
            (json!({"matchLabels": {"a": "1", "b": "2"}}), "a=1", false),
            (
                json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}),
                "a=2",
                true,
            ),
            (json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}), "", true),
            (json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}), "a=1", false),
            (json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), "a=", true),
            (json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}), "a=1", false),
            (
                json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}),
                "a=1",
                false,
            ),
        ] {
            assert_eq!(
                policy(json!({"podSelector": selector})).selects(&labels(text)),
                expected,
                "{selector} {text}"
            );
        }
    }

    #[test]
    fn peers_and_ports_that_are_not_there_are_all_and_those_that_match_nothing_are_none() {
        let clause =
            |rule: Value| policy(json!({"podSelector": {}, "ingress": [rule]})).ingress.unwrap().remove(0);
        assert_eq!(clause(json!({})), Clause { peers: None, ports: None });
        assert_eq!(clause(json!({"from": [], "ports": []})), Clause { peers: None, ports: None });
        let sctp = clause(json!({"from": [{}], "ports": [{"protocol": "SCTP", "port": 80}]}));
        assert_eq!(sctp, Clause { peers: Some(Vec::new()), ports: Some(Vec::new()) });
        let ports = clause(json!({"ports": [
            {}, {"protocol": "UDP"}, {"port": 80}, {"port": 8000, "endPort": 9000}, {"port": "web", "protocol": "UDP"},
        ]}));
        let port = |protocol, port| PolicyPort { protocol, port };
        let expected = vec![
            port(Protocol::Tcp, PortName::All),
            port(Protocol::Udp, PortName::All),
            port(Protocol::Tcp, PortName::Range(80, 80)),
            port(Protocol::Tcp, PortName::Range(8000, 9000)),
            port(Protocol::Udp, PortName::Named("web".to_owned())),
        ];
        assert_eq!(ports.ports, Some(expected));
    }
}
