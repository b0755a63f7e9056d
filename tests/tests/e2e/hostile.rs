//! Pods that want it all, beside one that behaves.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, future::join_all, stream};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{DeleteParams, LogParams},
};
use kubewasm_tests::{node::Options, wait};
use serde_json::json;

use crate::{
    pods::{Pods, running, terminated},
    suite::{SOON, await_ready, own_node, suite, with_temp_ns},
};

/// Longest that the well-behaved pod may be held up; its line is due ten times a second.
const MOMENT: Duration = Duration::from_secs(3);

/// Checks that a pod that ticks went on doing so since `since`, and waits for more of it.
async fn goes_on(pods: &Pods, name: &str, since: Timestamp) {
    let params = LogParams { timestamps: true, ..LogParams::default() };
    let now = Timestamp::now();
    let times = wait::until("more lines of a pod that ticks", SOON, async || {
        let log = pods.api().logs(name, &params).await.map_err(|error| error.to_string())?;
        let times: Vec<Timestamp> =
            log.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
        let more = times.iter().filter(|at| **at > now).count();
        if more >= 5 { Ok(times) } else { Err(format!("{more} lines")) }
    });
    let mut last = since;
    for at in times.await.unwrap().into_iter().filter(|at| *at > since) {
        let gap = Duration::try_from(at.duration_since(last)).unwrap();
        assert!(gap < MOMENT, "{name} was held up for {gap:?}");
        last = at;
    }
}

/// A loop without end, memory without end and a trap without end: each ends as it should, and the pod beside
/// them goes on.
#[tokio::test]
async fn pods_that_want_it_all_hold_nobody_up() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        pods.act("behaves", &["tick", "100"]).await;
        pods.until("behaves", "running", running).await;
        let began = Timestamp::now();
        for number in 0..8 {
            pods.act(&format!("spins-{number}"), &["spin"]).await;
        }
        let limits = json!({ "memory": "24Mi" });
        let main = json!({ "name": "main", "image": image, "args": ["alloc", "100"], "resources": { "limits": limits } });
        pods.create("grows", json!({ "containers": [main] })).await;
        let main = json!({ "name": "main", "image": image, "args": ["trap"] });
        pods.create("traps", json!({ "restartPolicy": "Always", "containers": [main] })).await;

        let pod = pods.phase("grows", "Failed").await;
        let end = terminated(&pod).unwrap();
        assert_eq!((end.reason.as_deref(), end.exit_code), (Some("OOMKilled"), 137));
        pods.until("traps", "a restart", |pod| crate::pods::restarts(pod) >= 1).await;
        for number in 0..8 {
            pods.until(&format!("spins-{number}"), "running", running).await;
        }
        goes_on(&pods, "behaves", began).await;
    })
    .await;
}

/// What is in volumes of medium Memory counts with the memory of who fills them: a guest that has too much of both, or
/// fills one to its brim, ends, and the pod beside it goes on.
#[tokio::test]
async fn volumes_in_memory_count_with_the_pods_memory() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        pods.act("behaves", &["tick", "100"]).await;
        pods.until("behaves", "running", running).await;
        let began = Timestamp::now();
        let cases: [(&str, &[&str]); 3] = [
            ("both", &["flood", "/a/x", "16", "alloc", "12", "sleep", "600"]),
            ("brim", &["try", "flood", "/a/x", "100", "sleep", "600"]),
            ("two", &["try", "flood", "/a/x", "100", "try", "flood", "/b/x", "100", "sleep", "600"]),
        ];
        for (name, args) in cases {
            let mounts = ["a", "b"].map(|name| json!({ "name": name, "mountPath": format!("/{name}") }));
            // Where there are two, each has its share.
            let used = if name == "two" { 2 } else { 1 };
            let volumes = ["a", "b"].map(|name| json!({ "name": name, "emptyDir": { "medium": "Memory" } }));
            let main = json!({
                "name": "main", "image": image, "args": args, "volumeMounts": mounts[..used],
                "resources": { "limits": { "memory": "24Mi" } },
            });
            pods.create(name, json!({ "volumes": volumes[..used], "containers": [main] })).await;
        }
        for (name, _) in cases {
            let pod = pods.phase(name, "Failed").await;
            let end = terminated(&pod).unwrap();
            assert_eq!((end.reason.as_deref(), end.exit_code), (Some("OOMKilled"), 137), "{name}: {end:?}");
            let message = end.message.as_deref().unwrap_or_default();
            assert!(message.contains("in volumes of medium Memory"), "{name}: {message}");
        }
        goes_on(&pods, "behaves", began).await;
    })
    .await;
}

