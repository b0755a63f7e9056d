//! HTTP over TLS.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubewasm_host::http::{CertificateOutcome, HttpServing, ServerCertificate};
use kubewasm_tests::certificates::{self, ServerIdentity};
use rustls::{
    ClientConfig,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::world::{OF_WASI_0_2, OF_WASI_0_3, PATIENCE, Server};

const NAME: &str = "web.example";

fn identity() -> ServerIdentity {
    ServerIdentity::new(&[NAME]).unwrap()
}

fn certificate(identity: &ServerIdentity) -> Arc<ServerCertificate> {
    Arc::new(ServerCertificate::from_pem(identity.chain.as_bytes(), identity.key.as_bytes()).unwrap())
}

async fn server(identity: &ServerIdentity, settings: &str) -> Server {
    server_of(OF_WASI_0_2, identity, settings).await
}

async fn server_of(guest: &str, identity: &ServerIdentity, settings: &str) -> Server {
    let settings = settings.parse().unwrap();
    let serving = HttpServing { settings, certificate: Some(certificate(identity)), failures: None };
    Server::serving(guest, serving, 256 << 20).await
}

fn client(trusted: &[&ServerIdentity], protocols: &[&str]) -> Arc<ClientConfig> {
    certificates::client(trusted, &[&TLS13, &TLS12], protocols).unwrap()
}

async fn connect(server: &Server, config: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server.address).await?;
    let made = TlsConnector::from(config).connect(ServerName::try_from(NAME).unwrap(), stream);
    timeout(PATIENCE, made).await.expect("the handshake ends")
}

/// A client of one connection.
enum Asking {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Asking {
    /// In the protocol that was agreed on.
    async fn on(stream: TlsStream<TcpStream>) -> Self {
        let is_http_2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        if is_http_2 {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    async fn send(&mut self, path: &str) -> hyper::Result<Response<Incoming>> {
        let request = Request::builder().header("host", NAME);
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request.uri(path).body(Empty::new()).unwrap()).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                let uri = format!("https://{NAME}{path}");
                sender.send_request(Request::builder().uri(uri).body(Empty::new()).unwrap()).await
            }
        }
    }

    async fn text(&mut self, path: &str) -> (Version, String) {
        let answer = timeout(PATIENCE, self.send(path)).await.expect("an answer").unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let version = answer.version();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (version, String::from_utf8(body.to_vec()).unwrap())
    }
}

