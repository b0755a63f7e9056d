//! Guests of WASI 0.1 that listen on the ports of their container.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
};

use kubewasm_kubelet::runtime::{ContainerSpec, Runtime as _, TcpPort};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::world::{Node, PATIENCE, on_node};

/// A container of C's program that does this, with these ports.
fn listener(node: &Node, image: &str, id: &str, what: &str, ports: &[(u16, &str)]) -> ContainerSpec {
    let tcp_ports = ports.iter().map(|(port, name)| TcpPort { port: *port, name: (*name).to_owned() });
    ContainerSpec {
        image: image.to_owned(),
        argv: ["listener", what].map(str::to_owned).into(),
        tcp_ports: tcp_ports.collect(),
        ..node.spec(id, id, "ns", what, "")
    }
}

/// A client, whose calls wait, on a thread that may.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn connect(address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().unwrap();
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Sends a text and reads it back.
fn echo(client: &mut TcpStream, text: &[u8]) {
    client.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    client.read_exact(&mut back).unwrap();
    assert_eq!(back, text);
}

/// Sends no more, and reads what the other side still has to say.
fn rest(mut client: TcpStream) -> String {
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    rest
}

/// The port, at every address of the pod; what is sent is more than buffers hold.
#[test]
fn a_guest_answers_one_connection_after_the_other() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("listener.c").await;
        let spec = listener(&node, &image, "a", "echo", &[(80, "http")]);
        node.start_spec(Some(2), spec).await.unwrap();
        for address in ["10.244.1.2:80", "[fd00:10::2]:80"] {
            let said = apart(|| {
                let mut client = connect(address);
                echo(&mut client, b"hello");
                echo(&mut client, b"again");
                rest(client)
            });
            assert_eq!(said.await, "10 bytes\n");
        }
        let said = apart(|| {
            let client = connect("10.244.1.2:80");
            let mut writer = client.try_clone().unwrap();
            let writer = std::thread::spawn(move || {
                writer.write_all(&vec![7; 8 << 20]).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut all = Vec::new();
            (&client).read_to_end(&mut all).unwrap();
            writer.join().unwrap();
            all
        });
        let said = said.await;
        assert_eq!(said.len(), (8 << 20) + b"8388608 bytes\n".len());
        assert!(said.ends_with(b"8388608 bytes\n"));
    });
}

/// By programs that never wait in a call: one in C, and one in Go, whose runtime does it.
#[test]
fn a_guest_answers_several_connections_at_once() {
    on_node(|| async {
        let node = Node::new().await;
        for (source, slot) in [("listener.c", 2), ("listener.go", 3)] {
            let image = node.have(source).await;
            let ports = [(80, "http"), (9090, "")];
            let spec = listener(&node, &image, source, "poll", &ports);
            node.start_spec(Some(slot), spec).await.unwrap();
            if source == "listener.c" {
                assert_eq!(node.line(source, 0).await, "ready at first: 0");
            } else {
                node.line(source, 1).await;
                let mut said = node.printed(source);
                said.sort();
                assert_eq!(said, ["listening on 9090", "listening on http"]);
            }
            let said = apart(move || {
                let mut clients = [80, 9090, 80].map(|port| connect(&format!("10.244.1.{slot}:{port}")));
                for text in [&b"one"[..], b"two", b"three"] {
                    for client in &mut clients {
                        echo(client, text);
                    }
                }
                let [first, second, third] = clients;
                drop(second);
                [third, first].map(rest)
            });
            assert_eq!(said.await, ["11 bytes\n", "11 bytes\n"], "{source}");
        }
    });
}

/// Other containers of the pod find it on their loopback, other pods do not.
#[test]
fn a_listener_is_found_on_the_pods_loopback() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("listener.c").await;
        node.start_spec(Some(2), listener(&node, &image, "server", "greet", &[(80, "")])).await.unwrap();
        for (client, address) in [("four", "127.0.0.1:80"), ("six", "[0:0:0:0:0:0:0:1]:80")] {
            node.start_in("server", client, "ns", 2, "tcp-ask", address).await;
            assert_eq!(node.lines(client).await.last().unwrap(), "there welcome", "{address}");
        }
        node.start("other", "ns", 3, "tcp-ask", "127.0.0.1:80").await;
        assert_eq!(node.lines("other").await, [super::REFUSED]);
    });
}

