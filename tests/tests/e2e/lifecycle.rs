//! How pods begin, run and end.

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ContainerStateTerminated, Pod},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use kubewasm_tests::wait;
use serde_json::json;

use crate::{
    pods::{Pods, container, is, restarts, running, terminated, waiting},
    suite::{NODE, SOON, suite, with_temp_ns},
};

/// A guest that returns from its start function makes its pod succeed, with conditions that say why it is
/// not ready any more.
#[tokio::test]
async fn a_guest_that_returns_succeeds() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("returns", &["say", "done"]).await;
        let pod = pods.phase("returns", "Succeeded").await;
        let end = terminated(&pod).unwrap();
        assert_eq!((end.exit_code, end.reason.as_deref()), (0, Some("Completed")));
        assert!(end.started_at.is_some() && end.finished_at.is_some());
        assert!(
            is(&pod, "Initialized") && is(&pod, "PodScheduled") && !is(&pod, "Ready"),
            "{:?}",
            pod.status
        );
        assert_eq!(pods.logs("returns").await, "done\n");
    })
    .await;
}

/// The exit code of a guest is the container's own, and makes the pod fail when it is not 0.
#[tokio::test]
async fn an_exit_code_comes_through() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        for code in [1, 42, 127, 255] {
            let name = format!("exits-{code}");
            pods.act(&name, &["exit", &code.to_string()]).await;
            let pod = pods.phase(&name, "Failed").await;
            let end = terminated(&pod).unwrap();
            assert_eq!((end.exit_code, end.reason.as_deref()), (code, Some("Error")));
        }
    })
    .await;
}

/// A trap ends the container with 134 and says what trapped.
#[tokio::test]
async fn a_trap_is_reported() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("traps", &["say", "before", "trap"]).await;
        let pod = pods.phase("traps", "Failed").await;
        let end = terminated(&pod).unwrap();
        assert_eq!((end.exit_code, end.reason.as_deref()), (134, Some("Error")));
        let message = end.message.as_deref().unwrap_or_default();
        assert!(message.contains("unreachable"), "{message:?}");
        assert!(pods.logs("traps").await.starts_with("before\n"));
    })
    .await;
}

/// A running guest's pod is Running and Ready, has addresses, and names what it runs by digest.
#[tokio::test]
async fn a_running_pod_says_what_it_runs() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("runs", &["sleep", "600"]).await;
        let pod = pods.until("runs", "Ready", |pod| is(pod, "Ready")).await;
        let status = pod.status.clone().unwrap();
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!(status.host_ip, Some(suite().await.cluster.node_address().to_string()));
        assert!(status.pod_ip.is_some() && status.start_time.is_some(), "{status:?}");
        let container = container(&pod).unwrap();
        assert_eq!((container.ready, container.started), (true, Some(true)));
        assert!(container.container_id.as_deref().unwrap_or_default().starts_with("wasmtime://"));
        let digest = suite().await.actor.by_digest.rsplit_once('@').unwrap().1;
        assert!(container.image_id.ends_with(digest), "{}", container.image_id);
    })
    .await;
}

/// A guest gets exactly the arguments of its pod behind the image's entry point, and the environment that
/// every container of Kubernetes has.
#[tokio::test]
async fn arguments_and_environment() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let spec = json!({ "containers": [{
            "name": "main",
            "image": image,
            "args": ["args", "env", "say", "$(COLOUR) or $$(COLOUR)"],
            "env": [
                { "name": "COLOUR", "value": "blue" },
                { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            ],
        }] });
        pods.create("speaks", spec).await;
        pods.phase("speaks", "Succeeded").await;
        let logs = pods.logs("speaks").await;
        let lines: Vec<&str> = logs.lines().collect();
        assert_eq!(lines[..5], ["/actor", "args", "env", "say", "blue or $(COLOUR)"]);
        assert_eq!(lines.last(), Some(&"blue or $(COLOUR)"));
        for line in ["COLOUR=blue", "POD=speaks", "HOSTNAME=speaks", "KUBERNETES_SERVICE_HOST=10.96.0.1"] {
            assert!(lines.contains(&line), "{line} in {lines:?}");
        }
    })
    .await;
}

