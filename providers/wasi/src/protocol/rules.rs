//! The rules of pods on the wire.

use std::sync::Arc;

use kubewasm_host::{PodRuleKeys, RuleChanges};
use kubewasm_rules::{Addresses, Peers, PortRange, Ports, Protocol, Rule};
use prost::Message as _;

use super::{WireError, wire};

/// Bytes that one rule may come to: some 200,000 ranges of IPv4.
const LARGEST_RULE: usize = 2 << 20;

/// Changes of rules, as an agent has them.
#[derive(Debug, Default)]
pub(crate) struct OutgoingRules {
    /// Rules that are set, with their numbers.
    pub(crate) rules: Vec<(String, Arc<Rule>)>,
    /// Numbers of those that are removed.
    pub(crate) removed_rules: Vec<String>,
    /// Pods whose rules are set.
    pub(crate) pods: Vec<(String, Arc<PodRuleKeys>)>,
    /// Those that are removed.
    pub(crate) removed_pods: Vec<String>,
}

impl OutgoingRules {
    /// In pieces, each with its size.
    pub(super) fn pieces(&self) -> Vec<(usize, wire::RuleChanges)> {
        let empty = wire::RuleChanges::default;
        let rules = self.rules.iter().map(|(key, rule)| {
            let rule = wire_rule(key, rule);
            let length = rule.encoded_len();
            if length > LARGEST_RULE {
                tracing::error!(length, "a rule for pods is about too many addresses, and allows nobody");
                return wire::RuleChanges { removed: vec![key.clone()], ..empty() };
            }
            wire::RuleChanges { set: vec![rule], ..empty() }
        });
        let removed =
            self.removed_rules.iter().map(|key| wire::RuleChanges { removed: vec![key.clone()], ..empty() });
        let pods = self.pods.iter().map(|(uid, keys)| wire::RuleChanges {
            set_pods: vec![wire::PodRules {
                pod_uid: uid.clone(),
                ingress: keys.ingress.clone().map(|rules| wire::AllowedBy { rules }),
                egress: keys.egress.clone().map(|rules| wire::AllowedBy { rules }),
            }],
            ..empty()
        });
        let gone = self
            .removed_pods
            .iter()
            .map(|uid| wire::RuleChanges { removed_pods: vec![uid.clone()], ..empty() });
        rules.chain(removed).chain(pods).chain(gone).map(|piece| (piece.encoded_len(), piece)).collect()
    }
}

fn wire_rule(key: &str, rule: &Rule) -> wire::NetworkRule {
    let (any_peer, v4, v6) = match &rule.peers {
        Peers::Any => (true, Vec::new(), Vec::new()),
        Peers::These(peers) => {
            let v4 = peers.v4_ranges().iter().flat_map(|(first, last)| [*first, *last]);
            let v6 = peers.v6_ranges().iter().flat_map(|(first, last)| [*first, *last]);
            (false, v4.flat_map(u32::to_be_bytes).collect(), v6.flat_map(u128::to_be_bytes).collect())
        }
    };
    let (any_port, ports) = match &rule.ports {
        Ports::Any => (true, Vec::new()),
        Ports::These(ports) => (false, ports.iter().map(Into::into).collect()),
    };
    wire::NetworkRule { key: key.to_owned(), any_peer, v4, v6, any_port, ports }
}

impl From<Protocol> for wire::Transport {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl wire::Transport {
    /// `None`: it is missing, or of a later version.
    pub(super) fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Tcp => Some(Protocol::Tcp),
            Self::Udp => Some(Protocol::Udp),
            Self::Unspecified => None,
        }
    }
}

impl From<&PortRange> for wire::PortRange {
    fn from(range: &PortRange) -> Self {
        let transport = wire::Transport::from(range.protocol);
        Self { transport: transport.into(), first: range.first.into(), last: range.last.into() }
    }
}

impl TryFrom<wire::PortRange> for PortRange {
    type Error = WireError;

    fn try_from(range: wire::PortRange) -> Result<Self, WireError> {
        let missing = WireError("the transport of a port is missing");
        let protocol = range.transport().protocol().ok_or(missing)?;
        let port = |number: u32| u16::try_from(number).map_err(|_| WireError("a port is none"));
        Ok(Self { protocol, first: port(range.first)?, last: port(range.last)? })
    }
}

impl TryFrom<wire::NetworkRule> for Rule {
    type Error = WireError;

