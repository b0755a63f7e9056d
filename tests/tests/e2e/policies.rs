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
    addresses::end,
    pods::{Pods, is, phase},
    suite::{SOON, own_node, suite, with_temp_ns},
};

const NODE: &str = "guarded-node";
/// That of WASI 0.2, and that of 0.3.
const SERVERS: [&str; 2] = ["server", "server-0-3"];
/// Of the test's cluster.
const POD_RANGE: &str = "10.0.0.0/8";
const EVENT: &str = "NetworkPolicyUnreadable";

/// Two servers' ports 8080, which are named `web`, on a node; clients on the same one. One server is of WASI 0.2, the other of
/// 0.3, and so are the clients; each asks the server of the other version.
struct World {
    client: Client,
    node: Node,
    images: [String; 2],
    namespace: String,
    servers: [String; 2],
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

    /// A pod that runs its container so often before it is the one that counts.
    async fn create_after(&self, times: usize, namespace: &str, name: &str, labels: &str, main: Value) {
        let labels: serde_json::Map<String, Value> = labels
            .split_whitespace()
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
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

    /// What new pods are told that ask the servers.
    async fn ask(&self, namespace: &str, labels: &str) -> [Outcome; 2] {
        let ([one, other], [first, second]) = (&self.images, &self.servers);
        // Boxed: the stack of a test is small for so many futures in one.
        let answers = tokio::join!(
            Box::pin(self.ask_with(one, second, namespace, labels)),
            Box::pin(self.ask_with(other, first, namespace, labels))
        );
        answers.into()
    }

    async fn ask_with(&self, image: &str, server: &str, namespace: &str, labels: &str) -> Outcome {
        let name = format!("client-{}", self.asked.fetch_add(1, Ordering::Relaxed));
        let main = json!({ "name": "main", "image": image, "args": ["tcp-ask", format!("{server}:8080")] });
        self.create_after(QUESTIONS, namespace, &name, labels, main).await;
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
            outcomes if outcomes == [expected; 2] => Ok(()),
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

    /// The only rule of what comes to the servers.
    async fn allow(&self, rule: Value) {
        let spec = json!({
            "podSelector": { "matchLabels": { "role": "server" } }, "policyTypes": ["Ingress"], "ingress": [rule],
        });
        self.policy("server", spec).await;
    }
}

/// One policy after the other.
#[tokio::test]
async fn network_policies_hold_for_pods_with_addresses_of_their_own() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let mut images = [String::new(), String::new()];
        for (image, version) in images.iter_mut().zip(["0.2", "0.3"]) {
            let guest = guests::guest(&format!("sockets-{version}.c")).await.unwrap();
            let (name, content) = (format!("sockets:{version}"), Content::program("sockets", guest));
            *image = suite().await.registry.push(&name, &content).await.unwrap().tagged;
        }
        let node = own_node(NODE, &Options::default().flag("--network=pod")).await;
        let (namespace, servers) = (ns.to_owned(), [String::new(), String::new()]);
        let mut world = World { client, node, images, namespace, servers, asked: AtomicU32::new(0) };
        let serve = |image: &str| json!({
            "name": "main",
            "image": image,
            "args": ["tcp-serve", "0.0.0.0:8080"],
            "ports": [{ "containerPort": 8080, "name": "web" }],
            "readinessProbe": { "tcpSocket": { "port": "web" }, "periodSeconds": 1, "failureThreshold": 1 },
        });
        let pods = world.pods(ns);
        for (n, name) in SERVERS.into_iter().enumerate() {
            world.create_after(0, ns, name, "role=server", serve(&world.images[n])).await;
            let server = pods.until(name, "ready", |pod| is(pod, "Ready")).await;
            world.servers[n] = server.status.unwrap().pod_ip.unwrap();
        }

        // Without the right to read them, none holds, which is told.
        world.policy("deny", json!({ "podSelector": {}, "policyTypes": ["Ingress"] })).await;
        assert_eq!(world.ask(ns, "").await, [Outcome::Answered; 2]);
        pods.event("server", EVENT, |event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some(EVENT)
                && message.starts_with("NetworkPolicies are not enforced for this pod: ")
                && message.contains("manifests/cluster/network-policies.yaml")
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

        for name in SERVERS {
            let server = pods.api().get(name).await.unwrap();
            assert!(is(&server, "Ready"), "its node probes it, whatever policies say: {:?}", server.status);
            assert_eq!(phase(&server), "Running");
        }
        leave(world).await;
    })
    .await;
}

/// Peers by the labels of pods and of namespaces, and what becomes of them when labels change.
async fn by_labels(world: &World) {
    let ns = world.namespace.as_str();
    world.allow(json!({ "from": [{ "podSelector": { "matchLabels": { "app": "friend" } } }] })).await;
    world.until("a friend's label", ns, "app=friend", Outcome::Answered).await;
    assert_eq!(world.ask(ns, "app=foe").await, [Outcome::Reset; 2]);

    let namespaces: Api<Namespace> = Api::all(world.client.clone());
    let other = format!("{ns}-other");
    let namespace = json!({ "metadata": { "name": other } });
    namespaces.create(&PostParams::default(), &serde_json::from_value(namespace).unwrap()).await.unwrap();
    cluster::await_default_service_account(&world.client, &other).await.unwrap();
    let selector = json!({ "matchLabels": { "team": "friends" } });
    world.allow(json!({ "from": [{ "namespaceSelector": selector }] })).await;
    world.until("other namespaces", ns, "app=friend", Outcome::Reset).await;
    assert_eq!(world.ask(&other, "").await, [Outcome::Reset; 2], "it has no label yet");
    let label = json!({ "metadata": { "labels": { "team": "friends" } } });
    namespaces.patch(&other, &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    world.until("a namespace's label", &other, "", Outcome::Answered).await;
    namespaces.delete(&other, &DeleteParams::default()).await.unwrap();

    // The servers are taken out of what the policies select, and put in again.
    let relabel = async |role: &str| {
        let label = json!({ "metadata": { "labels": { "role": role } } });
        let pods: Api<Pod> = world.pods(ns).api();
        for name in SERVERS {
            pods.patch(name, &PatchParams::default(), &Patch::Merge(label.clone())).await.unwrap();
        }
    };
    let closed =
        json!({ "podSelector": { "matchLabels": { "role": "server" } }, "policyTypes": ["Ingress"] });
    world.policy("deny", closed).await;
    relabel("free").await;
    world.until("another label of the servers", ns, "", Outcome::Answered).await;
    relabel("server").await;
    world.until("their label again", ns, "", Outcome::Reset).await;
}

/// Gives the node the right, as the manifest says.
async fn grant(client: &Client) {
    let role = guests::repository().join("manifests/cluster/network-policies.yaml");
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
    let pods = world.pods(&world.namespace);
    end(&world.client, &pods, world.node, &SERVERS).await;
}
