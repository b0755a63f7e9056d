//! A discovery server of the cluster's extensions, for one test's namespaces: the real `kubewasm extension serve` with the rights of
//! the manifests, and the Envoys that ask it.

use std::{fs, path::PathBuf, process::Command};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Namespace},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject},
};
use kubewasm_tests::{
    certificates::{Authority, ServerIdentity},
    cluster,
    envoy::{Credentials, Envoy, EnvoyOptions, Variant},
    guests, node, ports,
    process::Process,
    subscriber::Discovery,
    wait,
    web::{self, Answer},
};
use serde_json::{Value, json};

use crate::{
    extension_resource::{api, definition, grants_definition, kubeconfig_of},
    suite::{SOON, suite},
};

const ACCOUNT: &str = "kubewasm-extension";

/// A server of the extensions of these namespaces, and its files.
pub(crate) struct ExtensionSite {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// The namespace that the server itself is in.
    pub(crate) system: String,
    folder: PathBuf,
    kubeconfig: PathBuf,
    namespaces: Vec<String>,
    pub(crate) authority: Authority,
    environment: Vec<(&'static str, String)>,
    flags: Vec<String>,
    is_open: bool,
}

/// A replica of the server. It is killed when it is dropped.
pub(crate) struct ExtensionServer {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) health_port: u16,
    pub(crate) process: Process,
}

fn grant_resource() -> ApiResource {
    ApiResource {
        group: "gateway.networking.k8s.io".to_owned(),
        version: "v1beta1".to_owned(),
        api_version: "gateway.networking.k8s.io/v1beta1".to_owned(),
        kind: "ReferenceGrant".to_owned(),
        plural: "referencegrants".to_owned(),
    }
}

/// What a server of one test's extensions needs before it can start.
pub(crate) struct ServerHome {
    /// The namespace that the server itself is in.
    pub(crate) system: String,
    /// For its files, with `modules` for `local_fs`.
    pub(crate) folder: PathBuf,
    pub(crate) kubeconfig: PathBuf,
}

impl ServerHome {
    /// Makes the namespace of the server, and gives it the rights that the manifests give.
    pub(crate) async fn new(client: &Client, namespace: &str) -> Self {
        definition().await;
        let suite = suite().await;
        let system = format!("{namespace}-system");
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = serde_json::from_value(json!({ "metadata": { "name": system } })).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        let folder = suite.home.folder(&system).unwrap();
        fs::create_dir_all(folder.join("modules")).unwrap();
        // Servers of several tests are there at once, each with the rights that the one of the manifests has.
        let rbac = fs::read_to_string(guests::repository().join("manifests/extension/rbac.yaml")).unwrap();
        let documents: Vec<String> = rbac
            .replace("kubewasm-system", &system)
            .split("\n---\n")
            .map(|document| match document.contains("kind: ClusterRoleBinding") {
                true => {
                    document.replacen(&format!("name: {ACCOUNT}"), &format!("name: {ACCOUNT}-{namespace}"), 1)
                }
                false => document.to_owned(),
            })
            .collect();
        let file = folder.join("rbac.yaml");
        fs::write(&file, documents.join("\n---\n")).unwrap();
        suite.cluster.kubectl(&["apply", "-n", &system, "-f", &file.to_string_lossy()]).await.unwrap();
        let kubeconfig = folder.join("kubeconfig");
        fs::write(&kubeconfig, kubeconfig_of(&system).await.to_string()).unwrap();
        Self { system, folder, kubeconfig }
    }
}

