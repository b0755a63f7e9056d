//! exec, attach, port-forward and run: a real client over TLS, and a runtime that does as each test wants.

use std::{collections::VecDeque, time::Duration};

use async_trait::async_trait;
use bytes::BytesMut;
use futures::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use hyper::upgrade::Upgraded;
use jiff::Timestamp;
use kubewasm_streams::spdy::{Decoder, Encoder, Frame};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{mpsc, watch},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::*;
use crate::runtime::{
    CallerStreams, ContainerList, ContainerSpec, Credential, Duplex, ExecEnd, ExecError, ExecIo, Image,
    ImageError, PortForwardError, Presence, PulledImage, Runtime, RuntimeError, StartError,
};

/// Runs commands by their names.
#[derive(Debug)]
pub(super) struct FakeRuntime {
    /// What was asked of it.
    asked: Mutex<VecDeque<String>>,
    /// Instances and connections that there are.
    running: watch::Sender<usize>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self { asked: Mutex::default(), running: watch::channel(0).0 }
    }
}

/// One of them.
struct Counted(watch::Sender<usize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

impl FakeRuntime {
    fn ask(&self, question: String) -> Counted {
        self.asked.lock().unwrap().push_back(question);
        self.running.send_modify(|running| *running += 1);
        Counted(self.running.clone())
    }

    async fn has_running(&self, count: usize) {
        self.running.subscribe().wait_for(|running| *running == count).await.unwrap();
    }

    fn asked(&self) -> Option<String> {
        self.asked.lock().unwrap().pop_front()
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn version(&self) -> String {
        "fake://1".to_owned()
    }

    async fn image(&self, _: &str) -> Result<Option<Image>, ImageError> {
        Ok(None)
    }

    async fn pull(&self, _: &str, _: &[Credential]) -> Result<PulledImage, ImageError> {
        Ok(Image::default().into())
    }

    async fn images(&self) -> Vec<Image> {
        Vec::new()
    }

    async fn start(&self, _: &ContainerSpec) -> Result<Timestamp, StartError> {
        Ok(Timestamp::UNIX_EPOCH)
    }

    async fn stop(&self, _: &str, _: Duration) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn remove(&self, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn exec(&self, id: &str, argv: &[String], _: ExecIo) -> Result<ExecEnd, ExecError> {
        let _counted = self.ask(format!("exec {id} {argv:?}"));
        match &argv[0][..] {
            "missing" => Err(ExecError::Failed("there is no program missing".into())),
            "fail" => Ok(ExecEnd { exit_code: 1, output: b"why".to_vec() }),
            _ => Ok(ExecEnd { exit_code: 0, output: b"what it said".to_vec() }),
        }
    }

    async fn exec_stream(&self, id: &str, argv: &[String], streams: CallerStreams) -> Result<i32, ExecError> {
        let _counted = self.ask(format!("exec {id} {argv:?} {streams:?}"));
        let CallerStreams { stdin, stdout, .. } = streams;
        match &argv[0][..] {
            "cat" => {
                tokio::io::copy(&mut stdin.unwrap(), &mut stdout.unwrap()).await.unwrap();
                Ok(argv.get(1).map_or(0, |code| code.parse().unwrap()))
            }
            "flood" => {
                let mut stdout = stdout.unwrap();
                while stdout.write_all(&[0; 4096]).await.is_ok() {}
                Ok(0)
            }
            "missing" => Err(ExecError::Failed("there is no program missing".into())),
            _ => std::future::pending().await,
        }
    }

    async fn attach(&self, id: &str, streams: CallerStreams) -> Result<(), ExecError> {
        let _counted = self.ask(format!("attach {id} {streams:?}"));
        streams.stdout.unwrap().write_all(b"attached").await.unwrap();
        Ok(())
    }

    async fn port_forward(&self, pod_uid: &str, port: u16) -> Result<Box<dyn Duplex>, PortForwardError> {
        let counted = self.ask(format!("port {pod_uid} {port}"));
        if port != 7 {
            return Err(PortForwardError::Failed("connection refused".into()));
        }
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let _counted = counted;
            let (mut reader, mut writer) = tokio::io::split(far);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
        Ok(Box::new(near))
    }

    fn observe(&self, _: &str) -> Presence {
        Presence::Absent
    }

    fn containers(&self) -> ContainerList {
        ContainerList { containers: Vec::new(), is_complete: true }
    }

    fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        None
    }
}

const SPDY: [(&str, &str); 3] =
    [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v4.channel.k8s.io")];
const FORWARD: [(&str, &str); 3] =
    [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "portforward.k8s.io")];
const WEBSOCKET: [(&str, &str); 5] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-protocol", "v5.channel.k8s.io"),
];

type Io = TokioIo<Upgraded>;

impl Running {
    /// A server with one pod `p` whose container runs.
    fn with_pod() -> Self {
        let server = Self::start(SECURE);
        server.set_pod(&json!({ "running": {} }));
        for verb in ["get", "create"] {
            server.allow(&format!("admin {verb} proxy"));
        }
        server
    }

    /// Asks for an upgrade; an answer that is none is its status and its text.
    async fn upgrade(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(HeaderMap, Io), (u16, String)> {
        let caller = self.by_certificate("admin", "g");
        let stream = self.handshake([127, 0, 0, 1], caller.certificate).await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header("host", "edge");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (status, text) = read(response).await;
            return Err((status.as_u16(), text));
        }
        let headers = response.headers().clone();
        Ok((headers, TokioIo::new(hyper::upgrade::on(response).await.unwrap())))
    }

    async fn spdy(&self, path: &str, headers: &[(&str, &str)]) -> SpdyClient {
        let (_, io) = self.upgrade(Method::POST, path, headers).await.unwrap();
        SpdyClient { io, encoder: Encoder::default(), decoder: Decoder::default(), input: BytesMut::new() }
    }
}

struct SpdyClient {
    io: Io,
    encoder: Encoder,
    decoder: Decoder,
    input: BytesMut,
}

impl SpdyClient {
    async fn send(&mut self, frame: Frame) {
        let mut output = BytesMut::new();
        self.encoder.encode(&frame, &mut output);
        self.io.write_all(&output).await.unwrap();
    }

    async fn data(&mut self, id: u32, data: &'static [u8], fin: bool) {
        self.send(Frame::Data { id, fin, data: Bytes::from_static(data) }).await;
    }

    /// Opens streams of these kinds, with the numbers 1, 3, 5, and so on.
    async fn open(&mut self, kinds: &[&str], more: &[(&str, &str)]) {
        for (id, kind) in (1..).step_by(2).zip(kinds) {
            let headers = [("streamtype", *kind)].into_iter().chain(more.iter().copied()).collect();
            self.send(Frame::SynStream { id, fin: false, unidirectional: false, headers }).await;
            assert!(matches!(self.next().await, Some(Frame::SynReply { .. })));
        }
    }

    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            // A server that stops does not say goodbye.
            if self.io.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn read_to_end(&mut self, stream: u32) -> String {
        let mut all = Vec::new();
        while let Some(frame) = self.next().await {
            match frame {
                Frame::Data { id, fin, data } if id == stream => {
                    all.extend_from_slice(&data);
                    if fin {
                        break;
                    }
                }
                _ => {}
            }
        }
        String::from_utf8(all).unwrap()
    }
}

const CAT: &str = "/exec/ns/p/c?input=1&output=1&command=cat&command=3";

#[tokio::test]
async fn a_command_gets_what_its_caller_sends_and_its_code_is_told() {
    let server = Running::with_pod();
    let mut client = server.spdy(CAT, &SPDY).await;
    client.open(&["error", "stdin", "stdout"], &[]).await;
    server.runtime.has_running(1).await;
    let metrics = server.get_allowed("/metrics").await.1;
    let labels = "{method=\"POST\",path=\"exec\",server_type=\"readwrite\",long_running=\"true\"}";
    assert!(metrics.contains(&format!("kubelet_http_inflight_requests{labels} 1\n")), "{metrics}");
    client.data(3, b"over here", true).await;
    assert_eq!(client.read_to_end(5).await, "over here");
    let told: Value = serde_json::from_str(&client.read_to_end(1).await).unwrap();
    assert_eq!(told["details"]["causes"][0], json!({ "reason": "ExitCode", "message": "3" }));
    assert_eq!(
        told["message"],
        "command terminated with non-zero exit code: error executing command [cat 3], exit code 3"
    );
    let asked = server.runtime.asked().unwrap();
    assert!(asked.starts_with("exec 0 [\"cat\", \"3\"]"), "{asked}");
}

/// It begins with a GET, and so it is `get` that is asked about.
#[tokio::test]
async fn a_command_over_websocket() {
    let server = Running::with_pod();
    let path = CAT.replace("/ns/p/c", "/ns/p/u1/c");
    let (headers, io) = server.upgrade(Method::GET, &path, &WEBSOCKET).await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], "v5.channel.k8s.io");
    assert_eq!(headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let verbs: Vec<Value> = {
        let reviewer = lock(&server.reviewer);
        reviewer.asked.iter().map(|asked| asked["spec"]["resourceAttributes"]["verb"].clone()).collect()
    };
    assert_eq!(verbs, ["get"]);
    let mut client = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    for message in [&b"\0by channel"[..], b"\xff\0"] {
        client.send(Message::binary(message)).await.unwrap();
    }
    let (mut stdout, mut told) = (Vec::new(), Vec::new());
    while let Some(Ok(message)) = client.next().await {
        if let Message::Binary(message) = message {
            if message[0] == 1 { &mut stdout } else { &mut told }.extend_from_slice(&message[1..]);
        }
    }
    assert_eq!(stdout, b"by channel");
    assert!(String::from_utf8(told).unwrap().contains("NonZeroExitCode"));
}

