//! What is allowed of pods' traffic, on sockets.

use super::{
    DENIED, REFUSED,
    services::{datagrams, service},
    world::{Node, on_node},
};

/// `connection-reset`, as the guest prints it.
const RESET: &str = "refused 15";

/// What a guest prints that has asked a server: how both see the connection, or an error. A server that was not asked
/// has said nothing.
async fn asks(node: &Node, id: &str, slot: u32, to: &str) -> String {
    node.start(id, "ns", slot, "tcp-ask", to).await;
    let lines = node.lines(id).await;
    let last = lines.last().unwrap().trim();
    match last.split_once(' ') {
        Some(("there", _)) => "answered".to_owned(),
        // Before the client has seen it established, or after.
        _ if last == "there" || last == RESET => "reset".to_owned(),
        _ => last.to_owned(),
    }
}

#[test]
fn connections_come_in_from_whom_a_rule_names_and_to_the_port_it_names() {
    on_node(|| async {
        let node = Node::new().await;
        node.allow(&[("server", Some("10.244.1.3/32 80"), None)]).await;
        node.start("server", "ns", 2, "tcp-serve", "0.0.0.0:80").await;
        node.start_in("server", "other", "ns", 2, "tcp-serve", "0.0.0.0:81").await;
        node.line("server", 0).await;
        node.line("other", 0).await;
        assert_eq!(asks(&node, "not", 4, "10.244.1.2:80").await, "reset");
        assert_eq!(asks(&node, "named", 3, "10.244.1.2:80").await, "answered", "the server goes on");
        assert_eq!(asks(&node, "port", 3, "10.244.1.2:81").await, "reset");
        let last = node.refused("server", 2, 0).await;
        assert_eq!(last, ["TCP from 10.244.1.3 to port 81, which no NetworkPolicy allows"]);

        node.allow(&[("server", Some(""), Some(""))]).await;
        assert!(node.ask("10.244.1.2:80").await.is_ok(), "its node, which probes it");
        for (id, to) in [("loopback", "127.0.0.1:80"), ("itself", "10.244.1.2:80")] {
            node.start_in("server", id, "ns", 2, "tcp-ask", to).await;
            assert!(node.lines(id).await.last().unwrap().starts_with("there "), "{to}");
        }
        assert_eq!(asks(&node, "named-no-more", 3, "10.244.1.2:80").await, "reset");

        node.allow(&[("server", None, None)]).await;
        assert_eq!(asks(&node, "everybody", 4, "10.244.1.2:81").await, "answered");
    });
}

#[test]
fn connections_go_out_to_whom_a_rule_names() {
    on_node(|| async {
        let node = Node::new().await;
        node.start("server", "ns", 2, "tcp-serve", "0.0.0.0:80").await;
        node.line("server", 0).await;
        let rules = Some("10.244.1.2/32 80, fd00:10::/64 80");
        let ids = ["allowed", "port", "node", "v6", "v6-port"];
        node.allow(&ids.map(|id| (id, None, rules))).await;
        for (id, to, expected) in [
            ("allowed", "10.244.1.2:80", "answered"),
            ("port", "10.244.1.2:81", DENIED),
            ("node", "192.0.2.1:81", REFUSED),
            ("v6", "[fd00:10:0:0:0:0:0:2]:80", REFUSED),
            ("v6-port", "[fd00:10:0:0:0:0:0:2]:81", DENIED),
        ] {
            assert_eq!(asks(&node, id, 3, to).await, expected, "{to}");
        }
        let last = node.refused("v6-port", 0, 1).await;
        assert_eq!(last, ["TCP to [fd00:10::2]:81, which no NetworkPolicy allows"]);
        assert_eq!(asks(&node, "other", 4, "10.244.1.2:81").await, REFUSED, "nothing is said of it");
    });
}

#[test]
fn rules_are_about_ipv6_too() {
    on_node(|| async {
        let node = Node::new().await;
        node.allow(&[("server", Some("fd00:10::3/128 80"), None)]).await;
        node.start("server", "ns", 2, "tcp-serve", "[0:0:0:0:0:0:0:0]:80").await;
        node.line("server", 0).await;
        for (id, slot, expected) in [("named", 3, "answered"), ("not", 4, "reset")] {
            assert_eq!(asks(&node, id, slot, "[fd00:10:0:0:0:0:0:2]:80").await, expected, "{id}");
        }
    });
}

