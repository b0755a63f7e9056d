//! Ways to the API server that lead through a proxy.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use kubewasm_tests::cluster::Cluster;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    cluster::{admin, write},
    user::{User, end},
};
use crate::{desk::errors, suite::suite};

/// A proxy that connects everybody to one place, and notes down what it was asked for.
struct Proxy {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

/// How a proxy is spoken to.
#[derive(Clone, Copy)]
enum Protocol {
    /// By CONNECT.
    Http,
    /// By SOCKS 5, without a password.
    Socks,
}

impl Proxy {
    async fn start(protocol: Protocol, to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, asked) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let notes = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let notes = Arc::clone(&notes);
                tokio::spawn(async move {
                    let request = match protocol {
                        Protocol::Http => connect(&mut stream).await,
                        Protocol::Socks => socks(&mut stream).await,
                    };
                    notes.lock().unwrap().push(request);
                    let mut server = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
        Self { at, asked, _task: AbortOnDropHandle::new(task) }
    }

    /// What it was asked for since the last time.
    fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// The head of a CONNECT request, which is granted.
async fn connect(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    String::from_utf8(head).unwrap()
}

/// The name and the port of a SOCKS request, which is granted.
async fn socks(stream: &mut TcpStream) -> String {
    let (version, methods) = (stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap());
    assert_eq!(version, 5);
    stream.read_exact(&mut vec![0; methods.into()]).await.unwrap();
    stream.write_all(&[5, 0]).await.unwrap();
    let mut request = [0; 5];
    stream.read_exact(&mut request).await.unwrap();
    assert_eq!(request[..4], [5, 1, 0, 3], "to connect to a name");
    let mut name = vec![0; request[4].into()];
    stream.read_exact(&mut name).await.unwrap();
    let port = stream.read_u16().await.unwrap();
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
    format!("{}:{port}", String::from_utf8(name).unwrap())
}

/// The cluster under a name that nobody but a proxy knows.
fn elsewhere(cluster: &Cluster) -> (Value, SocketAddr) {
    let mut config = admin(cluster);
    let entry = &mut config["clusters"][0]["cluster"];
    let server: SocketAddr =
        entry["server"].as_str().unwrap().strip_prefix("https://").unwrap().parse().unwrap();
    entry["server"] = json!("https://api.invalid:6443");
    entry["tls-server-name"] = json!("127.0.0.1");
    (config, server)
}

/// The kubeconfig's proxy is asked for the API server, with the password of its URL; without one, that of the environment, unless
/// the environment says that the server is reached without. What goes through it is encrypted: it sees no token.
#[tokio::test]
async fn the_api_server_is_reached_through_a_proxy() {
    let (config, server) = elsewhere(&suite().await.cluster);
    let user = User::new().await;
    user.has("outgoing-0.2.c", "asker", &[]).await;
    let asked = ["asker", "https://kubernetes.default.svc/version"];
    let http = Proxy::start(Protocol::Http, server).await;
    let socks = Proxy::start(Protocol::Socks, server).await;
    let ask = async |config: &Value, environment: &[(&str, String)]| {
        let mut command = user.kubectl_command();
        command.args(asked).env("KUBECONFIG", write(&user, "config", config));
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let output = end(command).await;
        format!("{}{}", String::from_utf8_lossy(&output.stdout), errors(&output))
    };

    let mut proxied = config.clone();
    proxied["clusters"][0]["cluster"]["proxy-url"] = json!(format!("http://me:se%40cret@{}", http.at));
    let printed = ask(&proxied, &[]).await;
    assert!(printed.contains(": 200, "), "{printed}");
    let heads = http.take_asked();
    let [head] = &heads[..] else { panic!("{heads:?}") };
    assert!(head.starts_with("CONNECT api.invalid:6443 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("roxy-") && head.contains("Basic bWU6c2VAY3JldA=="), "{head}");

    proxied["clusters"][0]["cluster"]["proxy-url"] = json!(format!("socks5h://{}", socks.at));
    let printed = ask(&proxied, &[]).await;
    assert!(printed.contains(": 200, "), "{printed}");
    assert_eq!(socks.take_asked(), ["api.invalid:6443"]);

    let of_environment = ("HTTPS_PROXY", format!("http://{}", http.at));
    let printed = ask(&config, std::slice::from_ref(&of_environment)).await;
    assert!(printed.contains(": 200, "), "{printed}");
    assert_eq!(http.take_asked().len(), 1);
    let printed = ask(&config, &[of_environment, ("NO_PROXY", "api.invalid".to_owned())]).await;
    assert!(printed.contains("cannot reach the API server"), "{printed}");
    assert!(http.take_asked().is_empty());
}
