//! How pods begin, run and end.

use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job, core::v1::ConfigMap};
use kube::{Api, api::PostParams};
use kubewasm_tests::wait;
use serde_json::json;

use crate::{
    pods::{Pods, container, is, restarts, running, terminated},
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
        assert_eq!(
            (end.exit_code, end.reason.as_deref()),
            (0, Some("Completed"))
        );
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
            assert_eq!(
                (end.exit_code, end.reason.as_deref()),
                (code, Some("Error"))
            );
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
        assert_eq!(
            status.host_ip,
            Some(suite().await.cluster.node_address().to_string())
        );
        assert!(
            status.pod_ip.is_some() && status.start_time.is_some(),
            "{status:?}"
        );
        let container = container(&pod).unwrap();
        assert_eq!((container.ready, container.started), (true, Some(true)));
        assert!(
            container
                .container_id
                .as_deref()
                .unwrap_or_default()
                .starts_with("wasmtime://")
        );
        let digest = suite().await.actor.by_digest.rsplit_once('@').unwrap().1;
        assert!(
            container.image_id.ends_with(digest),
            "{}",
            container.image_id
        );
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
        assert_eq!(
            lines[..5],
            ["/actor", "args", "env", "say", "blue or $(COLOUR)"]
        );
        assert_eq!(lines.last(), Some(&"blue or $(COLOUR)"));
        for line in [
            "COLOUR=blue",
            "POD=speaks",
            "HOSTNAME=speaks",
            "KUBERNETES_SERVICE_HOST=10.96.0.1",
        ] {
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

/// Init containers run one after the other before the containers, and share an emptyDir with them.
#[tokio::test]
async fn init_containers_come_first() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let mount = json!([{ "name": "shared", "mountPath": "/shared" }]);
        let spec = json!({
            "volumes": [{ "name": "shared", "emptyDir": {} }],
            "initContainers": [
                { "name": "first", "image": image, "args": ["write", "/shared/note", "from init"], "volumeMounts": mount },
            ],
            "containers": [{ "name": "main", "image": image, "args": ["cat", "/shared/note"], "volumeMounts": mount }],
        });
        pods.create("initialised", spec).await;
        pods.phase("initialised", "Succeeded").await;
        assert_eq!(pods.logs("initialised").await, "from init");
    })
    .await;
}

/// A ConfigMap is there as files.
#[tokio::test]
async fn a_config_map_is_mounted() {
    with_temp_ns(async |client, ns| {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
        let map = json!({ "metadata": { "name": "settings" }, "data": { "greeting": "hello from a ConfigMap" } });
        maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "volumes": [{ "name": "settings", "configMap": { "name": "settings" } }],
            "containers": [{
                "name": "main",
                "image": suite().await.actor.tagged,
                "args": ["cat", "/etc/settings/greeting"],
                "volumeMounts": [{ "name": "settings", "mountPath": "/etc/settings" }],
            }],
        });
        pods.create("configured", spec).await;
        pods.phase("configured", "Succeeded").await;
        assert_eq!(pods.logs("configured").await, "hello from a ConfigMap");
    })
    .await;
}

/// A memory limit ends a guest that wants more, as out of memory, and nothing else.
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
        pods.phase("greedy", "Failed").await;
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
        wait::object(jobs, "batch", "completion", SOON, |job| {
            let conditions = job.and_then(|job| job.status.as_ref()).and_then(|status| status.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|each| each.type_ == "Complete" && each.status == "True"))
        })
        .await
        .unwrap();
    })
    .await;
}
