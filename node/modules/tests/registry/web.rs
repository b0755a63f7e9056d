//! A server of our own, over HTTP or HTTPS, that does as it is told, byte for byte.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use kubewasm_modules::{Digest, Reference};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier},
};

/// Answers requests by a function, and remembers them. Every connection has one request.
pub(crate) struct WebServer {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    authority: Option<TempDir>,
}

/// An answer.
pub(crate) struct Reply {
    status: &'static str,
    headers: String,
    body: Body,
}

pub(crate) enum Body {
    /// All of it, with its length.
    Whole(Vec<u8>),
    /// With the length of all of it, but the connection is cut after so many bytes.
    Cut(Vec<u8>, usize),
    /// Begins like this, and has neither a length nor an end.
    Endless(&'static [u8]),
    /// The length of a megabyte, one byte, and then nothing.
    Stalled,
}

impl Reply {
    pub(crate) fn new(status: &'static str, headers: &str, body: Body) -> Self {
        Self { status, headers: headers.to_owned(), body }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new("200 OK", "", Body::Whole(body.into()))
    }

    pub(crate) fn status(status: &'static str) -> Self {
        Self::new(status, "", Body::Whole(Vec::new()))
    }

    pub(crate) fn redirect(location: &str) -> Self {
        Self::new("302 Found", &format!("location: {location}\r\n"), Body::Whole(Vec::new()))
    }
}

/// What a server of files does with `content`: it knows ranges and entity tags.
pub(crate) fn file(request: &str, content: &[u8]) -> Reply {
    let tag = format!("\"{}\"", Digest::of(content).hex());
    let etag = format!("etag: {tag}\r\n");
    if header(request, "if-none-match").is_some_and(|value| value == tag) {
        return Reply::new("304 Not Modified", &etag, Body::Whole(Vec::new()));
    }
    match offset(request).filter(|_| header(request, "if-range").is_none_or(|value| value == tag)) {
        Some(from) => {
            let range = format!("content-range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
            Reply::new("206 Partial Content", &(etag + &range), Body::Whole(content[from..].to_vec()))
        }
        None => Reply::new("200 OK", &etag, Body::Whole(content.to_vec())),
    }
}

/// The start of the range that is asked for.
pub(crate) fn offset(request: &str) -> Option<usize> {
    header(request, "range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

/// A header of a request.
pub(crate) fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(": ")?;
        found.eq_ignore_ascii_case(name).then_some(value)
    })
}

impl WebServer {
    pub(crate) async fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch("127.0.0.1", answer, None).await
    }

    /// On another of this machine's loopback addresses: each is another host to a client.
    pub(crate) async fn start_on(host: &str, answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(host, answer, None).await
    }

    /// Speaks TLS, with a certificate that [`Self::authority`] vouches for.
    pub(crate) async fn start_with_tls(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch_with_tls(answer, false).await
    }

    /// Speaks TLS with those who have the certificate and key in `client.pem`, beside [`Self::authority`].
    pub(crate) async fn start_with_client_certificates(
        answer: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::launch_with_tls(answer, true).await
    }

    async fn launch_with_tls(
        answer: impl Fn(&str) -> Reply + Send + Sync + 'static,
        wants_client: bool,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let identity = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let client = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        let authority = TempDir::new().unwrap();
        std::fs::write(authority.path().join("ca.pem"), identity.cert.pem()).unwrap();
        let pem = client.cert.pem() + &client.signing_key.serialize_pem();
        std::fs::write(authority.path().join("client.pem"), pem).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(client.cert.der().clone()).unwrap();
        let builder = match wants_client {
            true => ServerConfig::builder()
                .with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap()),
            false => ServerConfig::builder().with_no_client_auth(),
        };
        let key = identity.signing_key.serialize_der().try_into().unwrap();
        let config = builder.with_single_cert(vec![identity.cert.der().clone()], key).unwrap();
        let mut server = Self::launch("127.0.0.1", answer, Some(TlsAcceptor::from(Arc::new(config)))).await;
        server.authority = Some(authority);
        server
    }

    async fn launch(
        host: &str,
        answer: impl Fn(&str) -> Reply + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (asked, answer) = (Arc::clone(&requests), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (asked, answer, tls) = (Arc::clone(&asked), Arc::clone(&answer), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &*answer, &asked).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &*answer, &asked).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, requests, authority: None }
    }

    /// The certificate authority of a server that speaks TLS.
    pub(crate) fn authority(&self) -> PathBuf {
        self.authority.as_ref().unwrap().path().join("ca.pem")
    }

    /// Heads of the requests.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// `http://127.0.0.1:<port><path>`
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("{}/{name}", self.address).parse().unwrap()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &(impl Fn(&str) -> Reply + ?Sized),
    asked: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    // A client that begins with TLS goes away, and comes again in the clear.
    while !head.ends_with(b"\r\n\r\n") && head.first().is_none_or(u8::is_ascii_alphabetic) {
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => head.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let Ok(request) = String::from_utf8(head) else { return };
    let Reply { status, headers, body } = answer(&request);
    let is_head = request.starts_with("HEAD ");
    asked.lock().unwrap().push(request);
    let length = match &body {
        Body::Whole(bytes) | Body::Cut(bytes, _) => format!("content-length: {}\r\n", bytes.len()),
        Body::Stalled => "content-length: 1048576\r\n".to_owned(),
        Body::Endless(_) => String::new(),
    };
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{length}{headers}\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = match body {
        _ if is_head => Ok(()),
        Body::Whole(bytes) => stream.write_all(&bytes).await,
        Body::Cut(bytes, count) => stream.write_all(&bytes[..count]).await,
        Body::Endless(head) => {
            let _ = stream.write_all(head).await;
            while stream.write_all(&[b' '; 16 << 10]).await.is_ok() {}
            Ok(())
        }
        Body::Stalled => {
            let _ = stream.write_all(b"\0").await;
            std::future::pending().await
        }
    };
    let _ = stream.shutdown().await;
}
