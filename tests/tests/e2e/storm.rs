//! Agents and workers that are killed again and again while pods come and go.
//!
//! A few seconds of it are part of every test run; `make soak` makes a long storm of it. What is asked at the end
//! is that every pod is what its spec and the exits of its guest make it, counted against what the guests
//! themselves have written. Where pods have addresses of their own, each keeps those that it got, and nobody has another's.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::IpAddr,
    path::Path,
};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use kubewasm_tests::{
    node::{Node, Options},
    progress::say,
    wait,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    addresses,
    pods::{Pods, container, phase, restarts, running, terminated},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// How long to wait for the end of a storm: workers that were killed often are started a minute later.
const CALM: std::time::Duration = std::time::Duration::from_secs(240);

/// What a pod's guest does, and what its policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    /// Ends well after a moment, and is never restarted.
    Once,
    /// Ends with 5 after a moment, and is never restarted.
    Fails,
    /// Ends well after a moment, and is restarted until it has.
    Job,
    /// Never ends, and is always restarted.
    Serves,
    /// As `Serves`, in a worker of its own.
    Alone,
}

const KINDS: [Kind; 5] = [Kind::Once, Kind::Fails, Kind::Job, Kind::Serves, Kind::Alone];

/// However often agents and workers are killed, no pod is forgotten, none runs again that has ended by its
/// policy, none stays down that has not, and nothing is left of those that were deleted.
#[tokio::test]
async fn pods_survive_a_storm() {
    let (pods, kills) = (number("KUBEWASM_STORM_PODS", 20), number("KUBEWASM_STORM_KILLS", 4));
    let seed = env::var("KUBEWASM_STORM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| rand::rng().random());
    say(&format!(
        "storm: {pods} pods, {kills} kills of the agent and of workers, KUBEWASM_STORM_SEED={seed}"
    ));
    let addressed = rustix::process::geteuid().is_root();
    if !addressed {
        say("storm: pods have the node's address, because network namespaces are root's to make");
    }
    with_temp_ns(async |client, a| {
        with_temp_ns(async |_, b| {
            let options = Options::default()
                .flag(if addressed { "--network=pod" } else { "--network=host" })
                .flag("--max-pods=1000")
                .config("crashLoopBackOff", json!({ "maxContainerRestartPeriod": "1s" }));
            let node = own_node("storm-node", &options).await;
            let namespaces = [a, b].map(|ns| Pods::new(&client, ns));
            let storm = Storm {
                client,
                namespaces,
                image: suite().await.actor.tagged.clone(),
                node,
                addressed,
                addresses: BTreeMap::new(),
                made: 0,
                alive: BTreeMap::new(),
                random: StdRng::seed_from_u64(seed),
            };
            storm.run(pods, kills).await;
        })
        .await;
    })
    .await;
}

fn number(variable: &str, usual: usize) -> usize {
    env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

struct Storm {
    client: Client,
    namespaces: [Pods; 2],
    image: String,
    node: Node,
    /// Pods have addresses of their own.
    addressed: bool,
    /// Those that each pod was seen with.
    addresses: BTreeMap<String, BTreeSet<IpAddr>>,
    made: usize,
    /// Pods that were made and not deleted, by name: kind and namespace.
    alive: BTreeMap<String, (Kind, usize)>,
    random: StdRng,
}

impl Storm {
    async fn run(mut self, pods: usize, kills: usize) {
        self.make(pods).await;
        for round in 1..=kills {
            self.node.kill().unwrap();
            // Some pods come and go while the agent is away, and others when it is back.
            self.replace(pods / 20 + 1).await;
            // By turns a worker dies before its agent's eyes, and behind its back.
            let unseen = round % 2 == 0 && self.kill_a_worker();
            self.node.start_again().await.unwrap();
            self.replace(pods / 20 + 1).await;
            if !unseen {
                wait::until("a worker to kill", CALM, async || match self.kill_a_worker() {
                    true => Ok(()),
                    false => Err("there is none".to_owned()),
                })
                .await
                .unwrap();
            }
            self.look_at_addresses().await;
            if round.is_multiple_of(10) {
                say(&format!("storm: {round} kills of the agent, and as many of workers"));
            }
        }
        self.judge().await;
        self.look_at_addresses().await;
        self.clear().await;
    }

    /// Kills the worker of some group; false when there is none right now.
    fn kill_a_worker(&mut self) -> bool {
        let workers: Vec<_> = self.node.workers().into_values().collect();
        if workers.is_empty() {
            return false;
        }
        let victim = workers[self.random.random_range(0..workers.len())];
        kill_process(victim, Signal::KILL).is_ok()
    }

    async fn make(&mut self, count: usize) {
        let new: Vec<_> = (self.made..self.made + count)
            .map(|number| {
                let kind = KINDS[number % KINDS.len()];
                let name = format!("{}-{number}", format!("{kind:?}").to_lowercase());
                (name, kind, self.random.random_range(0..self.namespaces.len()))
            })
            .collect();
        self.made += count;
        let (node, image) = (self.node.name(), &self.image);
        join_all(new.iter().map(async |(name, kind, namespace)| {
            self.namespaces[*namespace].create(name, spec(*kind, node, image)).await;
        }))
        .await;
        self.alive.extend(new.into_iter().map(|(name, kind, namespace)| (name, (kind, namespace))));
    }

    /// Deletes some pods, and makes as many others.
    async fn replace(&mut self, count: usize) {
        for _ in 0..count {
            let names: Vec<_> = self.alive.keys().cloned().collect();
            let name = &names[self.random.random_range(0..names.len())];
            let (_, namespace) = self.alive.remove(name).unwrap();
            self.namespaces[namespace].api().delete(name, &DeleteParams::default()).await.unwrap();
        }
        self.make(count).await;
    }

    /// Every pod has the addresses that it had before, and no two that are not over have the same.
    async fn look_at_addresses(&mut self) {
        if !self.addressed {
            return;
        }
        let mut holders = BTreeMap::new();
        for (name, pod) in self.all().await.unwrap() {
            let own = addresses::all_of(&pod);
            if own.is_empty() {
                continue;
            }
            let before = self.addresses.entry(name.clone()).or_insert_with(|| own.clone());
            assert_eq!(own, *before, "{name} has got other addresses");
            // As with any kubelet, those of a pod that ends are free before the API server has heard of its end.
            let ends = pod.metadata.deletion_timestamp.is_some();
            if !ends && !["Succeeded", "Failed"].contains(&phase(&pod)) {
                for address in own {
                    let other = holders.insert(address, name.clone());
                    assert_eq!(other, None, "{name} has {address} as well");
                }
            }
        }
    }

    /// Waits until every pod is what it should be in the end.
    async fn judge(&self) {
        wait::until("every pod to be as it should", CALM, async || {
            let all = self.all().await?;
            if all.len() != self.alive.len() {
                return Err(format!("{} pods instead of {}", all.len(), self.alive.len()));
            }
            let wrong: Vec<_> = self
                .alive
                .iter()
                .filter_map(|(name, (kind, _))| {
                    let pod = all.get(name);
                    let obstacle = match pod {
                        Some(pod) => settled(*kind, pod, &self.node.pod_logs()).err()?,
                        None => "it is gone".to_owned(),
                    };
                    Some(format!("{name}: {obstacle}"))
                })
                .collect();
            if wrong.is_empty() {
                Ok(())
            } else {
                Err(format!("{} of them are not: {wrong:#?}", wrong.len()))
            }
        })
        .await
        .unwrap();
    }

    async fn all(&self) -> Result<BTreeMap<String, Pod>, String> {
        let mut all = BTreeMap::new();
        for pods in &self.namespaces {
            let list = pods.api().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            all.extend(list.items.into_iter().map(|pod| (pod.name_any(), pod)));
        }
        Ok(all)
    }

    /// Deletes everything; nothing may be left of it on the node.
    async fn clear(self) {
        let now = DeleteParams { grace_period_seconds: Some(1), ..DeleteParams::default() };
        for pods in &self.namespaces {
            pods.api().delete_collection(&now, &ListParams::default()).await.unwrap();
        }
        wait::until("the end of every pod", CALM, async || match self.all().await?.len() {
            0 => Ok(()),
            left => Err(format!("{left} pods are left")),
        })
        .await
        .unwrap();
        wait::until("the end of what pods have on disk", SOON, async || {
            let left = |folder: &str| -> Vec<_> {
                let entries = fs::read_dir(self.node.root().join(folder)).into_iter().flatten().flatten();
                entries.map(|entry| entry.file_name()).collect()
            };
            let left = [left("pods"), left("pod-logs")].concat();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await
        .unwrap();
        wait::until("the end of every worker", SOON, async || match self.node.workers() {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        })
        .await
        .unwrap();
        if self.addressed {
            assert!(!self.addresses.is_empty(), "pods have been seen with addresses");
            let range = addresses::range_of(&self.client, &self.node).await;
            wait::until("the end of every route to a pod", SOON, async || {
                match addresses::routes_in(&range).await {
                    left if left.is_empty() => Ok(()),
                    left => Err(format!("{left:?}")),
                }
            })
            .await
            .unwrap();
            addresses::end(&self.client, &self.namespaces[0], self.node, &[]).await;
            return;
        }
        let name = self.node.name().to_owned();
        drop(self.node);
        Api::<NodeObject>::all(self.client).delete(&name, &DeleteParams::default()).await.unwrap();
    }
}

fn spec(kind: Kind, node: &str, image: &str) -> Value {
    let (policy, args) = match kind {
        Kind::Once => ("Never", json!(["say", "began", "sleep", "1", "say", "ended"])),
        Kind::Fails => ("Never", json!(["say", "began", "sleep", "1", "say", "ended", "exit", "5"])),
        Kind::Job => ("OnFailure", json!(["say", "began", "sleep", "1", "say", "ended"])),
        Kind::Serves | Kind::Alone => ("Always", json!(["say", "began", "sleep", "36000"])),
    };
    json!({
        "restartPolicy": policy,
        "terminationGracePeriodSeconds": 1,
        "runtimeClassName": if kind == Kind::Alone { "wasm-isolated" } else { "wasm" },
        "nodeSelector": { "kubernetes.io/hostname": node },
        "containers": [{ "name": "main", "image": image, "args": args }],
    })
}

/// Whether a pod is what its spec and what its guest has written make it; what is missing, if not.
fn settled(kind: Kind, pod: &Pod, logs: &Path) -> Result<(), String> {
    let (namespace, name, uid) = (pod.namespace().unwrap(), pod.name_any(), pod.uid().unwrap());
    let folder = logs.join(format!("{namespace}_{name}_{uid}/main"));
    let attempts = fs::read_dir(&folder).into_iter().flatten().flatten();
    let attempts =
        attempts.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse::<i32>().ok());
    let newest = attempts.max();
    let log = newest.and_then(|number| fs::read_to_string(folder.join(format!("{number}.log"))).ok());
    let log = log.unwrap_or_default();
    let said = |word: &str| log.lines().filter(|line| line.ends_with(&format!(" F {word}"))).count();
    let written = (newest, said("began"), said("ended"));
    let code = terminated(pod).map(|end| end.exit_code);
    let reason = terminated(pod).and_then(|end| end.reason.clone()).unwrap_or_default();
    let state = (phase(pod), restarts(pod), code);
    let once = newest == Some(0) && restarts(pod) == 0;
    let fits = match (kind, phase(pod), code) {
        (Kind::Once, "Succeeded", Some(0)) => once && written == (Some(0), 1, 1),
        (Kind::Fails, "Failed", Some(5)) => once && written == (Some(0), 1, 1),
        // Its worker was killed. That may have been before its first word, and after its last.
        (Kind::Once | Kind::Fails, "Failed", Some(137)) => {
            once && reason == "ContainerStatusUnknown" && said("began") <= 1 && said("ended") <= said("began")
        }
        // Attempts are counted by their logs.
        (Kind::Job, "Succeeded", Some(0)) => written == (Some(restarts(pod)), 1, 1),
        (Kind::Serves | Kind::Alone, "Running", None) => {
            running(pod) && container(pod).is_some_and(|c| c.ready) && written == (Some(restarts(pod)), 1, 0)
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("{state:?} {reason}, its guest has written {written:?}")) }
}
