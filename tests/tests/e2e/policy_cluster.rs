//! Policies of a cluster: servers as the manifests have them, with the rights that the manifests give them, and what is asked of
//! the API server.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams,
    },
};
use kubewasm_tests::{
    cluster, guests, node, ports,
    process::Process,
    registry::{Pushed, image::Content},
    wait,
};
use serde_json::{Value, json};
use tokio::{sync::OnceCell, task::JoinHandle};

use crate::{
    policy_site::get,
    suite::{SOON, suite},
};

/// Kinds of policies.
pub(crate) const CLUSTER: &str = "ClusterAdmissionPolicy";
pub(crate) const NAMESPACED: &str = "AdmissionPolicy";
pub(crate) const CLUSTER_GROUP: &str = "ClusterAdmissionPolicyGroup";
pub(crate) const NAMESPACED_GROUP: &str = "AdmissionPolicyGroup";

/// Where a test has its servers, and what it needs to speak of policies.
pub(crate) struct PolicyCluster {
    pub(crate) client: Client,
    /// The namespace of the servers.
    pub(crate) system: String,
    /// Name of the server.
    pub(crate) server: String,
    kubeconfig: PathBuf,
    folder: PathBuf,
    logs: PathBuf,
    flags: Vec<String>,
}

/// A replica of the server.
pub(crate) struct ServerReplica {
    pub(crate) name: String,
    pub(crate) port: u16,
    process: Process,
}

impl Drop for ServerReplica {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

/// The resources of policies, applied once.
async fn resources() {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    APPLIED
        .get_or_init(async || {
            let cluster = &suite().await.cluster;
            let file = guests::repository().join("manifests/policy/crds.yaml");
            let file = file.to_string_lossy();
            cluster.kubectl(&["apply", "-f", &file]).await.unwrap();
            cluster
                .kubectl(&["wait", "--for=condition=Established", "--timeout=90s", "-f", &file])
                .await
                .unwrap();
        })
        .await;
}

/// What there is of a kind.
pub(crate) fn api(client: &Client, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("policies.kubewarden.io", "v1", kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Pushes a module that says of itself that it is a program. Returns how a policy names it.
pub(crate) async fn push(name: &str, module: Vec<u8>) -> String {
    let pushed: Pushed = suite().await.registry.push(name, &Content::Artifact(module)).await.unwrap();
    format!("registry://{}", pushed.tagged)
}

impl PolicyCluster {
    /// A server for the tests of this namespace, which runs nowhere yet.
    pub(crate) async fn new(client: &Client, namespace: &str) -> Self {
        resources().await;
        let suite = suite().await;
        let (system, server) = (format!("{namespace}-system"), namespace.to_owned());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({ "metadata": { "name": system } })).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        let folder = suite.home.folder(&system).unwrap();
        let rbac = std::fs::read_to_string(guests::repository().join("manifests/policy/rbac.yaml")).unwrap();
        // Servers of several tests are there at once, each with the rights that the one of the manifests has.
        let documents: Vec<String> = rbac
            .replace("kubewasm-policy-default", &format!("kubewasm-policy-{server}"))
            .replace("kubewasm-system", &system)
            .split("\n---\n")
            .map(|document| match document.contains("kind: ClusterRoleBinding") {
                true => {
                    document.replacen("name: kubewasm-policy", &format!("name: kubewasm-policy-{server}"), 1)
                }
                false => document.to_owned(),
            })
            .collect();
        let file = folder.join("rbac.yaml");
        std::fs::write(&file, documents.join("\n---\n")).unwrap();
        suite.cluster.kubectl(&["apply", "-n", &system, "-f", &file.to_string_lossy()]).await.unwrap();
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_of(&system).await.to_string()).unwrap();
        Self {
            client: client.clone(),
            system,
            server,
            kubeconfig,
            folder,
            logs: suite.home.logs(),
            flags: Vec::new(),
        }
    }

    pub(crate) fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Starts a replica of this name, and waits until it is ready.
    pub(crate) async fn start(&self, name: &str) -> ServerReplica {
        let (port, health) = (ports::free().unwrap(), ports::free().unwrap());
        let mut command = Command::new(node::program().unwrap());
        command
            .args(["policy", "serve", "--cluster", "-v=2", "--addr=127.0.0.1", "--shutdown-delay=0"])
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--policy-server={}", self.server))
            .arg(format!("--namespace={}", self.system))
            .arg(format!("--replica={name}"))
            .arg(format!("--webhook-url=https://127.0.0.1:{port}"))
            .arg(format!("--port={port}"))
            .arg(format!("--readiness-probe-port={health}"))
            .arg(format!("--root-dir={}", self.folder.join(name).display()))
            .args(&self.flags);
        let log = self.log_file(name);
        let mut process = Process::start("policy-server", &mut command, &log).unwrap();
        let ready = async || match get((Ipv4Addr::LOCALHOST, health).into(), "/readiness").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        };
        process.await_ready(SOON, ready).await.unwrap();
        ServerReplica { name: name.to_owned(), port, process }
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{}-{name}.log", self.system))
    }