/// A guest that waits for a connection can be ended, and the next attempt has its port; nobody has it twice.
#[test]
fn a_port_is_a_containers_until_it_ends() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("listener.c").await;
        let spec = |id: &str| ContainerSpec {
            pod_uid: "pod-a".to_owned(),
            ..listener(&node, &image, id, "greet", &[(80, "http")])
        };
        node.start_spec(Some(2), spec("first")).await.unwrap();
        let error = node.start_spec(Some(2), spec("second")).await.unwrap_err().to_string();
        assert!(
            error.contains("cannot listen on 10.244.1.2:80, for the container's port 80 (http)"),
            "{error}"
        );
        assert!(error.contains("in use"), "{error}");
        assert_eq!(node.ask("10.244.1.2:80").await.unwrap(), "welcome");
        node.kill("first").await;
        assert!(node.ask("10.244.1.2:80").await.is_err());
        node.start_spec(Some(2), spec("third")).await.unwrap();
        assert_eq!(node.ask("10.244.1.2:80").await.unwrap(), "welcome");
    });
}

/// The sockets of a guest are as many as its files may be; then it is told, and nobody else is hurt.
#[test]
fn a_guest_has_a_bounded_number_of_connections() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("listener.c").await;
        let spec = listener(&node, &image, "a", "hoard", &[(80, "")]);
        let spec = ContainerSpec { memory_limit_bytes: 8 << 20, ..spec };
        node.start_spec(Some(2), spec).await.unwrap();
        let clients = apart(|| {
            let clients: Vec<_> = (0..300).map(|_| connect("10.244.1.2:80")).collect();
            clients
        })
        .await;
        let said = node.line("a", 0).await;
        // 256 files, of which are three streams, the listener and the root.
        assert_eq!(said, "251 and then EMFILE");
        drop(clients);
    });
}

/// What a guest is told, and what it finds behind the numbers.
#[test]
fn a_listener_is_a_socket_and_nothing_else() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("listener.c").await;
        let spec = listener(&node, &image, "a", "look", &[(80, "http"), (81, "")]);
        let env = vec![("LISTEN_FDS".to_owned(), "9".to_owned())];
        node.start_spec(Some(2), ContainerSpec { env, ..spec }).await.unwrap();
        let socket = |fd| {
            format!(
                "{fd} socket stream, read: Socket not connected, openat: Not a directory, lseek: Invalid seek"
            )
        };
        let expected = [
            "2 http:81 none",
            &socket(3),
            &socket(4),
            "accept of stdout: Not a socket",
            "accept of nothing: Bad file descriptor",
            "/: a directory",
            "opened, its number again",
        ];
        assert_eq!(node.lines("a").await, expected);
    });
}

/// Where a pod has no addresses of its own, its guests do not listen; with the node's network, they do as any process.
#[test]
fn only_who_has_addresses_listens() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("listener.c").await;
        let client = listener(&node, &image, "client", "look", &[(80, "http")]);
        node.start_spec(None, client).await.unwrap();
        assert_eq!(node.line("client", 0).await, "none none none");
        let host = listener(&node, &image, "host", "greet", &[(8080, "http")]);
        node.start_spec(None, ContainerSpec { host_network: true, ..host }).await.unwrap();
        for address in ["127.0.0.1:8080", "192.0.2.1:8080", "[2001:db8::1]:8080"] {
            assert_eq!(node.ask(address).await.unwrap(), "welcome", "{address}");
        }
    });
}

/// Rules of the pod hold for what it accepts.
#[test]
fn a_listener_takes_no_connection_that_rules_forbid() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("listener.c").await;
        node.allow(&[("server", Some("10.244.1.3/32 80"), None)]).await;
        node.start_spec(Some(2), listener(&node, &image, "server", "greet", &[(80, "")])).await.unwrap();
        node.start("friend", "ns", 3, "tcp-ask", "10.244.1.2:80").await;
        node.start("stranger", "ns", 4, "tcp-ask", "10.244.1.2:80").await;
        assert_eq!(node.lines("friend").await.last().unwrap(), "there welcome");
        assert!(!node.lines("stranger").await.concat().contains("welcome"));
        let [last] = &node.refused("server", 1, 0).await[..] else { panic!("something else was refused") };
        assert!(last.contains("10.244.1.4"), "{last}");
    });
}

/// Somebody who is forwarded to a port of the pod comes from the pod itself, whichever address the guest listens at.
#[test]
fn a_port_is_forwarded_to_as_from_within_the_pod() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("listener.c").await;
        let spec = listener(&node, &image, "a", "echo", &[(80, "http")]);
        node.start_spec(Some(2), spec).await.unwrap();
        let uid = node.spec("a", "a", "ns", "echo", "").pod_uid;
        let mut connection = node.runtime().port_forward(&uid, 80).await.unwrap();
        connection.write_all(b"hello").await.unwrap();
        connection.shutdown().await.unwrap();
        let mut said = String::new();
        connection.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello5 bytes\n");
        let error = node.runtime().port_forward(&uid, 81).await.err().unwrap().to_string();
        assert!(error.contains("127.0.0.1:81: connect: connection refused"), "{error}");
    });
}
