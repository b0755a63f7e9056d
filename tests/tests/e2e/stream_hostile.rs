//! Clients of streams that are clumsy or mean, straight at a node's port: those who may run commands in pods can do no more.

use std::{io::Write as _, net::SocketAddr, sync::Arc};

use flate2::{Compression, write::ZlibEncoder};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::DeleteParams};
use kubewasm_tests::{
    cluster::programs,
    node::{Node, Options},
    wait,
};
use rand::RngExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    access::{admin_of, get},
    crash::remove,
    http::serve_http,
    pods::{Pods, running},
    sessions::{Route, Session, resident_mib, run, toolbox, tools},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// How many there are of each kind of mean client.
const CLIENTS: usize = 20;
/// Most that a node may grow by for all of them, in MiB.
const GROWTH: u64 = 200;

/// Who comes to a node as the API server does.
#[derive(Clone)]
struct Caller {
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

impl Caller {
    async fn of(node: &Node) -> Self {
        let mut roots = RootCertStore::empty();
        // The node has signed it itself.
        let own = CertificateDer::from_pem_file(node.root().join("pki/kubelet.crt")).unwrap();
        roots.add(own).unwrap();
        let client = suite().await.cluster.kubelet_client();
        let chain = vec![CertificateDer::from_pem_file(&client.certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&client.key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let address = node.url().trim_start_matches("https://").parse().unwrap();
        Self { config: Arc::new(config), address }
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await.unwrap()
    }

    /// A connection that has been upgraded, and what was answered to that.
    async fn upgraded(&self, path: &str, protocol: Protocol) -> (TlsStream<TcpStream>, String) {
        let mut stream = self.connect().await;
        let upgrade = match protocol {
            Protocol::Spdy => {
                "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n".to_owned()
            }
            Protocol::WebSocket => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n"
                .to_owned(),
        };
        let method = if protocol == Protocol::Spdy { "POST" } else { "GET" };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\n{upgrade}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        let read = async {
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
        };
        tokio::time::timeout(SOON, read).await.expect("an answer");
        (stream, String::from_utf8(head).unwrap())
    }

    async fn switched(&self, path: &str, protocol: Protocol) -> TlsStream<TcpStream> {
        let (stream, head) = self.upgraded(path, protocol).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Spdy,
    WebSocket,
}

const PROTOCOLS: [Protocol; 2] = [Protocol::Spdy, Protocol::WebSocket];

/// A way to a node that cuts all that goes through it into pieces of one to three bytes.
struct Cutter {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Cutter {
    async fn start(caller: Caller) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let caller = caller.clone();
                tokio::spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_node, to_node) = tokio::io::split(caller.connect().await);
                    // Either may go at any time.
                    let _ = tokio::join!(cut(from_client, to_node), cut(from_node, to_client));
                });
            }
        });
        Self { address, _task: AbortOnDropHandle::new(task) }
    }
}

async fn cut(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut part = vec![0; 4096];
    loop {
        let size = from.read(&mut part).await?;
        if size == 0 {
            return to.shutdown().await;
        }
        let mut rest = &part[..size];
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(rand::rng().random_range(1..=3).min(rest.len()));
            to.write_all(piece).await?;
            // A record of TLS, and a packet, for each.
            to.flush().await?;
            rest = left;
        }
    }
}

/// Wherever what is sent is cut, it is understood: that of client-go, by SPDY and by WebSocket, straight to a node.
#[tokio::test]
async fn frames_may_be_cut_anywhere() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "tools").await;
        let port = serve_http(&pods, "web").await.to_string();
        let cutter = Cutter::start(Caller::of(&suite().await.node).await).await;
        let base = format!("http://{}", cutter.address);
        let exec =
            |command: &str| format!("{base}/exec/{ns}/tools/main?command={command}&input=1&output=1&error=1");
        for flags in [&[][..], &["--websocket"]] {
            let script = b"echo out\nwarn err\nexit 3\n";
            let said = streamer(&[&["exec", "--url", &exec("sh")], flags].concat(), script).await;
            assert_eq!(
                said,
                json!([{ "stdout": "ready\nout\n", "stderr": "err\n", "code": 3, "error": "" }])
            );
            let many = "0123456789abcdef".repeat(2_000);
            let said = streamer(&[&["exec", "--url", &exec("cat")], flags].concat(), many.as_bytes()).await;
            assert_eq!(said, json!([{ "stdout": many, "stderr": "", "code": 0, "error": "" }]));
            let forward = format!("{base}/portForward/{ns}/web");
            let arguments = [&["forward", "--url", &forward], flags, &["--times=3", "web", &port]].concat();
            let said = streamer(&arguments, b"").await;
            let answers = said.as_array().unwrap();
            assert_eq!(answers.len(), 3);
            for answer in answers {
                let text = answer["stdout"].as_str().unwrap();
                assert!(text.ends_with("hello\n") && answer["error"] == "", "{flags:?}: {answer}");
            }
        }
    })
    .await;
}