impl ExtensionSite {
    /// A server for the extensions of this namespace, which runs nowhere yet.
    pub(crate) async fn new(client: &Client, namespace: &str) -> Self {
        kubewasm_tests::init();
        let ServerHome { system, folder, kubeconfig } = ServerHome::new(client, namespace).await;
        let authority = Authority::new().unwrap();
        let server = authority.server(&["127.0.0.1", "localhost"]).unwrap();
        let site = Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            system,
            folder,
            kubeconfig,
            namespaces: vec![namespace.to_owned()],
            authority,
            environment: Vec::new(),
            flags: Vec::new(),
            is_open: false,
        };
        site.write("ca.crt", &site.authority.certificate);
        site.identity("tls", &server);
        site
    }

    /// Writes a file of the server's folder.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes a certificate and its key. Returns where.
    pub(crate) fn identity(&self, name: &str, identity: &ServerIdentity) -> (PathBuf, PathBuf) {
        (
            self.write(&format!("{name}.crt"), &identity.chain),
            self.write(&format!("{name}.key"), &identity.key),
        )
    }

    /// Where modules of `local_fs` are.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join("modules")
    }

    /// Where a replica keeps what it has fetched.
    pub(crate) fn root(&self, replica: &str) -> PathBuf {
        self.folder.join(replica)
    }

    pub(crate) fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    pub(crate) fn environment(mut self, pairs: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.environment.extend(pairs);
        self
    }

    /// Another namespace whose extensions it serves.
    pub(crate) fn also(mut self, namespace: &str) -> Self {
        self.namespaces.push(namespace.to_owned());
        self
    }

    /// Speaks without TLS, with whoever comes.
    pub(crate) fn open(mut self) -> Self {
        self.is_open = true;
        self
    }

    /// Starts a replica of this name on new ports, and waits until it is ready.
    pub(crate) async fn start(&self, name: &str) -> ExtensionServer {
        self.start_at(name, ports::free().unwrap(), ports::free().unwrap()).await
    }

    /// Starts a replica on the ports of one that has ended.
    pub(crate) async fn start_at(&self, name: &str, port: u16, health_port: u16) -> ExtensionServer {
        let mut command = Command::new(node::program().unwrap());
        command
            .args(["extension", "serve", "-v=2", "--addr=127.0.0.1", "--shutdown-delay=0"])
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--namespace={}", self.system))
            .arg(format!("--replica={name}"))
            .arg(format!("--port={port}"))
            .arg(format!("--readiness-probe-port={health_port}"))
            .arg(format!("--root-dir={}", self.root(name).display()))
            .arg(format!("--local-modules={}", self.modules().display()))
            .args(self.namespaces.iter().map(|namespace| format!("--watch-namespace={namespace}")))
            .args(&self.flags)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        match self.is_open {
            true => command.arg("--insecure"),
            false => command
                .arg(format!("--cert-file={}", self.folder.join("tls.crt").display()))
                .arg(format!("--key-file={}", self.folder.join("tls.key").display()))
                .arg(format!("--client-ca-file={}", self.folder.join("ca.crt").display())),
        };
        let log = suite().await.home.logs().join(format!("{}-{name}.log", self.system));
        let mut process = Process::start("extension-server", &mut command, &log).unwrap();
        let ready = async || match web::get(health_port, "/readyz").await {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        };
        process.await_ready(SOON, ready).await.unwrap();
        ExtensionServer { name: name.to_owned(), port, health_port, process }
    }

    /// What a replica has logged.
    pub(crate) async fn log(&self, replica: &str) -> String {
        let path = suite().await.home.logs().join(format!("{}-{replica}.log", self.system));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// `<namespace>/<name>`, as Envoys name an extension.
    pub(crate) fn filter(&self, name: &str) -> String {
        format!("{}/{name}", self.namespace)
    }

    /// A new token of a service account, as a pod has it for this server.
    pub(crate) async fn token(&self, namespace: &str, account: &str) -> String {
        let cluster = &suite().await.cluster;
        let arguments = ["create", "token", account, "-n", namespace, "--audience=wasmxds"];
        cluster.kubectl(&arguments).await.unwrap().trim().to_owned()
    }

    /// How an Envoy of the test's namespace asks for an extension.
    pub(crate) async fn options(
        &self,
        server: &ExtensionServer,
        variant: Variant,
        name: &str,
    ) -> EnvoyOptions {
        let options = EnvoyOptions::new(variant, server.port, &self.filter(name));
        match self.is_open {
            true => options,
            false => options
                .authority(self.folder.join("ca.crt"))
                .credentials(Credentials::Token(self.token(&self.namespace, "default").await)),
        }
    }

    /// Starts an Envoy of the test's namespace that asks for an extension.
    pub(crate) async fn envoy(&self, server: &ExtensionServer, variant: Variant, name: &str) -> Envoy {
        self.start_envoy(&self.options(server, variant, name).await).await
    }

    pub(crate) async fn start_envoy(&self, options: &EnvoyOptions) -> Envoy {
        Envoy::start(&suite().await.home, options).await.unwrap()
    }

    /// A connection of somebody who has a token of the test's namespace.
    pub(crate) async fn discovery(&self, server: &ExtensionServer) -> Discovery {
        let token = self.token(&self.namespace, "default").await;
        self.stranger(server).await.token(&token).unwrap()
    }

    /// A connection of somebody who shows nothing.
    pub(crate) async fn stranger(&self, server: &ExtensionServer) -> Discovery {
        let tls = (!self.is_open).then(|| self.authority.trusting(None).unwrap());
        Discovery::connect(server.port, tls).await.unwrap()
    }

    /// Makes an extension of the test's namespace, or changes it to this.
    pub(crate) async fn apply(&self, name: &str, spec: Value) {
        self.apply_in(&self.namespace, name, spec).await;
    }

    pub(crate) async fn apply_in(&self, namespace: &str, name: &str, spec: Value) {
        let outcome = self.try_apply(namespace, name, spec).await;
        outcome.unwrap();
    }

    pub(crate) async fn try_apply(
        &self,
        namespace: &str,
        name: &str,
        spec: Value,
    ) -> kube::Result<DynamicObject> {
        let mut whole = json!({ "runtime": "v8", "vm_id": name, "root_id": "filter" });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let object = json!({
            "apiVersion": "wasmxds.tetrate.io/v1alpha1", "kind": "WasmExtension",
            "metadata": { "name": name }, "spec": whole,
        });
        api(&self.client, namespace)
            .patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(object))
            .await
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.delete_in(&self.namespace, name).await;
    }

    pub(crate) async fn delete_in(&self, namespace: &str, name: &str) {
        api(&self.client, namespace).delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Makes an object of the core API, or replaces what is in it.
    pub(crate) async fn put(&self, kind: &str, namespace: &str, name: &str, key: &str, value: &str) {
        let content = if kind == "Secret" { "stringData" } else { "data" };
        let object = json!({
            "apiVersion": "v1", "kind": kind, "metadata": { "name": name, "namespace": namespace }, content: { key: value },
        });
        let core = ApiResource {
            group: String::new(),
            version: "v1".to_owned(),
            api_version: "v1".to_owned(),
            kind: kind.to_owned(),
            plural: format!("{}s", kind.to_lowercase()),
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &core);
        api.patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(object)).await.unwrap();
    }

    /// Allows extensions of a namespace to refer to the objects of a kind in another one.
    pub(crate) async fn grant(&self, from: &str, to: &str, kind: &str) {
        grants_definition().await;
        let name = format!("{from}-{}", kind.to_lowercase());
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant", "metadata": { "name": name },
            "spec": {
                "from": [{ "group": "wasmxds.tetrate.io", "kind": "WasmExtension", "namespace": from }],
                "to": [{ "group": "", "kind": kind }],
            },
        });
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), to, &grant_resource());
        api.patch(&name, &PatchParams::apply("e2e").force(), &Patch::Apply(object)).await.unwrap();
    }

    /// Takes that back.
    pub(crate) async fn revoke(&self, from: &str, to: &str, kind: &str) {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), to, &grant_resource());
        api.delete(&format!("{from}-{}", kind.to_lowercase()), &DeleteParams::default()).await.unwrap();
    }

    /// Waits until the status of an extension's newest generation is like that.
    pub(crate) async fn until(
        &self,
        name: &str,
        what: &str,
        is_so: impl Fn(&ExtensionState) -> bool,
    ) -> ExtensionState {
        self.until_in(&self.namespace, name, what, is_so).await
    }

    pub(crate) async fn until_in(
        &self,
        namespace: &str,
        name: &str,
        what: &str,
        is_so: impl Fn(&ExtensionState) -> bool,
    ) -> ExtensionState {
        let api = api(&self.client, namespace);
        let probe = async || {
            let object = api.get(name).await.map_err(|error| error.to_string())?;
            let state = ExtensionState::of(&object);
            if state.is_of_newest && is_so(&state) { Ok(state) } else { Err(format!("{state:?}")) }
        };
        wait::until(&format!("{what} of {name}"), SOON, probe).await.unwrap()
    }

    /// Waits until an extension is there for Envoys as it is now.
    pub(crate) async fn published(&self, name: &str) -> ExtensionState {
        self.until(name, "being published", |state| state.is("Published", "True")).await
    }

    /// Waits until all Envoys that have asked for an extension have taken it as it is now.
    pub(crate) async fn accepted(&self, name: &str, envoys: u64) -> ExtensionState {
        let is_so = |state: &ExtensionState| state.is("Accepted", "True") && state.number("acks") == envoys;
        self.until(name, "being accepted", is_so).await
    }

    /// Waits until there is such an Event about an extension, and returns its message.
    pub(crate) async fn event(&self, name: &str, reason: &str, says: &str) -> String {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let about = format!("involvedObject.name={name},involvedObject.kind=WasmExtension");
        let probe = async || {
            let list = events
                .list(&ListParams::default().fields(&about))
                .await
                .map_err(|error| error.to_string())?;
            let told = |event: &Event| event.message.clone().unwrap_or_default();
            let found = list
                .items
                .iter()
                .find(|event| event.reason.as_deref() == Some(reason) && told(event).contains(says));
            found.map(told).ok_or_else(|| {
                let all = list.items.iter().map(|event| (event.reason.clone(), told(event)));
                format!("{:?}", all.collect::<Vec<_>>())
            })
        };
        wait::until(&format!("an Event {reason} of {name}"), SOON, probe).await.unwrap()
    }

    /// Who writes statuses.
    pub(crate) async fn leader(&self) -> Option<String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.system);
        let lease = leases.get_opt(ACCOUNT).await.unwrap();
        lease?.spec?.holder_identity
    }

    /// Makes a namespace.
    pub(crate) async fn namespace(&self, name: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let object = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        match namespaces.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            other => drop(other.unwrap()),
        }
        cluster::await_default_service_account(&self.client, name).await.unwrap();
    }

    /// Deletes namespaces, without waiting for their end.
    pub(crate) async fn delete_namespaces(&self, names: &[&str]) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for name in names {
            let _ = namespaces.delete(name, &DeleteParams::default()).await;
        }
    }

    /// Deletes the namespace of the server.
    pub(crate) async fn end(self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(&self.system, &DeleteParams::default()).await;
    }
}

