//! Who shares a worker process, and what its end means for whom.

use std::time::{Duration, SystemTime};

use k8s_openapi::{
    api::{
        core::v1::{Node as NodeObject, Pod},
        node::v1::RuntimeClass,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use kubewasm_tests::{
    node::{Node, Options},
    wait,
};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    pods::{Pods, container, is, restarts, running, terminated, waiting},
    suite::{NODE, SOON, own_node, suite, with_temp_ns},
};

/// On a node that requires its workers to be confined, a worker sees of the node's files its own directory and the modules:
/// no pods, no logs and no workers of others. What its containers need was handed to it.
#[tokio::test]
async fn a_worker_sees_nothing_of_other_pods() {
    with_temp_ns(async |client, ns| {
        with_temp_ns(async |_, other| {
            let options = Options::default().flag("--confinement=required");
            let node = own_node("confined-node", &options).await;
            let (here, there) = (Pods::new(&client, ns), Pods::new(&client, other));
            for pods in [&here, &there] {
                pods.create("a", spec(&node, json!({})).await).await;
                pods.until("a", "running", running).await;
            }
            let workers = node.workers();
            let process =
                |ns: &str| std::path::Path::new("/proc").join(workers[&format!("ns-{ns}")].to_string());
            let seen = |ns: &str, path: &std::path::Path| {
                process(ns).join("root").join(path.strip_prefix("/").unwrap()).exists()
            };
            let entries =
                || std::fs::read_dir(node.root().join("workers")).unwrap().map(|e| e.unwrap().path());
            for (ns, neighbour) in [(ns, other), (other, ns)] {
                assert!(seen(ns, &node.root().join("modules")));
                for hidden in [node.root().join("pods"), node.root().join("pki"), node.pod_logs()] {
                    assert!(hidden.exists() && !seen(ns, &hidden), "{}", hidden.display());
                }
                let home = |ns: &str| {
                    let prefix = format!("ns-{ns}.");
                    entries()
                        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&prefix))
                        .unwrap()
                };
                assert!(seen(ns, &home(ns)) && !seen(ns, &home(neighbour)));
                let status = std::fs::read_to_string(process(ns).join("status")).unwrap();
                let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
                let effective = u64::from_str_radix(effective, 16).unwrap();
                assert_eq!(effective & (1 << 21), 0, "CAP_SYS_ADMIN: {effective:x}");
            }
        })
        .await;
    })
    .await;
}