async fn streamer(arguments: &[&str], input: &[u8]) -> Value {
    let folder = programs::build("tools/streamer/build.sh").await.unwrap();
    let mut command = Command::new(folder.join("streamer"));
    command.args(arguments).kill_on_drop(true);
    let ended = run(command, input).await;
    assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// A control frame of SPDY/3.1.
fn control(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0x80, 3][..], &kind.to_be_bytes(), &[0], &length[1..], payload].concat()
}

/// SYN_STREAM with headers as they are, which say nothing of a dictionary.
fn syn_stream(id: u32, headers: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(headers).unwrap();
    let compressed = encoder.finish().unwrap();
    control(1, &[&id.to_be_bytes()[..], &[0; 6], &compressed].concat())
}

/// A few kilobytes that are sixteen megabytes of headers.
fn bomb() -> Vec<u8> {
    let value = vec![b'a'; 16 << 20];
    let size = u32::try_from(value.len()).unwrap().to_be_bytes();
    syn_stream(1, &[&1_u32.to_be_bytes()[..], &4_u32.to_be_bytes(), b"name", &size, &value].concat())
}

/// What is sent by mean clients of a protocol, each on a connection of its own.
fn attacks(protocol: Protocol) -> Vec<(&'static str, Vec<u8>)> {
    let noise: Vec<u8> = (0..100_000).map(|_| rand::rng().random()).collect();
    match protocol {
        Protocol::Spdy => vec![
            ("noise", noise),
            ("a bomb of headers", bomb()),
            (
                "a bomb in many pieces",
                (1..400).flat_map(|id| syn_stream(2 * id + 1, &vec![0xff; 60_000])).collect(),
            ),
            (
                "more streams than there are",
                (0..20_000).flat_map(|id| syn_stream(2 * id + 1, &[0; 4])).collect(),
            ),
            ("pings", (0..40_000_u32).flat_map(|id| control(6, &(2 * id + 1).to_be_bytes())).collect()),
            ("data of no stream", [&[0, 0, 0, 9, 0, 0xff, 0xff, 0xff][..], &vec![7; 100_000]].concat()),
            ("a frame that never ends", [&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff][..], &vec![0; 1000]].concat()),
        ],
        Protocol::WebSocket => vec![
            ("noise", noise),
            (
                "a message without end",
                [&[0x82, 0xff][..], &(1_u64 << 62).to_be_bytes(), &[0; 4], &vec![0; 100_000]].concat(),
            ),
            (
                "pieces of a message without end",
                [&[0x02, 0x81, 0, 0, 0, 0, 0][..], &[0x00, 0x81, 0, 0, 0, 0, 7].repeat(40_000)].concat(),
            ),
            ("a frame without a mask", vec![0x82, 5, 0, 1, 2, 3, 4]),
            ("pings", [0x89, 0x84, 0, 0, 0, 0, 1, 2, 3, 4].repeat(40_000)),
            ("a channel that is none", vec![0x82, 0x82, 0, 0, 0, 0, 77, 1]),
        ],
    }
}