/// Directories in directories, 20,000 deep, on disk and in memory: the pod goes when it is deleted, with all of them,
/// and the node goes on.
#[tokio::test]
async fn directories_of_any_depth_go_with_their_pod() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("deep-node", &Options::default()).await;
        let args = ["deep", "/tmp", "20000", "deep", "/v", "20000", "say", "made", "sleep", "600"];
        let main = json!({
            "name": "main", "image": suite().await.actor.tagged, "args": args,
            "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
        });
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "volumes": [{ "name": "v", "emptyDir": { "sizeLimit": "1Gi" } }],
            "containers": [main],
        });
        pods.create("deep", spec).await;
        let pod = pods.until("deep", "running", running).await;
        // Forty thousand of them, one after the other, on a machine that does other things.
        wait::until("directories of any depth", 3 * SOON, async || {
            let log = pods.logs("deep").await;
            if log == "made\n" { Ok(()) } else { Err(log) }
        })
        .await
        .unwrap();
        let dir = node.root().join("pods").join(pod.metadata.uid.unwrap());
        assert!(dir.exists());
        pods.api().delete("deep", &DeleteParams::default()).await.unwrap();
        pods.gone("deep").await;
        wait::until("the end of the pod's folder", SOON, async || {
            if dir.exists() { Err(format!("{} is still there", dir.display())) } else { Ok(()) }
        })
        .await
        .unwrap();
        await_ready(&client, node.name()).await.unwrap();
    })
    .await;
}

/// A limit of the node's own is for containers without one.
#[tokio::test]
async fn the_nodes_default_is_the_limit_of_who_has_none() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("frugal-node", &Options::default().flag("--default-memory-limit=24Mi")).await;
        let main = json!({ "name": "main", "image": suite().await.actor.tagged, "args": ["alloc", "100"] });
        let on_it = json!({ "kubernetes.io/hostname": node.name() });
        pods.create("grows", json!({ "nodeSelector": on_it, "containers": [main] })).await;
        let pod = pods.phase("grows", "Failed").await;
        let end = terminated(&pod).unwrap();
        assert_eq!(end.reason.as_deref(), Some("OOMKilled"), "{end:?}");
        let message = end.message.as_deref().unwrap_or_default();
        assert!(message.contains("the limit is 25165824 bytes"), "{message}");
    })
    .await;
}

/// Pods that compute for ever, in one worker: a hundred, or as many as `KUBEWASM_TEST_SPINNERS` says. The
/// node stays Ready, its lease is renewed, logs answer, and all end inside their grace.
#[tokio::test]
async fn many_pods_that_compute_for_ever() {
    let count: usize = std::env::var("KUBEWASM_TEST_SPINNERS").map_or(100, |count| count.parse().unwrap());
    with_temp_ns(async |client, ns| {
        let pods = &Pods::new(&client, ns);
        let options = Options::default()
            .config("maxPods", json!(count + 10))
            .config("nodeLeaseDurationSeconds", json!(8));
        let node = own_node("computing-node", &options).await;
        let image = &suite().await.actor.tagged;
        let names: Vec<String> = (0..count).map(|number| format!("spins-{number}")).collect();
        let create = async |name: &String| {
            let main = json!({ "name": "main", "image": image, "args": ["stderr", name, "spin"] });
            let on_it = json!({ "kubernetes.io/hostname": node.name() });
            let spec =
                json!({ "nodeSelector": on_it, "terminationGracePeriodSeconds": 60, "containers": [main] });
            pods.create(name, spec).await;
        };
        stream::iter(&names).for_each_concurrent(8, create).await;
        for name in &names {
            pods.until(name, "running", running).await;
        }

        // While they compute: the lease is never old, and logs of any pod answer at once.
        let mut slowest = Duration::ZERO;
        for round in 0..20 {
            let name = &names[round * (count / 20)];
            let asked = Instant::now();
            assert_eq!(pods.logs(name).await, format!("{name}\n"));
            slowest = slowest.max(asked.elapsed());
            let age = lease_age(&client, node.name()).await;
            assert!(age < Duration::from_secs(8), "the lease is {age:?} old");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(slowest < Duration::from_secs(5), "a log took {slowest:?} to come");
        await_ready(&client, node.name()).await.unwrap();

        let asked = Instant::now();
        join_all(names.chunks(count.div_ceil(8)).map(async |names| {
            for name in names {
                pods.api().delete(name, &DeleteParams::default()).await.unwrap();
            }
        }))
        .await;
        for name in &names {
            pods.gone(name).await;
        }
        println!("{count} pods: slowest log {slowest:?}, all deleted in {:?}", asked.elapsed());
        assert!(asked.elapsed() < SOON, "deletion of all took {:?}", asked.elapsed());
    })
    .await;
}

pub(crate) async fn lease_age(client: &Client, node: &str) -> Duration {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = leases.get(node).await.unwrap();
    let renewed = lease.spec.and_then(|spec| spec.renew_time).unwrap().0;
    Duration::try_from(Timestamp::now().duration_since(renewed)).unwrap_or_default()
}
