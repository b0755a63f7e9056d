//! What a Service's clients notice of pods that end: nothing. They ask from a machine with a kube-proxy, and components of WASI 0.2
//! and of 0.3 answer.

mod load;

use std::net::SocketAddr;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node as NodeObject, Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use kubewasm_tests::{
    beside::Beside,
    guests,
    node::{Node, Options},
    progress::say,
    registry::image::Content,
    wait,
};
use serde_json::{Value, json};

use self::load::Load;
use crate::{
    addresses::end,
    pods::Pods,
    services::endpoints,
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// The label of the nodes of a test, whose value is its namespace.
const STAGE: &str = "example.dev/stage";

/// Servers behind a Service, their nodes, and the machine of those who ask.
struct Stage<'a> {
    client: &'a Client,
    namespace: &'a str,
    pods: Pods,
    nodes: Vec<Node>,
    beside: Beside,
    /// The same program for WASI 0.2 and for 0.3.
    images: [String; 2],
    /// The Service's address.
    address: SocketAddr,
}

impl<'a> Stage<'a> {
    /// Three servers are ready on these nodes, with these settings.
    async fn set(client: &'a Client, namespace: &'a str, nodes: &[&str], settings: &str) -> Self {
        let suite = suite().await;
        let mut images = Vec::new();
        for (guest, tag) in [("http-0.2.c", "v0.2"), ("drip-0.3.wat", "v0.3")] {
            let content = Content::program("http", guests::guest(guest).await.unwrap());
            // In a repository of this test's own: another one may push the same at this moment.
            let name = format!("http-{namespace}:{tag}");
            images.push(suite.registry.push(&name, &content).await.unwrap().tagged);
        }
        // First, because others may have it, and nodes would wait with us.
        let beside = Beside::start(&suite.home, &suite.cluster).await.unwrap();
        let options = Options::default()
            .flag("--network=pod")
            .flag("--services=off")
            .flag(format!("--node-labels={STAGE}={namespace}"));
        let mut started = Vec::new();
        for name in nodes {
            started.push(own_node(name, &options).await);
        }
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
        let web = serde_json::from_value(deployment(namespace, &images[0], settings)).unwrap();
        deployments.create(&PostParams::default(), &web).await.unwrap();
        let services = Api::<Service>::namespaced(client.clone(), namespace);
        let service = json!({
            "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] },
        });
        let service = serde_json::from_value(service).unwrap();
        let service = services.create(&PostParams::default(), &service).await.unwrap();
        let address = service.spec.unwrap().cluster_ip.unwrap().parse().unwrap();
        let stage = Self {
            client,
            namespace,
            pods: Pods::new(client, namespace),
            nodes: started,
            beside,
            images: images.try_into().unwrap(),
            address: SocketAddr::new(address, 80),
        };
        stage.has_servers(3).await;
        stage
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    async fn patch(&self, patch: Value) {
        let patch = Patch::Strategic(patch);
        self.deployments().patch("web", &PatchParams::default(), &patch).await.unwrap();
    }

    /// Waits until a Service has so many endpoints, and no pod is left that ends.
    async fn has_servers(&self, count: usize) {
        let only = |ready: &_, others| (std::collections::BTreeSet::len(ready), others) == (count, 0);
        endpoints(self.client, self.namespace, "web", only).await;
    }

    /// Begins to ask, once the Service leads somewhere.
    async fn load(&self) -> Load {
        let to = self.address;
        wait::until("kube-proxy to know the Service", SOON, async || {
            let connect = move || std::net::TcpStream::connect_timeout(&to, SOON).map(drop);
            self.beside.run(connect).await.map_err(|error| error.to_string())
        })
        .await
        .unwrap();
        let load = Load::start(self.beside.namespace(), to);
        load.goes_on().await;
        load
    }

    /// Begins a rolling update to the program of this index. Pods of each version have its name in a label.
    async fn update(&self, version: &str, image: usize) {
        let image = &self.images[image];
        let container = json!({ "name": "main", "image": image });
        let template = json!({
            "metadata": { "labels": { "version": version } },
            "spec": { "containers": [container] },
        });
        self.patch(json!({ "spec": { "template": template } })).await;
    }

    /// Waits until so many pods of a version are there.
    async fn begins(&self, version: &str, count: usize) {
        let labelled = ListParams::default().labels(&format!("version={version}"));
        wait::until(&format!("{count} pods of version {version}"), SOON, async || {
            let pods = self.pods.api().list(&labelled).await.map_err(|error| error.to_string())?.items;
            if pods.len() >= count { Ok(()) } else { Err(format!("{}", pods.len())) }
        })
        .await
        .unwrap();
    }

    /// Waits until so many pods are to end, and have not.
    async fn end_begins(&self, count: usize) {
        wait::until(&format!("{count} pods to end"), SOON, async || {
            let pods = self.servers().await;
            let ending = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).count();
            if ending >= count { Ok(()) } else { Err(format!("{ending} of {}", pods.len())) }
        })
        .await
        .unwrap();
    }

    async fn servers(&self) -> Vec<Pod> {
        self.pods.api().list(&ListParams::default().labels("app=web")).await.unwrap().items
    }