/// By default the pods of a namespace share a worker, and a pod whose RuntimeClass asks for one has its own. A
/// worker that dies ends the containers that it hosts, and no others; they are restarted and told why.
#[tokio::test]
async fn namespaces_have_workers_of_their_own() {
    with_temp_ns(async |client, ns| {
        with_temp_ns(async |_, other| {
            let node = own_node("grouped-node", &Options::default()).await;
            let (here, there) = (Pods::new(&client, ns), Pods::new(&client, other));
            here.create("a", spec(&node, json!({})).await).await;
            here.create("b", spec(&node, json!({})).await).await;
            here.create("alone", spec(&node, json!({ "runtimeClassName": "wasm-isolated" })).await).await;
            there.create("a", spec(&node, json!({})).await).await;
            let mut before = Vec::new();
            for (pods, name) in [(&here, "a"), (&here, "b"), (&here, "alone"), (&there, "a")] {
                before.push(pods.until(name, "running", running).await);
            }
            let workers = node.workers();
            let group = |ns: &str| workers.get(&format!("ns-{ns}")).copied();
            let [Some(first), Some(second)] = [ns, other].map(group) else { panic!("{workers:?}") };
            let alone: Vec<_> = workers.iter().filter(|(group, _)| group.starts_with("pod-")).collect();
            assert_eq!((workers.len(), alone.len()), (3, 1), "{workers:?}");
            assert_ne!(first, second);

            kill_process(first, Signal::KILL).unwrap();
            for name in ["a", "b"] {
                let pod = here.until(name, "a restart", |pod| restarts(pod) == 1 && running(pod)).await;
                let last = container(&pod).unwrap().last_state.as_ref().unwrap().terminated.clone().unwrap();
                assert_eq!((last.exit_code, last.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
                let message = last.message.unwrap();
                let expected = format!("the worker that hosted it (process {first}) ended: signal: 9");
                assert!(message.contains(&expected), "{message}");
            }
            for (pods, name, before) in [(&here, "alone", &before[2]), (&there, "a", &before[3])] {
                let after = pods.api().get(name).await.unwrap();
                assert!(running(&after) && restarts(&after) == 0, "{name}: {:?}", after.status);
                assert_eq!(
                    container(&after).unwrap().container_id,
                    container(before).unwrap().container_id,
                    "{name}"
                );
            }

            // When nothing needs it, a worker ends, and so does what it has on disk.
            there.api().delete("a", &DeleteParams::default()).await.unwrap();
            there.gone("a").await;
            let dirs = || std::fs::read_dir(node.root().join("workers")).unwrap().map(Result::unwrap);
            let of_other = |entry: std::fs::DirEntry| {
                entry.file_name().to_string_lossy().starts_with(&format!("ns-{other}."))
            };
            wait::until("the end of a worker that nobody needs", SOON, async || match dirs().any(of_other) {
                false => Ok(()),
                true => Err(format!("{:?}", node.workers())),
            })
            .await
            .unwrap();
            assert!(node.workers().contains_key(&format!("ns-{ns}")));
            remove(&client, node).await;
        })
        .await;
    })
    .await;
}

/// A worker that lives and does not answer is not dead for an agent that finds it: what it
/// hosts is neither started again nor lets go of its pod, while pods of others come and go. When it answers, all is as it
/// was, and what was asked for is done.
#[tokio::test]
async fn a_worker_that_does_not_answer_is_not_taken_for_dead() {
    with_temp_ns(async |client, ns| {
        with_temp_ns(async |_, other| {
            let mut node = own_node("patient-node", &Options::default()).await;
            let (here, there) = (Pods::new(&client, ns), Pods::new(&client, other));
            here.create("stays", spec(&node, json!({})).await).await;
            here.create("leaves", spec(&node, json!({})).await).await;
            let before = here.until("stays", "running", running).await;
            here.until("leaves", "running", running).await;
            let worker = node.workers()[&format!("ns-{ns}")];
            // In this order: the kernel lets a stopped process go on whose parent dies.
            node.kill().unwrap();
            kill_process(worker, Signal::STOP).unwrap();
            node.start_again().await.unwrap();
            here.api().delete("leaves", &DeleteParams::default()).await.unwrap();
            there.create("passes", spec(&node, json!({})).await).await;
            there.until("passes", "running", running).await;
            there.api().delete("passes", &DeleteParams::default()).await.unwrap();
            there.gone("passes").await;
            for name in ["stays", "leaves"] {
                let pod = here.api().get(name).await.unwrap();
                assert!(running(&pod) && restarts(&pod) == 0, "{name}: {:?}", pod.status);
            }
            kill_process(worker, Signal::CONT).unwrap();
            here.gone("leaves").await;
            let after = here.api().get("stays").await.unwrap();
            assert!(running(&after) && restarts(&after) == 0, "{:?}", after.status);
            assert_eq!(container(&after).unwrap().container_id, container(&before).unwrap().container_id);
            assert_eq!(node.workers()[&format!("ns-{ns}")], worker);
            remove(&client, node).await;
        })
        .await;
    })
    .await;
}

/// `--isolation` says who shares a worker where the pod does not.
#[tokio::test]
async fn a_node_can_have_one_worker_or_one_for_each_pod() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        for (isolation, workers) in [("node", 1), ("pod", 2)] {
            let name = format!("isolating-by-{isolation}");
            let node = own_node(&name, &Options::default().flag(format!("--isolation={isolation}"))).await;
            for pod in ["x", "y"] {
                pods.create(&format!("{pod}-{isolation}"), spec(&node, json!({})).await).await;
            }
            for pod in ["x", "y"] {
                pods.until(&format!("{pod}-{isolation}"), "running", running).await;
            }
            let found = node.workers();
            assert_eq!(found.len(), workers, "{isolation}: {found:?}");
            assert_eq!(found.contains_key("node"), isolation == "node", "{found:?}");
            remove(&client, node).await;
        }
    })
    .await;
}

