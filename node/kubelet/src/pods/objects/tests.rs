//! How often the API server is asked: two pods that refer to the same objects, and containers that start.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::*;
use crate::{
    mirror::Mirror,
    pods::{
        api::{Cluster, PodApi as _},
        environment::{NodeFacts, References},
        records::Records,
        volumes::{Keeper, KeeperParts, VolumeSettings, Volumes},
    },
};

/// Lists, watches that have begun, and watches that have ended, by name of the object.
type Counts = BTreeMap<String, (u32, u32, u32)>;

/// An API server that has every object that it is asked for. Those whose names begin with `fixed` are
/// immutable; nothing ever happens in a watch.
#[derive(Clone, Default)]
struct Server {
    counts: Arc<Mutex<Counts>>,
    tokens: Arc<Mutex<Tokens>>,
}

/// What was asked for of tokens: paths and bodies. Each that is given lives for so long; none is given while the API
/// server is to refuse.
#[derive(Default)]
struct Tokens {
    asked: Vec<(String, Value)>,
    given: u32,
    life: Duration,
    refuse: bool,
}

impl Tokens {
    fn answer(&mut self, path: &str, body: Value) -> (u16, Value) {
        self.asked.push((path.to_owned(), body));
        if self.refuse {
            let message = "try again";
            return (500, json!({"kind": "Status", "status": "Failure", "message": message, "code": 500}));
        }
        self.given += 1;
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::try_from(self.life).unwrap();
        let status =
            json!({"token": format!("token-{}", self.given), "expirationTimestamp": expires.to_string()});
        (
            201,
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}, "status": status}),
        )
    }
}

/// A watch that somebody has open.
struct Open {
    server: Server,
    name: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.count(&self.name, |(_, _, ended)| *ended += 1);
    }
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                if request.method() == Method::GET {
                    return Ok::<_, Infallible>(server.answer(&request));
                }
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap();
                let (code, answer) = server.tokens.lock().unwrap().answer(parts.uri.path(), body);
                let response = Response::builder().status(code);
                Ok(response.body(Full::from(answer.to_string()).boxed_unsync()).unwrap())
            }
        });
        Client::new(service, "ns")
    }

    fn answer(&self, request: &Request<Body>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let query = request.uri().query().unwrap_or_default();
        let name = query.split("metadata.name%3D").nth(1).unwrap();
        let name = name.split('&').next().unwrap().to_owned();
        if query.contains("watch=true") {
            self.count(&name, |(_, begun, _)| *begun += 1);
            let open = Open { server: self.clone(), name };
            let events = futures::stream::once(async move {
                let _open = open;
                std::future::pending::<Result<Frame<Bytes>, Infallible>>().await
            });
            return Response::new(StreamBody::new(events).boxed_unsync());
        }
        self.count(&name, |(lists, ..)| *lists += 1);
        let object = json!({
            "metadata": {"name": name, "namespace": "ns", "resourceVersion": "1"},
            "data": {"KEY": "dmFsdWU="},
            "immutable": name.starts_with("fixed"),
        });
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": [object]});
        Response::new(Full::from(list.to_string()).boxed_unsync())
    }

    fn count(&self, name: &str, add: impl FnOnce(&mut (u32, u32, u32))) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        add(counts.entry(name.to_owned()).or_default());
    }

    /// Waits until the API server was asked exactly this often.
    async fn was_asked(&self, expected: &[(&str, (u32, u32, u32))]) {
        let expected: Counts = expected.iter().map(|(name, counts)| ((*name).to_owned(), *counts)).collect();
        let seen = async {
            while *self.counts.lock().unwrap() != expected {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(20), seen).await;
        assert!(seen.is_ok(), "{expected:?}, but: {:?}", self.counts.lock().unwrap());
    }
}

