//! Pods without addresses of their own, whose `hostPort`s are ports of the node.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use kubewasm_kubelet::runtime::{ContainerSpec, ExposedPort, HostPortProtocol, TcpPort};

use super::{
    DENIED, REFUSED, without_ports,
    world::{Node, PATIENCE, on_node},
};

/// `address-in-use`, as the guest prints it.
const IN_USE: &str = "refused 12";

/// A port as `tcp 8080 192.0.2.1 18080`, with `-` for all addresses.
fn port(text: &str) -> ExposedPort {
    let [protocol, container_port, host_ip, host_port] = text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    ExposedPort {
        protocol: if protocol == "udp" { HostPortProtocol::Udp } else { HostPortProtocol::Tcp },
        container_port: container_port.parse().unwrap(),
        host_ip: (host_ip != "-").then(|| host_ip.parse().unwrap()),
        host_port: host_port.parse().unwrap(),
    }
}

/// A container of a pod that has these ports of the node.
fn exposing(node: &Node, pod: &str, id: &str, ports: &[&str], what: &str, address: &str) -> ContainerSpec {
    ContainerSpec {
        exposed_ports: ports.iter().map(|text| port(text)).collect(),
        ..node.spec(pod, id, "ns", what, address)
    }
}

async fn start(node: &Node, pod: &str, id: &str, ports: &[&str], what: &str, address: &str) {
    node.start_spec(None, exposing(node, pod, id, ports, what, address)).await.unwrap();
}

/// The guest goes by the port of its container, and everybody else by that of the node.
#[test]
fn a_component_listens_at_its_host_port() {
    on_node(|| async {
        let node = Node::new().await;
        for (pod, address, asked, sees) in [
            ("a", "0.0.0.0:8080", "192.0.2.1:18080", "192.0.2.1:8080 from 192.0.2.1:*"),
            ("b", "192.0.2.1:8080", "127.0.0.1:18080", "127.0.0.1:8080 from 127.0.0.1:*"),
            (
                "c",
                "[0:0:0:0:0:0:0:0]:8080",
                "[2001:db8::1]:18080",
                "[2001:db8:0:0:0:0:0:1]:8080 from [2001:db8:0:0:0:0:0:1]:*",
            ),
        ] {
            start(&node, pod, pod, &["tcp 8080 - 18080"], "tcp-serve", address).await;
            assert_eq!(node.line(pod, 0).await, format!("bound to {address}"));
            let answer = node.ask(asked).await.unwrap();
            assert_eq!(without_ports(&[answer.replace("8080 ", "80 ")]), [sees.replace("8080 ", "80 ")]);
            assert!(node.listens(pod, asked).await);
            assert!(!node.listens(pod, "192.0.2.1:8080").await && !node.listens("other", asked).await);
            assert!(node.ask("192.0.2.1:8080").await.is_err(), "the port of the container is not the node's");
            node.kill(pod).await;
            assert!(!node.listens(pod, asked).await && node.ask(asked).await.is_err());
        }
        start(&node, "d", "d", &["tcp 80 127.0.0.1 8080"], "tcp-serve", "0.0.0.0:80").await;
        node.line("d", 0).await;
        assert_eq!(
            without_ports(&[node.ask("127.0.0.1:8080").await.unwrap()]),
            ["127.0.0.1:80 from 127.0.0.1:*"]
        );
        assert!(node.ask("192.0.2.1:8080").await.is_err(), "it is at the address that was named");
        assert!(node.listens("d", "127.0.0.1:8080").await && !node.listens("d", "192.0.2.1:8080").await);
    });
}

