//! NetworkPolicies of the API server, for pods with addresses of their own.

use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
    rbac::v1::ClusterRoleBinding,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use kubewasm_tests::{
    cluster, guests,
    node::{Node, Options},
    progress::say,
    registry::image::Content,
    wait,
};
use serde_json::{Value, json};

use crate::{
    addresses::{end, range_of},
    pods::{Pods, is, phase},
    suite::{SOON, own_node, suite, with_temp_ns},
};

const NODE: &str = "guarded-node";
/// Of the test's cluster.
const POD_RANGE: &str = "10.0.0.0/8";
const EVENT: &str = "NetworkPolicyUnreadable";

/// A server's port 8080, which is named `web`, on a node; clients on the same one.
struct World {
    client: Client,
    node: Node,
    image: String,
    namespace: String,
    server: String,
    asked: AtomicU32,
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    /// Its connection was reset.
    Reset,
    /// `access-denied`: it may not connect.
    Denied,
}

/// How often a pod asks before its last answer counts: what is allowed of it by its labels holds once its address is known,
/// which is so only when it has been there for a moment.
const QUESTIONS: usize = 3;

impl World {
    fn pods(&self, namespace: &str) -> Pods {
        Pods::new(&self.client, namespace)
    }

    async fn create(&self, namespace: &str, name: &str, labels: &str, container: Value) {
        self.create_after(0, namespace, name, labels, container).await;
    }

    /// A pod that runs its container so often before it is the one that counts.
    async fn create_after(&self, times: usize, namespace: &str, name: &str, labels: &str, container: Value) {
        let labels: serde_json::Map<String, Value> = labels
            .split_whitespace()
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        let mut main = json!({ "name": "main", "image": self.image });
        main.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        let before: Vec<Value> = (0..times)
            .map(|n| {
                let mut before = main.clone();
                before["name"] = json!(format!("before-{n}"));
                before
            })
            .collect();
        let pod = json!({
            "metadata": { "name": name, "labels": labels },
            "spec": {
                "restartPolicy": "Never",
                "runtimeClassName": "wasm",
                "nodeSelector": { "kubernetes.io/hostname": self.node.name() },
                "initContainers": before,
                "containers": [main],
            },
        });
        let pods = self.pods(namespace).api();
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    /// What a new pod is told that asks the server.
    async fn ask(&self, namespace: &str, labels: &str) -> Outcome {
        let name = format!("client-{}", self.asked.fetch_add(1, Ordering::Relaxed));
        let args = json!({ "args": ["tcp-ask", format!("{}:8080", self.server)] });
        self.create_after(QUESTIONS, namespace, &name, labels, args).await;
        let pods = self.pods(namespace);
        let log = {
            pods.phase(&name, "Succeeded").await;
            pods.logs(&name).await
        };
        pods.api().delete(&name, &DeleteParams::default().grace_period(0)).await.unwrap();
        match log.lines().last().map(str::trim) {
            Some("refused 1") => Outcome::Denied,
            Some("refused 15" | "there") => Outcome::Reset,
            Some(line) if line.starts_with("there ") => Outcome::Answered,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until pods with these labels are told so: a policy takes effect in its own time.
    async fn until(&self, what: &str, namespace: &str, labels: &str, expected: Outcome) {
        let look = async || match self.ask(namespace, labels).await {
            outcome if outcome == expected => Ok(()),
            other => Err(format!("{other:?}")),
        };
        wait::until(&format!("{expected:?} with {what}"), SOON, look).await.unwrap();
    }

    async fn policy(&self, name: &str, spec: Value) {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": { "name": name }, "spec": spec,
        });
        let policies: Api<NetworkPolicy> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PatchParams::apply("e2e").force();
        policies.patch(name, &params, &Patch::Apply(policy)).await.unwrap();
    }

    /// The only rule of what comes to the server.
    async fn allow(&self, rule: Value) {
        let spec = json!({
            "podSelector": { "matchLabels": { "role": "server" } }, "policyTypes": ["Ingress"], "ingress": [rule],
        });
        self.policy("server", spec).await;
    }
}

/// One server and one policy after the other.
#[tokio::test]
async fn network_policies_hold_for_pods_with_addresses_of_their_own() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let content = Content::program("sockets", guests::guest("sockets-0.2.c").await.unwrap());
        let image = suite().await.registry.push("sockets:v1", &content).await.unwrap().tagged;
        let node = own_node(NODE, &Options::default().flag("--network=pod")).await;
        let (namespace, server) = (ns.to_owned(), String::new());
        let mut world = World { client, node, image, namespace, server, asked: AtomicU32::new(0) };
        let serve = json!({
            "args": ["tcp-serve", "0.0.0.0:8080"],
            "ports": [{ "containerPort": 8080, "name": "web" }],
            "readinessProbe": { "tcpSocket": { "port": "web" }, "periodSeconds": 1, "failureThreshold": 1 },
        });
        world.create(ns, "server", "role=server", serve).await;
        let pods = world.pods(ns);
        let server = pods.until("server", "ready", |pod| is(pod, "Ready")).await;
        world.server = server.status.unwrap().pod_ip.unwrap();

