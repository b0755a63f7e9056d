//! Requests through a proxy of the operator's.

use std::{net::SocketAddr, sync::Mutex};

use kubewasm_rules::{PodRules, Protocol};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

use super::{server::Signed, *};
use crate::{
    PodAddresses,
    network::{Service, ServiceChanges, ServiceRule, TablesUpdate},
};

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
        named(&self.server.url(""), past)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn named(url: &str, past: &[&str]) -> Option<Arc<HttpProxy>> {
    let past = past.iter().map(|entry| entry.parse().unwrap()).collect();
    Some(Arc::new(HttpProxy::new(url, Some("me:hunter2".parse().unwrap()), past).unwrap()))
}

/// A pod at an address that this machine has anyway.
fn pod_addresses() -> PodAddresses {
    PodAddresses {
        own: vec![IpAddr::from([127, 77, 0, 7])],
        loopback: "127.0.28.0/22".parse().unwrap(),
        loopback_v6: "fd6b::7:1".parse().unwrap(),
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

/// Whoever answers for a name does not lead past the proxy by naming an address of this machine beside another.
#[tokio::test]
async fn a_name_is_near_where_all_its_addresses_are() {
    let server = Server::plain().await;
    let proxy = Proxy::to(server.at).await;
    let client = GuestOf { proxy: proxy.named(&[]), ..GuestOf::default() }.client();
    for _ in 0..2 {
        assert_eq!(client.text("http://near.far.test/hello").await, "hello");
    }
    assert_eq!((proxy.heads().len(), proxy.server.accepted()), (1, 1));
}

/// Whether something is a Service is asked without being sent to one of those who answer for it.
#[tokio::test]
async fn services_are_reached_past_the_proxy_whoever_answers_for_them() {
    let proxy = Proxy::start(Err("")).await;
    let rule = ServiceRule {
        transport: Protocol::Tcp,
        at: vec!["10.96.0.10:80".parse().unwrap()],
        endpoints: Vec::new(),
        node_only: false,
        affinity: None,
        sources: Vec::new(),
    };
    let service = Service {
        key: "default/web".to_owned(),
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        rules: vec![rule],
    };
    let services = ServiceChanges { set: vec![service], removed: Vec::new() };
    let tables = Arc::new(NetworkTables::default());
    tables.apply(TablesUpdate { base: None, revision: 1, services, rules: None }).unwrap();
    let network = Network::Pod(pod_addresses());
    let client = GuestOf { network, tables, proxy: proxy.named(&[]), ..GuestOf::default() }.client();
    for url in ["http://10.96.0.10/", "http://10.96.0.10:81/"] {
        let answer = client.get(url).await;
        assert!(matches!(answer, Err(Error::ConnectionRefused)), "{url}: {answer:?}");
    }
    assert!(!client.way.proxy_trouble.is_told());
}

/// A guest that listens where the operator's proxy is looked for gets none of its credentials.
#[tokio::test]
async fn a_proxy_is_not_looked_for_at_addresses_of_the_pods_own() {
    let server = Server::plain().await;
    let proxy = Proxy::to(server.at).await;
    let port = proxy.server.at.port();
    let refused = async |guest: GuestOf| {
        let client = guest.client();
        for url in ["http://a.far.test/", "https://a.far.test/"] {
            let answer = client.get(url).await;
            assert!(matches!(answer, Err(Error::ConfigurationError)), "{url}: {answer:?}");
        }
        assert!(client.way.proxy_trouble.is_told());
    };
    for host in ["127.0.0.1", "proxy.test", "0.0.0.0", "[::ffff:127.0.0.1]", "127.77.0.7"] {
        let proxy = named(&format!("http://{host}:{port}"), &[]);
        let network = Network::Pod(pod_addresses());
        refused(GuestOf { network, proxy: proxy.clone(), ..GuestOf::default() }).await;
        if host != "127.77.0.7" {
            refused(GuestOf { network: Network::Namespace, proxy, ..GuestOf::default() }).await;
        }
    }
    let own = PodAddresses { own: vec![IpAddr::from([192, 0, 2, 7])], ..pod_addresses() };
    let at_own = named(&format!("http://192.0.2.7:{port}"), &[]);
    refused(GuestOf { network: Network::Pod(own), proxy: at_own, ..GuestOf::default() }).await;

    let guest = || GuestOf { proxy: proxy.named(&[]), ..GuestOf::default() };
    let listening = guest();
    let _listener = listening.ports.listening(Protocol::Tcp, SocketAddr::from(([0, 0, 0, 0], port)));
    refused(listening).await;
    assert_eq!(proxy.server.accepted(), 0);
    assert_eq!(
        guest().client().text("http://a.far.test/hello").await,
        "hello",
        "the pod has the node's loopback"
    );
}

/// What an origin does within a tunnel is no trouble of the proxy.
#[tokio::test]
async fn a_proxy_is_not_blamed_for_what_is_behind_its_tunnels() {
    let signed = Signed::new(&["a.far.test"]);
    let acceptor = signed.acceptor(&["http/1.1"]);
    let origin = Server::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"what?\r\n\r\n").await.unwrap();
            // The client goes.
            let _ = stream.read_u8().await;
        }
    });
    let proxy = Proxy::to(origin.at).await;
    let authorities = Some(Arc::new(PrivateAuthorities::from_pem(&signed.authority).unwrap()));
    let client = GuestOf { proxy: proxy.named(&[]), authorities, ..GuestOf::default() }.client();
    let answer = client.get("https://a.far.test/").await;
    assert!(matches!(answer, Err(Error::HttpProtocolError)), "{answer:?}");
    assert!(!client.way.proxy_trouble.is_told());

    // Whoever speaks first is no server of TLS, and the proxy has done what it was asked for.
    let proxy = Proxy::start(Err("HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n")).await;
    let client = GuestOf { proxy: proxy.named(&[]), ..GuestOf::default() }.client();
    let answer = client.get("https://a.far.test/").await;
    assert!(matches!(answer, Err(Error::TlsProtocolError)), "{answer:?}");
    assert!(!client.way.proxy_trouble.is_told());
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
        let is_its_own = [plain, tunnel]
            .iter()
            .any(|told| told.ends_with("ConfigurationError") || told.ends_with("ProtocolError"));
        assert_eq!(client.way.proxy_trouble.is_told(), is_its_own, "{answer:?}");
    }
    let gone = Proxy::start(Err("")).await.named(&[]);
    let client = GuestOf { proxy: gone, ..GuestOf::default() }.client();
    let error = client.get("http://a.far.test/").await.unwrap_err();
    assert!(matches!(error, Error::DestinationUnavailable), "{error:?}");
}