#[test]
fn what_is_not_exposed_is_refused() {
    on_node(|| async {
        let node = Node::new().await;
        let ports = ["tcp 8080 - 18080", "udp 53 - 5353"];
        let _taken = TcpListener::bind("0.0.0.0:18080").unwrap();
        for (id, what, address, expected) in [
            ("other", "tcp-bind", "0.0.0.0:9090", DENIED),
            ("host port", "tcp-bind", "0.0.0.0:18080", DENIED),
            ("loopback", "tcp-bind", "127.0.0.1:8080", DENIED),
            ("foreign", "tcp-bind", "192.0.2.7:8080", DENIED),
            ("any", "tcp-bind", "0.0.0.0:0", DENIED),
            ("datagrams", "udp-serve", "0.0.0.0:8080", DENIED),
            ("connections", "tcp-bind", "0.0.0.0:53", DENIED),
            ("taken", "tcp-bind", "0.0.0.0:8080", IN_USE),
        ] {
            start(&node, id, id, &ports, what, address).await;
            assert_eq!(node.lines(id).await, [expected], "{id}");
        }
        start(&node, "client", "client", &[], "tcp-bind", "0.0.0.0:8080").await;
        assert_eq!(node.lines("client").await, [DENIED]);
    });
}

/// A socket is at one port of the node, and so the next of a port's is for the next socket.
#[test]
fn each_host_port_of_a_port_has_a_socket() {
    on_node(|| async {
        let node = Node::new().await;
        let ports = ["tcp 8080 - 18080", "tcp 8080 - 18081"];
        for (id, host_port) in [("first", 18080), ("second", 18081)] {
            start(&node, "a", id, &ports, "tcp-serve", "0.0.0.0:8080").await;
            assert_eq!(node.line(id, 0).await, "bound to 0.0.0.0:8080");
            node.ask(&format!("192.0.2.1:{host_port}")).await.unwrap();
        }
        start(&node, "a", "third", &ports, "tcp-serve", "0.0.0.0:8080").await;
        assert_eq!(node.lines("third").await, [IN_USE]);
        node.kill("first").await;
        start(&node, "a", "fourth", &ports, "tcp-serve", "0.0.0.0:8080").await;
        node.line("fourth", 0).await;
        node.ask("192.0.2.1:18080").await.unwrap();
    });
}

#[test]
fn a_guest_of_wasi_0_1_listens_at_all_of_its_host_ports() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("listener.c").await;
        let ports = ["tcp 80 - 8080", "tcp 80 127.0.0.1 8081"];
        let spec = |id: &str, ports: &[&str]| ContainerSpec {
            image: image.clone(),
            argv: ["listener", "greet"].map(str::to_owned).into(),
            tcp_ports: [80, 90].map(|port| TcpPort { port, name: String::new() }).into(),
            ..exposing(&node, id, id, ports, "greet", "")
        };
        node.start_spec(None, spec("a", &ports)).await.unwrap();
        for (address, listens) in [
            ("192.0.2.1:8080", true),
            ("[2001:db8::1]:8080", true),
            ("127.0.0.1:8081", true),
            ("192.0.2.1:8081", false),
            ("192.0.2.1:80", false),
            ("192.0.2.1:90", false),
        ] {
            let answer = node.ask(address).await.ok();
            assert_eq!(answer.as_deref(), listens.then_some("welcome"), "{address}");
            assert_eq!(node.listens("a", address).await, listens, "{address}");
        }
        let error = node.start_spec(None, spec("b", &ports)).await.unwrap_err().to_string();
        assert!(error.contains("port 80") && error.contains("in use"), "{error}");
        let looks = ContainerSpec {
            argv: ["listener", "look"].map(str::to_owned).into(),
            ..spec("c", &["tcp 90 - 9090"])
        };
        node.start_spec(None, looks).await.unwrap();
        assert_eq!(node.line("c", 0).await, "1 90 none", "it is told of those that are open");
    });
}

