use std::sync::Arc;

use kubewasm_rules::{Addresses, Peers, PodRules, PortRange, Ports, Rule};

use super::*;
use crate::network::{ExposedPort, ExposedPorts, PodAddresses};
use SocketAddrUse::{TcpAccept, TcpConnect, TcpListen, UdpReceive, UdpSend};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pod() -> Network {
    Network::Pod(PodAddresses {
        own: vec!["10.244.1.7".parse().unwrap()],
        loopback: "127.0.28.0/22".parse().unwrap(),
        loopback_v6: "fd6b:7761:736d::7:1".parse().unwrap(),
    })
}

/// What a network may do at a port.
fn rule(network: &str, protocol: Protocol, port: u16) -> Option<Vec<Arc<Rule>>> {
    let peers: Addresses = std::iter::once(network.parse::<ipnet::IpNet>().unwrap()).collect();
    let ports = Ports::These(vec![PortRange { protocol, first: port, last: port }]);
    Some(vec![Arc::new(Rule { peers: Peers::These(peers), ports })])
}

fn firewall(ingress: Option<Vec<Arc<Rule>>>, egress: Option<Vec<Arc<Rule>>>) -> Arc<Firewall> {
    let firewall = Firewall::default();
    firewall.set(Arc::new(PodRules { ingress, egress }));
    Arc::new(firewall)
}

fn guard(firewall: &Arc<Firewall>, list: Option<&str>) -> Arc<Guard> {
    let grants = list.map(|list| NameGrants::new(list.parse().unwrap()));
    Guard::new(pod(), DeniedNetworks::default(), Some(Arc::clone(firewall)), grants)
}

#[test]
fn connections_come_in_by_the_port_that_is_listened_on() {
    let firewall = firewall(rule("192.0.2.0/24", Protocol::Tcp, 80), None);
    let guard = guard(&firewall, None);
    let listener = |port: u16| {
        let socket = SocketGuard::new(Arc::clone(&guard));
        assert!(socket.allows(SocketAddr::new("10.244.1.7".parse().unwrap(), port), TcpListen));
        socket
    };
    let (web, other) = (listener(80), listener(81));
    assert!(web.allows(at("192.0.2.1:5000"), TcpAccept));
    assert!(!web.allows(at("198.51.100.1:5000"), TcpAccept));
    assert!(!other.allows(at("192.0.2.1:5000"), TcpAccept));
    assert!(other.allows(at("127.0.28.1:5000"), TcpAccept) && other.allows(at("10.244.1.7:5000"), TcpAccept));
    assert!(other.allows(at("198.51.100.1:80"), TcpConnect), "nothing is said of what goes out");
    assert_eq!(firewall.refusals().ingress, 2);
    firewall.set(Arc::default());
    assert!(other.allows(at("198.51.100.1:5000"), TcpAccept), "rules change under a socket");
}

#[test]
fn a_socket_of_which_nothing_is_known_lets_nobody_in_whom_a_rule_names() {
    let socket = SocketGuard::new(guard(&firewall(rule("0.0.0.0/0", Protocol::Tcp, 80), None), None));
    assert!(!socket.allows(at("192.0.2.1:5000"), TcpAccept));
}

#[test]
fn answers_pass_and_questions_do_not() {
    let firewall = firewall(Some(Vec::new()), rule("192.0.2.0/24", Protocol::Udp, 53));
    let socket = SocketGuard::new(guard(&firewall, None));
    socket.bound(5000);
    assert!(!socket.allows(at("192.0.2.1:53"), UdpReceive), "nobody has asked it");
    assert!(!socket.allows(at("192.0.2.1:54"), UdpSend));
    assert!(socket.allows(at("192.0.2.1:53"), UdpSend));
    assert!(socket.allows(at("192.0.2.1:53"), UdpReceive));
    assert!(!socket.allows(at("192.0.2.2:53"), UdpReceive));
    assert_eq!((firewall.refusals().ingress, firewall.refusals().egress), (2, 1));

    let firewall = self::firewall(rule("192.0.2.0/24", Protocol::Udp, 5000), Some(Vec::new()));
    let socket = SocketGuard::new(guard(&firewall, None));
    socket.bound(5000);
    assert!(!socket.allows(at("192.0.2.1:9"), UdpSend));
    assert!(socket.allows(at("192.0.2.1:9"), UdpReceive));
    assert!(socket.allows(at("192.0.2.1:9"), UdpSend), "an answer");
    assert!(socket.allows(at("127.0.28.1:9"), UdpSend) && socket.allows(at("10.244.1.7:9"), UdpReceive));
}

