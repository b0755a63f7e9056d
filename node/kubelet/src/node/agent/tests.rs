//! The loops against an API server that keeps Nodes and Leases in memory, over plain TCP.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::{
    config::Flags,
    events::Occurrence,
    runtime::{
        ContainerList, ContainerSpec, Credential, ExecEnd, ExecError, ExecIo, Image, ImageError, Presence,
        PulledImage, RuntimeError, StartError,
    },
};

/// Objects by path. A watch has always expired, so that the next thing asked for is the list.
#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Value>,
    made: u32,
    refuse_create: bool,
}

#[derive(Clone, Default)]
struct ApiServer(Arc<Mutex<Store>>);

impl ApiServer {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, path: &str) -> Option<Value> {
        self.store().objects.get(path).cloned()
    }

    async fn listen(&self) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = self.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let server = server.clone();
                let service = service_fn(move |request| {
                    let server = server.clone();
                    async move { Ok::<_, Infallible>(server.answer(request).await) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        Connection::new(kube::Config::new(url.parse().unwrap())).unwrap()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body: Value =
            serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or_default();
        let path = parts.uri.path().trim_end_matches("/status").to_owned();
        let (code, answer) = self.handle(&parts.method, &path, parts.uri.query().unwrap_or_default(), body);
        Response::builder().status(code).body(Full::from(answer.to_string())).unwrap()
    }

    fn handle(&self, method: &Method, path: &str, query: &str, body: Value) -> (u16, Value) {
        let mut store = self.store();
        let refusal = |code: u16| {
            let reason = match code {
                403 => "Forbidden",
                404 => "NotFound",
                409 => "AlreadyExists",
                _ => "MethodNotAllowed",
            };
            (
                code,
                json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "" }),
            )
        };
        match *method {
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if store.refuse_create || store.objects.contains_key(&path) {
                    return refusal(if store.refuse_create { 403 } else { 409 });
                }
                store.made += 1;
                let mut object = body;
                object["metadata"]["uid"] = json!(format!("uid-{}", store.made));
                object["metadata"]["resourceVersion"] = json!("1");
                store.objects.insert(path, object.clone());
                (201, object)
            }
            Method::GET if query.contains("watch=true") => (
                200,
                json!({ "type": "ERROR", "object": {
                "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "",
            } }),
            ),
            Method::GET if query.contains("fieldSelector") => {
                let items: Vec<_> = store
                    .objects
                    .iter()
                    .filter(|(key, _)| key.starts_with(path))
                    .map(|(_, v)| v.clone())
                    .collect();
                (200, json!({ "metadata": { "resourceVersion": "1" }, "items": items }))
            }
            Method::GET => {
                store.objects.get(path).map_or_else(|| refusal(404), |object| (200, object.clone()))
            }
            Method::PUT | Method::PATCH => {
                let Some(object) = store.objects.get_mut(path) else { return refusal(404) };
                if method == Method::PUT {
                    *object = body;
                } else {
                    merge(object, body);
                }
                (200, object.clone())
            }
            _ => refusal(405),
        }
    }
}

/// As much of a strategic merge as the patches here need: the lists in them come whole.
fn merge(object: &mut Value, patch: Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        (object, patch) => *object = patch,
    }
}

#[derive(Debug)]
struct NoRuntime;

#[async_trait]
impl Runtime for NoRuntime {
    fn version(&self) -> String {
        "wasmtime://48.0.8".to_owned()
    }
    async fn image(&self, _: &str) -> Result<Option<Image>, ImageError> {
        Ok(None)
    }
    async fn pull(&self, image: &str, _: &[Credential]) -> Result<PulledImage, ImageError> {
        Err(ImageError::Pull(image.into()))
    }
    async fn images(&self) -> Vec<Image> {
        Vec::new()
    }
    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        Err(StartError::Run(spec.id.clone().into()))
    }
    async fn stop(&self, _: &str, _: Duration) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn remove(&self, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn exec(&self, id: &str, _: &[String], _: ExecIo) -> Result<ExecEnd, ExecError> {
        Err(ExecError::NotRunning(id.to_owned()))
    }
    fn observe(&self, _: &str) -> Presence {
        Presence::Absent
    }
    fn containers(&self) -> ContainerList {
        ContainerList { containers: Vec::new(), is_complete: true }
    }
    fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        None
    }
}

struct Running {
    handle: NodeHandle,
    events: mpsc::Receiver<Occurrence>,
    _stop: tokio_util::sync::DropGuard,
}

async fn start(server: &ApiServer) -> Running {
    let (config, _) = Config::resolve(
        "nodeStatusUpdateFrequency: 1s\nnodeLeaseDurationSeconds: 4\n",
        &Flags::default(),
        "edge",
    )
    .unwrap();
    let (sink, events) = mpsc::channel(100);
    let (agent, handle) = NodeAgent::new(NodeParts {
        config,
        addresses: watch::channel(vec![[10, 0, 0, 1].into()]).1,
        port: 41_000,
        connection: server.listen().await,
        runtime: Arc::new(NoRuntime),
        recorder: Recorder::local(sink),
        pressure: watch::channel(Pressure::default()).1,
    });
    let cancel = CancellationToken::new();
    tokio::spawn(agent.run(cancel.clone()));
    Running { handle, events, _stop: cancel.drop_guard() }
}

