//! `kubectl port-forward`: connections of a user's machine, to the address of a pod and to its loopback.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kubewasm_tests::{guests, node::Options, ports, progress::say, registry::image::Content, wait};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    addresses::end,
    endpoint::sockets,
    http::serve_http,
    pods::{Pods, is, restarts, running},
    sessions::{ROUTES, Route, Session},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// How many connections there are at once.
const MANY: usize = 100;

/// A kubectl that forwards a port of this machine to one of a pod.
pub(crate) struct Forward {
    session: Session,
    local: SocketAddr,
}

impl Forward {
    pub(crate) async fn start(route: Route, ns: &str, pod: &str, port: u16) -> Self {
        let arguments = ["port-forward", "--address=127.0.0.1", pod, &format!(":{port}")];
        let mut session = Session::start(route.kubectl(ns, &arguments).await);
        let line = session.next_line().await;
        let local = line.trim_end().strip_prefix("Forwarding from ").and_then(|rest| rest.split_once(" -> "));
        let Some((local, _)) = local else { panic!("{line:?}: {:?}", session.ends().await) };
        Self { session, local: local.parse().unwrap() }
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.local).await.unwrap()
    }

    /// What comes back to this until the other side has no more. It is told that there is no more to come.
    pub(crate) async fn exchange(&self, sent: &[u8]) -> Vec<u8> {
        let (mut read, mut write) = self.connect().await.into_split();
        let mut answer = Vec::new();
        let whole = async {
            let write = async move {
                write.write_all(sent).await.unwrap();
                write.shutdown().await.unwrap();
                write
            };
            let (write, read) = tokio::join!(write, read.read_to_end(&mut answer));
            drop(write);
            read
        };
        tokio::time::timeout(SOON, whole).await.expect("an end of the answer").unwrap();
        answer
    }

    async fn get(&self) -> String {
        String::from_utf8(self.exchange(b"GET / HTTP/1.0\r\nhost: test\r\n\r\n").await).unwrap()
    }
}

/// A guest that serves HTTP answers through any number of connections at once.
#[tokio::test]
async fn a_guest_that_serves_http_is_reached() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let port = serve_http(&pods, "web").await;
        for route in ROUTES {
            let forward = Forward::start(route, ns, "web", port).await;
            assert!(forward.get().await.ends_with("hello\n"));
            let answers = stream::iter(0..MANY).map(|_| forward.get()).buffer_unordered(MANY);
            let answers: Vec<String> = answers.collect().await;
            assert!(answers.iter().all(|answer| answer.ends_with("hello\n")), "{route:?}: {answers:?}");
            forward.session.killed().await;
        }
    })
    .await;
}

/// A guest on a port of the node is reached by its own port. What else listens on the machine is nobody's pod.
#[tokio::test]
async fn a_guest_on_a_port_of_the_node_is_reached() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let port = ports::free().unwrap();
        let main = json!({
            "name": "main", "image": sockets().await, "args": ["tcp-echo", format!("0.0.0.0:{port}")],
            "ports": [{ "containerPort": port, "hostPort": port }],
            "readinessProbe": { "tcpSocket": { "port": port }, "periodSeconds": 1 },
        });
        pods.create("echo", json!({ "containers": [main] })).await;
        pods.until("echo", "ready", |pod| is(pod, "Ready")).await;
        let stranger = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        stranger.set_nonblocking(true).unwrap();
        let strange = stranger.local_addr().unwrap().port();
        for route in ROUTES {
            let forward = Forward::start(route, ns, "echo", port).await;
            assert_eq!(forward.exchange(b"of the node").await, b"of the node", "{route:?}");
            forward.session.killed().await;
            let forward = Forward::start(route, ns, "echo", strange).await;
            drop(forward.connect().await);
            let ended = forward.session.ends().await;
            let part = format!("error forwarding port {strange} to pod ");
            assert!(ended.stderr.contains(&part), "{route:?}: {ended:?}");
        }
        let come = stranger.accept().map_err(|error| error.kind());
        assert_eq!(come.err(), Some(ErrorKind::WouldBlock), "nobody has come to a program that is no pod's");
    })
    .await;
}