/// By the loopback, or the address that the pod calls its own: a pod reaches itself where it listens, and nobody else there.
#[test]
fn containers_of_a_pod_reach_each_other() {
    on_node(|| async {
        let node = Node::new().await;
        let ports = ["tcp 8080 - 18080", "udp 53 - 5353"];
        start(&node, "a", "web", &ports, "tcp-serve", "0.0.0.0:8080").await;
        start(&node, "a", "names", &ports, "udp-serve", "0.0.0.0:53").await;
        node.line("web", 0).await;
        node.line("names", 0).await;
        let foreign = TcpListener::bind("127.0.0.1:9999").unwrap();
        for (id, pod, what, address, expected) in [
            (
                "loopback",
                "a",
                "tcp-ask",
                "127.0.0.1:8080",
                &["here 127.0.0.1:* from 127.0.0.1:*", "there 127.0.0.1:* from 127.0.0.1:*"][..],
            ),
            (
                "own",
                "a",
                "tcp-ask",
                "192.0.2.1:8080",
                &["here 127.0.0.1:* from 192.0.2.1:*", "there 127.0.0.1:* from 127.0.0.1:*"],
            ),
            (
                "datagram",
                "a",
                "udp-ask",
                "127.0.0.1:53",
                &["bound to 0.0.0.0:*", "127.0.0.1:53 says from 127.0.0.1:*"],
            ),
            (
                "connected",
                "a",
                "udp-ask-connected",
                "127.0.0.1:53",
                &["bound to 0.0.0.0:*", "127.0.0.1:53 says from 127.0.0.1:*"],
            ),
            ("host port", "a", "tcp-ask", "127.0.0.1:18080", &[DENIED]),
            ("foreign", "a", "tcp-ask", "127.0.0.1:9999", &[DENIED]),
            ("another pod", "b", "tcp-ask", "127.0.0.1:8080", &[DENIED]),
            ("another pod's datagram", "b", "udp-ask", "127.0.0.1:53", &["bound to 0.0.0.0:*", DENIED]),
        ] {
            start(&node, pod, id, &ports, what, address).await;
            assert_eq!(without_ports(&node.lines(id).await), expected, "{id}");
        }
        drop(foreign);
        node.kill("web").await;
        start(&node, "a", "too late", &ports, "tcp-ask", "127.0.0.1:8080").await;
        assert_eq!(node.lines("too late").await, [DENIED]);
        start(&node, "a", "not there", &ports, "tcp-ask", "192.0.2.1:8080").await;
        assert_eq!(node.lines("not there").await, [REFUSED], "as any port of the node's");
    });
}

/// Whoever asks, from the node itself as from elsewhere; and nobody is written to who has not.
#[test]
fn datagrams_come_in_at_a_host_port() {
    on_node(|| async {
        let node = Node::new().await;
        start(&node, "a", "a", &["udp 53 - 5353"], "udp-serve", "0.0.0.0:53").await;
        assert_eq!(node.line("a", 0).await, "bound to 0.0.0.0:53");
        for (from, to) in [("192.0.2.1:0", "192.0.2.1:5353"), ("127.0.0.1:0", "127.0.0.1:5353")] {
            let asked = tokio::task::spawn_blocking(move || {
                let client = UdpSocket::bind(from).unwrap();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                client.send_to(b"?", to).unwrap();
                let mut answer = [0; 100];
                let (size, sender) = client.recv_from(&mut answer).unwrap();
                let own = client.local_addr().unwrap();
                (own, sender, String::from_utf8_lossy(&answer[..size]).trim_end().to_owned())
            });
            let (own, sender, answer) = asked.await.unwrap();
            assert_eq!(sender, to.parse::<SocketAddr>().unwrap());
            assert_eq!(answer, format!("from {own}"));
        }
        assert!(!node.listens("a", "192.0.2.1:5353").await, "connections are others");
    });
}

/// All of the node's ports are the pod's, and only those that it listens on itself are taken for its own.
#[test]
fn a_pod_of_the_nodes_network_listens_where_it_does() {
    on_node(|| async {
        let node = Node::new().await;
        let _foreign = TcpListener::bind("192.0.2.1:9090").unwrap();
        node.start_on_host("a", "tcp-serve", "0.0.0.0:8080").await;
        node.line("a", 0).await;
        node.start_on_host("b", "tcp-serve", "127.0.0.1:7070").await;
        node.line("b", 0).await;
        for (pod, address, expected) in [
            ("a", "192.0.2.1:8080", true),
            ("a", "127.0.0.1:8080", true),
            ("a", "192.0.2.1:9090", false),
            ("a", "127.0.0.1:7070", false),
            ("b", "127.0.0.1:7070", true),
            ("b", "192.0.2.1:7070", false),
            ("b", "192.0.2.1:8080", false),
        ] {
            assert_eq!(node.listens(pod, address).await, expected, "{pod} {address}");
        }
    });
}
