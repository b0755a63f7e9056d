//! From NetworkPolicies to the rules of a pod. Pure.
//!
//! A pod that no policy of a kind (ingress, egress) selects may do everything of it; otherwise it may do what one of the
//! policies that select it allows. Pods of the host's network are selected by none, and are nobody's peers: their
//! traffic is that of their node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use kubewasm_rules::{Addresses, Peers, PodRules, PortRange, Ports, Protocol, Rule};

use super::{
    policy::{Clause, Direction, Peer, Policy, PolicyPort, PortName},
    world::{LocalPod, NamedPort, PeerPod, PodScope, World},
};

/// Something that rules need and that has not been read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Missing {
    /// The labels of namespaces.
    Namespaces,
    Pods(PodScope),
}

/// The rules of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Compiled {
    pub(super) rules: PodRules,
    /// What has not been read allows nobody; with the policies (`namespace/name`) that are about it.
    pub(super) missing: BTreeMap<Missing, BTreeSet<String>>,
}

/// Makes rules, and uses those that are equal for all pods that they hold for.
#[derive(Debug)]
pub(super) struct Compiler<'a> {
    world: &'a World,
    made: HashMap<(usize, Direction, usize, Vec<PortRange>), Made>,
}

/// What became of a rule of a policy.
type Made = (Vec<Arc<Rule>>, BTreeSet<Missing>);

impl Clause {
    /// Ports of this rule have names that all pods of the cluster may have.
    pub(super) fn asks_everybody(&self, direction: Direction) -> bool {
        let is_wide =
            self.peers.as_ref().is_none_or(|peers| peers.iter().any(|peer| matches!(peer, Peer::Block(_))));
        direction == Direction::Egress && is_wide && self.named().next().is_some()
    }

    fn named(&self) -> impl Iterator<Item = (&str, Protocol)> {
        self.ports.iter().flatten().filter_map(|port| match &port.port {
            PortName::Named(name) => Some((name.as_str(), port.protocol)),
            PortName::All | PortName::Range(..) => None,
        })
    }
}

impl<'a> Compiler<'a> {
    pub(super) fn new(world: &'a World) -> Self {
        Self { world, made: HashMap::new() }
    }

