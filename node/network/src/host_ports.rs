//! Ports of the node that lead to pods: `hostPort`. Rules of the packet filter, in a table of its own. Pure.
//!
//! The table stays when an agent ends, and is not touched when the next one says which networks pods have.

use std::{collections::BTreeMap, net::IpAddr};

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of the node that leads to a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The address of the node that it is at; `None` for all that it has, those of its loopback among them.
    pub node: Option<IpAddr>,
    /// Its number.
    pub port: u16,
    /// What it carries.
    pub protocol: Protocol,
    /// Address of the pod. Where `node` is of the other family, nothing leads there.
    pub pod: IpAddr,
    /// The pod's port.
    pub pod_port: u16,
}

/// The whole table, in place of what it was. `links` is how the names of the node's ends of links begin. Of two that are at
/// one port, the first counts.
pub(crate) fn ruleset(table: &str, links: &str, ports: &[HostPort]) -> String {
    let mut at_one = [BTreeMap::new(), BTreeMap::new()];
    let mut at_all = [BTreeMap::new(), BTreeMap::new()];
    for port in ports {
        let family = usize::from(port.pod.is_ipv6());
        let (protocol, to) = (port.protocol.name(), format!("{} . {}", port.pod, port.pod_port));
        match port.node {
            Some(node) if node.is_ipv4() == port.pod.is_ipv4() => {
                at_one[family].entry(format!("{node} . {protocol} . {}", port.port)).or_insert(to);
            }
            Some(_) => {}
            None => {
                at_all[family].entry(format!("{protocol} . {}", port.port)).or_insert(to);
            }
        }
    }
    let mut maps = String::new();
    for (number, (one, all)) in ["4", "6"].iter().zip(at_one.iter().zip(&at_all)) {
        let address = format!("ipv{number}_addr");
        let what = "inet_proto . inet_service";
        maps.push_str(&map(&format!("at_one_{number}"), &format!("{address} . {what}"), &address, one));
        maps.push_str(&map(&format!("at_all_{number}"), what, &address, all));
    }
    format!(
        "table inet {table}\n\
         delete table inet {table}\n\
         table inet {table} {{\n\
         {maps}  \
           chain near {{\n    \
             type filter hook prerouting priority raw; policy accept;\n    \
             iifname \"{links}*\" ip daddr 127.0.0.0/8 drop\n  \
           }}\n  \
           chain translate {{\n    \
             dnat ip to ip daddr . meta l4proto . th dport map @at_one_4\n    \
             dnat ip to meta l4proto . th dport map @at_all_4\n    \
             dnat ip6 to ip6 daddr . meta l4proto . th dport map @at_one_6\n    \
             dnat ip6 to meta l4proto . th dport map @at_all_6\n  \
           }}\n  \
           chain arriving {{\n    \
             type nat hook prerouting priority dstnat; policy accept;\n    \
             fib daddr type local goto translate\n  \
           }}\n  \
           chain from_the_node {{\n    \
             type nat hook output priority -100; policy accept;\n    \
             fib daddr type local goto translate\n  \
           }}\n  \
           chain to_pods {{\n    \
             type nat hook postrouting priority srcnat; policy accept;\n    \
             oifname \"{links}*\" ip saddr 127.0.0.0/8 masquerade\n  \
           }}\n\
         }}\n"
    )
}

fn map(name: &str, key: &str, address: &str, elements: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = elements.iter().map(|(key, to)| format!("{key} : {to}")).collect();
    let elements =
        if pairs.is_empty() { String::new() } else { format!(" elements = {{ {} }};", pairs.join(", ")) };
    format!("  map {name} {{ type {key} : {address} . inet_service;{elements} }}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(node: &str, port: u16, protocol: Protocol, pod: &str) -> HostPort {
        let node = (!node.is_empty()).then(|| node.parse().unwrap());
        HostPort { node, port, protocol, pod: pod.parse().unwrap(), pod_port: 80 }
    }

    #[test]
    fn each_port_leads_to_its_pod() {
        let ports = [
            port("", 8080, Protocol::Tcp, "10.244.1.2"),
            port("", 8080, Protocol::Tcp, "fd00:10::2"),
            port("", 8080, Protocol::Udp, "10.244.1.3"),
            port("192.0.2.1", 9090, Protocol::Sctp, "10.244.1.4"),
            port("2001:db8::1", 9090, Protocol::Tcp, "fd00:10::4"),
        ];
        let rules = ruleset("t", "kw1x", &ports);
        for expected in [
            "map at_all_4 { type inet_proto . inet_service : ipv4_addr . inet_service; elements = { \
             tcp . 8080 : 10.244.1.2 . 80, udp . 8080 : 10.244.1.3 . 80 }; }",
            "map at_all_6 { type inet_proto . inet_service : ipv6_addr . inet_service; elements = { \
             tcp . 8080 : fd00:10::2 . 80 }; }",
            "map at_one_4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; elements = { \
             192.0.2.1 . sctp . 9090 : 10.244.1.4 . 80 }; }",
            "map at_one_6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; elements = { \
             2001:db8::1 . tcp . 9090 : fd00:10::4 . 80 }; }",
            "iifname \"kw1x*\" ip daddr 127.0.0.0/8 drop",
        ] {
            assert!(rules.contains(expected), "{expected} in {rules}");
        }
    }

    #[test]
    fn a_port_leads_to_one_pod_and_not_to_another_family() {
        let ports = [
            port("", 80, Protocol::Tcp, "10.244.1.2"),
            port("", 80, Protocol::Tcp, "10.244.1.3"),
            port("192.0.2.1", 81, Protocol::Tcp, "fd00:10::2"),
        ];
        let rules = ruleset("t", "kw1x", &ports);
        assert!(rules.contains("elements = { tcp . 80 : 10.244.1.2 . 80 };"), "{rules}");
        assert!(!rules.contains("10.244.1.3") && !rules.contains("fd00:10::2"), "{rules}");
    }
}