/// The certificate that was shown.
fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn protocols_are_agreed_on_in_both_versions_of_tls() {
    let identity = identity();
    let server = server(&identity, "").await;
    for version in [&TLS12, &TLS13] {
        for (offered, agreed, spoken) in [
            (&["h2", "http/1.1"][..], Some(&b"h2"[..]), Version::HTTP_2),
            (&["http/1.1", "h2"], Some(b"h2"), Version::HTTP_2),
            (&["http/1.1"], Some(b"http/1.1"), Version::HTTP_11),
            (&[], None, Version::HTTP_11),
        ] {
            let config = certificates::client(&[&identity], &[version], offered).unwrap();
            let stream = connect(&server, config).await.unwrap();
            let connection = stream.get_ref().1;
            assert_eq!(connection.protocol_version(), Some(version.version), "{offered:?}");
            assert_eq!(connection.alpn_protocol(), agreed, "{offered:?}");
            let mut asking = Asking::on(stream).await;
            assert_eq!(asking.text("/").await, (spoken, "hello\n".to_owned()), "{offered:?}");
            let (_, body) = asking.text("/bytes?300000").await;
            assert_eq!(body.len(), 300_000);
        }
    }
    assert_eq!(server.stats().handshake_failures, 0);
    let strange = connect(&server, client(&[&identity], &["spdy/3"])).await;
    assert!(strange.is_err(), "there is no such protocol here");
    server.until("its failure", |stats| stats.handshake_failures == 1).await;
    let distrusting = ServerIdentity::new(&[NAME]).unwrap();
    assert!(connect(&server, client(&[&distrusting], &[])).await.is_err());
    server.until("the end of all", |stats| stats.connections == 0).await;
    assert_eq!(server.stats().handshake_failures, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_are_told_by_which_scheme_they_are_asked() {
    let identity = identity();
    for (guest, path, over_tls, in_clear) in
        [(OF_WASI_0_2, "/scheme", "https", "http"), (OF_WASI_0_3, "/scheme", "1", "0")]
    {
        let server = server_of(guest, &identity, "").await;
        for protocol in ["http/1.1", "h2"] {
            let stream = connect(&server, client(&[&identity], &[protocol])).await.unwrap();
            let (_, told) = Asking::on(stream).await.text(path).await;
            assert_eq!(told, over_tls, "{guest} {protocol}");
        }
        let plain = Server::of(guest, "", 256 << 20).await;
        assert_eq!(plain.get(path).await.text(), in_clear, "{guest}");
        // What a client says of it is not asked for.
        let io = TokioIo::new(TcpStream::connect(plain.address).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(format!("https://{NAME}{path}")).body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), in_clear, "{guest}");
    }
}

/// New connections have the new certificate, and no request fails: neither on connections that are kept, nor on new ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_changed_under_load() {
    const TURNS: usize = 5;
    let identities: Arc<Vec<_>> = Arc::new((0..=TURNS).map(|_| identity()).collect());
    let server = Arc::new(server(&identities[0], "keep-alive-requests=1000000").await);
    let trusted: Vec<_> = identities.iter().collect();
    let configs = [client(&trusted, &["h2"]), client(&trusted, &["http/1.1"])];
    let mut old = connect(&server, configs[1].clone()).await.unwrap();
    let (is_over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = Vec::new();
    for config in &configs {
        for is_kept in [true, false] {
            let (server, config) = (Arc::clone(&server), Arc::clone(config));
            let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
            load.push(tokio::spawn(async move {
                let mut kept = Asking::on(connect(&server, Arc::clone(&config)).await.unwrap()).await;
                while !is_over.load(Ordering::Relaxed) {
                    if !is_kept {
                        kept = Asking::on(connect(&server, Arc::clone(&config)).await.unwrap()).await;
                    }
                    assert_eq!(kept.text("/").await.1, "hello\n");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    let more = async |by: usize| {
        let before = answered.load(Ordering::Relaxed);
        server.until("more load", |_| answered.load(Ordering::Relaxed) >= before + by).await;
    };
    more(20).await;
    let fresh = client(&trusted, &[]);
    for identity in &identities[1..] {
        let (before, next) = (connect(&server, Arc::clone(&fresh)).await.unwrap(), certificate(identity));
        assert_ne!(shown(&before), identity.der.to_vec());
        // Tickets come with the answer.
        Asking::on(before).await.text("/").await;
        assert_eq!(server.set_certificate(&next), CertificateOutcome::Applied);
        assert_eq!(server.set_certificate(&next), CertificateOutcome::Unchanged);
        // A session of before is not taken up again: it was agreed under another certificate.
        let after = connect(&server, Arc::clone(&fresh)).await.unwrap();
        assert_eq!(shown(&after), identity.der.to_vec());
        assert_eq!(after.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        more(20).await;
    }
    is_over.store(true, Ordering::Relaxed);
    for load in load {
        load.await.unwrap();
    }
    assert_eq!(shown(&old), identities[0].der.to_vec());
    old.write_all(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\r\nhello\n\r\n"), "{answer}");
    let stats = server.stats();
    assert_eq!((stats.handshake_failures, stats.answers[3] + stats.answers[4]), (0, 0), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_taken_up_again_without_a_certificate() {
    let identity = identity();
    let server = server(&identity, "").await;
    for version in [&TLS12, &TLS13] {
        let config = certificates::client(&[&identity], &[version], &["http/1.1"]).unwrap();
        let kind = async || {
            let stream = connect(&server, Arc::clone(&config)).await.unwrap();
            let kind = stream.get_ref().1.handshake_kind();
            // Tickets of TLS 1.3 come with the answer.
            Asking::on(stream).await.text("/").await;
            kind
        };
        assert_eq!(kind().await, Some(rustls::HandshakeKind::Full));
        assert_eq!(kind().await, Some(rustls::HandshakeKind::Resumed), "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_tls_is_told_so() {
    let identity = identity();
    let server = server(&identity, "").await;
    // Longer than what is looked at first: what is unread would reset the connection.
    let body = "x".repeat(10_000);
    for request in [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
        format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10000\r\n\r\n{body}"),
    ] {
        let mut client = server.connect().await;
        client.send(request).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(
            (answer.status, answer.text()),
            (400, "Client sent an HTTP request to an HTTPS server.\n")
        );
    }
    server.until("their end", |stats| stats.connections == 0).await;
    assert_eq!(server.stats().handshake_failures, 2);
    // As a probe of TCP does.
    drop(server.connect().await);
    let mut noise = server.connect().await;
    noise.send([0x16, 3, 1, 0, 5, 1, 2, 3, 4, 5]).await;
    let mut alert = Vec::new();
    // It may be reset.
    let _ = timeout(PATIENCE, noise.0.read_to_end(&mut alert)).await.expect("it ends");
    server.until("their end", |stats| stats.connections == 0).await;
    assert_eq!(server.stats().handshake_failures, 3, "who says nothing does not count");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_has_its_time_its_place_and_its_memory() {
    let identity = identity();
    let server = server(&identity, "header-timeout=2s,max-connections=1").await;
    let before = server.account.usage().memory_bytes;
    let mut silent = server.connect().await;
    server.until("its place", |stats| stats.connections == 1).await;
    assert!(server.account.usage().memory_bytes >= before + (48 << 10), "it is counted");
    // It waits for the place.
    let stream = connect(&server, client(&[&identity], &[])).await.unwrap();
    assert_eq!(server.stats().handshake_failures, 1);
    assert!(silent.is_ended().await);
    assert_eq!(Asking::on(stream).await.text("/").await.1, "hello\n");
    server.until("its end", |stats| stats.connections == 0).await;
    let mut slow = server.connect().await;
    slow.send([0x16]).await;
    assert!(slow.is_ended().await, "it has begun, and does not go on");
    server.until("its end", |stats| stats.connections == 0).await;
    assert_eq!(server.stats().handshake_failures, 2);
    assert_eq!(server.account.usage().memory_bytes, before, "all memory is given back");
}

/// Whoever comes while it drains is served, and so is whoever has not finished the handshake when nobody listens any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_drains_with_tls() {
    let identity = identity();
    let server = server(&identity, "drain=300ms").await;
    let config = client(&[&identity], &["http/1.1"]);
    let mut slow = Asking::on(connect(&server, Arc::clone(&config)).await.unwrap()).await;
    let slow = tokio::spawn(async move { slow.text("/sleep?3000").await });
    server.until("one that is worked on", |stats| stats.in_flight == 1).await;
    let unfinished = TcpStream::connect(server.address).await.unwrap();
    server.until("two connections", |stats| stats.connections == 2).await;
    server.stop_within(PATIENCE);
    let mut last = None;
    while let Ok(stream) = connect(&server, Arc::clone(&config)).await {
        let mut asking = Asking::on(stream).await;
        let answer = asking.send("/").await.unwrap();
        assert_eq!(answer.status(), 200);
        last = answer.headers().get("connection").cloned();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(last.is_some_and(|value| value == "close"));
    let name = ServerName::try_from(NAME).unwrap();
    let late = TlsConnector::from(config).connect(name, unfinished).await.unwrap();
    assert_eq!(Asking::on(late).await.text("/").await.1, "hello\n");
    assert_eq!(slow.await.unwrap().1, "slept\n");
    assert_eq!(server.exit().await.code, 0);
}