    /// The agent of a node dies, and is started again when the servers have been asked without it.
    async fn agent_dies(&mut self, node: usize, load: &Load) {
        self.nodes[node].kill().unwrap();
        load.goes_on().await;
        self.nodes[node].start_again().await.unwrap();
    }

    async fn clear(self) {
        self.deployments().delete("web", &DeleteParams::default()).await.unwrap();
        self.pods.all_gone("app=web").await;
        self.beside.end().await.unwrap();
        for node in self.nodes {
            end(self.client, &self.pods, node, &[]).await;
        }
    }
}

/// Servers as people deploy them, without a probe or a hook.
fn deployment(stage: &str, image: &str, settings: &str) -> Value {
    json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 3,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": {
                    "labels": { "app": "web", "version": "first" },
                    "annotations": { "http.kubewasm.dev/main": settings },
                },
                "spec": {
                    "runtimeClassName": "wasm",
                    "nodeSelector": { STAGE: stage },
                    "containers": [{
                        "name": "main", "image": image, "ports": [{ "name": "http", "containerPort": 8080 }],
                    }],
                },
            },
        },
    })
}

fn is_possible() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        say("skipped: network namespaces are root's to make");
    }
    is_root
}

/// Rolling updates from 0.2 to 0.3 and back, the latter with an agent that dies again and again, and scaling from five to one,
/// with another such death, lose no request.
#[tokio::test]
async fn updates_and_scaling_lose_no_request() {
    if !is_possible() {
        return;
    }
    with_temp_ns(async |client, ns| {
        let mut stage = Stage::set(&client, ns, &["rolling-node"], "").await;
        let load = stage.load().await;

        stage.update("second", 1).await;
        stage.pods.all_gone("version=first").await;
        load.goes_on().await;
        load.lost_nothing("a rolling update");

        stage.update("third", 0).await;
        for count in 1..=3 {
            stage.begins("third", count).await;
            stage.agent_dies(0, &load).await;
        }
        stage.pods.all_gone("version=second").await;
        load.goes_on().await;
        load.lost_nothing("a rolling update without an agent");

        stage.patch(json!({ "spec": { "replicas": 5 } })).await;
        stage.has_servers(5).await;
        stage.patch(json!({ "spec": { "replicas": 1 } })).await;
        stage.end_begins(4).await;
        stage.agent_dies(0, &load).await;
        stage.has_servers(1).await;
        load.goes_on().await;
        let counted = load.end().await;
        counted.lost_nothing("scaling from five to one");
        say(&format!(
            "{} requests were answered, {} of them asked again",
            counted.answered(),
            counted.repeated()
        ));
        stage.clear().await;
    })
    .await;
}

/// Two nodes are drained in turn, as far as a PodDisruptionBudget lets them; the agent of each dies while its first server ends.
#[tokio::test]
async fn a_drain_loses_no_request() {
    if !is_possible() {
        return;
    }
    with_temp_ns(async |client, ns| {
        let mut stage = Stage::set(&client, ns, &["drained-node", "other-drained-node"], "").await;
        let budgets = Api::<PodDisruptionBudget>::namespaced(client.clone(), ns);
        let budget = json!({
            "metadata": { "name": "web" },
            "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "app": "web" } } },
        });
        let budget = serde_json::from_value(budget).unwrap();
        budgets.create(&PostParams::default(), &budget).await.unwrap();
        let load = stage.load().await;
        let cluster = &suite().await.cluster;
        for node in 0..stage.nodes.len() {
            let name = stage.nodes[node].name().to_owned();
            let arguments = ["drain", &name, "--timeout=90s"];
            let drain = cluster.kubectl(&arguments);
            let dies = async {
                stage.end_begins(1).await;
                stage.agent_dies(node, &load).await;
            };
            let (drained, ()) = tokio::join!(drain, dies);
            drained.unwrap();
            let left = stage.servers().await;
            let is_here = |pod: &&Pod| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(&name);
            assert_eq!(left.iter().filter(is_here).map(|pod| pod.name_any()).collect::<Vec<_>>(), [""; 0]);
            stage.has_servers(3).await;
            load.goes_on().await;
            load.lost_nothing(&format!("the drain of {name}"));
            let uncordoned = Patch::Merge(json!({ "spec": { "unschedulable": null } }));
            let nodes = Api::<NodeObject>::all(client.clone());
            nodes.patch(&name, &PatchParams::default(), &uncordoned).await.unwrap();
        }
        load.end().await.lost_nothing("two drains");
        stage.clear().await;
    })
    .await;
}

/// What the other tests do not find is found where it is: servers that close at once, before others know that they end, are asked
/// in vain.
#[tokio::test]
async fn without_draining_requests_fail() {
    if !is_possible() {
        return;
    }
    with_temp_ns(async |client, ns| {
        let stage = Stage::set(&client, ns, &["undrained-node"], "drain=0s").await;
        let load = stage.load().await;
        load.lost_nothing("quiet");
        for attempt in 1.. {
            let pod = stage.servers().await.pop().unwrap().name_any();
            stage.pods.api().delete(&pod, &DeleteParams::default()).await.unwrap();
            stage.pods.gone(&pod).await;
            stage.has_servers(3).await;
            if load.failed() > 0 {
                break;
            }
            assert!(attempt < 20, "servers that do not drain lose no request");
        }
        load.end().await;
        stage.clear().await;
    })
    .await;
}
