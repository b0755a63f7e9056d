//! Requests of guests through Debian's tinyproxy.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use kubewasm_host::HttpProxy;
use kubewasm_kubelet::runtime::{ContainerSpec, ObjectContents, TcpPort};
use kubewasm_tests::{certificates::ServerIdentity, process::find_program, wait};
use rustls::{ServerConnection, StreamOwned};

use super::world::{Node, PATIENCE, on_node};

/// Where the proxy is.
const AT: &str = "192.0.2.1:3128";

/// A proxy on the node, which takes one user. It ends with this.
struct Tinyproxy(Child);

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Tinyproxy {
    /// Nothing where there is no such program.
    async fn start(folder: &Path) -> Option<Self> {
        let Some(program) = find_program("tinyproxy") else {
            eprintln!("skipped: tinyproxy is not installed; `make setup` installs it");
            return None;
        };
        let config = folder.join("tinyproxy.conf");
        let (host, port) = AT.split_once(':').unwrap();
        let text = format!("Listen {host}\nPort {port}\nTimeout 60\nBasicAuth me hunter2\n");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        let child = command.arg("-d").arg("-c").arg(config).stdout(Stdio::null()).spawn().unwrap();
        let proxy = Self(child);
        wait::until("tinyproxy to listen", PATIENCE, async || {
            std::net::TcpStream::connect(AT).map(drop).map_err(|error| error.to_string())
        })
        .await
        .unwrap();
        Some(proxy)
    }
}

/// As an operator names it.
fn named(credentials: Option<&str>, past: &[&str]) -> Option<Arc<HttpProxy>> {
    let past = past.iter().map(|entry| entry.parse().unwrap()).collect();
    let credentials = credentials.map(|credentials| credentials.parse().unwrap());
    let proxy = HttpProxy::new(&format!("http://{AT}"), credentials, past);
    Some(Arc::new(proxy.unwrap()))
}

/// Greets everybody who comes by HTTPS, and returns the authority to trust for that, and the port.
fn greet() -> (String, u16) {
    let (identity, authority) = ServerIdentity::signed(&["192.0.2.1"]).unwrap();
    let config = identity.server(&[]).unwrap();
    let listener = TcpListener::bind("192.0.2.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            // Who does not trust it is gone.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsecured\n");
        }
    });
    (authority, port)
}

/// A pod in slot 3 that asks for these, one after the other.
fn client(node: &Node, image: &str, authority: &str, urls: &[&str]) -> ContainerSpec {
    let argv = std::iter::once("outgoing").chain(urls.iter().copied()).map(str::to_owned);
    ContainerSpec {
        image: image.to_owned(),
        argv: argv.collect(),
        annotations: [("ca.kubewasm.dev/client".to_owned(), "trusted".to_owned())].into(),
        objects: ObjectContents {
            config_maps: [("trusted".to_owned(), [("ca.crt".to_owned(), authority.to_owned())].into())]
                .into(),
            ..Default::default()
        },
        ..node.spec("client", "client", "ns", "", "")
    }
}

fn server(node: &Node, image: &str) -> ContainerSpec {
    ContainerSpec {
        image: image.to_owned(),
        argv: vec!["http".to_owned()],
        tcp_ports: vec![TcpPort { port: 80, name: String::new() }],
        ..node.spec("server", "server", "ns", "", "")
    }
}

/// What is in the clear is asked of the proxy, which says so to the server; what is not goes through a tunnel. A metadata service is
/// not asked for, although the proxy would.
#[test]
fn requests_go_through_the_operators_proxy() {
    on_node(|| async {
        let node = Node::with(|options| options.http_proxy = named(Some("me:hunter2"), &[])).await;
        let Some(_proxy) = Tinyproxy::start(&node.path("")).await else { return };
        let server = server(&node, &node.have("http-0.2.c").await);
        node.start_spec(Some(2), server).await.unwrap();
        let (authority, port) = greet();
        let outgoing = node.have("outgoing-0.2.c").await;
        let (plain, secured) = ("http://10.244.1.2/header?via", format!("https://192.0.2.1:{port}/"));
        let metadata = "http://169.254.169.254/";
        let urls = [plain, plain, &secured, metadata];
        node.start_spec(Some(3), client(&node, &outgoing, &authority, &urls)).await.unwrap();
        let lines = node.lines("client").await;
        assert_eq!(lines.len(), 4, "{lines:?}");
        for line in &lines[..2] {
            assert!(line.starts_with(&format!("{plain}: 200, ")) && line.contains("tinyproxy"), "{lines:?}");
        }
        assert_eq!(lines[2], format!("{secured}: 200, 8 bytes: secured"));
        // destination-IP-prohibited
        assert_eq!(lines[3], format!("{metadata}: refused 4"));
    });
}

/// Without the credentials that it wants, it leads nowhere; what goes past it is reached all the same.
#[test]
fn what_a_proxy_refuses_is_the_operators_error() {
    on_node(|| async {
        let past = &["192.0.2.0/24"];
        let node = Node::with(|options| options.http_proxy = named(None, past)).await;
        let Some(_proxy) = Tinyproxy::start(&node.path("")).await else { return };
        let (authority, port) = greet();
        let outgoing = node.have("outgoing-0.2.c").await;
        let (plain, tunnel) = ("http://10.244.1.2/", "https://10.244.1.2/");
        let secured = format!("https://192.0.2.1:{port}/");
        let urls = [plain, tunnel, &secured];
        node.start_spec(Some(3), client(&node, &outgoing, &authority, &urls)).await.unwrap();
        // configuration-error
        let refused = |url| format!("{url}: refused 37");
        let greeted = format!("{secured}: 200, 8 bytes: secured");
        assert_eq!(node.lines("client").await, [refused(plain), refused(tunnel), greeted]);
    });
}
