//! The server as its callers meet it: real handshakes on loopback, and an API server that answers reviews
//! as each test wants.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::DropGuard;

use super::{listener::Times, *};
use crate::{config::Flags, identity::serving::Serving, logs};

/// A certificate authority for callers and for the server.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a caller.
    fn client(&self, name: &str, group: &str) -> Identity {
        self.client_until(name, group, 4096)
    }

    /// One that is good until that year.
    fn client_until(&self, name: &str, group: &str, year: i32) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

/// What the API server says, and what it was asked.
#[derive(Default)]
struct Reviewer {
    /// Token to user.
    tokens: BTreeMap<String, String>,
    /// `user verb subresource`.
    allowed: Vec<String>,
    /// Nothing is answered but 500.
    broken: bool,
    /// Questions about tokens that begin so are never answered.
    silent_about: Option<&'static str>,
    asked: Vec<Value>,
}

type SharedReviewer = Arc<Mutex<Reviewer>>;

fn lock(reviewer: &SharedReviewer) -> std::sync::MutexGuard<'_, Reviewer> {
    reviewer.lock().unwrap_or_else(PoisonError::into_inner)
}

fn api_server(reviewer: SharedReviewer) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let reviewer = Arc::clone(&reviewer);
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await?.to_bytes();
            let mut review: Value = serde_json::from_slice(&body)?;
            let spec = &review["spec"];
            let is_silent = {
                let mut reviewer = lock(&reviewer);
                reviewer.asked.push(review.clone());
                let token = spec["token"].as_str().unwrap_or_default();
                reviewer.silent_about.is_some_and(|prefix| token.starts_with(prefix))
            };
            if is_silent {
                std::future::pending::<()>().await;
            }
            let reviewer = lock(&reviewer);
            let status = if path.ends_with("/tokenreviews") {
                match spec["token"].as_str().and_then(|token| reviewer.tokens.get(token)) {
                    Some(user) => {
                        json!({ "authenticated": true, "user": { "username": user, "groups": ["g"] } })
                    }
                    None => json!({ "authenticated": false }),
                }
            } else {
                let attributes = &spec["resourceAttributes"];
                let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let question =
                    [&spec["user"], &attributes["verb"], &attributes["subresource"]].map(word).join(" ");
                json!({ "allowed": reviewer.allowed.contains(&question) })
            };
            review["status"] = status;
            let code = if reviewer.broken { 500 } else { 201 };
            let answer = if reviewer.broken {
                json!({ "kind": "Status", "status": "Failure", "code": 500, "reason": "", "message": "broken" })
            } else {
                review
            };
            let body = Body::from(serde_json::to_vec(&answer)?);
            Ok::<_, tower::BoxError>(Response::builder().status(code).body(body)?)
        }
    });
    Client::new(service, "default")
}

#[derive(Default)]
struct FakePods {
    pods: Mutex<Vec<Arc<Pod>>>,
    trouble: Mutex<Option<String>>,
    unlisted: AtomicBool,
}