#[tokio::test]
async fn what_cannot_be_run_is_told_on_the_stream_of_errors() {
    let server = Running::with_pod();
    let mut client = server.spdy("/exec/ns/p/c?output=1&command=missing", &SPDY).await;
    client.open(&["error", "stdout"], &[]).await;
    let told: Value = serde_json::from_str(&client.read_to_end(1).await).unwrap();
    assert_eq!(
        told["message"],
        "Internal error occurred: error executing command in container: there is no program missing"
    );
}

#[tokio::test]
async fn what_is_refused_is_refused_before_the_upgrade_in_the_kubelets_words_and_order() {
    let server = Running::with_pod();
    let none = "you must specify at least 1 of stdin, stdout, stderr";
    let not_found = "container not found (\"x\")";
    for (path, headers, status, expected) in [
        ("/exec/ns/none/c?command=x", &SPDY[..], 400, none),
        ("/exec/ns/p/c?error=0&command=x", &SPDY, 400, none),
        // Errors of a terminal are a part of its output.
        ("/exec/ns/p/c?tty=1&error=1&command=x", &SPDY, 400, none),
        ("/exec/ns/none/c?output=1&command=x", &SPDY, 404, "pod does not exist"),
        ("/exec/ns/p/x?output=1&command=x", &SPDY, 500, not_found),
        ("/exec/ns/p/u2/c?output=1&command=x", &SPDY, 500, "container not found (\"c\")"),
        ("/exec/ns/p/c?output=1", &SPDY, 400, "no command was given: name the program in `command`"),
        ("/exec/ns/p/c?output=1&command=x", &[], 400, "Upgrade request required"),
        (
            "/exec/ns/p/c?output=1&command=x",
            &SPDY[..2],
            400,
            "unable to upgrade: header X-Stream-Protocol-Version",
        ),
        ("/exec/ns/p/c?output=1&command=x", &FORWARD, 403, "unable to upgrade: unable to negotiate protocol"),
        ("/exec/ns/p/c?output=1&command=x", &WEBSOCKET, 405, "a WebSocket begins with a GET"),
        ("/attach/ns/p/c", &SPDY, 400, none),
        ("/attach/ns/p/x?output=1", &SPDY, 500, "container x not found in pod p_ns"),
        ("/portForward/ns/none", &FORWARD, 404, "pod does not exist"),
        ("/portForward/ns/p/u2", &FORWARD, 404, "pod not found"),
        ("/portForward/ns/p", &WEBSOCKET, 400, "query parameter \"port\" is required"),
        ("/portForward/ns/p", &SPDY, 403, "unable to upgrade: unable to negotiate protocol"),
    ] {
        let (is, text) = server.upgrade(Method::POST, path, headers).await.map(drop).unwrap_err();
        assert!(is == status && text.starts_with(expected), "{path}: {is} {text}");
    }
    server.set_pod(&json!({ "terminated": { "exitCode": 0 } }));
    for (path, headers, expected) in [
        ("/exec/ns/p/c?output=1&command=x", SPDY, "container not found (\"c\")"),
        ("/portForward/ns/p", FORWARD, "pod not found (\"p_ns\")"),
    ] {
        let refused = server.upgrade(Method::POST, path, &headers).await.map(drop).unwrap_err();
        assert_eq!(refused, (500, expected.to_owned()));
    }
    assert_eq!(server.runtime.asked(), None);
    server.pods.pods.lock().unwrap().clear();
    server.pods.unlisted.store(true, Ordering::Relaxed);
    let refused = server.upgrade(Method::POST, CAT, &SPDY).await.map(drop).unwrap_err();
    assert_eq!(refused.0, 503, "{}", refused.1);
}

