//! Requests as values, and what becomes of them where a node dies in the middle.

use super::*;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};

use super::super::pending::PendingKey;

#[test]
fn a_request_has_the_shape_that_is_approved_by_itself() {
    let key = KeyPair::generate().unwrap();
    let request = request("edge-1", &Purpose::Client, &key).unwrap();
    assert!(request.metadata.name.unwrap().starts_with("node-csr-"));
    assert_eq!(request.spec.signer_name, "kubernetes.io/kube-apiserver-client-kubelet");
    assert_eq!(request.spec.usages.unwrap(), ["digital signature", "client auth"]);

    let (_, pem) = x509_parser::pem::parse_x509_pem(&request.spec.request.0).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).unwrap();
    let subject = &parsed.certification_request_info.subject;
    assert_eq!(subject.to_string(), "O=system:nodes, CN=system:node:edge-1");
    assert!(parsed.requested_extensions().is_none_or(|mut extensions| extensions.next().is_none()));
}

#[test]
fn a_name_is_that_of_what_is_asked_for() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let serving = |names: &[&str]| Purpose::Serving(names.iter().map(|name| (*name).to_owned()).collect());
    let name = name_of("n", &serving(&["a", "b"]), &key);
    assert_eq!(name, name_of("n", &serving(&["a", "b"]), &key));
    assert!(crate::config::labels::is_dns_subdomain(&name), "{name}");
    for different in [
        name_of("m", &serving(&["a", "b"]), &key),
        name_of("n", &serving(&["ab"]), &key),
        name_of("n", &serving(&["a", "c"]), &key),
        name_of("n", &serving(&["a", "b"]), &other),
        name_of("n", &Purpose::Client, &key),
    ] {
        assert_ne!(name, different);
    }
}

/// A request of that name is taken over only if a certificate for this key can come of it.
#[test]
fn a_request_that_is_there_is_taken_over_if_it_is_the_same() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let wanted = request("edge-1", &Purpose::Client, &key).unwrap();
    let now = Timestamp::now();
    let with_status = |status: Value| CertificateSigningRequest {
        status: serde_json::from_value(status).unwrap(),
        ..wanted.clone()
    };
    let signed = |key: &KeyPair, year: i32| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let pem = params.self_signed(key).unwrap().pem();
        json!({ "certificate": serde_json::to_value(ByteString(pem.into_bytes())).unwrap() })
    };
    let condition = |type_: &str| json!({ "conditions": [{ "type": type_, "status": "True" }] });
    for (what, status, expected) in [
        ("undecided", json!({}), true),
        ("approved", condition("Approved"), true),
        ("signed", signed(&key, 4096), true),
        ("expired", signed(&key, 2000), false),
        ("of another key", signed(&other, 4096), false),
        ("denied", condition("Denied"), false),
        ("failed", condition("Failed"), false),
    ] {
        assert_eq!(is_same(&with_status(status), &wanted, &key, now), expected, "{what}");
    }
    assert!(!is_same(&request("edge-1", &Purpose::Client, &other).unwrap(), &wanted, &key, now));
    let serving = request("edge-1", &Purpose::Serving(vec!["a".to_owned()]), &key).unwrap();
    assert!(!is_same(&serving, &wanted, &key, now));
}

#[test]
fn a_serving_request_names_the_addresses() {
    let key = KeyPair::generate().unwrap();
    let purpose = Purpose::Serving(vec!["edge-1".to_owned(), "10.0.0.9".to_owned()]);
    let request = request("edge-1", &purpose, &key).unwrap();
    assert_eq!(request.spec.signer_name, "kubernetes.io/kubelet-serving");
    let (_, pem) = x509_parser::pem::parse_x509_pem(&request.spec.request.0).unwrap();
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).unwrap();
    let extensions = format!("{:?}", parsed.requested_extensions().unwrap().collect::<Vec<_>>());
    assert!(extensions.contains("DNSName(\"edge-1\")"), "{extensions}");
    assert!(extensions.contains("IPAddress([10, 0, 0, 9])"), "{extensions}");
}