impl Pods for FakePods {
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods().into_iter().find(|pod| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        })
    }

    fn is_mirror_of(&self, uid: &str, pod: &Pod) -> bool {
        pod.metadata.uid.as_ref().is_some_and(|of| uid == format!("mirror-of-{of}"))
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().unwrap().clone()
    }

    fn are_all_known(&self) -> bool {
        !self.unlisted.load(Ordering::Relaxed)
    }

    fn healthy(&self) -> Result<(), String> {
        self.trouble.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

struct Running {
    port: u16,
    healthz: SocketAddr,
    reviewer: SharedReviewer,
    pods: Arc<FakePods>,
    dir: tempfile::TempDir,
    authority: Authority,
    runtime: Arc<streams::FakeRuntime>,
    stop: DropGuard,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What a caller shows.
#[derive(Default)]
struct Caller {
    certificate: Option<Identity>,
    token: Option<&'static str>,
}

impl Running {
    fn start(configuration: &str) -> Self {
        Self::start_with(configuration, Times::default())
    }

    fn start_with(configuration: &str, times: Times) -> Self {
        let authority = Authority::new();
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca.crt");
        std::fs::write(&ca, authority.0.pem()).unwrap();
        let file = configuration.replace("FILE", ca.to_str().unwrap());
        // Port 0 would mean no health checks. A free one is looked for on an address that no other test uses.
        static STARTED: AtomicU8 = AtomicU8::new(1);
        let own = [127, 9, 9, STARTED.fetch_add(1, Ordering::Relaxed)];
        let free = std::net::TcpListener::bind((IpAddr::from(own), 0)).unwrap().local_addr().unwrap().port();
        let file = format!("{file}healthzBindAddress: {}\n", IpAddr::from(own));
        let flags = Flags {
            address: Some([127, 0, 0, 1].into()),
            port: Some(0),
            healthz_port: Some(free),
            pod_logs_dir: Some(dir.path().join("logs")),
            root_dir: Some(dir.path().join("root")),
            ..Flags::default()
        };
        let (mut config, _) = Config::resolve(&file, &flags, "edge").unwrap();
        config.system_logs_dir = dir.path().join("system-logs");
        config.shown_flags = [("node-ip".to_owned(), "10.0.0.1".to_owned())].into();
        std::fs::create_dir(&config.system_logs_dir).unwrap();
        let reviewer = SharedReviewer::default();
        let pods = Arc::new(FakePods::default());
        let (mut ports, reviews) = (Ports::bind(&config).unwrap(), api_server(Arc::clone(&reviewer)));
        ports.https.as_mut().unwrap().times = times;
        let mut server = Server::new(&config, ports, serving(&config), reviews, pods.clone()).unwrap();
        let runtime = Arc::<streams::FakeRuntime>::default();
        server.serve_streams(runtime.clone());
        let (port, healthz) = (server.port(), server.healthz_address().unwrap());
        let cancel = CancellationToken::new();
        tokio::spawn(server.run(cancel.clone()));
        Self { port, healthz, reviewer, pods, dir, authority, runtime, stop: cancel.drop_guard() }
    }

    fn by_certificate(&self, name: &str, group: &str) -> Caller {
        Caller { certificate: Some(self.authority.client(name, group)), token: None }
    }

    fn allow(&self, question: &str) {
        lock(&self.reviewer).allowed.push(question.to_owned());
    }

    async fn request(&self, caller: Caller, method: Method, path: &str) -> Response<hyper::body::Incoming> {
        let mut connection = self.connect([127, 0, 0, 1], caller.certificate).await;
        send(&mut connection, method, caller.token, path).await
    }

    /// A connection from that address of this machine.
    async fn connect(&self, from: [u8; 4], certificate: Option<Identity>) -> Connection {
        let stream = self.handshake(from, certificate).await;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn handshake(&self, from: [u8; 4], certificate: Option<Identity>) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let tls = match certificate {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::from(from), 0).into()).unwrap();
        let stream = socket.connect(([127, 0, 0, 1], self.port).into()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        connector.connect(ServerName::try_from("edge").unwrap(), stream).await.unwrap()
    }

    /// The server's certificate is self-signed and on disk.
    fn roots(&self) -> RootCertStore {
        use rustls_pki_types::pem::PemObject as _;
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.dir.path().join("root/pki/kubelet.crt")).unwrap())
            .unwrap();
        roots
    }

    async fn get(&self, caller: Caller, path: &str) -> (StatusCode, String) {
        read(self.request(caller, Method::GET, path).await).await
    }

    /// As somebody who may do everything that nodes/proxy stands for.
    async fn get_allowed(&self, path: &str) -> (StatusCode, String) {
        for what in ["proxy", "metrics"] {
            self.allow(&format!("admin get {what}"));
        }
        self.get(self.by_certificate("admin", "g"), path).await
    }

    async fn health(&self, path: &str) -> (StatusCode, String) {
        let stream = TcpStream::connect(self.healthz).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "edge").body(Empty::<Bytes>::new()).unwrap();
        read(sender.send_request(request).await.unwrap()).await
    }
}

type Connection = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

async fn send(
    connection: &mut Connection,
    method: Method,
    token: Option<&str>,
    path: &str,
) -> Response<hyper::body::Incoming> {
    let mut request = Request::builder().method(method).uri(path).header("host", "edge");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    connection.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap()
}

