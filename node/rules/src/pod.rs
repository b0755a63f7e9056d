//! What holds for a pod.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use crate::Addresses;

/// What guests have sockets for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// It is neither `TCP` nor `UDP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProtocol;

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(name: &str) -> Result<Self, UnknownProtocol> {
        match name {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            _ => Err(UnknownProtocol),
        }
    }
}

/// Ports of one protocol, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// Of which protocol.
    pub protocol: Protocol,
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

/// Which ports a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ports {
    /// All of all protocols.
    Any,
    /// These; none at all where there are none.
    These(Vec<PortRange>),
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Everybody.
    Any,
    /// These; nobody where there are none.
    These(Addresses),
}

/// Something that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Who the other end is.
    pub peers: Peers,
    /// The ports that are connected to: the pod's of what comes in, the peer's of what goes out.
    pub ports: Ports,
}

/// What is allowed of what comes to a pod, and of what goes out. `None` is everything; otherwise what one of the rules
/// allows. The default is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodRules {
    /// What comes in.
    pub ingress: Option<Vec<Arc<Rule>>>,
    /// What goes out.
    pub egress: Option<Vec<Arc<Rule>>>,
}

impl Rule {
    /// Whether it is about that.
    #[must_use]
    pub fn allows(&self, peer: IpAddr, protocol: Protocol, port: u16) -> bool {
        let of_port = match &self.ports {
            Ports::Any => true,
            Ports::These(ranges) => ranges
                .iter()
                .any(|range| range.protocol == protocol && (range.first..=range.last).contains(&port)),
        };
        of_port
            && match &self.peers {
                Peers::Any => true,
                Peers::These(peers) => peers.contains(peer),
            }
    }
}

impl PodRules {
    /// Whether everything is allowed.
    #[must_use]
    pub fn allow_everything(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }

    /// Whether what a peer sends may come in at a port of the pod.
    #[must_use]
    pub fn may_come(&self, peer: IpAddr, protocol: Protocol, port: u16) -> bool {
        any(self.ingress.as_deref(), peer, protocol, port)
    }

    /// Whether the pod may begin to send there.
    #[must_use]
    pub fn may_go(&self, to: SocketAddr, protocol: Protocol) -> bool {
        any(self.egress.as_deref(), to.ip(), protocol, to.port())
    }
}

fn any(rules: Option<&[Arc<Rule>]>, peer: IpAddr, protocol: Protocol, port: u16) -> bool {
    rules.is_none_or(|rules| rules.iter().any(|rule| rule.allows(peer, protocol, port)))
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;
    use Protocol::{Tcp, Udp};

    fn rule(peers: Option<&str>, ports: Option<&[(Protocol, u16, u16)]>) -> Arc<Rule> {
        let set = |text: &str| text.split_whitespace().map(|net| net.parse::<IpNet>().unwrap()).collect();
        let range = |&(protocol, first, last): &(Protocol, u16, u16)| PortRange { protocol, first, last };
        Arc::new(Rule {
            peers: peers.map_or(Peers::Any, |text| Peers::These(set(text))),
            ports: ports.map_or(Ports::Any, |ports| Ports::These(ports.iter().map(range).collect())),
        })
    }

    #[test]
    fn what_one_rule_allows_is_allowed() {
        let rules = PodRules {
            ingress: Some(vec![
                rule(Some("10.0.0.0/8"), Some(&[(Tcp, 80, 90), (Udp, 53, 53)])),
                rule(None, Some(&[(Tcp, 443, 443)])),
                rule(Some("192.0.2.1/32"), None),
                rule(Some(""), None),
                rule(None, Some(&[])),
            ]),
            egress: None,
        };
        for (peer, protocol, port, expected) in [
            ("10.1.2.3", Tcp, 80, true),
            ("10.1.2.3", Tcp, 90, true),
            ("10.1.2.3", Tcp, 91, false),
            ("10.1.2.3", Tcp, 79, false),
            ("10.1.2.3", Udp, 80, false),
            ("10.1.2.3", Udp, 53, true),
            ("11.1.2.3", Tcp, 80, false),
            ("11.1.2.3", Tcp, 443, true),
            ("2001:db8::1", Tcp, 443, true),
            ("2001:db8::1", Udp, 443, false),
            ("192.0.2.1", Udp, 9, true),
            ("::ffff:192.0.2.1", Udp, 9, true),
        ] {
            let peer: IpAddr = peer.parse().unwrap();
            assert_eq!(rules.may_come(peer, protocol, port), expected, "{peer} {protocol} {port}");
            assert!(rules.may_go(SocketAddr::new(peer, port), protocol));
        }
        assert!(!rules.allow_everything() && PodRules::default().allow_everything());
    }

    #[test]
    fn without_a_rule_nothing_is_allowed() {
        let rules = PodRules { ingress: None, egress: Some(Vec::new()) };
        assert!(rules.may_come("192.0.2.1".parse().unwrap(), Tcp, 80));
        assert!(!rules.may_go("192.0.2.1:80".parse().unwrap(), Tcp));
    }
}