#[test]
fn answers_to_datagrams_pass_where_nothing_else_does() {
    on_node(|| async {
        let node = Node::new().await;
        node.allow(&[
            ("server", Some("10.244.1.3/32 53"), Some("")),
            ("client", Some(""), Some("10.244.1.2/32 53")),
            ("client-connected", Some(""), Some("10.244.1.2/32 53")),
            ("silent", Some(""), Some("")),
        ])
        .await;
        node.start("server", "ns", 2, "udp-serve", "0.0.0.0:53").await;
        node.line("server", 0).await;
        for (id, what) in [("client", "udp-ask"), ("client-connected", "udp-ask-connected")] {
            node.start(id, "ns", 3, what, "10.244.1.2:53").await;
            let lines = node.lines(id).await;
            assert!(lines.last().unwrap().starts_with("10.244.1.2:53 says from 10.244.1.3:"), "{lines:?}");
        }
        node.start("silent", "ns", 4, "udp-ask", "10.244.1.2:53").await;
        assert_eq!(node.lines("silent").await.last().unwrap(), DENIED);
        // Nothing keeps it from asking, and nobody answers.
        node.start("unheard", "ns", 5, "udp-ask", "10.244.1.2:53").await;
        let last = node.refused("server", 1, 0).await;
        assert_eq!(last, ["UDP from 10.244.1.5 to port 53, which no NetworkPolicy allows"]);
    });
}

#[test]
fn the_replacement_of_a_dead_worker_knows_the_rules() {
    on_node(|| async {
        let node = Node::new().await;
        node.allow(&[("pod", None, Some(""))]).await;
        node.start("other", "ns", 3, "tcp-serve", "0.0.0.0:80").await;
        node.line("other", 0).await;
        node.kill_worker().await;
        node.ended("other").await;
        assert_eq!(asks(&node, "pod", 2, "10.244.1.3:80").await, DENIED);
    });
}

#[test]
fn a_container_reaches_what_is_on_its_list() {
    on_node(|| async {
        let node = Node::new().await;
        node.start("server", "ns", 2, "tcp-serve", "0.0.0.0:80").await;
        node.line("server", 0).await;
        for (id, list, to, expected) in [
            ("listed", "10.244.1.2:80, example.com", "10.244.1.2:80", "there "),
            ("port", "10.244.1.2:80, example.com", "10.244.1.2:81", DENIED),
            ("node", "10.244.1.0/24", "192.0.2.1:81", DENIED),
            ("nothing", "", "10.244.1.2:80", DENIED),
        ] {
            node.start_listed(id, 3, list, "tcp-ask", to).await.unwrap();
            let lines = node.lines(id).await;
            assert!(lines.last().unwrap().starts_with(expected), "{id}: {lines:?}");
        }
        let last = node.refused("nothing", 0, 1).await;
        assert!(last[0].starts_with("TCP to 10.244.1.2:80, which is not in the annotation"), "{last:?}");
        let error =
            node.start_listed("wrong", 3, "10.0.0.0/33", "tcp-ask", "10.244.1.2:80").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("the annotation egress.kubewasm.dev/wrong: \"10.0.0.0/33\" is neither"),
            "{error}"
        );
    });
}

/// Rules are about who answers for a Service, and a list about the Service.
#[test]
fn a_service_is_reached_by_its_endpoints_rules_and_its_own_entry() {
    on_node(|| async {
        let node = Node::new().await;
        let (web, dns) = ("10.96.0.9:80", "10.96.0.10:53");
        node.set_services(&[
            ("ns/web", service(web, &["10.244.1.2:80"])),
            ("ns/dns", datagrams(dns, &["10.244.1.2:53"])),
        ]);
        let endpoint = Some("10.244.1.2/32 80, 10.244.1.2/32 53");
        let all = ["endpoint", "endpoint-udp", "endpoint-udp-connected"].map(|id| (id, Some(""), endpoint));
        let address = [("address", None, Some("10.96.0.9/32 80"))];
        node.allow(&[all.as_slice(), &address].concat()).await;
        node.start("server", "ns", 2, "tcp-serve", "0.0.0.0:80").await;
        node.start_in("server", "server-udp", "ns", 2, "udp-serve", "0.0.0.0:53").await;
        node.line("server", 0).await;
        node.line("server-udp", 0).await;
        assert_eq!(asks(&node, "endpoint", 3, web).await, "answered");
        assert_eq!(asks(&node, "address", 3, web).await, DENIED);
        for (id, what) in [("endpoint-udp", "udp-ask"), ("endpoint-udp-connected", "udp-ask-connected")] {
            node.start(id, "ns", 3, what, dns).await;
            let lines = node.lines(id).await;
            assert!(lines.last().unwrap().starts_with(&format!("{dns} says from 10.244.1.3:")), "{lines:?}");
        }
        for (id, list, what, to, expected) in [
            ("listed", "10.96.0.9:80", "tcp-ask", web, "there "),
            ("listed-endpoint", "10.244.1.2:80", "tcp-ask", web, DENIED),
            ("listed-udp", "10.96.0.10:53", "udp-ask", dns, dns),
        ] {
            node.start_listed(id, 4, list, what, to).await.unwrap();
            let lines = node.lines(id).await;
            assert!(lines.last().unwrap().starts_with(expected), "{id}: {lines:?}");
        }
    });
}
