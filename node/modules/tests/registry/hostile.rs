//! Registries that want what is not theirs: credentials are for the registry and for the token service that it names.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// A server of our own in the clear, which remembers what it was asked.
struct Hostile {
    address: std::net::SocketAddr,
    requests: std::sync::Arc<Mutex<Vec<String>>>,
}

/// `status` and headers of an answer without a body.
struct Answer(&'static str, String);

impl Hostile {
    /// Listens on `host`, one of this machine's loopback addresses: each is another host to a client.
    async fn start(host: &str, answer: impl Fn(&str) -> Answer + Send + 'static) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = std::sync::Arc::<Mutex<Vec<String>>>::default();
        let asked = std::sync::Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                // A client that begins with TLS goes away, and comes again in the clear.
                while !head.ends_with(b"\r\n\r\n") && head.first().is_none_or(u8::is_ascii_alphabetic) {
                    match stream.read(&mut buffer).await {
                        Ok(count) if count > 0 => head.extend_from_slice(&buffer[..count]),
                        _ => break,
                    }
                }
                let Ok(request) = String::from_utf8(head) else { continue };
                if request.is_empty() {
                    continue;
                }
                let Answer(status, headers) = answer(&request);
                asked.lock().unwrap().push(request);
                let answer =
                    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n{headers}\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn reference(&self) -> Reference {
        format!("{}/team/app:v1", self.address).parse().unwrap()
    }
}

fn is_authorized(request: &str) -> bool {
    request.to_lowercase().contains("authorization:")
}

pub(crate) async fn pull_as_alice(node: &Node, reference: &Reference) -> PullFailure {
    node.store.pull(reference, &[credential(PASSWORD)], None).await.unwrap_err().reason
}

#[tokio::test]
async fn a_host_that_a_redirect_names_asks_for_credentials_in_vain() {
    for challenge in ["Basic realm=\"r\"", "Bearer realm=\"THIEF/token\",service=\"s\""] {
        let thief = {
            let own = std::sync::Arc::new(std::sync::OnceLock::new());
            let address = std::sync::Arc::clone(&own);
            let thief = Hostile::start("127.0.0.2", move |_| {
                let own = format!("http://{}", address.get().unwrap());
                Answer(
                    "401 Unauthorized",
                    format!("www-authenticate: {}\r\n", challenge.replace("THIEF", &own)),
                )
            })
            .await;
            own.set(thief.address).unwrap();
            thief
        };
        let location = format!("location: http://{}/storage\r\n", thief.address);
        let registry =
            Hostile::start("127.0.0.1", move |_| Answer("307 Temporary Redirect", location.clone())).await;
        let node = Node::new();
        let reason = pull_as_alice(&node, &registry.reference()).await;
        assert!(matches!(&reason, PullFailure::Malformed(text) if text.contains("127.0.0.2")), "{reason}");
        let asked = thief.requests();
        assert!(!asked.is_empty(), "the redirect itself is followed");
        assert!(asked.iter().all(|request| request.starts_with("GET /storage ") && !is_authorized(request)));
        assert!(
            !registry.requests().iter().any(|request| is_authorized(request)),
            "nobody has asked rightly"
        );
    }
}

#[tokio::test]
async fn a_token_service_passes_nobody_on() {
    let thief = Hostile::start("127.0.0.2", |_| Answer("401 Unauthorized", String::new())).await;
    for status in ["302 Found", "307 Temporary Redirect"] {
        let location = format!("location: http://{}/token\r\n", thief.address);
        let own = std::sync::Arc::new(std::sync::OnceLock::new());
        let address = std::sync::Arc::clone(&own);
        let registry = Hostile::start("127.0.0.1", move |request| match request.contains(" /token") {
            true => Answer(status, location.clone()),
            false => {
                let realm: &std::net::SocketAddr = address.get().unwrap();
                let challenge =
                    format!("www-authenticate: Bearer realm=\"http://{realm}/token\",service=\"s\"\r\n");
                Answer("401 Unauthorized", challenge)
            }
        })
        .await;
        own.set(registry.address).unwrap();
        let node = Node::new();
        let reason = pull_as_alice(&node, &registry.reference()).await;
        assert!(matches!(&reason, PullFailure::Denied(text) if text.contains(status)), "{reason}");
        let to_service = |request: &String| request.contains(" /token") && is_authorized(request);
        assert!(registry.requests().iter().any(to_service), "the service that the registry names is asked");
        assert_eq!(thief.requests(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_registry_that_speaks_tls_cannot_have_credentials_sent_in_the_clear() {
    let eavesdropper = Hostile::start("127.0.0.1", |_| Answer("401 Unauthorized", String::new())).await;
    let registry = Registry::start_with_token_service(&format!("http://{}/token", eavesdropper.address));
    let node = Node::with(StoreOptions {
        certificate_authorities: vec![registry.authority()],
        // Even where the registry might be spoken to in the clear, its own TLS decides.
        insecure_registries: vec![registry.reference("app").registry().to_owned()],
        ..StoreOptions::default()
    });
    let reason = pull_as_alice(&node, &registry.reference("app")).await;
    assert!(matches!(&reason, PullFailure::Denied(text) if text.contains("not safe to use")), "{reason}");
    assert_eq!(eavesdropper.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_registry_in_the_clear_cannot_send_credentials_to_just_any_host() {
    let registry = Hostile::start("127.0.0.1", |_| {
        let challenge = "www-authenticate: Bearer realm=\"http://tokens.example/token\"\r\n";
        Answer("401 Unauthorized", challenge.to_owned())
    })
    .await;
    let node = Node::new();
    let reason = pull_as_alice(&node, &registry.reference()).await;
    assert!(matches!(&reason, PullFailure::Denied(text) if text.contains("not safe to use")), "{reason}");
}