/// What a node can run is in its status; a pod that asks for something else waits, and the Event says for what.
#[tokio::test]
async fn an_unknown_runtime_handler_is_told() {
    with_temp_ns(async |client, ns| {
        let node = Api::<NodeObject>::all(client.clone()).get(NODE).await.unwrap();
        let handlers = node.status.unwrap().runtime_handlers.unwrap();
        let names: Vec<_> = handlers.iter().map(|handler| handler.name.clone().unwrap_or_default()).collect();
        assert_eq!(names, ["", "wasm", "wasm-isolated"]);

        let classes: Api<RuntimeClass> = Api::all(client.clone());
        let class = json!({
            "metadata": { "name": ns },
            "handler": "gvisor",
            "scheduling": { "tolerations": [{ "operator": "Exists" }] },
        });
        classes.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        pods.create(
            "foreign",
            json!({ "runtimeClassName": ns, "containers": [{ "name": "main", "image": image }] }),
        )
        .await;
        let sandbox = |text: String| {
            move |event: &k8s_openapi::api::core::v1::Event| {
                let message = event.message.as_deref().unwrap_or_default();
                event.reason.as_deref() == Some("FailedCreatePodSandBox")
                    && message.starts_with("Failed to create pod sandbox: ")
                    && message.contains(&text)
            }
        };
        let missing = "no runtime for \"gvisor\" is configured".to_owned();
        pods.event("foreign", "an unknown handler", sandbox(missing)).await;
        pods.until("foreign", "waiting", |pod| {
            waiting(pod).is_some_and(|waiting| waiting.reason.as_deref() == Some("ContainerCreating"))
        })
        .await;
        classes.delete(ns, &DeleteParams::default()).await.unwrap();
        let gone = format!("runtimeclass.node.k8s.io \"{ns}\" not found");
        pods.event("foreign", "a class that is gone", sandbox(gone)).await;
        pods.api().delete("foreign", &DeleteParams::default()).await.unwrap();
        pods.gone("foreign").await;
    })
    .await;
}

/// An agent that was killed takes over what ran: probes go on, and what ended meanwhile ended when and as it did.
#[tokio::test]
async fn a_killed_agent_is_taken_up_where_it_was() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut node = own_node("taken-up-node", &Options::default()).await;
        let act = |args: Value, more: Value| {
            let mut container = json!({ "name": "main", "args": args });
            container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            container
        };
        let probes = json!({
            "readinessProbe": { "exec": { "command": ["actor", "exit", "0"] }, "periodSeconds": 1 },
            "livenessProbe": {
                "exec": { "command": ["actor", "exit", "1"] },
                "initialDelaySeconds": 4, "periodSeconds": 1, "failureThreshold": 2,
            },
        });
        let probed = spec_of(&node, &[act(json!(["sleep", "600"]), probes)]).await;
        pods.create("probed", probed).await;
        let ends = spec_of(&node, &[act(json!(["sleep", "3", "say", "bye", "exit", "7"]), json!({}))]).await;
        pods.create("ends", ends).await;
        let ends = pods.until("ends", "running", running).await;
        pods.until("probed", "Ready", |pod| is(pod, "Ready")).await;
        node.kill().unwrap();

        let log = node.pod_logs().join(format!("{ns}_ends_{}/main/0.log", ends.uid().unwrap()));
        // Times in statuses are whole seconds: two later, now and then are not the same.
        wait::until("an end that the agent does not see", SOON, async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let age = std::fs::metadata(&log).and_then(|meta| meta.modified()).unwrap().elapsed().unwrap();
            let ended = text.ends_with("stdout F bye\n") && age > Duration::from_secs(2);
            if ended { Ok(()) } else { Err(format!("{age:?}: {text:?}")) }
        })
        .await
        .unwrap();
        let back = Timestamp::try_from(SystemTime::now()).unwrap();
        node.start_again().await.unwrap();
        let ended = pods.phase("ends", "Failed").await;
        let end = terminated(&ended).unwrap();
        let finished_at = end.finished_at.as_ref().unwrap().0;
        assert_eq!((end.exit_code, restarts(&ended)), (7, 0));
        assert!(finished_at < back, "it ended at {finished_at}, before the agent was back at {back}");
        assert_eq!(pods.logs_once_known("ends").await, "bye\n");
        let pod = pods.until("probed", "a restart by its probe", |pod| restarts(pod) >= 1).await;
        assert_eq!(killed_by(&pod), Some(143), "by its liveness probe, and not with its worker");
        remove(&client, node).await;
    })
    .await;
}