impl Running {
    /// Waits for a Node that the condition holds for.
    async fn node(&self, condition: impl Fn(&Node) -> bool) -> Arc<Node> {
        let mut node = self.handle.node();
        let found = tokio::time::timeout(
            Duration::from_secs(20),
            node.wait_for(|node| node.as_deref().is_some_and(&condition)),
        );
        found.await.expect("no such node within 20 s").unwrap().clone().unwrap()
    }

    async fn event(&mut self, reason: &str) -> Occurrence {
        loop {
            let event = self.events.recv().await.expect("no more events");
            if event.reason == reason {
                return event;
            }
        }
    }
}

const NODE: &str = "/api/v1/nodes/edge";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/edge";

fn uid_is(uid: &str) -> impl Fn(&Node) -> bool {
    move |node| node.metadata.uid.as_deref() == Some(uid)
}

fn ready(node: &Node) -> (String, String) {
    let conditions = node.status.as_ref().unwrap().conditions.as_ref().unwrap();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    (ready.status.clone(), ready.message.clone().unwrap())
}

/// Waits until the lease is owned by the Node of this UID.
async fn lease_of(server: &ApiServer, uid: &str) {
    let owned = async {
        while server.get(LEASE).is_none_or(|lease| lease["metadata"]["ownerReferences"][0]["uid"] != uid) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), owned).await.expect("the lease has no such owner");
}

#[tokio::test]
async fn a_node_registers_and_tells_its_readiness_at_once() {
    let server = ApiServer::default();
    let mut running = start(&server).await;
    running.event("Starting").await;
    let node = running.node(|node| ready(node).0 == "True").await;
    assert_eq!(
        node.status
            .as_ref()
            .unwrap()
            .daemon_endpoints
            .as_ref()
            .unwrap()
            .kubelet_endpoint
            .as_ref()
            .unwrap()
            .port,
        41_000
    );
    assert_eq!(running.event("NodeReady").await.message, "Node edge status is now: NodeReady");

    running.handle.set_problem("runtime", Some("container runtime is down".to_owned()));
    let node = running.node(|node| ready(node).0 == "False").await;
    assert_eq!(ready(&node).1, "container runtime is down");
    running.event("NodeNotReady").await;
    running.handle.set_problem("runtime", None);
    running.node(|node| ready(node).0 == "True").await;
}

#[tokio::test]
async fn a_deleted_node_comes_back_with_a_lease_of_its_own() {
    let server = ApiServer::default();
    let running = start(&server).await;
    let first = running.node(|_| true).await.metadata.uid.clone().unwrap();
    lease_of(&server, &first).await;

    {
        let mut store = server.store();
        store.objects.remove(NODE);
        store.objects.remove(LEASE);
    }
    let second = running.node(|node| !uid_is(&first)(node)).await.metadata.uid.clone().unwrap();
    lease_of(&server, &second).await;
}

#[tokio::test]
async fn a_node_that_is_there_is_put_right_and_keeps_what_others_gave_it() {
    let server = ApiServer::default();
    let existing = json!({
        "metadata": { "name": "edge", "uid": "uid-old", "labels": { "kubernetes.io/arch": "amd64", "others": "x" } },
        "spec": { "taints": [{ "key": "mine", "effect": "NoSchedule" }] },
        "status": { "nodeInfo": {
            "architecture": "", "bootID": "another boot", "containerRuntimeVersion": "wasmtime://40.0.0", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": "",
        } },
    });
    server.store().objects.insert(NODE.to_owned(), existing);
    let mut running = start(&server).await;
    let node =
        running.node(|node| node.status.as_ref().is_some_and(|status| status.conditions.is_some())).await;
    let labels = node.metadata.labels.as_ref().unwrap();
    assert_eq!((labels["kubernetes.io/arch"].as_str(), labels["others"].as_str()), ("wasm32-wasi", "x"));
    assert_eq!(node.spec.as_ref().unwrap().taints.as_ref().unwrap()[0].key, "mine");
    assert!(running.event("Rebooted").await.message.starts_with("Node edge has been rebooted, boot id: "));
}

#[tokio::test]
async fn another_kubelets_node_is_left_alone() {
    let server = ApiServer::default();
    let existing = json!({
        "metadata": { "name": "edge", "uid": "uid-theirs" },
        "status": { "nodeInfo": {
            "architecture": "", "bootID": "", "containerRuntimeVersion": "containerd://2.0", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": "",
        } },
    });
    server.store().objects.insert(NODE.to_owned(), existing.clone());
    let connection = server.listen().await;
    let api: Api<Node> = Api::all(connection.client());
    let fixed = crate::node::object::tests::fixed(&Flags::default());
    let refusal = crate::node::register::register(&api, &fixed, &crate::node::object::tests::observed())
        .await
        .unwrap_err();
    assert!(refusal.to_string().contains("containerd://2.0"), "{refusal}");
    assert_eq!(server.get(NODE), Some(existing));
}

#[tokio::test]
async fn a_credential_that_may_not_create_uses_the_node_that_is_there() {
    let server = ApiServer::default();
    server.store().refuse_create = true;
    server
        .store()
        .objects
        .insert(NODE.to_owned(), json!({ "metadata": { "name": "edge", "uid": "uid-made" } }));
    let running = start(&server).await;
    running.node(|node| uid_is("uid-made")(node) && node.status.is_some()).await;
}