    /// What a replica has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_file(name)).unwrap_or_default()
    }

    /// Makes a policy; of the whole cluster it is one of this namespace's objects alone, for the sake of other tests.
    pub(crate) async fn create(&self, kind: &str, namespace: &str, name: &str, spec: Value) {
        let (api, object) = self.object(kind, namespace, name, spec);
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    pub(crate) fn object(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        spec: Value,
    ) -> (Api<DynamicObject>, DynamicObject) {
        let mut whole = json!({
            "policyServer": self.server,
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"] }],
        });
        let is_group = kind.ends_with("Group");
        if !is_group {
            whole["mutating"] = json!(false);
        }
        let is_cluster = kind.starts_with("Cluster");
        if is_cluster {
            whole["namespaceSelector"] =
                json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } });
        }
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "policies.kubewarden.io/v1", "kind": kind, "metadata": { "name": name }, "spec": whole,
        });
        let api = api(&self.client, kind, (!is_cluster).then_some(namespace));
        (api, serde_json::from_value(object).unwrap())
    }

    /// Changes a policy of the whole cluster.
    pub(crate) async fn change(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        api(&self.client, CLUSTER, None).patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Waits until the status of a policy's newest generation is like that.
    pub(crate) async fn until(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        what: &str,
        is_so: impl Fn(&PolicyState) -> bool,
    ) -> PolicyState {
        let api = api(&self.client, kind, (!kind.starts_with("Cluster")).then_some(namespace));
        let probe = async || {
            let object = api.get(name).await.map_err(|error| error.to_string())?;
            let state = PolicyState::of(&object);
            if state.is_of_newest && is_so(&state) { Ok(state) } else { Err(format!("{state:?}")) }
        };
        wait::until(&format!("{what} of {name}"), SOON, probe).await.unwrap()
    }

    /// Waits until a policy is enforced as it is now.
    pub(crate) async fn active(&self, kind: &str, namespace: &str, name: &str) -> PolicyState {
        let state = self
            .until(kind, namespace, name, "being in force", |state| {
                state.conditions.iter().all(|condition| condition.1 == "True")
                    && state.webhook() == "WebhookCreated"
            })
            .await;
        assert_eq!(state.phase, "active");
        state
    }

    /// Deletes a policy, and waits until it is gone.
    pub(crate) async fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let api = api(&self.client, kind, (!kind.starts_with("Cluster")).then_some(namespace));
        api.delete(name, &DeleteParams::default()).await.unwrap();
        let probe = async || match api.get_opt(name).await.map_err(|error| error.to_string())? {
            None => Ok(()),
            Some(object) => Err(format!("{object:?}")),
        };
        wait::until(&format!("the end of {name}"), SOON, probe).await.unwrap();
    }

    /// Who is the leader.
    pub(crate) async fn leader(&self) -> Option<String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.system);
        let lease = leases.get_opt(&format!("kubewasm-policy-{}", self.server)).await.unwrap();
        lease?.spec?.holder_identity
    }

    /// Deletes all policies of the server, while somebody is there who lets them go, and its namespace.
    pub(crate) async fn end(self) {
        for kind in [CLUSTER, NAMESPACED, CLUSTER_GROUP, NAMESPACED_GROUP] {
            let all = api(&self.client, kind, None).list(&ListParams::default()).await.unwrap();
            for policy in all.items {
                if policy.data["spec"]["policyServer"] == json!(self.server) {
                    let namespace = policy.namespace().unwrap_or_default();
                    self.delete(kind, &namespace, &policy.name_any()).await;
                }
            }
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(&self.system, &DeleteParams::default()).await;
    }
}

/// Credentials of the service account of the manifests.
async fn kubeconfig_of(system: &str) -> Value {
    let cluster = &suite().await.cluster;
    let token = cluster.kubectl(&["create", "token", "kubewasm-policy", "-n", system]).await.unwrap();
    let url = cluster::config_of(&cluster.admin_kubeconfig()).await.unwrap().cluster_url.to_string();
    let authority = cluster.ca_certificate().to_string_lossy().into_owned();
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "policy",
        "clusters": [{
            "name": "this", "cluster": { "server": url.trim_end_matches('/'), "certificate-authority": authority },
        }],
        "users": [{ "name": "policy", "user": { "token": token.trim() } }],
        "contexts": [{ "name": "policy", "context": { "cluster": "this", "user": "policy" } }],
    })
}