#[tokio::test]
async fn attach_goes_by_what_the_container_asks_for() {
    let server = Running::with_pod();
    let set = |stdin: bool, tty: bool| {
        let mut pod = pod(&json!({ "running": {} }));
        let container = &mut pod.spec.as_mut().unwrap().containers[0];
        (container.stdin, container.tty) = (Some(stdin), Some(tty));
        *server.pods.pods.lock().unwrap() = vec![Arc::new(pod)];
    };
    for (stdin, tty, expected) in [
        (false, false, "stdin: false, stdout: true, stderr: false, tty: false"),
        (true, true, "stdin: true, stdout: true, stderr: false, tty: true"),
    ] {
        set(stdin, tty);
        let mut client = server.spdy("/attach/ns/p/c?input=1&output=1", &SPDY).await;
        client.open(&["error", "stdin", "stdout"], &[]).await;
        assert_eq!(client.read_to_end(5).await, "attached");
        assert_eq!(client.read_to_end(1).await, "{\"metadata\":{},\"status\":\"Success\"}");
        let asked = server.runtime.asked().unwrap();
        assert!(asked.starts_with("attach 0 ") && asked.contains(expected), "{asked}");
    }
    let refused = server.upgrade(Method::POST, "/attach/ns/p/c?error=1", &SPDY).await.map(drop).unwrap_err();
    assert_eq!(refused, (500, "tty and stderr cannot both be true".to_owned()));
}

