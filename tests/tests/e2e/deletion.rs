//! Deleting pods whose guests do not end by themselves.

use std::time::{Duration, Instant};

use kube::api::DeleteParams;
use kubewasm_tests::wait;
use serde_json::json;

use crate::{
    endpoint::{Answer, Endpoint},
    pods::{Pods, running},
    suite::{SOON, suite, with_temp_ns},
};

/// Grace of the pods below, and what writing the final status and the deletion may take on top.
const GRACE: u32 = 10;
const MARGIN: Duration = Duration::from_secs(5);

/// A sleeping guest ends inside its grace, and its pod goes away.
#[tokio::test]
async fn a_sleeping_guest_ends_inside_its_grace() {
    delete_inside_grace(&["sleep", "3600"]).await;
}

/// A guest that never yields ends inside its grace, too.
#[tokio::test]
async fn a_spinning_guest_ends_inside_its_grace() {
    delete_inside_grace(&["spin"]).await;
}

async fn delete_inside_grace(args: &[&str]) {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "terminationGracePeriodSeconds": GRACE,
            "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": args }],
        });
        pods.create("endless", spec).await;
        pods.until("endless", "running", running).await;
        let start = Instant::now();
        pods.api().delete("endless", &DeleteParams::default()).await.unwrap();
        pods.gone("endless").await;
        let limit = Duration::from_secs(u64::from(GRACE)) + MARGIN;
        assert!(start.elapsed() < limit, "it took {:?}", start.elapsed());
    })
    .await;
}

/// A pod that is deleted by force is gone at once, and its name can be used again at once.
#[tokio::test]
async fn a_forced_deletion_frees_the_name() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("twice", &["sleep", "3600"]).await;
        let first = pods.until("twice", "running", running).await;
        pods.api().delete("twice", &DeleteParams::default().grace_period(0)).await.unwrap();
        pods.act("twice", &["say", "second"]).await;
        let second = pods.phase("twice", "Succeeded").await;
        assert_ne!(first.metadata.uid, second.metadata.uid);
        assert_eq!(pods.logs("twice").await, "second\n");
        // Nobody can be told any more, and yet the first guest is stopped, and nothing is left of it.
        let folder = format!("{ns}_twice_{}", first.metadata.uid.unwrap());
        let folder = suite().await.node.pod_logs().join(folder);
        wait::until("the end of the first pod", SOON, async || match folder.exists() {
            true => Err(format!("there is still {}", folder.display())),
            false => Ok(()),
        })
        .await
        .unwrap();
    })
    .await;
}

/// A deletion that is under way is hurried by another one with less grace.
#[tokio::test]
async fn a_second_deletion_shortens_the_grace() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let endpoint = Endpoint::start(Answer::Silence).await;
        let drain = json!({ "httpGet": { "path": "/drain", "port": endpoint.port() } });
        let spec = json!({
            "terminationGracePeriodSeconds": 600,
            "initContainers": [endpoint.sidecar().await],
            "containers": [{
                "name": "main",
                "image": suite().await.actor.tagged,
                "args": ["sleep", "3600"],
                "lifecycle": { "preStop": drain },
            }],
        });
        pods.create("slow", spec).await;
        pods.until("slow", "running", running).await;
        pods.api().delete("slow", &DeleteParams::default()).await.unwrap();
        endpoint.until_asked("/drain", 1).await;
        pods.api().delete("slow", &DeleteParams::default().grace_period(1)).await.unwrap();
        pods.gone("slow").await;
        assert_eq!(endpoint.count("/drain"), 1);
    })
    .await;
}

/// A pod whose image cannot be pulled can be deleted.
#[tokio::test]
async fn a_pod_that_never_started_can_be_deleted() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.run("absent", &suite().await.registry.name("absent:v1"), &[]).await;
        pods.waiting("absent", &["ErrImagePull", "ImagePullBackOff"]).await;
        pods.api().delete("absent", &DeleteParams::default()).await.unwrap();
        pods.gone("absent").await;
    })
    .await;
}