/// A pod whose containers take what they need from one config map and two secrets, as variables and files.
fn pod(name: &str) -> Pod {
    let pod: Value = json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {
            "imagePullSecrets": [{"name": "fixed-pull"}],
            "initContainers": [
                {"name": "init", "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "fixed", "key": "KEY"}}}]},
            ],
            "containers": [{
                "name": "main",
                "envFrom": [{"configMapRef": {"name": "shared"}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }],
            "volumes": [{"name": "v", "configMap": {"name": "shared"}}],
        },
    });
    serde_json::from_value(pod).unwrap()
}

/// However many pods and containers refer to an object, it is read once and watched once, for as long as one of
/// the pods is there; what never changes is not watched at all.
#[tokio::test]
async fn variables_and_files_of_all_pods_share_a_watch() {
    let server = Server::default();
    let cluster = Cluster::new(server.client(), Mirror::new().1, Mirror::new().1);
    let volumes = Arc::new(Volumes::new(&cluster, VolumeSettings::default()));
    let root = tempfile::tempdir().unwrap();
    let (_node, node) = watch::channel(NodeFacts::default());
    let keep = |name: &str| {
        let parts = KeeperParts {
            volumes: Arc::clone(&volumes),
            records: Records::open(root.path()).unwrap(),
            node: node.clone(),
            view: None,
            tell: Box::new(|note| panic!("{}", note.message)),
        };
        Keeper::start(Arc::new(pod(name)), parts)
    };
    let (one, two) = (keep("one"), keep("two"));
    one.ready().await;
    two.ready().await;
    let references = References::of_pod(&pod("one"));
    for _ in 0..10 {
        let objects = cluster.objects("ns", &references).await.unwrap();
        let names = (objects.config_maps.keys().cloned(), objects.secrets.keys().cloned());
        assert_eq!(
            (names.0.collect(), names.1.collect()),
            (vec!["shared".to_owned()], vec!["fixed".to_owned(), "fixed-pull".to_owned()])
        );
    }
    let fixed = [("fixed", (1, 0, 0)), ("fixed-pull", (1, 0, 0))];
    let asked = |shared| [fixed[0], fixed[1], ("shared", shared)];
    server.was_asked(&asked((1, 1, 0))).await;

    one.stop().await;
    // Had the watch gone with the first pod, this would ask again.
    cluster.objects("ns", &references).await.unwrap();
    server.was_asked(&asked((1, 1, 0))).await;
    two.stop().await;
    server.was_asked(&asked((1, 1, 1))).await;
    // Nobody has kept what it was.
    let again = keep("again");
    again.ready().await;
    server.was_asked(&[("fixed", (2, 0, 0)), ("fixed-pull", (2, 0, 0)), ("shared", (2, 2, 1))]).await;
}

/// A token is asked for as upstream does it, and again before it ends; while that is refused, the old one stays for as
/// long as it is good, and the next answer replaces it.
#[tokio::test]
async fn a_token_is_asked_for_again_before_it_ends() {
    let server = Server::default();
    server.tokens.lock().unwrap().life = Duration::from_secs(3);
    let cluster = Cluster::new(server.client(), Mirror::new().1, Mirror::new().1);
    let root = tempfile::tempdir().unwrap();
    let (_node, node) = watch::channel(NodeFacts::default());
    let parts = KeeperParts {
        volumes: Arc::new(Volumes::new(&cluster, VolumeSettings::default())),
        records: Records::open(root.path()).unwrap(),
        node,
        view: None,
        tell: Box::new(|_| {}),
    };
    let source = json!({"path": "token", "audience": "vault", "expirationSeconds": 600});
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u-1"},
        "spec": {
            "serviceAccountName": "robot",
            "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": source}]}}],
        },
    });
    let keeper = Keeper::start(Arc::new(serde_json::from_value(pod).unwrap()), parts);
    keeper.ready().await;
    let token = root.path().join("pods/u-1/volumes/kubernetes.io~projected/v/token");
    let read = || std::fs::read_to_string(&token).unwrap();
    assert_eq!(read(), "token-1");
    let (path, body) = server.tokens.lock().unwrap().asked[0].clone();
    assert_eq!(path, "/api/v1/namespaces/ns/serviceaccounts/robot/token");
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u-1"});
    let expected = json!({"audiences": ["vault"], "boundObjectRef": bound, "expirationSeconds": 600});
    assert_eq!(body["spec"], expected);

    // It is asked again at four fifths of the token's life, and refused.
    let asked = |times: usize| {
        let tokens = Arc::clone(&server.tokens);
        async move {
            let asked = async {
                while tokens.lock().unwrap().asked.len() < times {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), asked).await.unwrap();
        }
    };
    server.tokens.lock().unwrap().refuse = true;
    asked(3).await;
    assert_eq!(read(), "token-1", "it is still good");
    {
        let mut tokens = server.tokens.lock().unwrap();
        (tokens.refuse, tokens.life) = (false, Duration::from_secs(600));
    }
    let replaced = async {
        while read() != "token-2" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), replaced).await.unwrap();
    keeper.stop().await;
}