/// `restartPolicy: OnFailure` starts a failed guest again, and the first failure stays to be seen.
#[tokio::test]
async fn a_failed_guest_is_restarted() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let spec = json!({
            "restartPolicy": "OnFailure",
            "containers": [{ "name": "main", "image": image, "args": ["say", "failing", "exit", "7"] }],
        });
        pods.create("fails", spec).await;
        let waiting = pods.waiting("fails", &["CrashLoopBackOff"]).await;
        assert!(waiting.message.unwrap_or_default().contains("restarting failed container=main"));
        let pod = pods.until("fails", "a second restart", |pod| restarts(pod) >= 2).await;
        let last = container(&pod).unwrap().last_state.as_ref().and_then(|state| state.terminated.as_ref());
        assert_eq!(last.map(|end| end.exit_code), Some(7));
        pods.event("fails", "a BackOff event", |event| event.reason.as_deref() == Some("BackOff")).await;
    })
    .await;
}

/// Init containers run one after the other, each to its end, before the containers.
#[tokio::test]
async fn init_containers_come_first() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let spec = json!({
            "initContainers": [
                { "name": "first", "image": image, "args": ["sleep", "2"] },
                { "name": "second", "image": image, "args": ["sleep", "2"] },
            ],
            "containers": [{ "name": "main", "image": image, "args": ["say", "ready"] }],
        });
        pods.create("initialised", spec).await;
        let pod = pods.phase("initialised", "Succeeded").await;
        let ends: Vec<_> = init_ends(&pod).collect();
        assert_eq!(ends.len(), 2);
        assert!(ends[0].finished_at <= ends[1].started_at, "{ends:?}");
        assert!(ends[1].finished_at <= terminated(&pod).unwrap().started_at, "{ends:?}");
    })
    .await;
}

/// An init container that fails for good makes the pod fail, and no container starts.
#[tokio::test]
async fn a_failed_init_container_fails_the_pod() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let spec = json!({
            "initContainers": [{ "name": "first", "image": image, "args": ["exit", "3"] }],
            "containers": [{ "name": "main", "image": image, "args": ["say", "never"] }],
        });
        pods.create("hopeless", spec).await;
        let pod = pods.phase("hopeless", "Failed").await;
        assert_eq!(init_ends(&pod).map(|end| end.exit_code).collect::<Vec<_>>(), [3]);
        assert_eq!(waiting(&pod).and_then(|state| state.reason.as_deref()), Some("PodInitializing"));
    })
    .await;
}

/// How the init containers ended that have.
fn init_ends(pod: &Pod) -> impl Iterator<Item = &ContainerStateTerminated> {
    let statuses = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    statuses.filter_map(|status| status.state.as_ref()?.terminated.as_ref())
}

/// A volume that the node does not mount holds its container, which says which volume it is.
#[tokio::test]
async fn a_volume_is_refused_by_name() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "volumes": [{ "name": "scratch", "nfs": { "server": "192.0.2.1", "path": "/" } }],
            "containers": [{
                "name": "main",
                "image": suite().await.actor.tagged,
                "args": ["write", "/scratch/note", "text"],
                "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
            }],
        });
        pods.create("hopeful", spec).await;
        let state = pods.waiting("hopeful", &["CreateContainerConfigError"]).await;
        let message = state.message.unwrap_or_default();
        assert!(message.contains("\"scratch\"") && message.contains("type nfs"), "{message}");
    })
    .await;
}