#[tokio::test]
async fn ephemeral_containers_are_containers() {
    let server = Running::with_pod();
    let mut pod = serde_json::to_value(pod(&json!({ "running": {} }))).unwrap();
    pod["spec"]["ephemeralContainers"] =
        json!([{ "name": "debugger", "image": "i", "stdin": true, "tty": true }]);
    pod["status"]["ephemeralContainerStatuses"] = json!([{
        "name": "debugger", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "containerID": "x://1",
        "state": { "running": {} },
    }]);
    *server.pods.pods.lock().unwrap() = vec![Arc::new(serde_json::from_value(pod).unwrap())];
    let mut client = server.spdy("/attach/ns/p/debugger?input=1&output=1&tty=1", &SPDY).await;
    client.open(&["error", "stdin", "stdout", "resize"], &[]).await;
    assert_eq!(client.read_to_end(5).await, "attached");
    let asked = server.runtime.asked().unwrap();
    assert!(asked.starts_with("attach 1 ") && asked.contains("tty: true"), "{asked}");
}

#[tokio::test]
async fn ports_are_forwarded() {
    let server = Running::with_pod();
    let mut client = server.spdy("/portForward/ns/p", &FORWARD).await;
    client.open(&["error", "data"], &[("port", "7"), ("requestid", "0")]).await;
    client.data(3, b"there and back", true).await;
    assert_eq!(client.read_to_end(3).await, "there and back");
    assert_eq!(server.runtime.asked().unwrap(), "port u1 7");
    let mut client = server.spdy("/portForward/ns/p/u1", &FORWARD).await;
    client.open(&["error", "data"], &[("port", "9"), ("requestid", "0")]).await;
    let told = client.read_to_end(1).await;
    assert_eq!(told, "error forwarding port 9 to pod p_ns, uid u1: connection refused");
}

