//! Components that serve HTTP.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use kubewasm_kubelet::runtime::{
    ContainerSpec, ContainerState, ExecIo, Presence, Runtime as _, StartError, TcpPort,
};
use kubewasm_tests::wait;

use super::world::{Node, PATIENCE, on_node};

/// A container that serves on these ports, as its annotation says.
fn server(node: &Node, image: &str, id: &str, ports: &[u16], settings: &str) -> ContainerSpec {
    let tcp_ports = ports.iter().map(|port| TcpPort { port: *port, name: String::new() });
    ContainerSpec {
        image: image.to_owned(),
        argv: vec!["http".to_owned()],
        annotations: [(format!("http.kubewasm.dev/{id}"), settings.to_owned())].into(),
        tcp_ports: tcp_ports.collect(),
        ..node.spec(id, id, "ns", "", "")
    }
}

/// What an address answers to a path: the status, and the body.
async fn get(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let address: SocketAddr = address.parse().unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nhost: test\r\n\r\n");
    let ask = move || {
        let mut client = TcpStream::connect(address)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(request.as_bytes())?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        let torn = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(torn)?;
        Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

/// On its first port, or 8080; at all addresses of the pod, and for other containers on its loopback.
#[test]
fn a_component_is_served_at_the_addresses_of_its_pod() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("http-0.2.c").await;
        node.start_spec(Some(2), server(&node, &image, "a", &[80, 81], "access-log=json")).await.unwrap();
        node.start_spec(Some(3), server(&node, &image, "b", &[], "")).await.unwrap();
        for address in ["10.244.1.2:80", "[fd00:10::2]:80", "10.244.1.3:8080"] {
            assert_eq!(get(address, "/").await.unwrap(), (200, "hello\n".to_owned()), "{address}");
        }
        assert!(get("10.244.1.2:81", "/").await.is_err());
        assert_eq!(get("10.244.1.2:80", "/trap").await.unwrap().0, 500);
        assert!(node.line("a", 0).await.contains("\"status\":200"));
        node.start_in("a", "client", "ns", 2, "tcp-ask", "127.0.0.1:81").await;
        assert_eq!(node.lines("client").await, [super::REFUSED], "nobody listens there");
    });
}

/// Rules are asked before a connection is accepted. The node itself always reaches its pods.
#[test]
fn a_server_is_reached_as_rules_allow_it() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("http-0.2.c").await;
        node.start_spec(Some(2), server(&node, &image, "a", &[80], "")).await.unwrap();
        node.allow(&[("a", Some("203.0.113.0/24 80"), None)]).await;
        node.start("client", "ns", 3, "tcp-ask", "10.244.1.2:80").await;
        assert!(node.refused("a", 1, 0).await[0].contains("to port 80"));
        assert_eq!(get("10.244.1.2:80", "/").await.unwrap().0, 200);
    });
}

/// It finishes what it has begun, and exits with 0; what is not over when its grace is, is killed.
#[test]
fn a_server_drains_within_its_grace() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("http-0.2.c").await;
        for (id, slot, sleeps, grace, expected) in
            [("a", 2, 8000, Duration::from_secs(60), 0), ("b", 3, 60_000, Duration::from_secs(1), 137)]
        {
            let address = format!("10.244.1.{slot}:80");
            node.start_spec(Some(slot), server(&node, &image, id, &[80], "drain=5s")).await.unwrap();
            assert_eq!(get(&address, "/").await.unwrap().0, 200);
            let slow = {
                let address = address.clone();
                tokio::spawn(async move { get(&address, &format!("/sleep?{sleeps}")).await })
            };
            is_busy(&node, id).await;
            let runtime = node.runtime();
            runtime.stop(id, grace).await.unwrap();
            if expected == 0 {
                assert_eq!(get(&address, "/").await.unwrap().0, 200, "others do not know of it yet");
            }
            let slow = slow.await.unwrap();
            let is_answered = slow.is_ok_and(|(status, body)| (status, body.as_str()) == (200, "slept\n"));
            assert_eq!(is_answered, expected == 0, "{id}");
            node.ended(id).await;
            let Presence::Known(ContainerState::Exited(exit)) = runtime.observe(id) else {
                panic!("it has ended")
            };
            assert_eq!(exit.exit_code, expected);
            // The next attempt has the port at once.
            let again = server(&node, &image, &format!("{id}-again"), &[80], "");
            node.start_spec(Some(slot), again).await.unwrap();
            assert_eq!(get(&address, "/").await.unwrap().0, 200);
        }
    });
}