    fn try_from(rule: wire::NetworkRule) -> Result<Self, WireError> {
        let wire::NetworkRule { any_peer, v4, v6, any_port, ports, .. } = rule;
        let peers = if any_peer {
            Peers::Any
        } else {
            let torn = WireError("the addresses of a rule are not whole");
            let v4 = pairs(&v4, u32::from_be_bytes).ok_or_else(|| torn.clone())?;
            Peers::These(Addresses::from_ranges(v4, pairs(&v6, u128::from_be_bytes).ok_or(torn)?))
        };
        let ports = if any_port {
            Ports::Any
        } else {
            Ports::These(ports.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
        };
        Ok(Self { peers, ports })
    }
}

/// Numbers of so many bytes, two by two.
fn pairs<const BYTES: usize, N: Copy>(bytes: &[u8], number: fn([u8; BYTES]) -> N) -> Option<Vec<(N, N)>> {
    let (numbers, rest) = bytes.as_chunks::<BYTES>();
    let (pairs, odd) = numbers.as_chunks::<2>();
    let is_whole = rest.is_empty() && odd.is_empty();
    is_whole.then(|| pairs.iter().map(|[first, last]| (number(*first), number(*last))).collect())
}

/// Takes up one more piece.
pub(super) fn take(changes: &mut RuleChanges, piece: wire::RuleChanges) -> Result<(), WireError> {
    let wire::RuleChanges { set, removed, set_pods, removed_pods } = piece;
    let number = |key: &str| key.parse::<u64>().map_err(|_| WireError("the number of a rule is none"));
    for rule in set {
        changes.rules.push((number(&rule.key)?, rule.try_into()?));
    }
    for key in removed {
        changes.removed_rules.push(number(&key)?);
    }
    changes.pods.extend(set_pods.into_iter().map(|pod| {
        let wire::PodRules { pod_uid, ingress, egress } = pod;
        let keys = PodRuleKeys { ingress: ingress.map(|by| by.rules), egress: egress.map(|by| by.rules) };
        (pod_uid, keys)
    }));
    changes.removed_pods.extend(removed_pods);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_survive_the_wire() {
        let networks = ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::/1"];
        let peers = networks.iter().map(|text| text.parse::<ipnet::IpNet>().unwrap()).collect();
        let ports = [(Protocol::Tcp, 80, 90), (Protocol::Udp, 0, u16::MAX)];
        let ports = ports.map(|(protocol, first, last)| PortRange { protocol, first, last }).into();
        let rules = [
            Rule { peers: Peers::Any, ports: Ports::Any },
            Rule { peers: Peers::These(peers), ports: Ports::These(ports) },
            Rule { peers: Peers::These(Addresses::default()), ports: Ports::These(Vec::new()) },
        ];
        let keys = PodRuleKeys { ingress: Some(vec![1, 3]), egress: None };
        let outgoing = OutgoingRules {
            rules: (1..).map(|n: u64| n.to_string()).zip(rules.iter().cloned().map(Arc::new)).collect(),
            removed_rules: vec!["9".to_owned()],
            pods: vec![("u".to_owned(), Arc::new(keys.clone()))],
            removed_pods: vec!["v".to_owned()],
        };
        let mut changes = RuleChanges::default();
        for (size, piece) in outgoing.pieces() {
            assert_eq!(size, piece.encoded_len());
            take(&mut changes, piece).unwrap();
        }
        let expected = RuleChanges {
            rules: (1..).zip(rules).collect(),
            removed_rules: vec![9],
            pods: vec![("u".to_owned(), keys)],
            removed_pods: vec!["v".to_owned()],
        };
        assert_eq!(changes, expected);
    }

    /// Nothing of what is not understood may allow anything.
    #[test]
    fn what_makes_no_sense_is_no_rule() {
        let rule = |rule| wire::RuleChanges { set: vec![rule], ..wire::RuleChanges::default() };
        let good = wire::NetworkRule { key: "1".into(), ..wire::NetworkRule::default() };
        let port = wire::PortRange { transport: wire::Transport::Tcp.into(), first: 1, last: 70_000 };
        for bad in [
            wire::NetworkRule { key: "x".into(), ..good.clone() },
            wire::NetworkRule { v4: vec![0; 7], ..good.clone() },
            wire::NetworkRule { v4: vec![0; 4], ..good.clone() },
            wire::NetworkRule { v6: vec![0; 16], ..good.clone() },
            wire::NetworkRule { ports: vec![port], ..good.clone() },
            wire::NetworkRule {
                ports: vec![wire::PortRange { transport: 0, first: 1, last: 1 }],
                ..good.clone()
            },
        ] {
            assert!(take(&mut RuleChanges::default(), rule(bad.clone())).is_err(), "{bad:?}");
        }
        assert!(take(&mut RuleChanges::default(), rule(good)).is_ok());
    }
}