#[test]
fn a_decision_is_read_from_the_status() {
    let parse = |status: Value| {
        let request =
            json!({ "metadata": {}, "spec": { "request": "", "signerName": "" }, "status": status });
        decided("csr-1", &serde_json::from_value(request).unwrap())
    };
    assert!(matches!(parse(json!({})), Ok(None)));
    assert!(matches!(parse(json!({ "certificate": "" })), Ok(None)));
    assert_eq!(parse(json!({ "certificate": "YWJj" })).unwrap(), Some(b"abc".to_vec()));
    let denied = json!({ "conditions": [{ "type": "Denied", "status": "True", "reason": "Policy", "message": "not you" }] });
    let message = parse(denied).unwrap_err().to_string();
    assert!(message.starts_with("certificate request csr-1 was denied: Policy: not you."), "{message}");
    let failed = json!({ "conditions": [{ "type": "Failed", "status": "True" }] });
    assert!(matches!(parse(failed), Err(CertificateRequestError::Failed { .. })));
}

/// An API server that keeps certificate requests, and a signer that signs the key that a node has on disk.
#[derive(Clone)]
struct Signer {
    key_file: PathBuf,
    requests: Arc<Mutex<BTreeMap<String, Value>>>,
    /// Sign what is asked for at once.
    signs: bool,
    /// Cancelled when a request is made: the node dies.
    dies_after: Option<CancellationToken>,
}

impl Signer {
    fn new(dir: &Path) -> Self {
        let key_file = dir.join("key.tmp");
        Self { key_file, requests: Arc::default(), signs: true, dies_after: None }
    }

    fn certificate(&self) -> Value {
        let key = KeyPair::from_pem(&std::fs::read_to_string(&self.key_file).unwrap()).unwrap();
        let pem = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
        json!({ "certificate": ByteString(pem.into_bytes()) })
    }

    /// Signs all that is there.
    fn sign(&self) {
        let certificate = self.certificate();
        self.requests
            .lock()
            .unwrap()
            .values_mut()
            .for_each(|request| request["status"] = certificate.clone());
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn answer(&self, method: &Method, name: Option<&str>, query: &str, body: &[u8]) -> (u16, Value) {
        let mut requests = self.requests.lock().unwrap();
        if *method == Method::GET {
            return match name.map(|name| requests.get(name)) {
                Some(Some(request)) => (200, request.clone()),
                Some(None) => (
                    404,
                    json!({ "kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "" }),
                ),
                None => {
                    // One is selected by its name.
                    let selected = |(name, request): (&String, &Value)| {
                        query.contains(name.as_str()).then(|| request.clone())
                    };
                    let items: Vec<_> = requests.iter().filter_map(selected).collect();
                    (200, json!({ "metadata": { "resourceVersion": "1" }, "items": items }))
                }
            };
        }
        let mut request: Value = serde_json::from_slice(body).unwrap();
        let generated = format!("generated-{}", requests.len());
        let name = request["metadata"]["name"].as_str().unwrap_or(&generated).to_owned();
        if requests.contains_key(&name) {
            return (
                409,
                json!({ "kind": "Status", "status": "Failure", "code": 409, "reason": "AlreadyExists", "message": "" }),
            );
        }
        request["metadata"]["name"] = json!(name);
        if self.signs {
            request["status"] = self.certificate();
        }
        requests.insert(name, request.clone());
        if let Some(death) = &self.dies_after {
            death.cancel();
        }
        (201, request)
    }

    fn client(&self) -> Client {
        let signer = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let signer = signer.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                if head.uri.query().unwrap_or_default().contains("watch=true") {
                    std::future::pending::<()>().await;
                }
                let name = head.uri.path().split("/certificatesigningrequests/").nth(1);
                let (code, answer) =
                    signer.answer(&head.method, name, head.uri.query().unwrap_or_default(), &body);
                let body = Body::from(serde_json::to_vec(&answer)?);
                Ok::<_, tower::BoxError>(Response::builder().status(code).body(body)?)
            }
        });
        Client::new(service, "default")
    }

