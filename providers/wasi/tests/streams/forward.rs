//! Connections to ports of pods that share the node's network, or have no port there. Those of pods with addresses of their own
//! are among the tests of the network.

use kubewasm_kubelet::runtime::{ContainerSpec, PortForwardError, Runtime as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::world::{CAT, Node};

async fn node(host_network: bool) -> Node {
    let node = Node::new().await;
    let image = node.have("cat.wasm", &wat::parse_str(CAT).unwrap()).await;
    node.start(&ContainerSpec { stdin: true, host_network, ..node.spec("a", &image) }).await;
    node
}

#[tokio::test]
async fn both_directions_end_by_themselves_however_much_comes() {
    const BYTES: usize = 8 << 20;
    let node = node(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut connections = Vec::new();
    for number in 0..10_u8 {
        let (near, far) = tokio::join!(node.runtime.port_forward("pod-a", port), listener.accept());
        connections.push((number, near.unwrap(), far.unwrap().0));
    }
    let talk = connections.into_iter().map(async |(number, mut near, mut far)| {
        let there = async {
            near.write_all(&vec![number; BYTES]).await.unwrap();
            near.shutdown().await.unwrap();
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let back = async {
            let mut come = Vec::new();
            far.read_to_end(&mut come).await.unwrap();
            assert!(come == vec![number; BYTES]);
            // The other direction has ended, and this one has not.
            far.write_all(b"all of it").await.unwrap();
            far.shutdown().await.unwrap();
        };
        let (answer, ()) = tokio::join!(there, back);
        assert_eq!(answer, b"all of it");
    });
    futures::future::join_all(talk).await;
}

#[tokio::test]
async fn a_connection_that_is_cut_or_dropped_is_at_both_ends() {
    let node = node(true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (near, far) = tokio::join!(node.runtime.port_forward("pod-a", port), listener.accept());
    drop(near.unwrap());
    let mut far = far.unwrap().0;
    assert!(matches!(far.read(&mut [0; 8]).await, Ok(0) | Err(_)));
    let (near, far) = tokio::join!(node.runtime.port_forward("pod-a", port), listener.accept());
    let far = far.unwrap().0.into_std().unwrap();
    // Closed so, it is reset.
    rustix::net::sockopt::set_socket_linger(&far, Some(std::time::Duration::ZERO)).unwrap();
    drop(far);
    assert!(near.unwrap().read(&mut [0; 8]).await.is_err());
}

#[tokio::test]
async fn nobody_there_is_said_as_it_is_known() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let host = node(true).await;
    let error = host.runtime.port_forward("pod-a", port).await.err().unwrap().to_string();
    let expected = format!(
        "failed to connect to localhost:{port} inside the pod: dial tcp 127.0.0.1:{port}: connect: connection refused"
    );
    assert_eq!(error, expected);
    let error = host.runtime.port_forward("pod-b", port).await.err().unwrap();
    assert!(matches!(error, PortForwardError::NotRunning), "{error}");

    // What others have on the node is no port of the pod.
    let others = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = others.local_addr().unwrap().port();
    let error = node(false).await.runtime.port_forward("pod-a", port).await.err().unwrap().to_string();
    assert!(error.contains("connection refused") && error.contains("hostPort"), "{error}");
}
