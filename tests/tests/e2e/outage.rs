//! The API server goes away and comes back.

use std::{fs, ops::Range, path::PathBuf, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::DeleteParams};
use kubewasm_tests::{
    cluster::Cluster,
    home::Home,
    node::{Node, Options},
    registry::Registry,
    wait,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    churn::assert_ran_once,
    endings::finalizers,
    history::History,
    pods::{Pods, container, is, restarts, running, terminated},
    suite::{SOON, await_ready, start_registry},
};

/// How long the API server is away: longer than a lease lasts, and than every time limit of a request.
const OUTAGE: Duration = Duration::from_secs(60);

/// Pods of each kind below, by turns on the one node and on the other.
const EACH: Range<usize> = 0..4;

/// For a minute there is no API server, in the middle of starts, ends, restarts and deletions. Nodes go on by what
/// they know, and an agent that is killed meanwhile, and knows of no pod when it is back, stops nothing. What has
/// happened is told afterwards: nothing has run twice, no restart is forgotten, what was deleted before goes; and
/// what others have deleted and made meanwhile, through an API server that the nodes do not see, is stopped and
/// started.
#[tokio::test]
async fn the_api_server_is_away_for_a_minute_under_churn() {
    let mut world = World::start().await;
    let second = Pods::new(&world.cluster.start_second_apiserver().await.unwrap(), "default");
    let history = History::of(world.pods.api());
    let tick = world.spec("Always", &["tick", "200"]);
    let once = world.spec("Never", &["sleep", "1", "say", "once"]);
    let mut slow_to_end = tick.clone();
    slow_to_end["containers"][0]["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": 5 } } });
    let before = [
        ("stays", &tick),
        ("forced", &tick),
        ("replaced", &tick),
        ("deleted", &tick),
        ("leaving", &slow_to_end),
        ("kept", &slow_to_end),
        ("crashes", &world.spec("OnFailure", &["exit", "1"])),
        ("finished", &once),
    ];
    for (kind, spec) in before {
        world.create_each(&world.pods, kind, spec).await;
    }
    for number in EACH {
        let name = |kind: &str| format!("{kind}-{number}");
        for kind in ["stays", "forced", "replaced", "deleted", "leaving", "kept"] {
            world.pods.until(&name(kind), "running", running).await;
        }
        world.pods.until(&name("crashes"), "a restart", |pod| restarts(pod) >= 1).await;
        world.pods.phase(&name("finished"), "Succeeded").await;
        finalizers(&world.pods, &name("kept"), json!(["example.dev/keep"])).await;
    }
    world.create_each(&world.pods, "ends", &world.spec("Never", &["sleep", "20", "say", "once"])).await;
    let (mut stays, mut gone, mut crashes) = (Vec::new(), Vec::new(), Vec::new());
    for number in EACH {
        world.pods.until(&format!("ends-{number}"), "running", running).await;
        let now = async |kind: &str| world.pods.api().get(&format!("{kind}-{number}")).await.unwrap();
        stays.push(now("stays").await);
        crashes.push(now("crashes").await);
        gone.extend([now("forced").await, now("replaced").await]);
    }

    // Whatever comes of these, they are on their way.
    world.create_each(&world.pods, "starts", &once).await;
    for number in EACH {
        for kind in ["leaving", "kept"] {
            delete(&world.pods, &format!("{kind}-{number}"), None).await;
        }
    }
    world.cluster.stop_apiserver().await.unwrap();
    let over = Instant::now() + OUTAGE;
    for number in EACH {
        delete(&second, &format!("forced-{number}"), Some(0)).await;
        delete(&second, &format!("replaced-{number}"), Some(0)).await;
        delete(&second, &format!("deleted-{number}"), None).await;
    }
    world.create_each(&second, "replaced", &once).await;
    for pod in &crashes {
        world.until_more_attempts(pod).await;
    }
    world.nodes[1].kill().unwrap();
    world.nodes[1].start_again().await.unwrap();
    let lines: Vec<usize> = stays.iter().map(|pod| world.lines(pod)).collect();
    // The node that has lived through goes on to restart what crashes.
    world.until_more_attempts(&crashes[0]).await;
    tokio::time::sleep_until(over).await;

    for (pod, before) in stays.iter().zip(lines) {
        assert!(world.lines(pod) > before, "{} has stopped", pod.name_any());
    }
    let attempts: Vec<i32> = crashes.iter().map(|pod| world.attempts(pod)).collect();
    let back = Timestamp::now();
    world.cluster.start_apiserver().await.unwrap();
    for number in EACH {
        let name = |kind: &str| format!("{kind}-{number}");
        let pods = &world.pods;
        let ends = pods.phase(&name("ends"), "Succeeded").await;
        let kept = pods.until(&name("kept"), "the node to let go", is_let_go).await;
        let ended = |pod: &Pod| terminated(pod).unwrap().finished_at.as_ref().unwrap().0;
        assert!(ended(&ends) < back, "{:?}", ends.status);
        // The agent that was killed has forgotten that it was to stop something, until it is told again.
        assert!(ended(&kept) < back || number % 2 == 1, "{:?}", kept.status);
        finalizers(pods, &name("kept"), json!([])).await;
        for kind in ["kept", "leaving", "deleted"] {
            pods.gone(&name(kind)).await;
        }
        for kind in ["ends", "starts", "finished", "replaced"] {
            assert_ran_once(&world.node(number).pod_logs(), &pods.phase(&name(kind), "Succeeded").await);
        }
        let pod = pods.until(&name("stays"), "Ready", |pod| is(pod, "Ready")).await;
        let id = |pod: &Pod| container(pod).unwrap().container_id.clone();
        assert_eq!((restarts(&pod), id(&pod)), (0, id(&stays[number])));
        let meanwhile = |pod: &Pod| restarts(pod) >= attempts[number];
        pods.until(&name("crashes"), "the restarts meanwhile", meanwhile).await;
    }
    for pod in &gone {
        world.until_nothing_is_left_of(pod).await;
    }
    history.check();
}