/// The status of a policy.
#[derive(Debug)]
pub(crate) struct PolicyState {
    pub(crate) phase: String,
    pub(crate) mode: String,
    /// Type, status, reason and message.
    pub(crate) conditions: Vec<(String, String, String, String)>,
    /// All conditions are about the newest generation.
    is_of_newest: bool,
}

impl PolicyState {
    fn of(object: &DynamicObject) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let status = &object.data["status"];
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let is_of_newest = !conditions.is_empty()
            && conditions
                .iter()
                .all(|condition| condition["observedGeneration"].as_i64() == object.metadata.generation);
        let conditions = conditions
            .iter()
            .map(|c| (text(&c["type"]), text(&c["status"]), text(&c["reason"]), text(&c["message"])))
            .collect();
        Self { phase: text(&status["policyStatus"]), mode: text(&status["mode"]), conditions, is_of_newest }
    }

    fn condition(&self, kind: &str) -> &(String, String, String, String) {
        let found = self.conditions.iter().find(|condition| condition.0 == kind);
        found.unwrap_or_else(|| panic!("no {kind}: {self:?}"))
    }

    /// Why there is a webhook, or none.
    pub(crate) fn webhook(&self) -> &str {
        &self.condition("PolicyActive").2
    }

    /// Why the newest generation is served, or is not: status, reason and message.
    pub(crate) fn loaded(&self) -> (&str, &str, &str) {
        let (_, status, reason, message) = self.condition("PolicyServerConfigurationUpToDate");
        (status, reason, message)
    }
}

/// A pod that nobody runs.
pub(crate) fn pod(name: &str, annotations: &Value) -> Pod {
    let pod = json!({
        "metadata": { "name": name, "annotations": annotations },
        "spec": { "schedulerName": "nobody", "containers": [{ "name": "main", "image": "example.dev/none" }] },
    });
    serde_json::from_value(pod).unwrap()
}

/// What the API server says of a pod with these annotations, which it does not keep.
pub(crate) async fn tried(client: &Client, namespace: &str, annotations: Value) -> Result<Pod, String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match pods.create(&dry, &pod("tried", &annotations)).await {
        Ok(pod) => Ok(pod),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("{error}"),
    }
}

/// Waits until the API server says this of a pod with these annotations: it reads what is written to it a moment later.
pub(crate) async fn until_tried(
    client: &Client,
    namespace: &str,
    annotations: Value,
    is_so: impl Fn(&Result<Pod, String>) -> bool,
) -> Result<Pod, String> {
    let probe = async || match tried(client, namespace, annotations.clone()).await {
        outcome if is_so(&outcome) => Ok(outcome),
        outcome => Err(format!("{outcome:?}")),
    };
    wait::until("a verdict", SOON, probe).await.unwrap()
}

/// Pods that are asked for, one after the other, by two callers. None may be refused.
pub(crate) struct Requests {
    answered: Arc<AtomicUsize>,
    wrong: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Requests {
    pub(crate) fn start(client: &Client, namespace: &str) -> Self {
        let (answered, wrong, is_over) =
            <(Arc<AtomicUsize>, Arc<Mutex<Vec<String>>>, Arc<AtomicBool>)>::default();
        let tasks = (0..2).map(|_| {
            let (client, namespace) = (client.clone(), namespace.to_owned());
            let (answered, wrong, is_over) = (answered.clone(), wrong.clone(), is_over.clone());
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    match tried(&client, &namespace, json!({})).await {
                        Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(message) => wrong.lock().unwrap().push(message),
                    }
                }
            })
        });
        let tasks = tasks.collect();
        Self { answered, wrong, is_over, tasks }
    }

    /// Waits for so many answers more.
    pub(crate) async fn more(&self, count: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        let probe = async || match self.answered.load(Ordering::Relaxed) {
            now if now >= before + count => Ok(()),
            now => Err(format!("{} of {count}; {:?}", now - before, self.wrong.lock().unwrap().first())),
        };
        wait::until("more answers", SOON, probe).await.unwrap();
    }

    /// Ends it. No request may have failed.
    pub(crate) async fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} requests failed; the first: {}", wrong.len(), wrong[0]);
    }
}

impl ServerReplica {
    /// Kills it, as a machine does that is switched off.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
    }
}
