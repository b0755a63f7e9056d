//! The node's memory runs short: who has to go, and what is told of it.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod};
use kube::{Api, Client, api::ListParams};
use kubewasm_tests::{node::Options, process, progress::say, wait};
use serde_json::{Value, json};

use crate::{
    pods::{Pods, restarts, running},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// Waits until the node's condition `MemoryPressure` or `DiskPressure` has this status.
pub(crate) async fn await_pressure(client: &Client, node: &str, of: &str, status: &str) {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let (reason, message) = match (of, status) {
        ("Memory", "True") => ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("Memory", _) => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        (_, "True") => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        _ => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    };
    let has = |node: &NodeObject| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|c| {
            c.type_ == format!("{of}Pressure")
                && c.status == status
                && c.reason.as_deref() == Some(reason)
                && c.message.as_deref() == Some(message)
        })
    };
    let what = format!("{of}Pressure {status}");
    wait::object(nodes, node, &what, SOON, |node| node.is_some_and(has)).await.unwrap();
}

/// Waits for an Event about a Node.
pub(crate) async fn await_node_event(client: &Client, node: &str, reason: &str, message: &str) {
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let about = ListParams::default().fields(&format!("involvedObject.name={node},reason={reason}"));
    wait::until(&format!("the event {reason}"), SOON, async || {
        let seen = events.list(&about).await.map_err(|error| error.to_string())?.items;
        let messages: Vec<_> = seen.into_iter().filter_map(|event| event.message).collect();
        if messages.iter().any(|told| told.contains(message)) { Ok(()) } else { Err(format!("{messages:?}")) }
    })
    .await
    .unwrap();
}

/// Checks that a pod was evicted, and returns what it was told.
pub(crate) fn evicted(pod: &Pod) -> &str {
    let status = pod.status.as_ref().unwrap();
    assert_eq!(status.reason.as_deref(), Some("Evicted"), "{status:?}");
    status.message.as_deref().unwrap()
}

/// Checks that a pod says that it has ended for the node's sake.
pub(crate) fn is_target(pod: &Pod, told: &str) {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let target = conditions.into_iter().find(|condition| condition.type_ == "DisruptionTarget").unwrap();
    let found = (target.status.as_str(), target.reason.as_deref(), target.message.as_deref());
    assert_eq!(found, ("True", Some("TerminationByKubelet"), Some(told)));
}

const MEBIBYTE: u64 = 1 << 20;