#[tokio::test]
async fn a_static_pod_goes_by_the_uid_of_its_mirror_too() {
    let server = Running::with_pod();
    let mut client = server.spdy("/portForward/ns/p/mirror-of-u1", &FORWARD).await;
    client.open(&["error", "data"], &[("port", "7"), ("requestid", "0")]).await;
    client.data(3, b"there and back", true).await;
    assert_eq!(client.read_to_end(3).await, "there and back");
    assert_eq!(server.runtime.asked().unwrap(), "port u1 7");
    let refused = server.upgrade(Method::POST, "/exec/ns/p/mirror-of-u1/c?output=1", &SPDY).await;
    let refused = refused.map(drop).unwrap_err();
    assert_eq!(refused.0, 400, "the container is found, and the command is missing: {}", refused.1);
}

#[tokio::test]
async fn a_command_without_streams_is_answered_with_its_output() {
    let server = Running::with_pod();
    for (path, expected) in [
        ("/run/ns/p/c?cmd=say+it", (200, "what it said")),
        ("/run/ns/p/u1/c?cmd=fail+now", (500, "command 'fail now' exited with 1: why")),
        ("/run/ns/p/c?cmd=missing", (500, "there is no program missing")),
        ("/run/ns/p/c", (400, "no command was given: name the program in `cmd`")),
        ("/run/ns/none/c?cmd=x", (404, "pod does not exist")),
        ("/run/ns/p/x?cmd=x", (500, "container not found (\"x\")")),
    ] {
        let response = server.request(server.by_certificate("admin", "g"), Method::POST, path).await;
        let (status, text) = read(response).await;
        assert_eq!((status.as_u16(), &text[..]), expected, "{path}");
    }
    assert_eq!(server.runtime.asked().unwrap(), "exec 0 [\"say\", \"it\"]");
}

/// Whether it reads or not.
#[tokio::test]
async fn a_command_ends_with_its_client_and_with_the_server() {
    for command in ["hang", "flood"] {
        let server = Running::with_pod();
        let path = format!("/exec/ns/p/c?output=1&command={command}");
        let mut client = server.spdy(&path, &SPDY).await;
        client.open(&["error", "stdout"], &[]).await;
        server.runtime.has_running(1).await;
        drop(client);
        server.runtime.has_running(0).await;

        let mut client = server.spdy(&path, &SPDY).await;
        client.open(&["error", "stdout"], &[]).await;
        server.runtime.has_running(1).await;
        let Running { runtime, stop, .. } = server;
        drop(stop);
        runtime.has_running(0).await;
        while client.next().await.is_some() {}
    }
}
