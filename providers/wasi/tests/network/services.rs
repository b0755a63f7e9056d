//! What guests send to the addresses of Services.

use std::{collections::BTreeSet, io::ErrorKind, net::UdpSocket, time::Duration};

use kubewasm_kubelet::runtime::{ServiceRoute, ServiceRoutes};
use kubewasm_rules::Protocol;

use super::{
    DENIED, REFUSED, UNREACHABLE, shorten,
    support::until,
    without_ports,
    world::{Node, PATIENCE, on_node},
};

const SERVICE: &str = "10.96.0.9:80";

/// A Service at an address, with these endpoints.
pub(super) fn service(at: &str, endpoints: &[&str]) -> ServiceRoutes {
    let route = ServiceRoute {
        transport: Protocol::Tcp,
        at: vec![at.parse().unwrap()],
        endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
        node_only: false,
        affinity: None,
        sources: Vec::new(),
    };
    ServiceRoutes { cluster_ips: vec![route.at[0].ip()], routes: vec![route] }
}

/// The same for datagrams.
pub(super) fn datagrams(at: &str, endpoints: &[&str]) -> ServiceRoutes {
    let mut service = service(at, endpoints);
    service.routes[0].transport = Protocol::Udp;
    service
}

/// Starts a server on port 80 of a pod in each of these slots.
async fn serve(node: &Node, slots: &[u32]) {
    for slot in slots {
        let id = format!("server-{slot}");
        node.start(&id, "ns", *slot, "tcp-serve", "0.0.0.0:80").await;
        node.line(&id, 0).await;
    }
}

/// Makes these the Services, and waits until the worker of namespace ns knows them: it refuses at the address of one that has
/// come with them.
async fn announce(node: &Node, number: u8, services: &[(&str, ServiceRoutes)]) {
    let marker = format!("10.96.1.{number}:80");
    let with_marker: Vec<_> =
        services.iter().cloned().chain([("ns/marker", service(&marker, &[]))]).collect();
    node.set_services(&with_marker);
    for attempt in 0..200 {
        let id = format!("marker-{number}-{attempt}");
        node.start_in("marker", &id, "ns", 30, "tcp-ask", &marker).await;
        if node.lines(&id).await == [REFUSED] {
            return;
        }
    }
    panic!("the worker was not told of {marker}");
}

/// Which endpoint answered a client of the pod in slot 9 that has asked the Service.
async fn asked(node: &Node, id: &str) -> String {
    node.start_in("client", id, "other", 9, "tcp-ask", SERVICE).await;
    let lines = without_ports(&node.lines(id).await);
    assert_eq!(lines[0], format!("here 10.244.1.9:* from {SERVICE}"));
    let endpoint = lines[1].strip_prefix("there ").and_then(|line| line.strip_suffix(" from 10.244.1.9:*"));
    endpoint.unwrap_or_else(|| panic!("{lines:?}")).to_owned()
}

