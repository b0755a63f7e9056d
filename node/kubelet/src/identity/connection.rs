//! Clients of the API server whose credentials can be replaced while they are in use, and each of whose requests has
//! an end.

use std::{
    pin::Pin,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Request, Response};
use jiff::Timestamp;
use kube::{Client, client::Body};
use rustls_pki_types::pem::PemObject as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    IdentityError,
    deadline::{self, LimitedBody},
    pair::{self, Pair},
    renewal_metrics::RenewalMetrics,
    request_metrics::ApiRequestMetrics,
};
use crate::{
    collection::consistent,
    explain::explain,
    rate::TokenBucket,
    traces::{self, SpanKind, Tracer},
};

/// The way to the API server. Clones share the credentials.
///
/// Each client has connections of its own. When the credentials change, or [`Connection::reset`] is called,
/// every client opens new ones for its next request, and idle ones are closed. So it is when a request was not answered
/// in time: the connection that it went over may be dead, and others with it. Watches that are under way go on then;
/// when the credentials change they end, so that nothing goes over a connection of the old ones any more.
#[derive(Clone)]
pub struct Connection {
    state: Arc<RwLock<ConnectionState>>,
    metrics: ApiRequestMetrics,
    renewals: RenewalMetrics,
    limit: Option<Arc<TokenBucket>>,
    tracer: Tracer,
}