/// Rules are about who answers, and a list about whom the guest asks.
#[test]
fn rules_are_about_endpoints_and_lists_about_services() {
    let (service, endpoint) = (at("10.96.0.10:80"), at("10.244.2.9:8080"));
    let firewall = firewall(None, rule("10.244.0.0/16", Protocol::Tcp, 8080));
    for (list, expected) in [(None, true), (Some("10.96.0.0/12:80"), true), (Some("10.244.0.0/16"), false)] {
        let socket = SocketGuard::new(guard(&firewall, list));
        socket.chose(endpoint, service);
        assert_eq!(socket.allows(endpoint, TcpConnect), expected, "{list:?}");
    }
    let socket = SocketGuard::new(guard(&firewall, None));
    assert!(!socket.allows(service, TcpConnect), "no endpoint was chosen");
    assert!(firewall.refusals().last[0].contains("10.96.0.10:80, which no NetworkPolicy allows"));
}

#[test]
fn a_name_on_the_list_is_reached_once_it_was_looked_up() {
    let firewall = Arc::new(Firewall::default());
    let guard = guard(&firewall, Some("example.com:443"));
    let connects = |to: &str| SocketGuard::new(Arc::clone(&guard)).allows(at(to), TcpConnect);
    assert!(!guard.may_look_up("other.example") && guard.may_look_up("example.com"));
    assert!(!connects("192.0.2.1:443"));
    guard.looked_up("example.com", &["192.0.2.1".parse().unwrap()], Duration::from_secs(60));
    assert!(connects("192.0.2.1:443") && !connects("192.0.2.1:80"));
    assert!(connects("127.0.28.1:80") && connects("10.244.1.7:80"), "a pod reaches itself");
    assert_eq!(firewall.refusals().egress, 3);
}

#[test]
fn a_list_holds_for_guests_without_addresses_of_their_own() {
    let grants = || Some(NameGrants::new("192.0.2.0/24".parse().unwrap()));
    for network in [Network::Outgoing, Network::Host] {
        let guard = Guard::new(network.clone(), DeniedNetworks::default(), None, grants());
        assert!(guard.looks_at_sockets());
        let socket = SocketGuard::new(guard);
        assert!(socket.allows(at("192.0.2.1:80"), TcpConnect), "{network:?}");
        assert!(!socket.allows(at("198.51.100.1:80"), TcpConnect), "{network:?}");
    }
    let guard = Guard::new(Network::Outgoing, DeniedNetworks::default(), Some(Arc::default()), None);
    assert!(!guard.looks_at_sockets());
}

/// A server answers whoever has asked it, from wherever; and the loopback is reached where the pod itself listens.
#[test]
fn exposed_ports_open_nothing_but_themselves() {
    let exposed = ExposedPorts {
        own: vec!["192.0.2.1".parse().unwrap()],
        ports: vec![ExposedPort {
            protocol: Protocol::Udp,
            container_port: 53,
            host_ip: None,
            host_port: 5353,
        }],
    };
    let guard = Guard::new(Network::Exposed(exposed), DeniedNetworks::default(), None, None);
    assert!(guard.looks_at_sockets());
    let near = at("127.0.0.1:40000");
    let client = SocketGuard::new(Arc::clone(&guard));
    assert!(!client.allows(near, UdpReceive) && !client.allows(near, UdpSend));
    let server = SocketGuard::new(Arc::clone(&guard));
    server.bound(5353);
    assert!(!server.allows(near, UdpSend), "nobody has asked");
    assert!(server.allows(near, UdpReceive) && server.allows(near, UdpSend));
    assert!(!server.allows(at("127.0.0.1:40001"), UdpSend));
    let sibling = at("127.0.0.1:5353");
    assert!(!client.allows(sibling, UdpSend) && !client.allows(sibling, TcpConnect));
    client.leads_home(sibling, at("127.0.0.1:53"));
    assert!(client.allows(sibling, UdpSend) && client.allows(sibling, UdpReceive));
    client.leads_out(sibling);
    assert!(!client.allows(sibling, UdpSend) && !client.allows(sibling, UdpReceive));
}
