//! Servers of one namespace's extensions, with the rights that the manifests give them, and where they find modules.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Secret},
    events::v1::Event,
};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
};
use kubewasm_tests::{node, ports, process::Process, wait};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    extension_resource::{api, object},
    extension_site::ServerHome,
    suite::{SOON, suite},
};

/// Status and body, by path.
type Pages = Arc<Mutex<HashMap<String, (u16, Vec<u8>)>>>;

/// A server of modules by HTTP.
pub(super) struct ModuleHost {
    pub(super) address: String,
    pages: Pages,
    asked: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

impl ModuleHost {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (pages, asked) = (Pages::default(), Arc::<Mutex<Vec<String>>>::default());
        let (served, noted) = (Arc::clone(&pages), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (served, noted) = (Arc::clone(&served), Arc::clone(&noted));
                let answer = service_fn(move |request: Request<Incoming>| {
                    let path = request.uri().path().to_owned();
                    noted.lock().unwrap().push(path.clone());
                    let page = served.lock().unwrap().get(&path).cloned();
                    let (status, body) = page.unwrap_or((404, b"<html>nothing here</html>".to_vec()));
                    let response = Response::builder().status(status).body(Full::new(Bytes::from(body)));
                    async move { Ok::<_, Infallible>(response.unwrap()) }
                });
                tokio::spawn(async move {
                    let io = TokioIo::new(stream);
                    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await;
                });
            }
        });
        Self { address, pages, asked, _task: AbortOnDropHandle::new(task) }
    }

    pub(super) fn put(&self, path: &str, status: u16, body: &[u8]) {
        self.pages.lock().unwrap().insert(path.to_owned(), (status, body.to_vec()));
    }

    /// How often it was asked for a path.
    pub(super) fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }

    pub(super) fn image(&self, path: &str) -> Value {
        json!({ "protocol": "http", "uri": format!("{}{path}", self.address) })
    }
}

/// Servers of one namespace's extensions.
pub(super) struct ExtensionCluster {
    pub(super) client: Client,
    pub(super) namespace: String,
    /// The namespace of the servers.
    pub(super) system: String,
    kubeconfig: PathBuf,
    folder: PathBuf,
    flags: Vec<String>,
}

impl ExtensionCluster {
    pub(super) async fn new(client: &Client, namespace: &str) -> Self {
        let ServerHome { system, folder, kubeconfig } = ServerHome::new(client, namespace).await;
        Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            system,
            kubeconfig,
            folder,
            flags: Vec::new(),
        }
    }

    pub(super) fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// The directory of modules for local_fs.
    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join("modules")
    }

    /// Starts a replica of this name.
    pub(super) async fn start(&self, name: &str) -> Process {
        let mut command = Command::new(node::program().unwrap());
        command
            .args(["extension", "serve", "-v=2", "--addr=127.0.0.1", "--insecure", "--shutdown-delay=0"])
            .arg(format!("--port={}", ports::free().unwrap()))
            .arg(format!("--readiness-probe-port={}", ports::free().unwrap()))
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--namespace={}", self.system))
            .arg(format!("--watch-namespace={}", self.namespace))
            .arg(format!("--replica={name}"))
            .arg(format!("--root-dir={}", self.folder.join(name).display()))
            .arg(format!("--local-modules={}", self.modules().display()))
            .args(&self.flags);
        let log = suite().await.home.logs().join(format!("{}-{name}.log", self.system));
        Process::start("extension-server", &mut command, &log).unwrap()
    }

    /// What a replica has logged.
    pub(super) async fn log(&self, name: &str) -> String {
        let log = suite().await.home.logs().join(format!("{}-{name}.log", self.system));
        std::fs::read_to_string(log).unwrap_or_default()
    }

    pub(super) fn api(&self) -> Api<DynamicObject> {
        api(&self.client, &self.namespace)
    }

    /// Makes an extension, or changes it to this.
    pub(super) async fn apply(&self, name: &str, image: Value, more: Value) {
        let params = PatchParams::apply("e2e").force();
        self.api().patch(name, &params, &Patch::Apply(object(name, image, more))).await.unwrap();
    }

    /// Waits until the status of an extension's newest generation has these conditions.
    pub(super) async fn until(&self, name: &str, conditions: &[(&str, &str, &str)]) -> Value {
        let probe = async || {
            let object = self.api().get_status(name).await.map_err(|error| error.to_string())?;
            let status = object.data["status"].clone();
            let is_newest = status["observedGeneration"].as_i64() == object.metadata.generation;
            let has = |(kind, value, reason): &(&str, &str, &str)| {
                let condition = condition(&status, kind);
                condition["status"] == *value && condition["reason"] == *reason
            };
            match is_newest && conditions.iter().all(has) {
                true => Ok(status),
                false => Err(status.to_string()),
            }
        };
        wait::until(&format!("{conditions:?} of {name}"), SOON, probe).await.unwrap()
    }

    pub(super) async fn published(&self, name: &str) -> Value {
        self.until(name, &[("Published", "True", "Published")]).await
    }

    /// The Events of an extension: type, reason and note.
    pub(super) async fn events(&self, name: &str) -> Vec<(String, String, String)> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut events = api.list(&ListParams::default()).await.unwrap().items;
        events.retain(|event| event.regarding.as_ref().and_then(|it| it.name.as_deref()) == Some(name));
        events.sort_by_key(|event| event.event_time.clone());
        let text = |text: Option<String>| text.unwrap_or_default();
        events.into_iter().map(|event| (text(event.type_), text(event.reason), text(event.note))).collect()
    }

    /// Waits for an Event whose note has this in it.
    pub(super) async fn event(&self, name: &str, kind: &str, reason: &str, note: &str) {
        let probe = async || {
            let events = self.events(name).await;
            let is_it = |(t, r, n): &(String, String, String)| t == kind && r == reason && n.contains(note);
            if events.iter().any(is_it) { Ok(()) } else { Err(format!("{events:?}")) }
        };
        wait::until(&format!("the Event {reason} of {name}"), SOON, probe).await.unwrap();
    }

    /// Makes or changes a Secret.
    pub(super) async fn secret(&self, namespace: &str, name: &str, secret: Value) {
        let mut object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name } });
        object.as_object_mut().unwrap().extend(secret.as_object().unwrap().clone());
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        api.patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(object)).await.unwrap();
    }

    /// Who is the leader.
    pub(super) async fn leader(&self) -> Option<String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.system);
        leases.get_opt("kubewasm-extension").await.unwrap()?.spec?.holder_identity
    }

    /// The replicas that have said something of themselves.
    pub(super) async fn replicas(&self) -> Vec<String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.system);
        let leases = leases.list(&ListParams::default()).await.unwrap().items;
        let names = leases.into_iter().filter_map(|lease| lease.metadata.name);
        names.filter_map(|name| Some(name.strip_prefix("kubewasm-extension.")?.to_owned())).collect()
    }

    pub(super) async fn end(self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(&self.system, &DeleteParams::default()).await;
    }
}

/// The condition of a status.
pub(super) fn condition(status: &Value, kind: &str) -> Value {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}
