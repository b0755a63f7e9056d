//! The routes, rules and neighbours, as messages. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
        },
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};

use crate::{
    loopback,
    names::{NODE_V4, NODE_V6, WORKER_V4, WORKER_V6},
};

/// Who has made a route, for those that are found again; a number that nobody has registered.
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol::Other(107);
/// The least metric of a route that comes after all others, whoever makes them.
pub(crate) const LAST_RESORT: u32 = 1 << 20;

/// The table of addresses that are the namespace's own: RT_TABLE_LOCAL.
const LOCAL_TABLE: u8 = 255;

/// The errors of the kernel that mean "there already" and "not there".
pub(crate) const EXISTS: i32 = 17;
pub(crate) const MISSING: [i32; 3] = [2, 3, 19];

/// The families of addresses.
pub(crate) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// The worker's end, for the node.
pub(crate) fn worker(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { WORKER_V4.into() } else { WORKER_V6.into() }
}

fn length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A message with nothing set but these; the builders take only addresses whose family and length fit.
fn to(network: IpNet, kind: RouteType) -> RouteMessage {
    let mut route = RouteMessageBuilder::<IpAddr>::new().kind(kind).protocol(PROTOCOL).build();
    route.header.address_family = family(network.addr());
    route.header.destination_prefix_length = network.prefix_len();
    route.attributes.push(RouteAttribute::Destination(network.network().into()));
    route
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn through(mut route: RouteMessage, hop: IpAddr, link: u32) -> RouteMessage {
    route.attributes.push(RouteAttribute::Gateway(hop.into()));
    route.attributes.push(RouteAttribute::Oif(link));
    route.header.flags |= rtnetlink::packet_route::route::RouteFlags::Onlink;
    route
}

/// The node's way to a pod.
pub(crate) fn pod(address: IpAddr, link: u32) -> RouteMessage {
    through(to(single(address), RouteType::Unicast), worker(address), link)
}

/// What makes an address the namespace's own. Addresses of pods are; so is what stands for `::1`.
pub(crate) fn local(network: IpNet, loopback: u32) -> RouteMessage {
    let mut route = to(network, RouteType::Local);
    route.header.table = LOCAL_TABLE;
    if network.addr().is_ipv4() {
        route.header.scope = RouteScope::Host;
    }
    route.attributes.push(RouteAttribute::Oif(loopback));
    route
}

/// A pod's own address in its namespace.
pub(crate) fn own(address: IpAddr, loopback: u32) -> RouteMessage {
    local(single(address), loopback)
}

/// The way out of a namespace, for sockets that are bound to nothing from an address of the worker's own.
pub(crate) fn way_out(family: AddressFamily, link: u32, source: IpAddr) -> RouteMessage {
    let mut route = RouteMessageBuilder::<IpAddr>::new().protocol(PROTOCOL).build();
    route.header.address_family = family;
    let hop = if family == AddressFamily::Inet { NODE_V4.into() } else { NODE_V6.into() };
    route.attributes.push(RouteAttribute::PrefSource(source.into()));
    through(route, hop, link)
}

/// What is said of addresses of the node's range that no pod has; by its metric, a node knows its own again.
pub(crate) fn unassigned(range: IpNet, metric: u32) -> RouteMessage {
    let mut route = to(range, RouteType::Unreachable);
    route.attributes.push(RouteAttribute::Priority(metric));
    route
}

/// The single address that a route leads to, if we have made it and it is of this kind.
pub(crate) fn address_of(route: &RouteMessage, kind: RouteType) -> Option<IpAddr> {
    if route.header.protocol != PROTOCOL || route.header.kind != kind {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    (route.header.destination_prefix_length == length(address)).then_some(address)
}

/// The network that a route of ours leads to, if it is of this kind.
fn network_of(route: &RouteMessage, kind: RouteType) -> Option<IpNet> {
    if route.header.protocol != PROTOCOL || route.header.kind != kind {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

/// The range that a route says to be unassigned, with its metric.
pub(crate) fn unassigned_range(route: &RouteMessage) -> Option<(IpNet, u32)> {
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    Some((network_of(route, RouteType::Unreachable)?, metric?))
}

/// The rules of a namespace, in order. What its pods send goes to the node, even to another pod of the same namespace,
/// where whoever forwards and filters sees it; their loopbacks stay inside.
pub(crate) fn rules(family: AddressFamily) -> Vec<RuleMessage> {
    let loopback = if family == AddressFamily::Inet {
        IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8))
    } else {
        IpNet::V6(loopback::PREFIX)
    };
    let outgoing = |priority| {
        let mut rule = rule(family, priority, LOCAL_TABLE);
        rule.attributes.push(RuleAttribute::Iifname("lo".to_owned()));
        rule
    };
    let mut to_loopback = outgoing(10);
    to_loopback.header.dst_len = loopback.prefix_len();
    to_loopback.attributes.push(RuleAttribute::Destination(loopback.addr()));
    let mut from_loopback = outgoing(12);
    from_loopback.header.src_len = loopback.prefix_len();
    from_loopback.attributes.push(RuleAttribute::Source(loopback.addr()));
    let mut out = outgoing(20);
    out.header.table = RouteHeader::RT_TABLE_MAIN;
    vec![to_loopback, from_loopback, out, rule(family, 100, LOCAL_TABLE)]
}

/// The rule that every namespace begins with, and which would come before ours.
pub(crate) fn first_rule(family: AddressFamily) -> RuleMessage {
    rule(family, 0, LOCAL_TABLE)
}

fn rule(family: AddressFamily, priority: u32, table: u8) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    rule.header.action = RuleAction::ToTable;
    rule.header.table = table;
    rule.attributes.push(RuleAttribute::Priority(priority));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_found_again_by_what_they_lead_to() {
        for address in ["10.244.1.7", "fd00:10::7"] {
            let address: IpAddr = address.parse().unwrap();
            let route = pod(address, 5);
            assert_eq!(address_of(&route, RouteType::Unicast), Some(address));
            assert_eq!(address_of(&route, RouteType::Local), None);
            assert_eq!(address_of(&own(address, 1), RouteType::Local), Some(address));
        }
        let foreign = RouteMessage::default();
        assert_eq!(address_of(&foreign, RouteType::Unicast), None);
        let range: IpNet = "10.244.1.0/24".parse().unwrap();
        let route = unassigned(range, 7);
        assert_eq!(unassigned_range(&route), Some((range, 7)));
        assert_eq!(
            (address_of(&route, RouteType::Unreachable), unassigned_range(&pod(range.addr(), 5))),
            (None, None)
        );
    }

    #[test]
    fn the_rules_are_of_one_family_and_in_order() {
        for family in FAMILIES {
            let rules = rules(family);
            let priorities: Vec<u32> = rules
                .iter()
                .flat_map(|rule| &rule.attributes)
                .filter_map(|attribute| match attribute {
                    RuleAttribute::Priority(priority) => Some(*priority),
                    _ => None,
                })
                .collect();
            assert!(priorities.is_sorted() && priorities.len() == rules.len(), "{priorities:?}");
            assert!(rules.iter().all(|rule| rule.header.family == family));
        }
    }
}