        // Without the right to read them, none holds, which is told.
        world.policy("deny", json!({ "podSelector": {}, "policyTypes": ["Ingress"] })).await;
        assert_eq!(world.ask(ns, "").await, Outcome::Answered);
        pods.event("server", EVENT, |event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some(EVENT)
                && message.starts_with("NetworkPolicies are not enforced for this pod: ")
                && message.contains("manifests/network-policies.yaml")
        })
        .await;
        grant(&world.client).await;
        world.until("a policy that lets nobody in", ns, "", Outcome::Reset).await;

        by_labels(&world).await;
        world.allow(json!({ "from": [{ "ipBlock": { "cidr": "0.0.0.0/0" } }] })).await;
        world.until("everybody's addresses", ns, "", Outcome::Answered).await;
        let block = json!({ "cidr": "0.0.0.0/0", "except": [POD_RANGE] });
        world.allow(json!({ "from": [{ "ipBlock": block }] })).await;
        world.until("all addresses but the pods'", ns, "", Outcome::Reset).await;
        world.allow(json!({ "ports": [{ "port": "web" }] })).await;
        world.until("the name of its port", ns, "", Outcome::Answered).await;
        world.allow(json!({ "ports": [{ "port": 8081 }] })).await;
        world.until("another port", ns, "", Outcome::Reset).await;

        let out =
            json!({ "podSelector": { "matchLabels": { "role": "prisoner" } }, "policyTypes": ["Egress"] });
        world.policy("out", out).await;
        world.until("a policy that lets nobody out", ns, "role=prisoner", Outcome::Denied).await;
        pods.event("server", "a refusal", |event| event.reason.as_deref() == Some("NetworkRefused")).await;

        let server = pods.api().get("server").await.unwrap();
        assert!(is(&server, "Ready"), "its node probes it, whatever policies say: {:?}", server.status);
        assert_eq!(phase(&server), "Running");
        leave(world).await;
    })
    .await;
}

/// Peers by the labels of pods and of namespaces, and what becomes of them when labels change.
async fn by_labels(world: &World) {
    let ns = world.namespace.as_str();
    world.allow(json!({ "from": [{ "podSelector": { "matchLabels": { "app": "friend" } } }] })).await;
    world.until("a friend's label", ns, "app=friend", Outcome::Answered).await;
    assert_eq!(world.ask(ns, "app=foe").await, Outcome::Reset);

    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let other = format!("{ns}-other");
    let namespace = json!({ "metadata": { "name": other } });
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    cluster::await_default_service_account(&world.client, &other).await.unwrap();
    let selector = json!({ "matchLabels": { "team": "friends" } });
    world.allow(json!({ "from": [{ "namespaceSelector": selector }] })).await;
    world.until("other namespaces", ns, "app=friend", Outcome::Reset).await;
    assert_eq!(world.ask(&other, "").await, Outcome::Reset, "it has no label yet");
    let label = json!({ "metadata": { "labels": { "team": "friends" } } });
    namespaces.patch(&other, &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    world.until("a namespace's label", &other, "", Outcome::Answered).await;
    namespaces.delete(&other, &DeleteParams::default()).await.unwrap();

    // The server is taken out of what the policies select, and put in again.
    let relabel = async |role: &str| {
        let label = json!({ "metadata": { "labels": { "role": role } } });
        let pods: Api<Pod> = world.pods(ns).api();
        pods.patch("server", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    };
    let closed =
        json!({ "podSelector": { "matchLabels": { "role": "server" } }, "policyTypes": ["Ingress"] });
    world.policy("deny", closed).await;
    relabel("free").await;
    world.until("another label of the server", ns, "", Outcome::Answered).await;
    relabel("server").await;
    world.until("its label again", ns, "", Outcome::Reset).await;
}

/// Gives the node the right, as the manifest says.
async fn grant(client: &Client) {
    let role = guests::repository().join("manifests/network-policies.yaml");
    suite().await.cluster.kubectl(&["apply", "-f", &role.to_string_lossy()]).await.unwrap();
    let binding = json!({
        "metadata": { "name": "kubewasm-network-policies-e2e" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kubewasm-network-policies" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": format!("system:node:{NODE}") }],
    });
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
}

async fn leave(world: World) {
    let range = range_of(&world.client, &world.node).await;
    let pods = world.pods(&world.namespace);
    end(&world.client, &pods, world.node, &["server"], &range).await;
}