/// The exit code of the attempt before the present one.
fn killed_by(pod: &Pod) -> Option<i32> {
    Some(container(pod)?.last_state.as_ref()?.terminated.as_ref()?.exit_code)
}

/// Guests and workers get none of what the agent was started with.
#[tokio::test]
async fn a_worker_inherits_nothing() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("heirless-node", &Options::default()).await;
        pods.create("a", spec(&node, json!({})).await).await;
        pods.until("a", "running", running).await;
        let (_, worker) = node.workers().pop_first().unwrap();
        let proc = |file: &str| format!("/proc/{}/{file}", worker.as_raw_pid());
        // As the worker itself sees them: neither keys, nor other workers.
        let seen = |folder: std::path::PathBuf| -> Vec<_> {
            let folder = std::path::PathBuf::from(format!("{}{}", proc("root"), folder.display()));
            let entries = std::fs::read_dir(folder).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert!(std::fs::read_dir(node.root().join("pki")).unwrap().count() > 0);
        assert_eq!(seen(node.root().join("pki")), Vec::<String>::new());
        std::fs::create_dir(node.root().join("workers/ns-another")).unwrap();
        let others = seen(node.root().join("workers"));
        assert!(matches!(&*others, [own] if own.starts_with(&format!("ns-{ns}."))), "{others:?}");
        let environment = std::fs::read(proc("environ")).unwrap();
        let text = String::from_utf8_lossy(&environment);
        let names: Vec<_> =
            text.split('\0').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name).collect();
        assert!(
            names.iter().all(|name| name.starts_with("KUBEWASM_") || *name == "RUST_BACKTRACE"),
            "{names:?}"
        );
        for file in std::fs::read_dir(proc("fd")).unwrap() {
            let Ok(target) = std::fs::read_link(file.unwrap().path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            let pki = node.root().join("pki");
            assert!(!target.starts_with(&*pki.to_string_lossy()), "{target}");
        }
        remove(&client, node).await;
    })
    .await;
}

/// A pod's spec for `node`: one container that sleeps, always restarted, and what `more` says.
async fn spec(node: &Node, more: Value) -> Value {
    let mut spec = spec_of(node, &[json!({ "name": "main", "args": ["sleep", "600"] })]).await;
    let fields = spec.as_object_mut().unwrap();
    fields.insert("restartPolicy".to_owned(), json!("Always"));
    fields.extend(more.as_object().unwrap().clone());
    spec
}

/// A spec for `node` of containers that run the actor guest.
async fn spec_of(node: &Node, containers: &[Value]) -> Value {
    let image = &suite().await.actor.tagged;
    let containers: Vec<_> = containers
        .iter()
        .cloned()
        .map(|mut container| {
            container["image"] = json!(image);
            container
        })
        .collect();
    let always = containers.iter().any(|container| container.get("livenessProbe").is_some());
    json!({
        "restartPolicy": if always { "Always" } else { "Never" },
        "nodeSelector": { "kubernetes.io/hostname": node.name() },
        "containers": containers,
    })
}

/// Ends the node first: it would register again.
async fn remove(client: &Client, node: Node) {
    let name = node.name().to_owned();
    drop(node);
    Api::<NodeObject>::all(client.clone()).delete(&name, &DeleteParams::default()).await.unwrap();
}