/// Clients that open no streams, send noise, bombs of headers, endless frames and pings, and never read what they asked for: the
/// node stays as small as it was, and is there for everybody else as before.
#[tokio::test]
async fn mean_clients_harm_nobody_else() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("mean-node", &Options::default()).await;
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": toolbox().await, "args": ["sh"], "stdin": true }],
        });
        pods.create("tools", spec).await;
        pods.until("tools", "running", running).await;
        is_well(&client, ns, &node).await;
        let before = resident_mib(&node);
        let caller = Caller::of(&node).await;
        let exec = |command: &str| format!("/exec/{ns}/tools/main?command={command}&input=1&output=1");

        let (shell, yes) = (exec("sh"), exec("yes"));
        let silent = join_all((0..CLIENTS).map(|_| caller.switched(&shell, Protocol::Spdy))).await;
        let forward = format!("/portForward/{ns}/tools");
        let mut kept = Vec::new();
        for protocol in PROTOCOLS {
            for (what, bytes) in attacks(protocol) {
                let many = (0..CLIENTS).map(async |_| {
                    let mut stream = caller.switched(&shell, protocol).await;
                    // It may have been shown out before it has sent all.
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.flush().await;
                    stream
                });
                let limit = tokio::time::timeout(SOON, join_all(many)).await;
                kept.push(limit.unwrap_or_else(|_| panic!("{protocol:?}: {what} is not taken")));
            }
        }
        for bytes in [bomb(), vec![0xff; 10_000]] {
            let (mut stream, head) = caller.upgraded(&forward, Protocol::Spdy).await;
            // Only the protocol of port-forwards is spoken there.
            if head.starts_with("HTTP/1.1 101 ") {
                let _ = stream.write_all(&bytes).await;
                kept.push(vec![stream]);
            }
        }
        // Who asks for output without an end, and reads none of it.
        let mut sessions = Vec::new();
        for route in [Route::WebSocket, Route::Translated, Route::Spdy].into_iter().cycle().take(CLIENTS) {
            let arguments = ["exec", "-i", "tools", "--", "yes"];
            sessions.push(Session::start(route.kubectl(ns, &arguments).await));
        }
        for session in &mut sessions {
            // It runs.
            session.next_line().await;
        }
        let unread = join_all((0..CLIENTS).map(|_| caller.switched(&yes, Protocol::WebSocket))).await;

        is_well(&client, ns, &node).await;
        let grown = resident_mib(&node).saturating_sub(before);
        assert!(grown < GROWTH, "the node has grown by {grown} MiB over {before} MiB");
        // Those who have opened no streams are shown out.
        for mut stream in silent {
            let mut rest = Vec::new();
            let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.expect("an end");
        }
        drop((kept, unread, sessions));
        is_well(&client, ns, &node).await;
        pods.api().delete("tools", &DeleteParams::default().grace_period(1)).await.unwrap();
        pods.gone("tools").await;
        remove(&client, node).await;
    })
    .await;
}

/// Others have commands run, read logs, and see that the node renews its lease.
async fn is_well(client: &Client, ns: &str, node: &Node) {
    let now = Timestamp::now();
    let kubectl = Route::WebSocket.kubectl(ns, &["exec", "-i", "tools", "--", "count"]).await;
    let ended = run(kubectl, b"1234").await;
    assert!(ended.text().starts_with("4 bytes, "), "{ended:?}");
    let logs = suite().await.cluster.kubectl(&["--namespace", ns, "logs", "tools"]).await.unwrap();
    assert_eq!(logs, "ready\n");
    assert_eq!(get(&admin_of(&node.url()).await, "/healthz").await.as_deref(), Ok("ok"));
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    wait::object(leases, node.name(), "a renewal", SOON, |lease| {
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref());
        renewed.is_some_and(|time| time.0 > now)
    })
    .await
    .unwrap();
}

/// What is no upgrade, or one to what is not spoken, is an answer in words.
#[tokio::test]
async fn what_is_no_upgrade_is_answered_in_words() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "tools").await;
        let url = suite().await.node.url();
        let admin = admin_of(&url).await;
        for (path, part) in [
            (format!("/exec/{ns}/tools/main?command=sh&output=1"), "pgrade"),
            (
                format!("/exec/{ns}/tools/main?command=sh"),
                "you must specify at least 1 of stdin, stdout, stderr",
            ),
            (format!("/attach/{ns}/tools/main?output=1"), "pgrade"),
            (format!("/portForward/{ns}/tools"), "pgrade"),
        ] {
            let request = http::Request::post(&path).body(Vec::new()).unwrap();
            let error = admin.request_text(request).await.unwrap_err();
            let kube::Error::Api(status) = error else { panic!("{path}: {error}") };
            assert!(status.code == 400 && status.message.contains(part), "{path}: {status:?}");
        }
        let caller = Caller::of(&suite().await.node).await;
        let missing = format!("/exec/{ns}/nobody/main?command=sh&output=1");
        let (_, head) = caller.upgraded(&missing, Protocol::WebSocket).await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    })
    .await;
}

/// A command without streams is run by a request, whose answer is what it has printed.
#[tokio::test]
async fn a_request_runs_a_command() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("idle", &["sleep", "600"]).await;
        pods.until("idle", "running", running).await;
        let admin = admin_of(&suite().await.node.url()).await;
        let post = async |command: &str| {
            let path = format!("/run/{ns}/idle/main?cmd={command}");
            admin.request_text(http::Request::post(path).body(Vec::new()).unwrap()).await
        };
        assert_eq!(post("actor%20say%20hello").await.unwrap(), "hello\n");
        let error = post("actor%20say%20hello%20exit%203").await.unwrap_err();
        let kube::Error::Api(status) = error else { panic!("{error}") };
        assert!(status.code == 500 && status.message.contains("exited with 3: hello"), "{status:?}");
    })
    .await;
}
