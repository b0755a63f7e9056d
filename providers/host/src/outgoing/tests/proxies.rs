//! Requests through a proxy of the operator's.

use std::{net::SocketAddr, sync::Mutex};

use kubewasm_rules::PodRules;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use super::{server::Signed, *};

/// A proxy that leads everything to one server, or refuses with an answer, and notes down what it is asked first on each
/// connection.
struct Proxy {
    server: Server,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn to(at: SocketAddr) -> Self {
        Self::start(Ok(at)).await
    }

    async fn start(leads: Result<SocketAddr, &'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&heads);
        let server = Server::on(listener, move |mut stream, _| {
            let seen = Arc::clone(&seen);
            async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                seen.lock().unwrap().push(String::from_utf8(head.clone()).unwrap());
                match leads {
                    Ok(at) => {
                        let mut onward = TcpStream::connect(at).await.unwrap();
                        if head.starts_with(b"CONNECT ") {
                            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                        } else {
                            onward.write_all(&head).await.unwrap();
                        }
                        // Either side may be gone.
                        let _ = copy_bidirectional(&mut stream, &mut onward).await;
                    }
                    Err(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                }
            }
        });
        Self { server, heads }
    }

    /// As an operator names it.
    fn named(&self, past: &[&str]) -> Option<Arc<HttpProxy>> {
        let past = past.iter().map(|entry| entry.parse().unwrap()).collect();
        let credentials = Some("me:hunter2".parse().unwrap());
        Some(Arc::new(HttpProxy::new(&self.server.url(""), credentials, past).unwrap()))
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn prohibited(result: Result<Response<WasiBody>, Error>) -> bool {
    matches!(result, Err(Error::DestinationIpProhibited))
}

#[tokio::test]
async fn a_proxy_is_asked_for_what_is_plain_and_for_tunnels() {
    let plain = Server::plain().await;
    let proxy = Proxy::to(plain.at).await;
    let client = GuestOf { proxy: proxy.named(&[]), ..GuestOf::default() }.client();
    for _ in 0..2 {
        assert_eq!(client.text("http://a.far.test:8080/host").await, "a.far.test:8080");
    }
    let heads = proxy.heads();
    assert_eq!(heads.len(), 1, "a connection to a proxy is kept: {heads:?}");
    assert!(heads[0].starts_with("GET http://a.far.test:8080/host HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads[0].contains("proxy-authorization: Basic bWU6aHVudGVyMg==\r\n"), "{heads:?}");

    let signed = Signed::new(&["b.far.test"]);
    let secured = Server::tls(&signed, &["h2", "http/1.1"]).await;
    let proxy = Proxy::to(secured.at).await;
    let authorities = Some(Arc::new(PrivateAuthorities::from_pem(&signed.authority).unwrap()));
    let client = GuestOf { proxy: proxy.named(&[]), authorities, ..GuestOf::default() }.client();
    for _ in 0..2 {
        assert_eq!(client.text("https://b.far.test/hello").await, "hello");
    }
    assert_eq!(secured.seen.by_h2.load(Ordering::SeqCst), 2);
    let other = client.get("https://other.far.test/hello").await;
    assert!(matches!(other, Err(Error::TlsCertificateError)), "whose certificate it is counts: {other:?}");
    let heads = proxy.heads();
    assert_eq!(heads.len(), 2, "{heads:?}");
    assert!(heads[0].starts_with("CONNECT b.far.test:443 HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads[0].contains("proxy-authorization: Basic"), "{heads:?}");
}

#[tokio::test]
async fn what_is_past_the_proxy_is_not_asked_of_it() {
    let server = Server::plain().await;
    let proxy = Proxy::start(Err("")).await;
    let past = format!("name.test:{}", server.at.port());
    let client = GuestOf { proxy: proxy.named(&[&past]), ..GuestOf::default() }.client();
    assert_eq!(client.text(&format!("http://{past}/hello")).await, "hello");
    // What is this machine's never is.
    assert_eq!(client.text(&server.url("/hello")).await, "hello");
    assert_eq!(client.text(&format!("http://other.test:{}/hello", server.at.port())).await, "hello");
    assert_eq!((proxy.server.accepted(), server.accepted()), (0, 3));
}

/// A proxy changes how a guest gets somewhere, and not where it may go.
#[tokio::test]
async fn what_a_guest_may_not_reach_is_not_asked_of_a_proxy() {
    let server = Server::plain().await;
    let proxy = Proxy::to(server.at).await;
    let denied = DeniedNetworks { networks: vec!["10.0.0.0/8".parse().unwrap()], host: false };
    let guest = || GuestOf {
        network: Network::Outgoing,
        denied: denied.clone(),
        proxy: proxy.named(&[]),
        ..GuestOf::default()
    };
    let client = guest().client();
    for url in [
        "http://169.254.169.254/",
        "https://169.254.169.254/",
        "http://metadata.far.test/",
        "http://10.1.2.3/",
        "https://private.far.test/",
        "http://both.far.test/",
        "http://127.0.0.1/",
    ] {
        assert!(prohibited(client.get(url).await), "{url}");
    }
    let unknown = client.get("http://unknown.example/").await;
    assert!(matches!(unknown, Err(Error::DnsError { .. })), "{unknown:?}");
    let listed = GuestOf { egress: Some("a.far.test:80".parse().unwrap()), ..guest() }.client();
    let other = listed.get("https://other.far.test/").await;
    assert!(matches!(other, Err(Error::HttpRequestDenied)), "{other:?}");
    assert!(prohibited(listed.get("http://a.far.test:81/").await));
    assert_eq!(proxy.server.accepted(), 0);
    assert_eq!(listed.text("http://a.far.test/hello").await, "hello", "the proxy need not be on its list");
}

/// Also where the connection to the proxy is open.
#[tokio::test]
async fn a_policy_is_asked_about_what_is_behind_the_proxy() {
    let server = Server::plain().await;
    let (proxy, firewall) = (Proxy::to(server.at).await, Arc::new(Firewall::default()));
    let guest =
        GuestOf { proxy: proxy.named(&[]), firewall: Some(Arc::clone(&firewall)), ..GuestOf::default() };
    let client = guest.client();
    assert_eq!(client.text("http://a.far.test/hello").await, "hello");
    firewall.set(Arc::new(PodRules { ingress: None, egress: Some(Vec::new()) }));
    assert!(prohibited(client.get("http://a.far.test/hello").await));
    firewall.set(Arc::new(PodRules { ingress: None, egress: None }));
    assert_eq!(client.text("http://a.far.test/hello").await, "hello");
    assert_eq!(proxy.server.accepted(), 1);
}

#[tokio::test]
async fn guests_with_other_proxies_share_no_connections() {
    let (server, connections) = (Server::plain().await, Arc::default());
    let proxies = [Proxy::to(server.at).await, Proxy::to(server.at).await];
    let guest = |proxy: &Proxy| GuestOf { proxy: proxy.named(&[]), ..GuestOf::default() };
    let clients = proxies.each_ref().map(|proxy| guest(proxy).with(&connections));
    for client in clients.iter().chain(&clients) {
        assert_eq!(client.text("http://a.far.test/hello").await, "hello");
    }
    assert_eq!(proxies.each_ref().map(|proxy| proxy.server.accepted()), [1, 1]);
}

#[tokio::test]
async fn a_guest_is_told_what_a_proxy_has_against_it() {
    for (answer, plain, tunnel) in [
        ("HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n", "ConfigurationError", "ConfigurationError"),
        ("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", "401", "ConfigurationError"),
        ("HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno", "403", "HttpRequestDenied"),
        ("HTTP/1.1 502 No\r\ntransfer-encoding: chunked\r\n\r\n", "502", "DestinationUnavailable"),
        ("HTTP/1.1 504 No\r\ncontent-length: 0\r\n\r\n", "504", "ConnectionTimeout"),
        ("", "HttpResponseIncomplete", "DestinationUnavailable"),
        ("what?\r\n\r\n", "HttpProtocolError", "HttpProtocolError"),
    ] {
        let proxy = Proxy::start(Err(answer)).await;
        let client = GuestOf { proxy: proxy.named(&[]), ..GuestOf::default() }.client();
        for (scheme, expected) in [("http", plain), ("https", tunnel)] {
            let got = match client.get(&format!("{scheme}://a.far.test/")).await {
                Ok(response) => response.status().as_u16().to_string(),
                Err(error) => format!("{error:?}"),
            };
            assert_eq!(got, expected, "{answer:?} to {scheme}");
        }
    }
    let gone = Proxy::start(Err("")).await.named(&[]);
    let client = GuestOf { proxy: gone, ..GuestOf::default() }.client();
    let error = client.get("http://a.far.test/").await.unwrap_err();
    assert!(matches!(error, Error::DestinationUnavailable), "{error:?}");
}
