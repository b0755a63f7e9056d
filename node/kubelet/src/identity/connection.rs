//! Clients of the API server whose credentials can be replaced while they are in use.

use std::{
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Request, Response};
use kube::{Client, client::Body};
use tower::Service;

use super::{IdentityError, pair::Pair};

/// The way to the API server. Clones share the credentials.
///
/// Each client has connections of its own. When the credentials change, or [`Connection::reset`] is called,
/// every client opens new ones for its next request: idle ones are closed, a watch that is under way ends
/// when the API server ends it, some minutes later at most.
#[derive(Clone)]
pub struct Connection {
    state: Arc<RwLock<State>>,
}

struct State {
    access: kube::Config,
    generation: u64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Connection")
            .field("cluster_url", &state.access.cluster_url)
            .field("generation", &state.generation)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Checks that clients can be made of `access`, without connecting.
    ///
    /// # Errors
    /// [`IdentityError::Client`] when certificates or URLs in it cannot be used.
    pub fn new(access: kube::Config) -> Result<Self, IdentityError> {
        // Building the service reads every certificate; only this is wanted of it here.
        kube::client::ClientBuilder::try_from(access.clone()).map_err(IdentityError::Client)?;
        Ok(Self { state: Arc::new(RwLock::new(State { access, generation: 0 })) })
    }

    /// A client for everything that may take its time: watches, pods.
    ///
    /// Must be called within a tokio runtime, as must be the next.
    #[must_use]
    pub fn client(&self) -> Client {
        self.with_timeout(None)
    }

    /// A client whose requests fail after `timeout` without an answer, for heartbeats. It has its own
    /// connections, so that a heartbeat never waits behind other traffic.
    #[must_use]
    pub fn client_with_timeout(&self, timeout: Duration) -> Client {
        self.with_timeout(Some(timeout))
    }

    fn with_timeout(&self, timeout: Option<Duration>) -> Client {
        let namespace = self.read(|state| state.access.default_namespace.clone());
        Client::new(Switching { state: Arc::clone(&self.state), timeout, current: None }, namespace)
    }

    /// Makes every client open new connections, for when the old ones seem dead.
    pub fn reset(&self) {
        self.write(|state| state.generation += 1);
    }

    /// Makes every client use this certificate from now on.
    pub(super) fn replace_certificate(&self, pair: &Pair) {
        self.write(|state| {
            use_certificate(&mut state.access, pair);
            state.generation += 1;
        });
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, write: impl FnOnce(&mut State)) {
        write(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Puts a certificate into a configuration, in place of any other credential that names a file.
pub(super) fn use_certificate(access: &mut kube::Config, pair: &Pair) {
    let auth = &mut access.auth_info;
    auth.client_certificate = None;
    auth.client_key = None;
    auth.client_certificate_data = Some(STANDARD.encode(pair.certificate_pem()));
    auth.client_key_data = Some(STANDARD.encode(pair.key_pem()).into());
}

/// The service inside a client: passes requests to a client of the present generation.
struct Switching {
    state: Arc<RwLock<State>>,
    timeout: Option<Duration>,
    current: Option<(u64, Client)>,
}

impl Switching {
    fn current(&mut self) -> Result<Client, kube::Error> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((generation, client)) = &self.current
            && *generation == state.generation
        {
            return Ok(client.clone());
        }
        let mut access = state.access.clone();
        if let Some(timeout) = self.timeout {
            access.connect_timeout = Some(timeout);
            access.read_timeout = Some(timeout);
            access.write_timeout = Some(timeout);
            access.reset_reader_on_write = true;
            access.default_retry = false;
        }
        let client = Client::try_from(access)?;
        self.current = Some((state.generation, client.clone()));
        Ok(client)
    }
}

impl Service<Request<Body>> for Switching {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.current();
        let timeout = self.timeout;
        Box::pin(async move {
            let sent = async { client?.send(request).await };
            match timeout {
                None => sent.await,
                // The client's own timeouts are per read; this one is for the answer as a whole.
                Some(timeout) => tokio::time::timeout(timeout, sent).await.unwrap_or_else(|_| {
                    Err(kube::Error::Service(format!("no answer within {} s", timeout.as_secs()).into()))
                }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use kube::Api;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::{super::pair::tests::self_signed, *};

    /// An API server over plain TCP that counts its connections and knows one node, or says nothing.
    async fn api_server(silent: bool) -> (kube::Config, tokio::sync::watch::Receiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (count, counted) = tokio::sync::watch::channel(0);
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                count.send_modify(|count| *count += 1);
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while socket.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        if silent {
                            continue;
                        }
                        let body = r#"{"metadata":{"name":"n"}}"#;
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        if socket.write_all(head.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (kube::Config::new(url.parse().unwrap()), counted)
    }

    #[tokio::test]
    async fn a_reset_opens_new_connections() {
        let (access, connections) = api_server(false).await;
        let connection = Connection::new(access).unwrap();
        let nodes: Api<Node> = Api::all(connection.client());
        for _ in 0..3 {
            nodes.get("n").await.unwrap();
        }
        assert_eq!(*connections.borrow(), 1);
        connection.reset();
        nodes.get("n").await.unwrap();
        assert_eq!(*connections.borrow(), 2);
    }

    #[tokio::test]
    async fn a_heartbeat_does_not_wait_for_ever() {
        let (access, _connections) = api_server(true).await;
        let connection = Connection::new(access).unwrap();
        let nodes: Api<Node> = Api::all(connection.client_with_timeout(Duration::from_millis(50)));
        assert!(nodes.get("n").await.is_err());
    }

    /// An API server over TLS that tells by a Node's name with which certificate it was asked.
    async fn certificate_teller(server: &Pair, clients: &[&Pair]) -> String {
        let mut roots = rustls::RootCertStore::empty();
        for pair in clients {
            roots.add(pair.chain[0].clone()).unwrap();
        }
        let known: Vec<_> = clients.iter().map(|pair| pair.chain[0].clone()).collect();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(server.chain.clone(), server.key.clone_key())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let mut stream = acceptor.accept(socket).await.unwrap();
                let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
                let which = known.iter().position(|one| *one == shown).unwrap();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                        let body = format!(r#"{{"metadata":{{"name":"{which}"}}}}"#);
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        url
    }

    #[tokio::test]
    async fn a_new_certificate_is_used_from_the_next_request_on() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pair = |name: &str| self_signed(&[name], -1..1);
        let (server, first, second) = (pair("localhost"), pair("first"), pair("second"));
        let url = certificate_teller(&server, &[&first, &second]).await;
        let mut access = kube::Config::new(url.parse().unwrap());
        access.root_cert = Some(vec![server.chain[0].to_vec()]);
        use_certificate(&mut access, &first);
        let connection = Connection::new(access).unwrap();
        let nodes: Api<Node> = Api::all(connection.client());
        let shown = || async { nodes.get("x").await.unwrap().metadata.name.unwrap() };
        assert_eq!(shown().await, "0");
        connection.replace_certificate(&second);
        assert_eq!(shown().await, "1");
    }

    #[test]
    fn debug_shows_no_secret() {
        let mut access = kube::Config::new("https://example.com".parse().unwrap());
        access.auth_info.token = Some("s3cret".to_owned().into());
        let shown = format!("{:?}", Connection::new(access).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("example.com"), "{shown}");
    }
}