    /// The rules of a pod of this node.
    pub(super) fn rules(&mut self, pod: &LocalPod) -> Compiled {
        let world = self.world;
        let mut compiled = Compiled::default();
        for policy in world.selecting(pod) {
            for (direction, clauses) in
                [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)]
            {
                let Some(clauses) = clauses else { continue };
                let of_pod = match direction {
                    Direction::Ingress => &mut compiled.rules.ingress,
                    Direction::Egress => &mut compiled.rules.egress,
                };
                let of_pod = of_pod.get_or_insert_default();
                for (index, clause) in clauses.iter().enumerate() {
                    let (rules, missing) = self.clause(policy, direction, index, clause, pod);
                    of_pod.extend(rules);
                    for missing in missing {
                        let name = format!("{}/{}", policy.namespace, policy.name);
                        compiled.missing.entry(missing).or_default().insert(name);
                    }
                }
            }
        }
        for rules in [&mut compiled.rules.ingress, &mut compiled.rules.egress].into_iter().flatten() {
            let mut seen = BTreeSet::new();
            rules.retain(|rule| seen.insert(Arc::as_ptr(rule)));
        }
        compiled
    }

    fn clause(
        &mut self,
        policy: &Arc<Policy>,
        direction: Direction,
        index: usize,
        clause: &Clause,
        pod: &LocalPod,
    ) -> Made {
        // Names of ports are those of the pod that is connected to.
        let own = if direction == Direction::Ingress { named_of(clause, &pod.ports) } else { Vec::new() };
        let key = (Arc::as_ptr(policy).addr(), direction, index, own);
        if let Some(made) = self.made.get(&key) {
            return made.clone();
        }
        let mut missing = BTreeSet::new();
        let peers = self.peers(policy, clause, &mut missing);
        let ports = clause.ports.as_ref().map(|ports| {
            let mut ranges: Vec<_> = ports.iter().filter_map(range).collect();
            ranges.extend(&key.3);
            ranges
        });
        let ports = ports.map_or(Ports::Any, Ports::These);
        let mut rules = Vec::new();
        if ports != Ports::These(Vec::new()) {
            rules.push(Arc::new(Rule { peers, ports }));
        }
        if direction == Direction::Egress {
            rules.extend(self.named(policy, clause, &mut missing).into_iter().map(Arc::new));
        }
        let made = (rules, missing);
        self.made.insert(key, made.clone());
        made
    }

    fn peers(&self, policy: &Policy, clause: &Clause, missing: &mut BTreeSet<Missing>) -> Peers {
        let Some(peers) = &clause.peers else { return Peers::Any };
        let mut sets = Vec::new();
        for peer in peers {
            match peer {
                Peer::Block(block) => sets.push(block.clone()),
                Peer::Pods { .. } => {
                    let pods = self.pods(policy, peer, missing);
                    sets.push(pods.iter().flat_map(|pod| pod.ips.iter().copied()).collect());
                }
            }
        }
        Peers::These(Addresses::union(&sets))
    }

    /// The pods of a rule.
    fn pods(&self, policy: &Policy, peer: &Peer, missing: &mut BTreeSet<Missing>) -> Vec<&'a PeerPod> {
        let Peer::Pods { namespaces, pods } = peer else { return Vec::new() };
        let Some(scopes) = self.world.scopes(policy, namespaces, pods) else {
            missing.insert(Missing::Namespaces);
            return Vec::new();
        };
        let mut found = Vec::new();
        for scope in scopes {
            match self.world.peers.get(&scope) {
                None => {
                    missing.insert(Missing::Pods(scope));
                }
                Some(pods) => {
                    let here = |pod: &&PeerPod| self.world.is_in(policy, namespaces, &pod.namespace);
                    found.extend(pods.values().filter(here));
                }
            }
        }
        found
    }

    /// What a rule of what goes out allows by the names of ports: each pod is reached at its own.
    fn named(&self, policy: &Policy, clause: &Clause, missing: &mut BTreeSet<Missing>) -> Vec<Rule> {
        if clause.named().next().is_none() {
            return Vec::new();
        }
        let mut by_port: BTreeMap<PortRange, Vec<IpAddr>> = BTreeMap::new();
        let mut add = |pod: &PeerPod, block: Option<&Addresses>| {
            for range in named_of(clause, &pod.ports) {
                let ips = pod.ips.iter().filter(|ip| block.is_none_or(|block| block.contains(**ip)));
                by_port.entry(range).or_default().extend(ips);
            }
        };
        for peer in clause.peers.iter().flatten() {
            self.pods(policy, peer, missing).into_iter().for_each(|pod| add(pod, None));
        }
        if clause.asks_everybody(Direction::Egress) {
            match self.world.peers.get(&PodScope::everybody()) {
                Some(all) => {
                    let blocks = clause.peers.iter().flatten().filter_map(|peer| match peer {
                        Peer::Block(block) => Some(Some(block)),
                        Peer::Pods { .. } => None,
                    });
                    let blocks: Vec<_> = blocks.chain(clause.peers.is_none().then_some(None)).collect();
                    for pod in all.values() {
                        blocks.iter().for_each(|block| add(pod, *block));
                    }
                }
                None => {
                    missing.insert(Missing::Pods(PodScope::everybody()));
                }
            }
        }
        let rule = |(range, ips): (PortRange, Vec<IpAddr>)| Rule {
            peers: Peers::These(ips.into_iter().collect()),
            ports: Ports::These(vec![range]),
        };
        by_port.into_iter().map(rule).collect()
    }
}

/// Ports by number.
fn range(port: &PolicyPort) -> Option<PortRange> {
    let (first, last) = match &port.port {
        PortName::All => (0, u16::MAX),
        PortName::Range(first, last) => (*first, *last),
        PortName::Named(_) => return None,
    };
    Some(PortRange { protocol: port.protocol, first, last })
}

/// Those of a pod's ports that a rule names.
fn named_of(clause: &Clause, ports: &[NamedPort]) -> Vec<PortRange> {
    let mut found = Vec::new();
    for (name, protocol) in clause.named() {
        let named = ports.iter().filter(|port| port.name == name && port.protocol == protocol);
        found.extend(named.map(|port| PortRange { protocol, first: port.number, last: port.number }));
    }
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests;