/// A guest gets no more memory than its limit, and its neighbours notice nothing.
#[tokio::test]
async fn a_memory_limit_is_kept() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        pods.act("neighbour", &["sleep", "600"]).await;
        pods.until("neighbour", "running", running).await;
        let spec = json!({ "containers": [{
            "name": "main",
            "image": image,
            "args": ["alloc", "8", "alloc", "256"],
            "resources": { "limits": { "memory": "64Mi" } },
        }] });
        pods.create("greedy", spec).await;
        let pod = pods.phase("greedy", "Failed").await;
        assert_eq!(terminated(&pod).and_then(|end| end.reason.as_deref()), Some("OOMKilled"));
        assert!(pods.logs("greedy").await.starts_with("allocated 8 MiB\n"));
        let neighbour = pods.api().get("neighbour").await.unwrap();
        assert!(running(&neighbour) && restarts(&neighbour) == 0);
    })
    .await;
}

/// A Deployment becomes available: its pods are Ready and stay so.
#[tokio::test]
async fn a_deployment_becomes_available() {
    with_temp_ns(async |client, ns| {
        let deployments: Api<Deployment> = Api::namespaced(client, ns);
        let deployment = json!({
            "metadata": { "name": "web" },
            "spec": {
                "replicas": 3,
                "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" } },
                    "spec": {
                        "runtimeClassName": "wasm",
                        "nodeSelector": { "kubernetes.io/hostname": NODE },
                        "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"] }],
                    },
                },
            },
        });
        deployments.create(&PostParams::default(), &serde_json::from_value(deployment).unwrap()).await.unwrap();
        wait::object(deployments, "web", "three available replicas", SOON, |deployment| {
            let status = deployment.and_then(|deployment| deployment.status.as_ref());
            status.is_some_and(|status| status.available_replicas == Some(3))
        })
        .await
        .unwrap();
    })
    .await;
}

/// A Job completes.
#[tokio::test]
async fn a_job_completes() {
    with_temp_ns(async |client, ns| {
        let jobs: Api<Job> = Api::namespaced(client, ns);
        let job = json!({
            "metadata": { "name": "batch" },
            "spec": {
                "completions": 3,
                "parallelism": 2,
                "template": { "spec": {
                    "runtimeClassName": "wasm",
                    "restartPolicy": "Never",
                    "nodeSelector": { "kubernetes.io/hostname": NODE },
                    "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": ["say", "done"] }],
                } },
            },
        });
        jobs.create(&PostParams::default(), &serde_json::from_value(job).unwrap()).await.unwrap();
        wait::object(jobs.clone(), "batch", "completion", SOON, |job| {
            let conditions = job.and_then(|job| job.status.as_ref()).and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|each| each.type_ == "Complete" && each.status == "True"))
        })
        .await
        .unwrap();
        let status = jobs.get("batch").await.unwrap().status.unwrap();
        assert_eq!((status.succeeded, status.failed), (Some(3), None));
    })
    .await;
}

/// A status says which generation of the pod it is about, also after a change of what may be changed.
#[tokio::test]
async fn a_status_is_about_a_generation() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("changes", &["sleep", "600"]).await;
        let about = |pod: &Pod| {
            let status = pod.status.as_ref().unwrap();
            let conditions = status.conditions.iter().flatten().map(|each| each.observed_generation);
            (status.observed_generation, conditions.collect::<Vec<_>>())
        };
        let pod = pods.until("changes", "Ready", |pod| is(pod, "Ready")).await;
        assert_eq!(about(&pod), (Some(1), vec![Some(1); 5]));
        let patch = Patch::Merge(json!({ "spec": { "activeDeadlineSeconds": 600 } }));
        pods.api().patch("changes", &PatchParams::default(), &patch).await.unwrap();
        let seen = |pod: &Pod| pod.status.as_ref().and_then(|status| status.observed_generation) == Some(2);
        let pod = pods.until("changes", "a status about the second generation", seen).await;
        assert_eq!((pod.metadata.generation, about(&pod)), (Some(2), (Some(2), vec![Some(2); 5])));
        assert_eq!(restarts(&pod), 0);
    })
    .await;
}
