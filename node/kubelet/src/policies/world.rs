//! What rules are made from: this node's pods, and what is known of the cluster. Plain values.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};
use kube::core::{Selector, SelectorExt as _};
use kubewasm_rules::Protocol;

use super::policy::{Labels, Namespaces, Peer, Policy};
use crate::pods::sidecar;

/// Namespaces whose pods are followed one by one. Where a rule is about more, all pods with its labels are followed.
const FOLLOWED_NAMESPACES: usize = 16;

/// A pod of this node with addresses of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LocalPod {
    pub(super) namespace: String,
    pub(super) labels: Labels,
    pub(super) ports: Vec<NamedPort>,
    /// How Events name it.
    pub(super) reference: ObjectReference,
}

/// A port of a container that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
}

/// A pod of the cluster that rules are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerPod {
    pub(super) namespace: String,
    pub(super) ips: Vec<IpAddr>,
    pub(super) ports: Vec<NamedPort>,
}

/// Which pods of the cluster are followed together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PodScope {
    /// `None` is all of them.
    pub(super) namespace: Option<String>,
    /// As the API server takes it; empty selects all.
    pub(super) selector: String,
}

impl fmt::Display for PodScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pods")?;
        if let Some(namespace) = &self.namespace {
            write!(f, " of namespace {namespace}")?;
        }
        if self.selector.is_empty() { Ok(()) } else { write!(f, " with {}", self.selector) }
    }
}

/// The cluster, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    /// By namespace.
    pub(super) policies: BTreeMap<String, Vec<Arc<Policy>>>,
    /// Labels, by name; `None` before they have been read.
    pub(super) namespaces: Option<Arc<BTreeMap<String, Labels>>>,
    /// Those that have been read.
    pub(super) peers: BTreeMap<PodScope, Arc<BTreeMap<String, PeerPod>>>,
}

/// What rules cannot be made without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// The labels of namespaces.
    pub(super) namespaces: bool,
    pub(super) scopes: BTreeSet<PodScope>,
}

impl LocalPod {
    pub(crate) fn of(pod: &Pod, reference: &ObjectReference) -> Self {
        let spec = pod.spec.as_ref();
        let containers = spec.into_iter().flat_map(sidecar::staying);
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ports: containers.flat_map(named_ports).collect(),
            reference: ObjectReference { resource_version: None, ..reference.clone() },
        }
    }
}

fn named_ports(container: &Container) -> impl Iterator<Item = NamedPort> {
    container
        .ports
        .iter()
        .flatten()
        .filter_map(|port| NamedPort::of(port.name.as_deref(), port.protocol.as_deref(), port.container_port))
}

impl NamedPort {
    /// `None` for a port without a name, and one of SCTP.
    pub(super) fn of(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Self> {
        let protocol = protocol.unwrap_or("TCP").parse().ok()?;
        let name = name.filter(|name| !name.is_empty())?.to_owned();
        Some(Self { name, protocol, number: u16::try_from(number).ok()? })
    }
}

impl World {
    /// The policies that select a pod of this node.
    pub(super) fn selecting(&self, pod: &LocalPod) -> impl Iterator<Item = &Arc<Policy>> {
        let own = self.policies.get(&pod.namespace).map(Vec::as_slice).unwrap_or_default();
        own.iter().filter(|policy| policy.selects(&pod.labels))
    }

    /// What the pods of a rule are followed by. `None`: that is not known before namespaces are.
    pub(super) fn scopes(
        &self,
        policy: &Policy,
        namespaces: &Namespaces,
        pods: &Selector,
    ) -> Option<Vec<PodScope>> {
        let scope = |namespace: Option<String>| PodScope { namespace, selector: pods.to_string() };
        Some(match namespaces {
            Namespaces::Own => vec![scope(Some(policy.namespace.clone()))],
            Namespaces::All => vec![scope(None)],
            Namespaces::Labelled(selector) => {
                let all = self.namespaces.as_deref()?.iter();
                let names: Vec<_> =
                    all.filter(|(_, labels)| selector.matches(labels)).map(|(name, _)| name).collect();
                if names.len() > FOLLOWED_NAMESPACES {
                    vec![scope(None)]
                } else {
                    names.into_iter().map(|name| scope(Some(name.clone()))).collect()
                }
            }
        })
    }

    /// Whether a rule is about the pods of a namespace.
    pub(super) fn is_in(&self, policy: &Policy, namespaces: &Namespaces, namespace: &str) -> bool {
        match namespaces {
            Namespaces::Own => namespace == policy.namespace,
            Namespaces::All => true,
            Namespaces::Labelled(selector) => {
                let labels = self.namespaces.as_deref().and_then(|all| all.get(namespace));
                labels.is_some_and(|labels| selector.matches(labels))
            }
        }
    }

    /// What has to be followed for the rules of these pods.
    pub(super) fn demand<'a>(&self, pods: impl IntoIterator<Item = &'a LocalPod>) -> Demand {
        let mut demand = Demand::default();
        let mut seen = BTreeSet::new();
        for policy in pods.into_iter().flat_map(|pod| self.selecting(pod)) {
            if !seen.insert((&policy.namespace, &policy.name)) {
                continue;
            }
            for (direction, clause) in policy.clauses() {
                for peer in clause.peers.iter().flatten() {
                    let Peer::Pods { namespaces, pods } = peer else { continue };
                    demand.namespaces |= matches!(namespaces, Namespaces::Labelled(_));
                    demand.scopes.extend(self.scopes(policy, namespaces, pods).into_iter().flatten());
                }
                if clause.asks_everybody(direction) {
                    demand.scopes.insert(PodScope::everybody());
                }
            }
        }
        demand
    }
}

impl PodScope {
    /// All pods of the cluster.
    pub(super) fn everybody() -> Self {
        Self { namespace: None, selector: String::new() }
    }
}