struct ConnectionState {
    access: kube::Config,
    generation: u64,
    /// Cancelled when the credentials change.
    replaced: CancellationToken,
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
        let state = ConnectionState { access, generation: 0, replaced: CancellationToken::new() };
        Ok(Self {
            state: Arc::new(RwLock::new(state)),
            metrics: ApiRequestMetrics::default(),
            renewals: RenewalMetrics::default(),
            limit: None,
            tracer: Tracer::off(),
        })
    }

    /// Has clients that are made from now on wait where they ask for more than so much (`kubeAPIQPS`, `kubeAPIBurst`), all
    /// together; 0 is no limit.
    #[must_use]
    pub fn limited(self, per_second: u32, burst: u32) -> Self {
        Self { limit: TokenBucket::new(per_second, burst).map(Arc::new), ..self }
    }

    /// Has requests of clients that are made from now on traced.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// A client for everything that may take its time: watches, pods. A request fails when it takes much longer than
    /// an API server that works would take for it.
    ///
    /// Must be called within a tokio runtime, as must be the next two.
    #[must_use]
    pub fn client(&self) -> Client {
        self.make(None, self.limit.clone())
    }

    /// A client that does not wait for others: for what has a pace of its own (Events), or is rare and must not wait
    /// (certificates).
    #[must_use]
    pub fn unlimited_client(&self) -> Client {
        self.make(None, None)
    }

    /// A client whose requests fail after `timeout` without an answer, for heartbeats. It has its own
    /// connections, so that a heartbeat never waits behind other traffic, and no limit.
    #[must_use]
    pub fn client_with_timeout(&self, timeout: Duration) -> Client {
        self.make(Some(timeout), None)
    }

    fn make(&self, timeout: Option<Duration>, limit: Option<Arc<TokenBucket>>) -> Client {
        let namespace = self.read(|state| state.access.default_namespace.clone());
        let host = self.read(|state| state.access.cluster_url.authority().map(ToString::to_string));
        let switching = Switching {
            state: Arc::clone(&self.state),
            timeout,
            current: None,
            metrics: self.metrics.clone(),
            host: host.unwrap_or_default(),
            limit,
            tracer: self.tracer.clone(),
        };
        Client::new(switching, namespace)
    }

    /// What is counted of the requests of all clients.
    #[must_use]
    pub fn metrics(&self) -> &ApiRequestMetrics {
        &self.metrics
    }

    /// What has come of renewals of the node's certificates.
    #[must_use]
    pub fn renewals(&self) -> &RenewalMetrics {
        &self.renewals
    }

    /// When the certificate that clients show at present expires; `None` where they show none. Reads it from its file,
    /// where it is in one.
    #[must_use]
    pub fn certificate_expiry(&self) -> Option<Timestamp> {
        let auth = self.read(|state| state.access.auth_info.clone());
        let pem = match (&auth.client_certificate_data, &auth.client_certificate) {
            (Some(data), _) => STANDARD.decode(data).ok()?,
            (None, Some(file)) => std::fs::read(file).ok()?,
            (None, None) => return None,
        };
        pair::expiry(&rustls_pki_types::CertificateDer::from_pem_slice(&pem).ok()?)
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
            std::mem::take(&mut state.replaced).cancel();
        });
    }

    fn read<T>(&self, read: impl FnOnce(&ConnectionState) -> T) -> T {
        read(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, write: impl FnOnce(&mut ConnectionState)) {
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
    state: Arc<RwLock<ConnectionState>>,
    timeout: Option<Duration>,
    current: Option<(u64, Client)>,
    metrics: ApiRequestMetrics,
    host: String,
    limit: Option<Arc<TokenBucket>>,
    tracer: Tracer,
}

impl Switching {
    /// The client of now, its generation, and what is cancelled when its credentials are replaced.
    fn current(&mut self) -> Result<(u64, Client, CancellationToken), kube::Error> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let replaced = state.replaced.clone();
        if let Some((generation, client)) = &self.current
            && *generation == state.generation
        {
            return Ok((*generation, client.clone(), replaced));
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
        let generation = state.generation;
        self.current = Some((generation, client.clone()));
        Ok((generation, client, replaced))
    }
}

/// Requests of this generation are not answered in time: new connections are opened, once for all of them.
fn leave(state: &RwLock<ConnectionState>, generation: u64) {
    let mut state = state.write().unwrap_or_else(PoisonError::into_inner);
    if state.generation == generation {
        state.generation += 1;
    }
}

/// An answer that has to come to its end in time.
type Answer = LimitedBody<Box<dyn FnOnce() + Send + Unpin>>;

impl Service<Request<Body>> for Switching {
    type Response = Response<Answer>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut request = consistent(request);
        let current = self.current();
        // The client's own timeouts are per read; this one is for the answer as a whole.
        let answer = self.timeout.unwrap_or(deadline::ANSWER);
        let limit = deadline::limit(request.uri(), answer);
        let is_watch = deadline::is_watch(request.uri());
        let state = Arc::clone(&self.state);
        let (metrics, host, method) = (self.metrics.clone(), self.host.clone(), request.method().clone());
        let (bucket, tracer) = (self.limit.clone(), self.tracer.clone());
        Box::pin(async move {
            let (generation, client, replaced) = current?;
            if let Some(bucket) = bucket {
                let wait = bucket.take(Instant::now().into_std());
                metrics.waited(&method, &host, wait);
                tokio::time::sleep(wait).await;
            }
            let begun = Instant::now();
            let mut span = traces::requests::sending(&tracer, &mut request, &host);
            let sent = tokio::time::timeout_at(begun + answer, client.send(request)).await;
            let status = sent.as_ref().ok().and_then(|sent| sent.as_ref().ok()).map(Response::status);
            metrics.answered(&method, &host, status.map(|status| status.as_u16()), begun.elapsed());
            if let Some(status) = status {
                traces::requests::answered(&mut span, status, SpanKind::Client);
            }
            let Ok(sent) = sent else {
                leave(&state, generation);
                let expired = deadline::expired(answer);
                span.fail(&expired.to_string());
                return Err(kube::Error::Service(expired.into()));
            };
            span.note(&sent.as_ref().map(drop).map_err(explain));
            drop(span);
            let on_expiry: Box<dyn FnOnce() + Send + Unpin> = Box::new(move || leave(&state, generation));
            let ending = is_watch.then_some(replaced);
            Ok(sent?.map(|body| LimitedBody::new(body, begun, limit, on_expiry).ending_at(ending)))
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use k8s_openapi::api::{
        authentication::v1::TokenRequest,
        core::v1::{Node, Pod, ServiceAccount},
    };
    use kube::{
        Api,
        api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
    };
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::{super::pair::tests::self_signed, *};

    /// How far an API server answers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Answers {
        /// It knows one node.
        Whole,
        /// It says that an answer comes, and no more.
        Head,
        /// It takes in what it is asked.
        Nothing,
    }

    /// An API server over plain TCP that counts its connections.
    async fn api_server(answers: Answers) -> (kube::Config, tokio::sync::watch::Receiver<usize>) {
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
                        let body = r#"{"metadata":{"name":"n"}}"#;
                        let whole =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        let head = match answers {
                            Answers::Whole => whole.as_str(),
                            Answers::Head => whole.strip_suffix(body).unwrap(),
                            Answers::Nothing => continue,
                        };
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
        let (access, connections) = api_server(Answers::Whole).await;
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

    /// `kubeAPIQPS`: what is asked for beyond it waits for its turn, and heartbeats and what is rare do not.
    #[tokio::test]
    async fn requests_beyond_the_limit_wait_and_heartbeats_do_not() {
        let (access, _connections) = api_server(Answers::Whole).await;
        let connection = Connection::new(access).unwrap().limited(1, 1);
        // All that there is for the next hour is taken.
        let now = Instant::now().into_std();
        let bucket = connection.limit.as_ref().unwrap();
        assert!((0..3600).map(|_| bucket.take(now)).max() > Some(Duration::from_mins(59)));
        let get = async |client: Client| Api::<Node>::all(client).get("n").await.unwrap();
        let mut limited = Box::pin(get(connection.client()));
        let timeout = Duration::from_secs(60);
        for other in [connection.client_with_timeout(timeout), connection.unlimited_client()] {
            tokio::select! {
                biased;
                _ = &mut limited => panic!("it did not wait"),
                _ = get(other) => {}
            }
        }
        let mut registry = prometheus_client::registry::Registry::default();
        connection.metrics().register(&mut registry);
        let waited = || {
            let text = crate::exposition::registry(&registry, crate::exposition::Format::Classic).unwrap();
            let name = "rest_client_rate_limiter_duration_seconds_count{";
            text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect::<Vec<_>>()
        };
        while waited().is_empty() {
            assert!(futures::poll!(&mut limited).is_pending());
            tokio::task::yield_now().await;
        }
        assert!(matches!(&waited()[..], [line] if line.ends_with(" 1")), "{:?}", waited());
    }

    #[tokio::test]
    async fn a_heartbeat_does_not_wait_for_ever() {
        let (access, _connections) = api_server(Answers::Nothing).await;
        let connection = Connection::new(access).unwrap();
        let nodes: Api<Node> = Api::all(connection.client_with_timeout(Duration::from_millis(50)));
        assert!(nodes.get("n").await.is_err());
    }

    /// Whatever it is asked, and however far its answer comes; and the next request goes over another connection.
    #[tokio::test(start_paused = true)]
    async fn no_request_waits_for_ever() {
        for answers in [Answers::Nothing, Answers::Head] {
            let (access, mut connections) = api_server(answers).await;
            let connection = Connection::new(access).unwrap();
            let pods: Api<Pod> = Api::default_namespaced(connection.client());
            let (post, patch, delete) =
                (PostParams::default(), PatchParams::default(), DeleteParams::default());
            let status = Patch::Strategic(serde_json::json!({}));
            let (pod, token) = (Pod::default(), TokenRequest::default());
            let accounts: Api<ServiceAccount> = Api::default_namespaced(connection.client());
            let watch = async {
                let events = pods.watch(&WatchParams::default().timeout(290), "0").await?;
                events.boxed().next().await.transpose()
            };
            let asked = Instant::now();
            let failed = tokio::join!(
                async { pods.get("p").await.is_err() },
                async { pods.list(&ListParams::default()).await.is_err() },
                async { pods.create(&post, &pod).await.is_err() },
                async { pods.patch_status("p", &patch, &status).await.is_err() },
                async { pods.delete("p", &delete).await.is_err() },
                async { accounts.create_token_request("a", &post, &token).await.is_err() },
                async { watch.await.is_err() },
            );
            assert_eq!(failed, (true, true, true, true, true, true, true), "{answers:?}");
            assert!(asked.elapsed() <= Duration::from_secs(290) + deadline::ANSWER, "{:?}", asked.elapsed());
            let before = *connections.borrow_and_update();
            let _ = pods.get("p").await;
            assert_eq!(*connections.borrow(), before + 1, "{answers:?}");
        }
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

    /// A watch over a connection of the old certificate ends, as if the API server had ended it; one that goes over
    /// a connection that was merely slow goes on.
    #[tokio::test]
    async fn watches_end_when_the_certificate_is_replaced() {
        let (access, _connections) = api_server(Answers::Head).await;
        let connection = Connection::new(access).unwrap();
        let pods: Api<Pod> = Api::default_namespaced(connection.client());
        let events = pods.watch(&WatchParams::default(), "0").await.unwrap();
        let mut events = std::pin::pin!(events);
        connection.reset();
        assert!(futures::poll!(events.next()).is_pending());
        connection.replace_certificate(&self_signed(&["x"], -1..1));
        assert!(events.next().await.is_none());
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
