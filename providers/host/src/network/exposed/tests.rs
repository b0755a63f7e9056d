use super::*;
use Protocol::{Tcp, Udp};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A port as `protocol container hostIP host`.
fn port(text: &str) -> ExposedPort {
    let [protocol, container_port, host_ip, host_port] = text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    ExposedPort {
        protocol: if protocol == "udp" { Udp } else { Tcp },
        container_port: container_port.parse().unwrap(),
        host_ip: (host_ip != "-").then(|| host_ip.parse().unwrap()),
        host_port: host_port.parse().unwrap(),
    }
}

fn exposed(ports: &[&str]) -> ExposedPorts {
    ExposedPorts {
        own: vec!["192.0.2.1".parse().unwrap()],
        ports: ports.iter().map(|text| port(text)).collect(),
    }
}

fn texts(found: impl Iterator<Item = SocketAddr>) -> Vec<String> {
    found.map(|address| address.to_string()).collect()
}

const PORTS: [&str; 6] = [
    "tcp 8080 - 18080",
    "tcp 8080 127.0.0.1 28080",
    "tcp 9090 192.0.2.9 9090",
    "tcp 7070 :: 17070",
    "udp 8080 0.0.0.0 5353",
    "udp 53 - 53",
];

#[test]
fn a_bind_goes_where_the_port_is_exposed_and_nowhere_else() {
    let exposed = exposed(&PORTS);
    for (protocol, wanted, expected) in [
        (Tcp, "0.0.0.0:8080", &["0.0.0.0:18080", "127.0.0.1:28080"][..]),
        (Tcp, "192.0.2.1:8080", &["0.0.0.0:18080", "127.0.0.1:28080"]),
        (Tcp, "[::]:8080", &["[::]:18080"]),
        (Tcp, "0.0.0.0:9090", &["192.0.2.9:9090"]),
        (Tcp, "[::]:9090", &[]),
        (Tcp, "0.0.0.0:7070", &[]),
        (Tcp, "[::]:7070", &["[::]:17070"]),
        (Udp, "0.0.0.0:8080", &["0.0.0.0:5353"]),
        (Udp, "[::]:53", &["[::]:53"]),
        (Udp, "0.0.0.0:9090", &[]),
        (Tcp, "0.0.0.0:18080", &[]),
        (Tcp, "0.0.0.0:0", &[]),
        (Tcp, "127.0.0.1:8080", &[]),
        (Tcp, "192.0.2.9:9090", &[]),
        (Tcp, "[::ffff:192.0.2.1]:8080", &[]),
    ] {
        let found: Vec<_> = exposed.bind(protocol, at(wanted)).collect();
        assert_eq!(texts(found.iter().copied()), expected, "{protocol} {wanted}");
        assert!(found.iter().all(|actual| exposed.has(protocol, *actual)));
    }
    for (protocol, actual) in [
        (Tcp, "0.0.0.0:8080"),
        (Tcp, "192.0.2.1:18080"),
        (Tcp, "0.0.0.0:5353"),
        (Udp, "0.0.0.0:18080"),
        (Tcp, "0.0.0.0:17070"),
        (Tcp, "0.0.0.0:0"),
    ] {
        assert!(!exposed.has(protocol, at(actual)), "{protocol} {actual}");
    }
}

#[test]
fn a_pod_is_near_itself_by_its_loopback_and_its_address() {
    let exposed = exposed(&PORTS);
    for (protocol, wanted, expected) in [
        (Tcp, "127.0.0.1:8080", &["0.0.0.0:18080", "127.0.0.1:28080"][..]),
        (Tcp, "127.9.9.9:9090", &["192.0.2.9:9090"]),
        (Tcp, "192.0.2.1:9090", &["192.0.2.9:9090"]),
        (Tcp, "[::1]:7070", &["[::]:17070"]),
        (Udp, "127.0.0.1:53", &["0.0.0.0:53"]),
        (Tcp, "127.0.0.1:18080", &[]),
        (Tcp, "127.0.0.1:53", &[]),
        (Tcp, "192.0.2.9:9090", &[]),
        (Tcp, "0.0.0.0:8080", &[]),
    ] {
        assert_eq!(texts(exposed.near(protocol, at(wanted))), expected, "{protocol} {wanted}");
    }
}

#[test]
fn a_guest_of_wasi_0_1_listens_at_all_of_a_ports_places() {
    let exposed = exposed(&PORTS);
    for (port, expected) in [
        (8080, &["[::]:18080", "127.0.0.1:28080"][..]),
        (9090, &["192.0.2.9:9090"]),
        (7070, &["[::]:17070"]),
        (53, &[]),
    ] {
        assert_eq!(texts(exposed.listeners(port)), expected, "{port}");
    }
}

#[test]
fn a_guest_sees_the_ports_of_its_container() {
    let exposed = exposed(&PORTS);
    for (local, shown) in [
        ("192.0.2.1:18080", "192.0.2.1:8080"),
        ("127.0.0.1:18080", "127.0.0.1:8080"),
        ("[2001:db8::1]:18080", "[2001:db8::1]:8080"),
        ("127.0.0.1:28080", "127.0.0.1:8080"),
        ("192.0.2.1:28080", "192.0.2.1:28080"),
        ("[::1]:17070", "[::1]:7070"),
        ("127.0.0.1:17070", "127.0.0.1:17070"),
        ("192.0.2.1:5353", "192.0.2.1:5353"),
    ] {
        assert_eq!(exposed.shown(at(local)), at(shown), "{local}");
    }
}