async fn read(response: Response<hyper::body::Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn serving(config: &Config) -> Arc<Serving> {
    let connection =
        crate::identity::Connection::new(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let addresses = tokio::sync::watch::channel(Vec::new()).1;
    crate::identity::serving::prepare(config, addresses, &connection).unwrap().0
}

mod floods;
mod permissions;
mod streams;

const SECURE: &str = "authentication: {x509: {clientCAFile: FILE}}\nmaxPods: 110\n";

#[tokio::test]
async fn nobody_gets_nothing() {
    let server = Running::start(SECURE);
    for path in ["/pods", "/healthz", "/metrics", "/exec/ns/p/c?output=1&command=x", "/no/such/path"] {
        assert_eq!(
            server.get(Caller::default(), path).await,
            (StatusCode::UNAUTHORIZED, "Unauthorized".into()),
            "{path}"
        );
    }
    assert_eq!(lock(&server.reviewer).asked.len(), 0);
}

#[tokio::test]
async fn a_certificate_of_the_authority_is_believed() {
    let server = Running::start(SECURE);
    server.allow("apiserver get proxy");
    let (status, body) = server.get(server.by_certificate("apiserver", "system:masters"), "/configz").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["kubeletconfig"]["maxPods"], 110);
    let asked = lock(&server.reviewer).asked.clone();
    assert_eq!(asked[0]["spec"]["user"], "apiserver");
    assert_eq!(asked[0]["spec"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(
        asked[0]["spec"]["resourceAttributes"],
        json!({ "group": "", "version": "v1", "resource": "nodes", "verb": "get", "subresource": "configz", "name": "edge" })
    );
    assert_eq!(asked[1]["spec"]["resourceAttributes"]["subresource"], "proxy");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_not_believed_even_where_anyone_may_come() {
    let server = Running::start("authentication: {anonymous: {enabled: true}, x509: {clientCAFile: FILE}}\n");
    server.allow("system:anonymous get proxy");
    assert_eq!(server.get(Caller::default(), "/configz").await.0, StatusCode::OK);
    let stranger =
        Caller { certificate: Some(Authority::new().client("admin", "system:masters")), token: None };
    assert_eq!(server.get(stranger, "/configz").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_new_authority_is_believed_once_its_file_is_there() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, Authority::new().0.pem()).unwrap();
    let file = SECURE.replace("FILE", ca.to_str().unwrap());
    let (config, _) = Config::resolve(&file, &Flags::default(), "edge").unwrap();
    let gate = Gate::new(&config, api_server(SharedReviewer::default())).unwrap();
    let (chain, _) = authority.client("admin", "g");
    let authorities = gate.certificates().unwrap();
    assert!(authorities.identify(&chain).is_err());
    std::fs::write(&ca, authority.0.pem()).unwrap();
    authorities.look_now();
    assert_eq!(authorities.identify(&chain).unwrap().name, "admin");
    std::fs::write(&ca, "rubbish").unwrap();
    authorities.look_now();
    assert_eq!(authorities.identify(&chain).unwrap().name, "admin", "the last good one stays");
}

#[tokio::test]
async fn a_token_is_asked_about_once() {
    let server = Running::start(SECURE);
    lock(&server.reviewer).tokens.insert("good".to_owned(), "prometheus".to_owned());
    server.allow("prometheus get metrics");
    let good = || Caller { token: Some("good"), ..Caller::default() };
    for _ in 0..2 {
        let (status, body) = server.get(good(), "/metrics").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert!(body.contains("kubelet_node_name{node=\"edge\"} 1"), "{body}");
        assert!(body.contains("process_cpu_seconds_total "), "{body}");
    }
    assert_eq!(lock(&server.reviewer).asked.len(), 2, "one about the token, one about what it may do");
    let bad = Caller { token: Some("bad"), ..Caller::default() };
    assert_eq!(server.get(bad, "/metrics").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_refusal_says_what_was_missing() {
    let server = Running::start(SECURE);
    for (path, expected) in [
        ("/pods", "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"),
        ("/metrics", "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[metrics])\n"),
        ("/no/such/path", "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[proxy])\n"),
    ] {
        let answer = server.get(server.by_certificate("bob", "g"), path).await;
        assert_eq!(answer, (StatusCode::FORBIDDEN, expected.to_owned()));
    }
}

#[tokio::test]
async fn nothing_fails_open() {
    let server = Running::start("authentication: {anonymous: {enabled: true}, x509: {clientCAFile: FILE}}\n");
    server.allow("admin get proxy");
    lock(&server.reviewer).tokens.insert("good".to_owned(), "admin".to_owned());
    lock(&server.reviewer).broken = true;
    let (status, body) = server.get(server.by_certificate("admin", "g"), "/pods").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(body, "Authorization error (user=admin, verb=get, resource=nodes, subresource=pods)");
    let with_token = || Caller { token: Some("good"), ..Caller::default() };
    assert_eq!(server.get(with_token(), "/pods").await.0, StatusCode::UNAUTHORIZED);
    lock(&server.reviewer).broken = false;
    assert_eq!(server.get(with_token(), "/pods").await.0, StatusCode::OK, "a failure is not remembered");
}

#[tokio::test]
async fn what_there_is_not_is_not_found() {
    let server = Running::start(SECURE);
    server.allow("admin create proxy");
    let response = server.request(server.by_certificate("admin", "g"), Method::POST, "/configz").await;
    let (status, _) = read(response).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(server.get_allowed("/no/such/path").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn debugging_endpoints_can_be_closed() {
    let server = Running::start(&format!("enableDebuggingHandlers: false\n{SECURE}"));
    let closed = (StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.\n".to_owned());
    assert_eq!(server.get_allowed("/containerLogs/ns/p/c").await, closed);
    assert_eq!(server.get_allowed("/exec/ns/p/c").await, closed);
    assert_eq!(server.get_allowed("/pods").await.0, StatusCode::OK);
}

#[tokio::test]
async fn health_is_told_in_detail_when_it_fails() {
    let server = Running::start(SECURE);
    let ok = |body: &str| (StatusCode::OK, body.to_owned());
    assert_eq!(server.health("/healthz").await, ok("ok"));
    assert_eq!(server.health("/healthz/ping").await, ok("ok"));
    assert_eq!(
        server.health("/healthz?verbose").await,
        ok("[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n")
    );
    assert_eq!(server.health("/pods").await.0, StatusCode::NOT_FOUND);

    *server.pods.trouble.lock().unwrap() = Some("stuck".to_owned());
    let failed = "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n";
    assert_eq!(server.health("/healthz").await, (StatusCode::INTERNAL_SERVER_ERROR, failed.to_owned()));
    assert_eq!(server.health("/healthz?exclude=syncloop").await, ok("ok"));
    assert_eq!(server.get_allowed("/healthz").await.0, StatusCode::INTERNAL_SERVER_ERROR);
    let unknown = "warn: some health checks cannot be excluded: no matches for \"etcd\", \"x\"\n";
    let (_, told) = server.health("/healthz?verbose&exclude=x&exclude=etcd&exclude=syncloop").await;
    assert_eq!(
        told,
        format!("[+]ping ok\n[+]log ok\n[+]syncloop excluded: ok\n{unknown}healthz check passed\n")
    );
}

/// Each look at all checks counts, whoever looks; one that is left out does not.
#[tokio::test]
async fn what_health_checks_have_found_is_counted() {
    let server = Running::start(SECURE);
    server.health("/healthz").await;
    server.health("/healthz/ping").await;
    *server.pods.trouble.lock().unwrap() = Some("stuck".to_owned());
    server.health("/healthz").await;
    server.health("/healthz?exclude=syncloop").await;
    let (_, text) = server.get_allowed("/metrics/slis").await;
    for line in [
        "# TYPE kubernetes_healthcheck gauge",
        "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1",
        "kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 0",
        "kubernetes_healthchecks_total{name=\"ping\",type=\"healthz\",status=\"success\"} 3",
        "kubernetes_healthchecks_total{name=\"syncloop\",type=\"healthz\",status=\"success\"} 1",
        "kubernetes_healthchecks_total{name=\"syncloop\",type=\"healthz\",status=\"error\"} 1",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
}

#[tokio::test]
async fn monitoring_learns_which_features_there_are_and_what_is_resized() {
    let server = Running::start(SECURE);
    let mut resizing = pod(&json!({ "running": {} }));
    let condition = json!([{ "type": "PodResizeInProgress", "status": "True" }]);
    resizing.status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
    server.pods.pods.lock().unwrap().extend([Arc::new(resizing), Arc::new(pod(&json!({ "running": {} })))]);
    let (_, text) = server.get_allowed("/metrics").await;
    for line in [
        "kubernetes_feature_enabled{name=\"SidecarContainers\",stage=\"\"} 1",
        "kubernetes_feature_enabled{name=\"ContainerCheckpoint\",stage=\"BETA\"} 0",
        "kubelet_pod_in_progress_resizes 1",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
    }
}

fn pod(state: &Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "ns", "uid": "u1" },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
        "status": { "containerStatuses": [{
            "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "containerID": "x://0", "state": state,
        }] },
    }))
    .unwrap()
}

impl Running {
    fn set_pod(&self, state: &Value) {
        *self.pods.pods.lock().unwrap() = vec![Arc::new(pod(state))];
    }

    fn write_log(&self, text: &str) -> PathBuf {
        let path = logs::file(&self.dir.path().join("logs"), "ns", "p", "u1", "c", 0);
        append(&path, text);
        path
    }
}

fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Before a node has seen all of its pods, it cannot say of one that it is not there.
#[tokio::test]
async fn logs_of_a_pod_that_is_not_known_yet() {
    let server = Running::start(SECURE);
    server.pods.unlisted.store(true, Ordering::Relaxed);
    let (status, body) = server.get_allowed("/containerLogs/ns/none/c").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("try again"), "{body}");
    // One that is known is known, whatever else there is.
    server.set_pod(&json!({ "waiting": { "reason": "ImagePullBackOff" } }));
    assert_eq!(server.get_allowed("/containerLogs/ns/p/c").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn logs_are_refused_in_the_kubelets_words_and_order() {
    let server = Running::start(SECURE);
    server.set_pod(&json!({ "waiting": { "reason": "ImagePullBackOff" } }));
    for (path, status, expected) in [
        ("ns/none/c?tailLines=x", 400, r#"{"message": "Unable to decode query."}"#),
        ("ns/none/c?tailLines=-1", 422, r#"{"message": "Invalid request."}"#),
        ("ns/none/c", 404, r#"pod "none" does not exist"#),
        ("other/p/c", 404, r#"pod "p" does not exist"#),
        ("ns/p/d?stream=Stdout", 404, r#"container "d" not found in pod "p""#),
        (
            "ns/p/c?stream=Stdout",
            400,
            r#"unable to return the given log stream: "Stdout". Please enable PodLogsQuerySplitStreams feature gate in kubelet"#,
        ),
        ("ns/p/c", 400, r#"container "c" in pod "p" is waiting to start: trying and failing to pull image"#),
        ("ns/p/c?previous=true", 400, r#"previous terminated container "c" in pod "p" not found"#),
    ] {
        let (found, body) = server.get_allowed(&format!("/containerLogs/{path}")).await;
        assert_eq!((found.as_u16(), body.as_str()), (status, expected), "{path}");
    }
}

#[tokio::test]
async fn a_followed_log_ends_with_its_container() {
    let server = Running::start(SECURE);
    server.set_pod(&json!({ "running": {} }));
    let path = server.write_log("2026-01-02T00:00:00Z stdout F one\n");
    server.allow("admin get proxy");
    let admin = server.by_certificate("admin", "g");
    let response = server.request(admin, Method::GET, "/containerLogs/ns/p/c?follow=true&timestamps=1").await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "2026-01-02T00:00:00.000000000Z one\n");
    append(&path, "2026-01-02T00:00:01Z stdout F two\n");
    server.set_pod(&json!({ "terminated": { "exitCode": 0, "containerID": "x://0" } }));
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(rest, "2026-01-02T00:00:01.000000000Z two\n");
    assert_eq!(server.get_allowed("/containerLogs/ns/p/c?tail=1").await.1, "two\n");
}

#[tokio::test]
async fn pods_are_listed() {
    let server = Running::start(SECURE);
    server.set_pod(&json!({ "running": {} }));
    let (_, body) = server.get_allowed("/pods").await;
    let list: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&list["kind"], &list["items"][0]["metadata"]["name"]), (&json!("PodList"), &json!("p")));
    let (_, body) = server.get_allowed("/runningpods/").await;
    let list: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        list["items"],
        json!([{
            "metadata": { "name": "p", "namespace": "ns", "uid": "u1" },
            "spec": { "containers": [{ "name": "c", "image": "i", "resources": {} }] },
            "status": {},
        }])
    );
    let (_, body) = server.get_allowed("/metrics").await;
    assert!(body.contains("kubelet_running_pods 1\n"), "{body}");
    assert!(body.contains("kubelet_running_containers{container_state=\"running\"} 1\n"), "{body}");
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let flags = Flags {
        address: Some([127, 0, 0, 1].into()),
        port: Some(taken.local_addr().unwrap().port()),
        root_dir: Some(dir.path().to_owned()),
        ..Flags::default()
    };
    let (config, _) = Config::resolve("", &flags, "edge").unwrap();
    let message = Ports::bind(&config).unwrap_err().to_string();
    assert!(message.contains("for the HTTPS API") && message.contains("--port"), "{message}");
}