    /// As a node does it when it starts, or when a certificate is due.
    async fn renew(
        &self,
        file: &Path,
        cancel: &CancellationToken,
    ) -> Result<Pair, super::super::IdentityError> {
        let current = Pair::read(file, file).ok();
        let pending = PendingKey::open(self.key_file.clone(), current.as_ref())?;
        let wait = Duration::from_secs(600);
        let answer = obtain(&self.client(), "edge", &Purpose::Client, pending.key(), wait, cancel).await;
        pending.settle(answer, file)
    }
}

/// Where a node dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// The key is half written.
    WhileTheKeyIsWritten,
    WithoutARequest,
    BeforeTheApproval,
    AfterTheApproval,
    /// The disk has lost the key of a request that is approved.
    AfterTheApprovalWithoutTheKey,
    /// The pair is stored, and its key still pending.
    AfterTheStore,
}

/// Wherever it dies, it has a certificate with its key after the next start, and has asked once more only where it had to.
#[tokio::test]
async fn a_node_that_dies_anywhere_gets_its_certificate() {
    for (death, asked) in [
        (Death::WhileTheKeyIsWritten, 1),
        (Death::WithoutARequest, 1),
        (Death::BeforeTheApproval, 1),
        (Death::AfterTheApproval, 1),
        (Death::AfterTheApprovalWithoutTheKey, 2),
        (Death::AfterTheStore, 2),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (file, mut signer) = (dir.path().join("pair.pem"), Signer::new(dir.path()));
        let never = CancellationToken::new();
        match death {
            Death::WhileTheKeyIsWritten => std::fs::write(&signer.key_file, "-----BEGIN PRIV").unwrap(),
            Death::WithoutARequest => drop(PendingKey::open(signer.key_file.clone(), None).unwrap()),
            Death::AfterTheStore => drop(signer.renew(&file, &never).await.unwrap()),
            Death::BeforeTheApproval | Death::AfterTheApproval | Death::AfterTheApprovalWithoutTheKey => {
                let dies = CancellationToken::new();
                (signer.signs, signer.dies_after) = (false, Some(dies.clone()));
                signer.renew(&file, &dies).await.unwrap_err();
                (signer.signs, signer.dies_after) = (true, None);
                if !matches!(death, Death::BeforeTheApproval) {
                    signer.sign();
                }
                if matches!(death, Death::AfterTheApprovalWithoutTheKey) {
                    std::fs::remove_file(&signer.key_file).unwrap();
                }
            }
        }
        let before = Pair::read(&file, &file).ok();
        if matches!(death, Death::BeforeTheApproval) {
            // It is approved after the node has come back, which finds the same request.
            let dies = CancellationToken::new();
            dies.cancel();
            signer.renew(&file, &dies).await.unwrap_err();
            signer.sign();
        }
        let pair = signer.renew(&file, &never).await.unwrap();
        PendingKey::remove(&signer.key_file).unwrap();
        assert_eq!(Pair::read(&file, &file).unwrap().chain, pair.chain, "{death:?}");
        assert!(before.is_none_or(|before| before.key != pair.key), "{death:?}: a renewal has another key");
        assert_eq!(signer.count(), asked, "{death:?}");
    }
}

/// A request of the same name that nothing comes of is left alone.
#[tokio::test]
async fn a_refused_request_of_that_name_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let (file, signer) = (dir.path().join("pair.pem"), Signer::new(dir.path()));
    let pending = PendingKey::open(signer.key_file.clone(), None).unwrap();
    let mut denied = serde_json::to_value(request("edge", &Purpose::Client, pending.key()).unwrap()).unwrap();
    denied["status"] = json!({ "conditions": [{ "type": "Denied", "status": "True" }] });
    let name = denied["metadata"]["name"].as_str().unwrap().to_owned();
    signer.requests.lock().unwrap().insert(name, denied);
    signer.renew(&file, &CancellationToken::new()).await.unwrap();
    let names: Vec<_> = signer.requests.lock().unwrap().keys().cloned().collect();
    assert!(names.len() == 2 && names.iter().any(|name| name.starts_with("generated-")), "{names:?}");
}
