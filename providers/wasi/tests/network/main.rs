//! Pods with addresses of their own, from a component's sockets to those who speak with it. Each test is a node in a
//! network namespace of its own; without the rights to make one, it says so and does nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod exposed;
mod http;
mod listeners;
mod names;
mod proxies;
mod rules;
mod services;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
mod world;

use std::net::{IpAddr, SocketAddr, TcpStream};

use world::{Node, on_node};

/// `connection-refused`, as the guest prints it.
const REFUSED: &str = "refused 14";
/// `address-not-bindable`.
const NOT_BINDABLE: &str = "refused 11";
/// `remote-unreachable`.
const UNREACHABLE: &str = "refused 13";
/// `access-denied`.
const DENIED: &str = "refused 1";

/// A text with every port but those of listeners replaced.
fn without_ports(lines: &[String]) -> Vec<String> {
    let word = |word: &str| match word.rsplit_once(':') {
        Some((ip, port)) if port.parse::<u16>().is_ok_and(|port| port > 1024) => format!("{ip}:*"),
        _ => word.to_owned(),
    };
    lines.iter().map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn two_pods_of_one_worker_listen_on_one_port() {
    on_node(|| async {
        let node = Node::new().await;
        for (pod, slot) in [("a", 2), ("b", 3)] {
            node.start(pod, "ns", slot, "tcp-serve", "0.0.0.0:80").await;
            assert_eq!(node.line(pod, 0).await, "bound to 0.0.0.0:80");
        }
        for slot in [2, 3] {
            let answer = node.ask(&format!("10.244.1.{slot}:80")).await.unwrap();
            assert_eq!(without_ports(&[answer]), [format!("10.244.1.{slot}:80 from 192.0.2.1:*")]);
        }
        // Another namespace's pod is in another worker.
        for (id, namespace, slot, server) in [("c", "ns", 4, 2), ("d", "other", 5, 3)] {
            node.start(id, namespace, slot, "tcp-ask", &format!("10.244.1.{server}:80")).await;
            let expected = [
                format!("here 10.244.1.{slot}:* from 10.244.1.{server}:80"),
                format!("there 10.244.1.{server}:80 from 10.244.1.{slot}:*"),
            ];
            assert_eq!(without_ports(&node.lines(id).await), expected);
        }
    });
}

#[test]
fn sockets_of_ipv6_are_the_pods_too() {
    on_node(|| async {
        let node = Node::new().await;
        node.start("a", "ns", 2, "tcp-serve", "[0:0:0:0:0:0:0:0]:80").await;
        assert_eq!(node.line("a", 0).await, "bound to [0:0:0:0:0:0:0:0]:80");
        let pod = "[fd00:10:0:0:0:0:0:2]:80";
        node.start("b", "other", 3, "tcp-ask", pod).await;
        let expected = [
            format!("here [fd00:10:0:0:0:0:0:3]:* from {pod}"),
            format!("there {pod} from [fd00:10:0:0:0:0:0:3]:*"),
        ];
        assert_eq!(node.lines("b").await.iter().map(|line| shorten(line)).collect::<Vec<_>>(), expected);
        node.start_in("a", "a2", "ns", 2, "tcp-ask", "[0:0:0:0:0:0:0:1]:80").await;
        let localhost = "[0:0:0:0:0:0:0:1]";
        let expected = [
            format!("here {localhost}:* from {localhost}:80"),
            format!("there {localhost}:80 from {localhost}:*"),
        ];
        assert_eq!(node.lines("a2").await.iter().map(|line| shorten(line)).collect::<Vec<_>>(), expected);
        node.start("c", "ns", 4, "tcp-ask", "[0:0:0:0:0:0:0:1]:80").await;
        assert_eq!(node.lines("c").await, [REFUSED], "another pod's");
    });
}

fn shorten(line: &str) -> String {
    without_ports(&[line.to_owned()]).remove(0)
}

#[test]
fn a_pods_loopback_is_that_of_its_containers_and_of_nobody_else() {
    on_node(|| async {
        let node = Node::new().await;
        node.start("wild", "ns", 2, "tcp-serve", "0.0.0.0:80").await;
        node.start("narrow", "ns", 3, "tcp-serve", "127.0.0.1:80").await;
        for server in ["wild", "narrow"] {
            node.line(server, 0).await;
        }
        let expected = ["here 127.0.0.1:* from 127.0.0.1:80", "there 127.0.0.1:80 from 127.0.0.1:*"];
        for (pod, slot) in [("wild", 2), ("narrow", 3)] {
            let id = format!("{pod}-too");
            node.start_in(pod, &id, "ns", slot, "tcp-ask", "127.0.0.1:80").await;
            assert_eq!(without_ports(&node.lines(&id).await), expected, "{pod}");
        }
        for (id, to, expected) in [
            ("none", "127.0.0.1:80", REFUSED),
            ("its address", "10.244.1.3:80", REFUSED),
            ("far", "127.1.0.8:80", UNREACHABLE),
            ("block", "127.0.12.1:80", UNREACHABLE),
        ] {
            node.start(id, "ns", 4, "tcp-ask", to).await;
            assert_eq!(node.lines(id).await, [expected], "{to}");
        }
    });
}

#[test]
fn what_is_not_the_pods_is_refused() {
    on_node(|| async {
        let node = Node::new().await;
        node.start("other", "ns", 3, "tcp-serve", "0.0.0.0:80").await;
        node.line("other", 0).await;
        for (id, what, address, expected) in [
            ("neighbour", "tcp-bind", "10.244.1.3:81", NOT_BINDABLE),
            ("node", "tcp-bind", "192.0.2.1:81", NOT_BINDABLE),
            ("stand-in", "tcp-bind", "127.0.12.1:81", NOT_BINDABLE),
            ("metadata", "tcp-ask", "169.254.169.254:80", DENIED),
            ("stand-in-v6", "tcp-ask", "[fd6b:7761:736d:0:0:0:3:1]:80", DENIED),
            ("bind-v6", "tcp-bind", "[fd6b:7761:736d:0:0:0:3:1]:80", NOT_BINDABLE),
            ("next-hop", "tcp-ask", "169.254.1.1:80", DENIED),
            ("nobody", "tcp-ask", "10.244.1.99:80", UNREACHABLE),
            ("closed", "tcp-ask", "10.244.1.3:81", REFUSED),
            ("multicast", "udp-ask", "224.0.0.251:5353", DENIED),
        ] {
            node.start(id, "ns", 2, what, address).await;
            let lines = node.lines(id).await;
            assert_eq!(lines.last().map(String::as_str), Some(expected), "{what} {address}");
        }
    });
}

#[test]
fn datagrams_are_answered_by_whom_they_were_sent_to() {
    on_node(|| async {
        let node = Node::new().await;
        node.start("server", "ns", 2, "udp-serve", "0.0.0.0:53").await;
        assert_eq!(node.line("server", 0).await, "bound to 0.0.0.0:53");
        for (id, what, pod, slot, to, own) in [
            ("far", "udp-ask", "far", 3, "10.244.1.2:53", "10.244.1.3"),
            ("far-connected", "udp-ask-connected", "far", 3, "10.244.1.2:53", "10.244.1.3"),
            ("near", "udp-ask", "server", 2, "127.0.0.1:53", "10.244.1.2"),
            ("near-connected", "udp-ask-connected", "server", 2, "127.0.0.1:53", "10.244.1.2"),
        ] {
            node.start_in(pod, id, "ns", slot, what, to).await;
            let lines = without_ports(&node.lines(id).await);
            assert_eq!(lines.last().unwrap(), &format!("{to} says from {own}:*"), "{id}");
        }
    });
}

#[test]
fn the_replacement_of_a_dead_worker_is_reached_at_the_same_addresses() {
    on_node(|| async {
        let node = Node::new().await;
        node.start("a", "ns", 2, "tcp-serve", "0.0.0.0:80").await;
        node.line("a", 0).await;
        let before = node.worker();
        assert_eq!(world::network_capabilities(before), 0, "listening on port 80 takes none");
        node.kill_worker().await;
        node.ended("a").await;
        let error = node.ask("10.244.1.2:80").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "nobody is there");
        node.start_in("a", "a-again", "ns", 2, "tcp-serve", "0.0.0.0:80").await;
        node.line("a-again", 0).await;
        assert_ne!(node.worker(), before);
        let answer = node.ask("10.244.1.2:80").await.unwrap();
        assert!(answer.starts_with("10.244.1.2:80 from 192.0.2.1:"), "{answer}");
    });
}