/// Both ends see the addresses that they would see with kube-proxy: the guest the Service's, the endpoint the guest's.
#[test]
fn a_service_leads_to_every_endpoint() {
    on_node(|| async {
        let node = Node::new().await;
        let endpoints = ["10.244.1.2:80", "10.244.1.3:80"];
        node.set_services(&[("ns/web", service(SERVICE, &endpoints))]);
        serve(&node, &[2, 3]).await;
        let mut seen = BTreeSet::new();
        // Either is missed in all of these once in 2^39 times.
        for n in 0..40 {
            seen.insert(asked(&node, &format!("ask-{n}")).await);
            if seen.len() == endpoints.len() {
                break;
            }
        }
        assert_eq!(seen, endpoints.map(str::to_owned).into());
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    on_node(|| async {
        let node = Node::new().await;
        let v6 = "[fd00:96:0:0:0:0:0:9]:80";
        node.set_services(&[
            ("ns/web", service(SERVICE, &["10.244.1.2:80"])),
            ("ns/web-v6", service(v6, &["[fd00:10::3]:80"])),
        ]);
        serve(&node, &[2]).await;
        node.start_in("server-2", "self", "ns", 2, "tcp-ask", SERVICE).await;
        let expected =
            [format!("here 10.244.1.2:* from {SERVICE}"), "there 10.244.1.2:80 from 10.244.1.2:*".to_owned()];
        assert_eq!(without_ports(&node.lines("self").await), expected);
        node.start("server-v6", "ns", 3, "tcp-serve", "[0:0:0:0:0:0:0:0]:80").await;
        node.line("server-v6", 0).await;
        let own = "[fd00:10:0:0:0:0:0:3]";
        node.start_in("server-v6", "self-v6", "ns", 3, "tcp-ask", v6).await;
        let expected = [format!("here {own}:* from {v6}"), format!("there {own}:80 from {own}:*")];
        assert_eq!(
            node.lines("self-v6").await.iter().map(|line| shorten(line)).collect::<Vec<_>>(),
            expected
        );
    });
}

#[test]
fn what_a_service_does_not_take_is_refused_at_once() {
    on_node(|| async {
        let denied = ["198.51.100.0/24", "203.0.113.0/24"].map(|network| network.parse().unwrap());
        let node = Node::with(|options| options.denied_networks = denied.into_iter().collect()).await;
        let mut node_only = service("10.96.0.11:80", &[]);
        node_only.routes[0].node_only = true;
        let mut closed = service("10.96.0.12:80", &["10.244.1.2:80"]);
        closed.routes[0].sources = vec!["192.0.2.0/24".parse().unwrap()];
        node.set_services(&[
            ("ns/empty", service("10.96.0.10:80", &[])),
            ("ns/local", node_only),
            ("ns/closed", closed),
            ("ns/denied", service("198.51.100.1:80", &["10.244.1.2:80"])),
            ("ns/to-denied", service("10.96.0.13:80", &["203.0.113.1:80"])),
            ("ns/to-metadata", service("10.96.0.14:80", &["169.254.169.254:80"])),
            ("ns/ready", service(SERVICE, &["10.244.1.2:80"])),
            ("ns/dns", datagrams("10.96.0.53:53", &[])),
        ]);
        serve(&node, &[2]).await;
        for (id, what, to, expected) in [
            ("none", "tcp-ask", "10.96.0.10:80", REFUSED),
            ("no port", "tcp-ask", "10.96.0.9:81", REFUSED),
            ("elsewhere", "tcp-ask", "10.96.0.11:80", UNREACHABLE),
            ("not for it", "tcp-ask", "10.96.0.12:80", UNREACHABLE),
            ("denied by name", "tcp-ask", "198.51.100.1:80", DENIED),
            ("denied endpoint", "tcp-ask", "10.96.0.13:80", DENIED),
            ("metadata", "tcp-ask", "10.96.0.14:80", DENIED),
            ("datagram", "udp-ask", "10.96.0.53:53", REFUSED),
            ("connected datagram", "udp-ask-connected", "10.96.0.53:53", REFUSED),
            ("no udp port", "udp-ask", SERVICE, REFUSED),
        ] {
            node.start(id, "ns", 4, what, to).await;
            let lines = node.lines(id).await;
            assert_eq!(lines.last().map(String::as_str), Some(expected), "{id}");
        }
    });
}

#[test]
fn affinity_keeps_a_pod_at_its_endpoint() {
    on_node(|| async {
        let node = Node::new().await;
        let slots = [2, 3, 4, 5];
        let endpoints = slots.map(|slot| format!("10.244.1.{slot}:80"));
        let mut sticky = service(SERVICE, &endpoints.each_ref().map(String::as_str));
        sticky.routes[0].affinity = Some(Duration::from_secs(10_800));
        node.set_services(&[("ns/web", sticky)]);
        serve(&node, &slots).await;
        let first = asked(&node, "first").await;
        for n in 0..12 {
            assert_eq!(asked(&node, &format!("again-{n}")).await, first);
        }
    });
}

/// A worker that runs is told of what changes, and one that takes the place of another has it before anything runs there.
#[test]
fn endpoints_that_are_gone_are_not_chosen_any_more() {
    on_node(|| async {
        let node = Node::new().await;
        node.set_services(&[("ns/web", service(SERVICE, &["10.244.1.2:80"]))]);
        serve(&node, &[2, 3]).await;
        node.start("client", "ns", 9, "tcp-ask", SERVICE).await;
        assert!(node.lines("client").await[1].starts_with("there 10.244.1.2:80 "));
        announce(&node, 1, &[("ns/web", service(SERVICE, &["10.244.1.3:80"]))]).await;
        for id in ["later", "and later"] {
            node.start_in("client", id, "ns", 9, "tcp-ask", SERVICE).await;
            assert!(node.lines(id).await[1].starts_with("there 10.244.1.3:80 "));
        }
        node.kill_worker().await;
        node.ended("server-3").await;
        node.start_in("client", "after", "ns", 9, "tcp-ask", SERVICE).await;
        assert_eq!(node.lines("after").await, [REFUSED], "nobody listens there yet");
        node.start_in("server-3", "server-3-again", "ns", 3, "tcp-serve", "0.0.0.0:80").await;
        node.line("server-3-again", 0).await;
        node.start_in("client", "at last", "ns", 9, "tcp-ask", SERVICE).await;
        assert!(node.lines("at last").await[1].starts_with("there 10.244.1.3:80 "));
    });
}

/// Waits for a datagram, and returns it with its sender.
async fn receive(socket: &UdpSocket) -> (Vec<u8>, std::net::SocketAddr) {
    let mut buffer = [0; 64];
    until("a datagram", PATIENCE, || match socket.recv_from(&mut buffer) {
        Ok((length, from)) => Some((buffer[..length].to_vec(), from)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    })
    .await
}

/// The datagrams of a socket go where the first has gone, for as long as that is an endpoint; then to another.
#[test]
fn datagrams_stay_with_their_endpoint_while_it_is_there() {
    on_node(|| async {
        let node = Node::new().await;
        let servers = ["192.0.2.1:9001", "192.0.2.1:9002"];
        for (id, what, slot) in [("loose", "udp-ask-on", 2), ("connected", "udp-ask-on-connected", 3)] {
            let sockets = servers.map(|server| {
                let socket = UdpSocket::bind(server).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            });
            let [first, second] = &sockets;
            let number = |step: u8| step + 10 * u8::try_from(slot).unwrap();
            // The first is the only one, so that it is chosen, and is one of two later.
            announce(&node, number(0), &[("ns/dns", datagrams("10.96.0.53:53", &servers[..1]))]).await;
            node.start(id, "ns", slot, what, "10.96.0.53:53").await;
            let (text, client) = receive(first).await;
            assert_eq!((text.as_slice(), client.ip().to_string()), (&b"?\n"[..], format!("10.244.1.{slot}")));
            first.send_to(b"one\n", client).unwrap();
            assert_eq!(node.line(id, 1).await, "10.96.0.53:53 says one");
            announce(&node, number(1), &[("ns/dns", datagrams("10.96.0.53:53", &servers))]).await;
            for answer in 0..20 {
                let (_, again) = receive(first).await;
                assert_eq!(again, client, "the flow");
                first.send_to(format!("more {answer}\n").as_bytes(), client).unwrap();
            }
            receive(first).await;
            // A stranger is no endpoint: who is connected to the Service does not hear of it.
            if id == "connected" {
                UdpSocket::bind("192.0.2.1:9003").unwrap().send_to(b"stranger\n", client).unwrap();
            }
            announce(&node, number(2), &[("ns/dns", datagrams("10.96.0.53:53", &servers[1..]))]).await;
            // The answer of the one that is gone is still the Service's.
            first.send_to(b"last\n", client).unwrap();
            let (_, same) = receive(second).await;
            assert_eq!(same, client);
            second.send_to(b"two\n", client).unwrap();
            let lines = until("the last answer", PATIENCE, || {
                let lines = node.printed(id);
                lines.last().is_some_and(|line| line.ends_with("says two")).then_some(lines)
            })
            .await;
            assert!(lines[1..].iter().all(|line| line.starts_with("10.96.0.53:53 says ")), "{lines:?}");
            assert!(!lines.iter().any(|line| line.contains("stranger")), "{lines:?}");
            assert_eq!(lines[lines.len() - 2], "10.96.0.53:53 says last");
            // It asks on.
            node.remove(id, slot).await;
        }
    });
}
