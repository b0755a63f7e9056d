mod uploads;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    digest::Digest,
    image::Credential,
    reference::Reference,
    source::{KnownImage, ModuleSource as _, Resolution, Target},
};

mod signatures;

const MANIFEST: &str = r#"{"schemaVersion":2}"#;

/// A server that answers each request (its head and body as text) with what a function says, byte for byte.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, answer) = (Arc::clone(&requests), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let Some(request) = read_request(&mut stream).await else {
                        return;
                    };
                    log.lock().unwrap().push(request.clone());
                    let Answer { head, body, endless } = answer(&request);
                    let _ = stream.write_all(head.as_bytes()).await;
                    let _ = stream.write_all(body.as_bytes()).await;
                    while endless == Endless::Sends && stream.write_all(&[b' '; 4096]).await.is_ok() {}
                    if endless == Endless::Stalls {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, requests }
    }

    fn reference(&self) -> Reference {
        format!("{}/team/app:v1", self.address).parse().unwrap()
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Reads a request; `None` when the client speaks TLS.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.ok()?;
        bytes.extend_from_slice(&buffer[..count]);
        let text = std::str::from_utf8(&bytes).ok()?;
        let (head, body) = match text.split_once("\r\n\r\n") {
            Some(parts) => parts,
            None if count == 0 || !text.starts_with(['G', 'H', 'P']) => return None,
            None => continue,
        };
        let length =
            head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(text.to_owned());
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Endless {
    No,
    Sends,
    Stalls,
}

struct Answer {
    head: String,
    body: String,
    endless: Endless,
}

fn answer(status: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
    Answer { head, body: body.to_owned(), endless: Endless::No }
}

fn registry() -> Registry {
    registry_with(Duration::from_secs(30))
}

fn registry_with(stall_timeout: Duration) -> Registry {
    let options = RegistryOptions {
        insecure: Vec::new(),
        config_directories: Vec::new(),
        connect_timeout: Duration::from_secs(10),
        stall_timeout,
    };
    Registry::new(options, &[]).unwrap()
}

async fn resolve(
    reference: &Reference,
    credentials: &[Credential],
    known: Option<Digest>,
) -> Result<Resolution, PullFailure> {
    let registry = registry();
    let known = known.map(|digest| KnownImage { digest, version: None });
    RegistrySource::new(&registry, reference, credentials).resolve(known.as_ref()).await
}

fn credential(username: &str, password: &str) -> Credential {
    Credential { username: username.to_owned(), password: password.to_owned() }
}

/// A registry that takes only the token `T`, and its token service, which gives it to those who pass `allowed`.
async fn with_tokens(allowed: fn(&str) -> bool) -> Server {
    let port = Arc::new(OnceLock::new());
    let known = Arc::clone(&port);
    let server = Server::start(move |request| {
        let head = request.to_lowercase();
        if request.contains(" /token") {
            return match allowed(request) {
                true => answer("200 OK", "", r#"{"token":"T"}"#),
                false => answer("401 Unauthorized", "", ""),
            };
        }
        if head.contains("authorization: bearer t\r\n") {
            return answer("200 OK", "", MANIFEST);
        }
        let challenge = format!(
            "www-authenticate: Bearer realm=\"http://127.0.0.1:{}/token\",service=\"reg\"\r\n",
            known.get().unwrap()
        );
        answer("401 Unauthorized", &challenge, "")
    })
    .await;
    port.set(server.address.port()).unwrap();
    server
}

#[tokio::test]
async fn a_public_image_needs_a_token_for_nobody() {
    let server = with_tokens(|request| !request.to_lowercase().contains("authorization")).await;
    let Resolution { target, credential } = resolve(&server.reference(), &[], None).await.unwrap();
    assert_eq!(credential, None);
    let Target::Manifest(manifest) = target else { panic!("nothing was known") };
    assert_eq!(manifest.digest, Digest::of(MANIFEST.as_bytes()));
    let asked = &server.requests()[1];
    assert!(
        asked.starts_with("GET /token?scope=repository%3Ateam%2Fapp%3Apull&service=reg HTTP/1.1"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_password_goes_to_the_token_service_only() {
    // alice:secret
    let server = with_tokens(|request| request.contains("Basic YWxpY2U6c2VjcmV0")).await;
    let wrong = credential("alice", "wrong");
    let credentials = [wrong, credential("alice", "secret")];
    let found = resolve(&server.reference(), &credentials, None).await.unwrap();
    assert_eq!(found.credential, Some(1));
    let leaked = |request: &String| !request.contains(" /token") && request.contains("Basic ");
    assert!(!server.requests().iter().any(leaked));
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let server = with_tokens(|request| {
        request.starts_with("POST /token")
            && request.contains("grant_type=refresh_token")
            && request.contains("=ID")
    })
    .await;
    resolve(&server.reference(), &[credential("", "ID")], None).await.unwrap();
}

#[tokio::test]
async fn refusals_name_no_secret() {
    let server = with_tokens(|_| false).await;
    let error = resolve(&server.reference(), &[credential("alice", "hunter2")], None).await.err().unwrap();
    assert!(matches!(error, PullFailure::Denied(_)));
    let text = format!("{error} {error:?}");
    assert!(text.contains("check the secret in imagePullSecrets") && !text.contains("hunter2"), "{text}");

    let error = resolve(&server.reference(), &[], None).await.err().unwrap().to_string();
    assert!(error.contains("needs a login"), "{error}");
}

#[tokio::test]
async fn an_unsafe_token_service_gets_nothing() {
    for realm in ["ftp://127.0.0.1/token", "nonsense"] {
        let challenge = format!("www-authenticate: Bearer realm=\"{realm}\"\r\n");
        let server = Server::start(move |_| answer("401 Unauthorized", &challenge, "")).await;
        let error = resolve(&server.reference(), &[credential("a", "b")], None).await.err().unwrap();
        assert!(matches!(&error, PullFailure::Denied(text) if text.contains("not safe")), "{error}");
    }
}

#[tokio::test]
async fn answers_are_told_apart() {
    type Is = fn(&PullFailure) -> bool;
    let cases: &[(&str, Is)] = &[
        ("401 Unauthorized", |error| matches!(error, PullFailure::Denied(_))),
        ("403 Forbidden", |error| matches!(error, PullFailure::Denied(_))),
        ("404 Not Found", |error| matches!(error, PullFailure::NotFound(_))),
        ("429 Too Many Requests", |error| matches!(error, PullFailure::Unavailable(_))),
        ("500 Internal Server Error", |error| matches!(error, PullFailure::Unavailable(_))),
        ("503 Service Unavailable", |error| matches!(error, PullFailure::Unavailable(_))),
        ("418 I'm a teapot", |error| matches!(error, PullFailure::Malformed(_))),
        ("204 No Content", |error| matches!(error, PullFailure::Malformed(_))),
    ];
    for (status, is) in cases {
        let status_line = (*status).to_owned();
        let body = r#"{"errors":[{"code":"X","message":"because\nof this"},{"code":"Y"}]}"#;
        let server = Server::start(move |_| answer(&status_line, "", body)).await;
        let error = resolve(&server.reference(), &[], None).await.err().unwrap();
        assert!(is(&error), "{status}: {error:?}");
        if !status.starts_with("204") {
            assert!(error.to_string().contains(": because of this, Y"), "{error}");
        }
    }
}

#[tokio::test]
async fn what_is_known_is_asked_for_by_head() {
    let known = Digest::of(MANIFEST.as_bytes());
    let digest = format!("docker-content-digest: {known}\r\n");
    let stale = format!("docker-content-digest: {}\r\n", Digest::of(b"new"));
    type Case = (&'static str, String, &'static [&'static str]);
    let cases: [Case; 4] = [
        ("200 OK", digest.clone(), &["HEAD"]),
        ("200 OK", stale, &["HEAD", "GET"]),
        ("200 OK", String::new(), &["HEAD", "GET"]),
        ("405 Method Not Allowed", digest, &["HEAD", "GET"]),
    ];
    for (status, header, methods) in cases {
        let server = Server::start(move |request| match request.starts_with("HEAD") {
            true => answer(status, &header, ""),
            false => answer("200 OK", "", MANIFEST),
        })
        .await;
        let resolved = resolve(&server.reference(), &[], Some(known)).await.unwrap().target;
        assert_eq!(matches!(resolved, Target::Unchanged), methods.len() == 1, "{status}");
        let asked: Vec<String> = server.requests();
        let asked: Vec<&str> = asked.iter().filter_map(|request| request.split(' ').next()).collect();
        assert_eq!(asked, methods, "{status}");
    }
    let gone = Server::start(|_| answer("404 Not Found", "", "")).await;
    let error = resolve(&gone.reference(), &[], Some(known)).await.err().unwrap();
    assert!(matches!(error, PullFailure::NotFound(_)), "what is gone is not unchanged: {error}");
}

#[tokio::test]
async fn not_found_beats_denied() {
    let server = Server::start(|request| match request.to_lowercase().contains("authorization") {
        true => answer("404 Not Found", "", ""),
        false => answer("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", ""),
    })
    .await;
    let error = resolve(&server.reference(), &[credential("a", "b")], None).await.err().unwrap();
    assert!(matches!(error, PullFailure::NotFound(_)), "{error}");
}

#[tokio::test]
async fn a_manifest_without_end_is_cut_off() {
    let announced = || {
        let mut answer = answer("200 OK", "", "");
        answer.head = answer.head.replace("content-length: 0", "content-length: 99999999");
        answer
    };
    let unannounced = || Answer {
        head: "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned(),
        body: String::new(),
        endless: Endless::Sends,
    };
    for make in [announced as fn() -> Answer, unannounced] {
        let server = Server::start(move |_| make()).await;
        let error = resolve(&server.reference(), &[], None).await.err().unwrap();
        assert!(matches!(error, PullFailure::TooLarge(_)), "{error}");
    }
}

#[tokio::test]
async fn a_registry_that_stalls_is_unavailable() {
    let server = Server::start(|_| Answer { endless: Endless::Stalls, ..answer("200 OK", "", "") }).await;
    let stalled = Server::start(|_| Answer {
        head: "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n".to_owned(),
        body: "{".to_owned(),
        endless: Endless::Stalls,
    })
    .await;
    assert!(resolve(&server.reference(), &[], None).await.is_ok(), "an answer that is complete is one");
    let (registry, reference) = (registry_with(Duration::from_millis(300)), stalled.reference());
    let error = RegistrySource::new(&registry, &reference, &[]).resolve(None).await.err().unwrap();
    assert!(matches!(error, PullFailure::Unavailable(_)), "{error}");
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_digest_names() {
    let server = Server::start(|_| answer("200 OK", "", MANIFEST)).await;
    let wrong = Digest::of(b"something else");
    let reference: Reference = format!("{}/app@{wrong}", server.address).parse().unwrap();
    let error = resolve(&reference, &[], None).await.err().unwrap();
    assert!(matches!(&error, PullFailure::Mismatch(text) if text.contains(&wrong.to_string())), "{error}");
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_credential_along() {
    let storage = Server::start(|_| answer("200 OK", "", MANIFEST)).await;
    // The same machine under another name is another host.
    let location = format!("location: http://localhost:{}/x?signature=S3CRET\r\n", storage.address.port());
    let server = Server::start(move |request| match request.to_lowercase().contains("authorization") {
        true => answer("307 Temporary Redirect", &location, ""),
        false => answer("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", ""),
    })
    .await;
    resolve(&server.reference(), &[credential("a", "b")], None).await.unwrap();
    assert!(!storage.requests()[0].to_lowercase().contains("authorization"));
}

#[tokio::test]
async fn signatures_in_redirects_do_not_reach_error_texts() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let location = format!("location: http://{unused}/x?signature=S3CRET\r\n");
    let server = Server::start(move |_| answer("307 Temporary Redirect", &location, "")).await;
    let error = resolve(&server.reference(), &[], None).await.err().unwrap();
    let text = format!("{error} {error:?}");
    assert!(matches!(error, PullFailure::Unavailable(_)) && !text.contains("S3CRET"), "{text}");
}

#[test]
fn who_may_speak_plain_http() {
    let options = RegistryOptions {
        insecure: vec!["reg.lan:5000".to_owned()],
        config_directories: Vec::new(),
        connect_timeout: Duration::from_secs(1),
        stall_timeout: Duration::from_secs(1),
    };
    let registry = Registry::new(options, &[]).unwrap();
    for (reference, plain) in [
        ("localhost:5000/a", true),
        ("127.0.0.1/a", true),
        ("reg.lan:5000/a", true),
        ("reg.lan/a", false),
        ("ghcr.io/a/b", false),
        ("busybox", false),
    ] {
        assert_eq!(
            registry.is_insecure(reference.parse::<Reference>().unwrap().registry()),
            plain,
            "{reference}"
        );
    }
}