#[test]
fn an_address_that_was_given_back_leads_nowhere() {
    on_node(|| async {
        let node = Node::new().await;
        node.start("a", "ns", 2, "tcp-serve", "0.0.0.0:80").await;
        node.start("b", "ns", 3, "tcp-serve", "0.0.0.0:80").await;
        for pod in ["a", "b"] {
            node.line(pod, 0).await;
        }
        let address: SocketAddr = "10.244.1.2:80".parse().unwrap();
        node.remove("a", 2).await;
        let error =
            tokio::task::spawn_blocking(move || TcpStream::connect(address)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable, "{error}");
        node.start("c", "other", 2, "tcp-serve", "0.0.0.0:80").await;
        node.line("c", 0).await;
        assert!(node.ask("10.244.1.2:80").await.unwrap().starts_with("10.244.1.2:80 from"));
        assert!(node.ask("10.244.1.3:80").await.unwrap().starts_with("10.244.1.3:80 from"));
    });
}

/// Pods of the node's own network are in another worker, which is where the node is.
#[test]
fn a_pod_of_the_nodes_network_is_in_the_nodes_namespace() {
    on_node(|| async {
        let node = Node::new().await;
        node.start_on_host("host", "tcp-serve", "127.0.0.1:80").await;
        assert_eq!(node.line("host", 0).await, "bound to 127.0.0.1:80");
        assert_eq!(
            without_ports(&[node.ask("127.0.0.1:80").await.unwrap()]),
            ["127.0.0.1:80 from 127.0.0.1:*"]
        );
        node.start("pod", "ns", 2, "tcp-ask", "127.0.0.1:80").await;
        assert_eq!(node.lines("pod").await, [REFUSED], "the loopback of the node is another");
        node.start("reaches", "ns", 3, "tcp-ask", &format!("{}:81", IpAddr::from([192, 0, 2, 1]))).await;
        assert_eq!(node.lines("reaches").await, [REFUSED], "the node says so itself");
    });
}

/// What the node denies is denied to who has addresses of its own, too; the node's own addresses, by name.
#[test]
fn the_node_itself_can_be_denied() {
    on_node(|| async {
        let node =
            Node::with(|options| options.denied_networks = ["node".parse().unwrap()].into_iter().collect())
                .await;
        node.start("pod", "ns", 2, "tcp-ask", "192.0.2.1:81").await;
        assert_eq!(node.lines("pod").await, [DENIED]);
    });
}