/// Connections to a pod with addresses of its own: a hundred at once to a guest of WASI 0.1, each of which is ended on one side
/// first; and to a guest that listens on the pod's loopback alone. A killed agent ends them, and nothing else.
#[tokio::test]
async fn guests_are_reached_at_their_address_and_their_loopback() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let content = Content::program("listener", guests::guest("listener.c").await.unwrap());
        let image = suite().await.registry.push("listener:forwarded", &content).await.unwrap().tagged;
        let options = Options::default().flag("--network=pod").config("podCIDR", json!("10.213.79.0/29"));
        let mut node = own_node("forwarding-node", &options).await;
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "main", "image": image, "args": ["poll"],
                    "ports": [{ "containerPort": 8080 }],
                },
                { "name": "loop", "image": sockets().await, "args": ["tcp-echo", "127.0.0.1:9000"] },
            ],
        });
        pods.create("both", spec).await;
        let before = pods.until("both", "Ready", |pod: &Pod| is(pod, "Ready")).await;
        for (container, said) in [("main", "ready at first: 0\n"), ("loop", "bound to 127.0.0.1:9000\n")] {
            let of_container = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
            wait::until("a guest that listens", SOON, async || {
                let log = pods.api().logs("both", &of_container).await.map_err(|error| error.to_string())?;
                if log == said { Ok(()) } else { Err(log) }
            })
            .await
            .unwrap();
        }
        for route in ROUTES {
            let address = Forward::start(route, ns, "both", 8080).await;
            // More than any window of the protocols, so that both directions have to go on at once.
            let large: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
            let expected = [&large[..], b"1600000 bytes\n"].concat();
            assert!(address.exchange(&large).await == expected, "{route:?}: other bytes came back");
            let many = stream::iter(0..MANY).map(async |number| {
                let sent = format!("connection {number}");
                let expected = format!("{sent}{} bytes\n", sent.len());
                (address.exchange(sent.as_bytes()).await, expected.into_bytes())
            });
            let answers: Vec<_> = many.buffer_unordered(MANY).collect().await;
            assert!(answers.iter().all(|(answer, expected)| answer == expected), "{route:?}: {answers:?}");
            let loopback = Forward::start(route, ns, "both", 9000).await;
            assert_eq!(loopback.exchange(b"of the loopback").await, b"of the loopback", "{route:?}");
            address.session.killed().await;
            loopback.session.killed().await;
        }
        let forward = Forward::start(Route::WebSocket, ns, "both", 8080).await;
        let mut open = forward.connect().await;
        open.write_all(b"x").await.unwrap();
        assert_eq!(open.read_u8().await.unwrap(), b'x');
        node.kill().unwrap();
        let next = tokio::time::timeout(SOON, open.read_u8()).await.expect("an end");
        assert!(next.is_err(), "{next:?}");
        assert_ne!(forward.session.ends().await.code, Some(0));
        node.start_again().await.unwrap();
        wait::until("the next agent to know the pod", SOON, async || {
            let logs = ["--namespace", ns, "logs", "both", "--container=main"];
            suite().await.cluster.kubectl(&logs).await.map_err(|error| error.to_string())
        })
        .await
        .unwrap();
        let forward = Forward::start(Route::WebSocket, ns, "both", 8080).await;
        assert_eq!(forward.exchange(b"y").await, b"y1 bytes\n");
        let after = pods.api().get("both").await.unwrap();
        assert!(running(&after) && restarts(&after) == 0 && restarts(&before) == 0);
        forward.session.killed().await;
        end(&client, &pods, node, &["both"]).await;
    })
    .await;
}

/// A port at which nobody listens is told of, where the connection was asked for; what comes to such a connection is its end.
#[tokio::test]
async fn a_closed_port_is_told() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let port = serve_http(&pods, "web").await;
        let closed = ports::free().unwrap();
        for route in ROUTES {
            let forward = Forward::start(route, ns, "web", closed).await;
            let mut connection = forward.connect().await;
            let mut rest = Vec::new();
            // An end or a reset.
            let _ = tokio::time::timeout(SOON, connection.read_to_end(&mut rest)).await.expect("an end");
            assert!(rest.is_empty(), "{rest:?}");
            // kubectl gives up where a port cannot be reached.
            let ended = forward.session.ends().await;
            let part = format!("error forwarding port {closed} to pod ");
            assert!(ended.code == Some(1) && ended.stderr.contains(&part), "{route:?}: {ended:?}");
            // The pod is there as before.
            let forward = Forward::start(route, ns, "web", port).await;
            assert!(forward.get().await.ends_with("hello\n"));
            forward.session.killed().await;
        }
    })
    .await;
}