/// Waits until a container has a request to answer.
async fn is_busy(node: &Node, id: &str) {
    wait::until("a request", PATIENCE, async || {
        let all = node.runtime().http_stats().await;
        let is_busy = all.iter().any(|stats| stats.id == id && stats.in_flight == 1);
        if is_busy { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await
    .unwrap();
}

/// A component that can be run and can serve: it serves, unless its pod says that it is a command.
#[test]
fn the_pod_says_which_export_of_a_component_runs() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("http-0.2.c").await;
        let mut command = server(&node, &image, "a", &[80], "");
        command.annotations = [("serve.kubewasm.dev/a".to_owned(), "command".to_owned())].into();
        node.start_spec(Some(2), command).await.unwrap();
        assert_eq!(node.line("a", 0).await, "a command");
        node.ended("a").await;
        let runtime = node.runtime();
        let Presence::Known(ContainerState::Exited(exit)) = runtime.observe("a") else {
            panic!("it has ended")
        };
        assert_eq!(exit.exit_code, 0);
        node.start_spec(Some(3), server(&node, &image, "b", &[80], "")).await.unwrap();
        assert_eq!(get("10.244.1.3:80", "/").await.unwrap().0, 200);
        // What is run in it is its command; one that has none cannot be run.
        let argv = ["anything".to_owned()];
        let end = runtime.exec("b", &argv, ExecIo::Collect { limit: 100 }).await.unwrap();
        assert_eq!((end.exit_code, end.output.as_slice()), (0, b"a command\n".as_slice()));
        let serves = server(&node, &node.have("http-0.3.wat").await, "c", &[80], "");
        node.start_spec(Some(4), serves).await.unwrap();
        let error = runtime.exec("c", &argv, ExecIo::Collect { limit: 100 }).await.unwrap_err().to_string();
        assert!(error.contains("serves HTTP") && error.contains("httpGet"), "{error}");
    });
}

/// What cannot be is said before anything runs.
#[test]
fn what_is_asked_for_and_cannot_be_is_an_error_of_the_start() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("http-0.2.c").await;
        let error = node.start_spec(Some(2), server(&node, &image, "a", &[80], "max-requests=0")).await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains("http.kubewasm.dev/a") && text.contains("max-requests=0"), "{text}");
        let mut spec = server(&node, &node.have("http-0.3.wat").await, "b", &[80], "");
        spec.annotations = [("serve.kubewasm.dev/b".to_owned(), "command".to_owned())].into();
        let error = node.start_spec(Some(2), spec).await.unwrap_err();
        assert!(matches!(error, StartError::Config(_)), "{error}");
        // Without an address of its own, it would serve nobody.
        let error = node.start_spec(None, server(&node, &image, "c", &[80], "")).await.unwrap_err();
        assert!(error.to_string().contains("hostNetwork"), "{error}");
        node.start_spec(Some(2), server(&node, &image, "d", &[80], "")).await.unwrap();
        let error = node.start_spec(Some(2), server(&node, &image, "e", &[80], "")).await.unwrap_err();
        assert!(error.to_string().contains("cannot listen on 10.244.1.2:80"), "{error}");
        let began = Instant::now();
        node.kill("d").await;
        assert!(began.elapsed() < PATIENCE);
    });
}
