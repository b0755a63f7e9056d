//! What all tests share: the cluster and its node, and a namespace for each test.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Namespace, Node as NodeObject};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use kubewasm_tests::{
    cluster::{self, Cluster},
    guests,
    home::Home,
    node::{Node, Options},
    progress::{Step, say},
    registry::{Pushed, Registry, image::Content},
    wait,
};
use serde_json::json;
use tokio::sync::OnceCell;

/// Time for what takes seconds on an idle machine. Long, because it is spent only when a test fails.
pub(crate) const SOON: Duration = Duration::from_secs(90);

/// Name of the node that tests share.
pub(crate) const NODE: &str = "shared-node";

/// The world of a test run.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) home: Home,
    pub(crate) cluster: Cluster,
    pub(crate) registry: Registry,
    /// The shared node. Tests may look at it, not stop it.
    pub(crate) node: Node,
    /// `tests/guests/actor.c` as a classic image.
    pub(crate) actor: Pushed,
}

static SUITE: OnceCell<Result<Suite, String>> = OnceCell::const_new();

/// The world, started when the first test asks for it. It ends with the process.
pub(crate) async fn suite() -> &'static Suite {
    let suite = SUITE.get_or_init(async || start().await.map_err(|error| format!("{error:#}"))).await;
    suite.as_ref().unwrap_or_else(|error| panic!("the test cluster did not start: {error}"))
}

async fn start() -> anyhow::Result<Suite> {
    say("");
    let home = Home::temporary()?;
    let started = start_in(&home).await;
    if started.is_err() {
        say(&format!("The logs of this run stay in {}.", home.keep_logs()?.display()));
    }
    let (cluster, registry, actor, node) = started?;
    Ok(Suite { home, cluster, registry, node, actor })
}

async fn start_in(home: &Home) -> anyhow::Result<(Cluster, Registry, Pushed, Node)> {
    let cluster = Cluster::start(home).await?;
    let classes = guests::repository().join("manifests/cluster/runtimeclass.yaml");
    cluster.kubectl(&["apply", "-f", &classes.to_string_lossy()]).await?;
    let (registry, actor) = start_registry(home).await?;
    let node = start_node(home, &cluster, NODE, &Options::default()).await?;
    Ok((cluster, registry, actor, node))
}

/// Starts a registry that has [`Suite::actor`].
pub(crate) async fn start_registry(home: &Home) -> anyhow::Result<(Registry, Pushed)> {
    let mut registry = Registry::open(home, "registry")?;
    registry.start().await?;
    let actor = Content::program("actor", guests::guest("actor.c").await?);
    let actor = registry.push("actor:v1", &actor).await?;
    Ok((registry, actor))
}

/// Starts a node of the test's own and waits until it is Ready.
pub(crate) async fn own_node(name: &str, options: &Options) -> Node {
    let suite = suite().await;
    start_node(&suite.home, &suite.cluster, name, options).await.unwrap()
}

async fn start_node(home: &Home, cluster: &Cluster, name: &str, options: &Options) -> anyhow::Result<Node> {
    let step = Step::begin(&format!("starting the node {name}"));
    let node = Node::start(home, cluster, name, options).await?;
    await_ready(&cluster.client().await?, name).await?;
    step.done();
    Ok(node)
}

/// Waits until the Node object says Ready.
pub(crate) async fn await_ready(client: &Client, name: &str) -> anyhow::Result<NodeObject> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let node = wait::object(nodes, name, "Ready", SOON, |node| node.is_some_and(is_ready)).await?;
    Ok(node.unwrap_or_default())
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Runs a test in a namespace of its own, which is deleted afterwards. When the test fails, what the cluster
/// knows about the namespace's pods is shown, and the run's logs are kept.
pub(crate) async fn with_temp_ns(test: impl AsyncFnOnce(Client, &str)) {
    let suite = suite().await;
    let client = suite.cluster.client().await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({ "metadata": { "generateName": "e2e-" } })).unwrap();
    let namespace = namespaces.create(&PostParams::default(), &namespace).await.unwrap().name_any();
    cluster::await_default_service_account(&client, &namespace).await.unwrap();

    let outcome = AssertUnwindSafe(test(client, &namespace)).catch_unwind().await;
    if outcome.is_err() {
        report(suite, &namespace).await;
    }
    // Not awaited: its pods must be able to end while the next test runs.
    let _ = namespaces.delete(&namespace, &DeleteParams::default()).await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

async fn report(suite: &Suite, namespace: &str) {
    let describe = suite.cluster.kubectl(&["describe", "pods", "--namespace", namespace]).await;
    say(&describe.unwrap_or_else(|error| format!("{error:#}")));
    match suite.home.keep_logs() {
        Ok(logs) => say(&format!("The logs of this run stay in {}.", logs.display())),
        Err(error) => say(&format!("{error:#}")),
    }
}