/// The memory of a machine on which there is nothing but the node's guests: so much as its threshold is, and some room.
/// What the node's workers have is taken from that. How much the machine has that the tests run on decides nothing.
struct Machine {
    file: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Machine {
    const TOTAL: u64 = 4096 * MEBIBYTE;
    const THRESHOLD: u64 = 1024 * MEBIBYTE;
    const ROOM: u64 = 128 * MEBIBYTE;

    async fn new(node: &str) -> Self {
        let file = suite().await.home.folder(node).unwrap().join("meminfo");
        fs::write(&file, Self::meminfo(0)).unwrap();
        Self { file, stop: Arc::default(), thread: None }
    }

    fn meminfo(of_workers: u64) -> String {
        let anonymous = Self::TOTAL - Self::THRESHOLD - Self::ROOM + of_workers;
        format!(
            "MemTotal: {:>12} kB\nInactive(file): {:>12} kB\nAnonPages: {:>12} kB\n",
            Self::TOTAL / 1024,
            0,
            anonymous / 1024
        )
    }

    /// Follows the workers of a node with this root directory.
    fn follow(&mut self, root: PathBuf) {
        let (stop, file) =
            (Arc::clone(&self.stop), fs::File::options().write(true).open(&self.file).unwrap());
        self.thread = Some(thread::spawn(move || {
            let mut told = 0;
            while !stop.load(Ordering::Relaxed) {
                let used = process::all_under(&root.join("workers")).unwrap_or_default();
                let used: u64 = used.into_iter().map(|pid| anonymous(pid.as_raw_nonzero().get())).sum();
                if used.abs_diff(told) > MEBIBYTE {
                    file.write_all_at(Self::meminfo(used).as_bytes(), 0).unwrap();
                    told = used;
                }
                thread::sleep(Duration::from_millis(50));
            }
        }));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Bytes of a process that no file is behind.
fn anonymous(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The guest that has the most beyond what it has asked for loses its place when memory runs short, by its own account: it
/// shares its process with the others, who live on. The node tells of it while it lasts, and takes nobody who asks for
/// nothing.
#[tokio::test]
async fn the_guest_that_is_furthest_beyond_its_request_goes_when_memory_runs_short() {
    let unshared = Command::new("unshare").args(["--mount", "true"]).status();
    if !unshared.is_ok_and(|status| status.success()) {
        say("skipped: a mount namespace cannot be made here; run the tests as root");
        return;
    }
    with_temp_ns(async |client, ns| {
        let name = "small-memory-node";
        let mut machine = Machine::new(name).await;
        let options = Options::default()
            .meminfo(machine.file.clone())
            .config("evictionHard", json!({ "memory.available": "1Gi" }))
            .config("evictionPressureTransitionPeriod", json!("10s"));
        let node = own_node(name, &options).await;
        machine.follow(node.root().to_owned());
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let bound = |args: &[&str], requests: Value| {
            json!({
                "nodeName": node.name(),
                "nodeSelector": { "kubernetes.io/hostname": node.name() },
                "containers": [
                    { "name": "main", "image": image, "args": args, "resources": { "requests": requests } },
                ],
            })
        };
        let nothing = json!({});
        pods.create("asked", bound(&["alloc", "40", "tick", "100"], json!({ "memory": "64Mi" }))).await;
        pods.create("small", bound(&["alloc", "1", "tick", "100"], nothing.clone())).await;
        for name in ["asked", "small"] {
            pods.until(name, "running", running).await;
        }
        pods.create("greedy", bound(&["alloc", "180", "sleep", "600"], nothing.clone())).await;
        await_pressure(&client, name, "Memory", "True").await;
        pods.create("late", bound(&["say", "hello"], nothing.clone())).await;
        pods.create("late-but-asks", bound(&["say", "hello"], json!({ "memory": "1Mi" }))).await;

        let pod = pods.phase("greedy", "Failed").await;
        let told = evicted(&pod);
        let beginning = "The node was low on resource: memory. Threshold quantity: 1Gi, available: ";
        assert!(told.starts_with(beginning), "{told}");
        let (_, end) = told.split_once(". Container main was using ").unwrap_or_else(|| panic!("{told}"));
        assert!(end.ends_with(", request is 0, has larger consumption of memory. "), "{told}");
        is_target(&pod, told);
        pods.event("greedy", "eviction", |event| {
            let annotations = event.metadata.annotations.clone().unwrap_or_default();
            event.reason.as_deref() == Some("Evicted")
                && event.message.as_deref() == Some(told)
                && annotations.get("starved_resource").is_some_and(|value| value == "memory")
                && annotations.get("offending_containers").is_some_and(|value| value == "main")
        })
        .await;
        await_node_event(&client, name, "EvictionThresholdMet", "Attempting to reclaim memory").await;
        let pod = pods.phase("late", "Failed").await;
        assert_eq!(evicted(&pod), "Pod was rejected: The node had condition: [MemoryPressure]. ");
        pods.phase("late-but-asks", "Succeeded").await;

        await_pressure(&client, name, "Memory", "False").await;
        pods.create("after", bound(&["say", "hello"], nothing)).await;
        pods.phase("after", "Succeeded").await;
        for name in ["asked", "small"] {
            let pod = pods.api().get(name).await.unwrap();
            assert!(
                running(&pod) && restarts(&pod) == 0,
                "{name} has nothing to do with it: {:?}",
                pod.status
            );
        }
        assert_eq!(node.workers().len(), 1, "they have all shared one process");
    })
    .await;
}

/// Pods have no more memory together than is not reserved: whoever is furthest beyond its request goes when they take more,
/// however much the machine has left.
#[tokio::test]
async fn the_greediest_goes_when_pods_take_more_than_there_is_for_them() {
    with_temp_ns(async |client, ns| {
        let total = fs::read_to_string("/proc/meminfo").unwrap();
        let total = total.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap().trim();
        let total = total.strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024;
        let reserved = total - 600 * MEBIBYTE;
        let name = "reserved-memory-node";
        let options = Options::default()
            .config("systemReserved", json!({ "memory": reserved.to_string() }))
            .config("evictionHard", json!({ "allocatableMemory.available": "500Mi" }))
            .config("evictionPressureTransitionPeriod", json!("10s"));
        let node = own_node(name, &options).await;
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let bound = |args: &[&str]| {
            json!({
                "nodeName": node.name(),
                "nodeSelector": { "kubernetes.io/hostname": node.name() },
                "containers": [{ "name": "main", "image": image, "args": args }],
            })
        };
        pods.create("small", bound(&["alloc", "1", "sleep", "600"])).await;
        pods.until("small", "running", running).await;
        pods.create("greedy", bound(&["alloc", "180", "sleep", "600"])).await;
        await_pressure(&client, name, "Memory", "True").await;
        let pod = pods.phase("greedy", "Failed").await;
        let told = evicted(&pod);
        let beginning = "The node was low on resource: memory. Threshold quantity: 500Mi, available: ";
        assert!(told.starts_with(beginning), "{told}");
        await_pressure(&client, name, "Memory", "False").await;
        let pod = pods.api().get("small").await.unwrap();
        assert!(running(&pod) && restarts(&pod) == 0, "{:?}", pod.status);
    })
    .await;
}
