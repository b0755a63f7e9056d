//! What goes through the sockets of guests is counted, to the byte, on the account of their container.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use kubewasm_kubelet::runtime::{ContainerSpec, ContainerTraffic, Runtime as _, TcpPort};

use super::world::{Node, PATIENCE, on_node};

/// What a container is said to have received and sent, once that is so much: it may not have got to know of all yet.
async fn counts(node: &Node, id: &str, received_bytes: usize, sent_bytes: usize) {
    let expected = ContainerTraffic {
        received_bytes: received_bytes as u64,
        sent_bytes: sent_bytes as u64,
        has_uncounted: false,
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let told = traffic(node, id).await;
        if told == expected {
            return;
        }
        let is_more = told.received_bytes > expected.received_bytes || told.sent_bytes > expected.sent_bytes;
        let may_still_be = !is_more && !told.has_uncounted && Instant::now() < until;
        assert!(may_still_be, "{id}: {told:?}, and not {expected:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn traffic(node: &Node, id: &str) -> ContainerTraffic {
    let stats = node.runtime().stats().await;
    stats.into_iter().find(|stats| stats.id == id).map(|stats| stats.traffic).unwrap_or_default()
}

/// Says something to a server, and returns all that it answers.
async fn exchange(address: &'static str, said: Vec<u8>, ends: bool) -> Vec<u8> {
    let address: SocketAddr = address.parse().unwrap();
    let exchange = move || {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(&said).unwrap();
        if ends {
            client.shutdown(Shutdown::Write).unwrap();
        }
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        answer
    };
    tokio::task::spawn_blocking(exchange).await.unwrap()
}

#[test]
fn what_guests_receive_and_send_is_counted_to_the_byte() {
    on_node(|| async {
        let node = Node::new().await;
        let port = |port| vec![TcpPort { port, name: String::new() }];

        let image = node.have("listener.c").await;
        let argv = ["listener", "echo"].map(str::to_owned).into();
        let plain = node.spec("listener", "listener", "ns", "", "");
        let listener = ContainerSpec { image, argv, tcp_ports: port(80), ..plain };
        node.start_spec(Some(2), listener).await.unwrap();
        let said = b"x".repeat(200_000);
        let answer = exchange("10.244.1.2:80", said.clone(), true).await;
        assert_eq!(answer.len(), said.len() + b"200000 bytes\n".len());
        counts(&node, "listener", said.len(), answer.len()).await;

        node.start("stream", "ns", 3, "tcp-serve", "0.0.0.0:80").await;
        node.line("stream", 0).await;
        let answer = exchange("10.244.1.3:80", Vec::new(), false).await;
        let again = exchange("10.244.1.3:80", Vec::new(), false).await;
        counts(&node, "stream", 0, answer.len() + again.len()).await;

        node.start("datagrams", "ns", 4, "udp-serve", "0.0.0.0:53").await;
        node.line("datagrams", 0).await;
        let ask = || {
            let client = UdpSocket::bind("192.0.2.1:0").unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send_to(b"hello", "10.244.1.4:53").unwrap();
            client.recv(&mut [0; 1000]).unwrap()
        };
        let answer = tokio::task::spawn_blocking(ask).await.unwrap();
        counts(&node, "datagrams", 5, answer).await;

        let image = node.have("http-0.2.c").await;
        let argv = vec!["http".to_owned()];
        let plain = node.spec("http", "http", "ns", "", "");
        let http = ContainerSpec { image, argv, tcp_ports: port(80), ..plain };
        node.start_spec(Some(5), http).await.unwrap();
        let said = b"GET / HTTP/1.0\r\nhost: test\r\n\r\n".to_vec();
        let answer = exchange("10.244.1.5:80", said.clone(), false).await;
        counts(&node, "http", said.len(), answer.len()).await;
        assert_eq!(traffic(&node, "stream").await.received_bytes, 0, "it is nobody else's");
    });
}

/// wasmtime-wasi alone has the streams of a connection of WASI 0.3: what is told is known not to be all.
#[test]
fn what_cannot_be_counted_is_told() {
    on_node(|| async {
        let node = Node::new().await;
        let image = node.have("sockets-0.3.c").await;
        for (id, slot, what, is_whole) in [("tcp", 2, "tcp-serve", false), ("udp", 3, "udp-serve", true)] {
            let spec = ContainerSpec { image: image.clone(), ..node.spec(id, id, "ns", what, "0.0.0.0:80") };
            node.start_spec(Some(slot), spec).await.unwrap();
            node.line(id, 0).await;
            assert_eq!(!traffic(&node, id).await.has_uncounted, is_whole, "{id}");
        }
    });
}
