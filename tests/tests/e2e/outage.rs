//! The API server goes away and comes back.

use std::{fs, ops::Range, path::PathBuf, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt as _, api::DeleteParams};
use kubewasm_tests::{
    cluster::Cluster,
    guests,
    home::Home,
    node::{Node, Options},
    registry::{Registry, image::Content},
    wait,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    churn::assert_ran_once,
    endings::finalizers,
    history::History,
    pods::{Pods, container, is, restarts, running, terminated},
    suite::{SOON, await_ready},
};

/// How long the API server is away: longer than a lease lasts, and than every time limit of a request.
const OUTAGE: Duration = Duration::from_secs(60);

/// Pods of each kind below.
const EACH: Range<usize> = 0..3;

/// For a minute there is no API server, in the middle of starts, ends, restarts and deletions. The node goes on by
/// what it knows, and dies once, too. What has happened meanwhile is told afterwards: nothing has run twice, no
/// restart is forgotten, what was deleted before goes, and what others have deleted and made meanwhile, through an
/// API server that the node does not see, is stopped and started.
#[tokio::test]
async fn the_api_server_is_away_for_a_minute_under_churn() {
    let mut world = World::start().await;
    let second = Pods::new(&world.cluster.start_second_apiserver().await.unwrap(), "default");
    let history = History::of(world.pods.api());
    let tick = world.spec("Always", &["tick", "200"]);
    let mut slow_to_end = tick.clone();
    slow_to_end["containers"][0]["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": 5 } } });
    let before = [
        ("stays", tick.clone()),
        ("forced", tick.clone()),
        ("replaced", tick.clone()),
        ("deleted", tick),
        ("leaving", slow_to_end.clone()),
        ("kept", slow_to_end),
        ("crashes", world.spec("OnFailure", &["exit", "1"])),
        ("finished", world.spec("Never", &["say", "once"])),
    ];
    for (kind, spec) in before {
        world.create_each(kind, &spec).await;
    }
    for number in EACH {
        for kind in ["stays", "forced", "replaced", "deleted", "leaving", "kept"] {
            world.pods.until(&format!("{kind}-{number}"), "running", running).await;
        }
        world.pods.until(&format!("crashes-{number}"), "a restart", |pod| restarts(pod) >= 1).await;
        world.pods.phase(&format!("finished-{number}"), "Succeeded").await;
        finalizers(&world.pods, &format!("kept-{number}"), json!(["example.dev/keep"])).await;
    }
    world.create_each("ends", &world.spec("Never", &["sleep", "20", "say", "once"])).await;
    for number in EACH {
        world.pods.until(&format!("ends-{number}"), "running", running).await;
    }
    let mut known = Vec::new();
    for number in EACH {
        for kind in ["stays", "forced", "replaced", "crashes"] {
            known.push(world.pods.api().get(&format!("{kind}-{number}")).await.unwrap());
        }
    }
    let known = |name: String| known.iter().find(|pod| pod.name_any() == name).unwrap();

    // Whatever comes of these, they are on their way.
    let once = world.spec("Never", &["sleep", "1", "say", "once"]);
    world.create_each("starts", &once).await;
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
        second.create(&format!("replaced-{number}"), once.clone()).await;
    }
    for number in EACH {
        world.until_more_attempts(known(format!("crashes-{number}"))).await;
    }
    world.node.kill().unwrap();
    world.node.start_again().await.unwrap();
    for number in EACH {
        world.until_more_attempts(known(format!("crashes-{number}"))).await;
    }
    tokio::time::sleep_until(over).await;

    let attempts: Vec<i32> = EACH.map(|number| world.attempts(known(format!("crashes-{number}")))).collect();
    let back = Timestamp::now();
    world.cluster.start_apiserver().await.unwrap();
    for number in EACH {
        let name = |kind: &str| format!("{kind}-{number}");
        let pods = &world.pods;
        let ends = pods.phase(&name("ends"), "Succeeded").await;
        let kept = pods.until(&name("kept"), "the node to let go", is_let_go).await;
        for pod in [&ends, &kept] {
            let end = terminated(pod).unwrap().finished_at.as_ref().unwrap().0;
            assert!(end < back, "{} ended at {end} only", pod.name_any());
        }
        finalizers(pods, &name("kept"), json!([])).await;
        for kind in ["kept", "leaving", "deleted"] {
            pods.gone(&name(kind)).await;
        }
        for kind in ["ends", "starts", "finished", "replaced"] {
            assert_ran_once(&world.node.pod_logs(), &pods.phase(&name(kind), "Succeeded").await);
        }
        for kind in ["forced", "replaced"] {
            world.until_nothing_is_left_of(known(name(kind))).await;
        }
        let stays = pods.until(&name("stays"), "Ready", |pod| is(pod, "Ready")).await;
        assert_eq!(restarts(&stays), 0);
        let id = |pod: &Pod| container(pod).unwrap().container_id.clone();
        assert_eq!(id(&stays), id(known(name("stays"))));
        let more = attempts[number];
        pods.until(&name("crashes"), "the restarts meanwhile", |pod| restarts(pod) >= more).await;
    }
    history.check();
}

/// A cluster of its own, for its API server to be stopped.
struct World {
    image: String,
    pods: Pods,
    node: Node,
    cluster: Cluster,
    _registry: Registry,
    _home: Home,
}

impl World {
    async fn start() -> Self {
        let home = Home::temporary().unwrap();
        let cluster = Cluster::start(&home).await.unwrap();
        let mut registry = Registry::open(&home, "registry").unwrap();
        registry.start().await.unwrap();
        let module = guests::guest("actor.c").await.unwrap();
        let image = registry.push("actor:v1", &Content::program("actor", module)).await.unwrap().tagged;
        let options =
            Options::default().config("crashLoopBackOff", json!({ "maxContainerRestartPeriod": "1s" }));
        let node = Node::start(&home, &cluster, "cut-off-node", &options).await.unwrap();
        let client = cluster.client().await.unwrap();
        await_ready(&client, node.name()).await.unwrap();
        let pods = Pods::new(&client, "default");
        Self { image, pods, node, cluster, _registry: registry, _home: home }
    }

    /// A pod of one container. It is bound by hand: a scheduler would be cut off, too.
    fn spec(&self, policy: &str, args: &[&str]) -> Value {
        json!({
            "nodeName": self.node.name(),
            "nodeSelector": null,
            "restartPolicy": policy,
            "runtimeClassName": null,
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "main", "image": self.image, "args": args }],
        })
    }

    async fn create_each(&self, kind: &str, spec: &Value) {
        let create =
            |number| async move { self.pods.create(&format!("{kind}-{number}"), spec.clone()).await };
        join_all(EACH.map(create)).await;
    }

    fn logs(&self, pod: &Pod) -> PathBuf {
        let (namespace, name, uid) = (pod.namespace().unwrap(), pod.name_any(), pod.uid().unwrap());
        self.node.pod_logs().join(format!("{namespace}_{name}_{uid}"))
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