impl ExtensionServer {
    /// Waits until so many streams of Envoys are open.
    pub(crate) async fn streams(&self, count: u32) {
        let probe = async || {
            let page =
                web::get(self.health_port, "/metrics").await.map_err(|error| error.to_string())?.text();
            let rows = page.lines().filter(|line| line.starts_with("kubewasm_extension_streams{"));
            let open: u32 = rows.filter_map(|row| row.rsplit_once(' ')?.1.parse::<u32>().ok()).sum();
            if open == count { Ok(()) } else { Err(format!("{open} are open")) }
        };
        wait::until("streams", SOON, probe).await.unwrap();
    }
}

impl Drop for ExtensionServer {
    fn drop(&mut self) {
        // Its credentials end with the test. One that has ended cannot be killed, and needs not be.
        let _ = self.process.kill();
    }
}

/// The status of an extension.
#[derive(Debug)]
pub(crate) struct ExtensionState {
    pub(crate) status: Value,
    is_of_newest: bool,
}

impl ExtensionState {
    fn of(object: &DynamicObject) -> Self {
        let status = object.data["status"].clone();
        let is_of_newest = status["observedGeneration"].as_i64() == object.metadata.generation;
        Self { status, is_of_newest }
    }

    /// A condition: its status, its reason and its message; empty where there is none.
    pub(crate) fn condition(&self, kind: &str) -> [&str; 3] {
        let all = self.status["conditions"].as_array().into_iter().flatten();
        let found = all.into_iter().find(|condition| condition["type"] == kind);
        ["status", "reason", "message"]
            .map(|field| found.and_then(|found| found[field].as_str()).unwrap_or_default())
    }

    pub(crate) fn is(&self, kind: &str, status: &str) -> bool {
        self.condition(kind)[0] == status
    }

    /// A number of the status.
    pub(crate) fn number(&self, field: &str) -> u64 {
        self.status[field].as_u64().unwrap_or_default()
    }
}

/// Whether an answer came through a filter that is configured so.
pub(crate) fn is_filtered(answer: &Answer, says: &str, vm: &str, plugin: &str) -> bool {
    answer.status == 200
        && answer.header("protocol") == says
        && answer.header("vm-configuration") == vm
        && answer.header("plugin-configuration") == plugin
}