/// A cluster of its own, for its API server to be stopped, and two nodes.
struct World {
    image: String,
    pods: Pods,
    nodes: [Node; 2],
    cluster: Cluster,
    _registry: Registry,
    _home: Home,
}

impl World {
    async fn start() -> Self {
        let home = Home::temporary().unwrap();
        let cluster = Cluster::start(&home).await.unwrap();
        let (registry, actor) = start_registry(&home).await.unwrap();
        let options =
            Options::default().config("crashLoopBackOff", json!({ "maxContainerRestartPeriod": "1s" }));
        let client = cluster.client().await.unwrap();
        let start = async |name| {
            let node = Node::start(&home, &cluster, name, &options).await.unwrap();
            await_ready(&client, name).await.unwrap();
            node
        };
        let nodes = [start("cut-off-node").await, start("cut-off-and-killed-node").await];
        let pods = Pods::new(&client, "default");
        Self { image: actor.tagged, pods, nodes, cluster, _registry: registry, _home: home }
    }

    /// The node that the pods of that number are on.
    fn node(&self, number: usize) -> &Node {
        &self.nodes[number % 2]
    }

    /// A pod of one container.
    fn spec(&self, policy: &str, args: &[&str]) -> Value {
        json!({
            "nodeSelector": null,
            "restartPolicy": policy,
            "runtimeClassName": null,
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "main", "image": self.image, "args": args }],
        })
    }

    /// Creates pods of one kind. They are bound by hand: a scheduler would be cut off, too.
    async fn create_each(&self, pods: &Pods, kind: &str, spec: &Value) {
        let create = async |number| {
            let mut spec = spec.clone();
            spec["nodeName"] = json!(self.node(number).name());
            pods.create(&format!("{kind}-{number}"), spec).await;
        };
        join_all(EACH.map(create)).await;
    }

    fn logs(&self, pod: &Pod) -> PathBuf {
        let on = pod.spec.as_ref().unwrap().node_name.as_deref().unwrap();
        let node = self.nodes.iter().find(|node| node.name() == on).unwrap();
        let (namespace, name, uid) = (pod.namespace().unwrap(), pod.name_any(), pod.uid().unwrap());
        node.pod_logs().join(format!("{namespace}_{name}_{uid}"))
    }

    /// What its guest has printed so far, in lines.
    fn lines(&self, pod: &Pod) -> usize {
        fs::read_to_string(self.logs(pod).join("main/0.log")).unwrap().lines().count()
    }

    /// The number of the newest attempt of its container, read from the names of its logs.
    fn attempts(&self, pod: &Pod) -> i32 {
        let entries = fs::read_dir(self.logs(pod).join("main")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.strip_suffix(".log")?.parse().ok()).max().unwrap()
    }

    async fn until_more_attempts(&self, pod: &Pod) {
        let enough = self.attempts(pod) + 2;
        wait::until("restarts without an API server", SOON, async || match self.attempts(pod) {
            number if number >= enough => Ok(()),
            number => Err(format!("the newest attempt is {number} of {enough}")),
        })
        .await
        .unwrap();
    }

    async fn until_nothing_is_left_of(&self, pod: &Pod) {
        let folder = self.logs(pod);
        wait::until("the end of a pod that is gone", SOON, async || match folder.exists() {
            true => Err(format!("there is still {}", folder.display())),
            false => Ok(()),
        })
        .await
        .unwrap();
    }
}

async fn delete(pods: &Pods, name: &str, grace: Option<u32>) {
    let how = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
    pods.api().delete(name, &how).await.unwrap();
}

/// The final DELETE leaves no grace.
fn is_let_go(pod: &Pod) -> bool {
    pod.metadata.deletion_grace_period_seconds == Some(0)
}
