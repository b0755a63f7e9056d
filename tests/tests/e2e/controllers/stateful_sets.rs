//! StatefulSets: one pod after the other, and names that are used again.

use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::Pod},
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use kubewasm_tests::wait;
use serde_json::json;

use super::{create, template};
use crate::{
    pods::Pods,
    suite::{SOON, with_temp_ns},
};

/// Replicas come one after the other, each when the one before is Ready, and go from the last; one that comes
/// again is a new pod under the old name.
#[tokio::test]
async fn replicas_come_and_go_in_order() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "serviceName": "db",
            "replicas": 3,
            "selector": { "matchLabels": { "app": "test" } },
            "template": template("Always", &["sleep", "600"]).await,
        });
        let sets: Api<StatefulSet> = create(&client, ns, "db", spec).await;
        until_ready(&sets, 3).await;
        let mut before = Timestamp::MIN;
        for name in ["db-0", "db-1", "db-2"] {
            let pod = pods.api().get(name).await.unwrap();
            assert!(pod.metadata.creation_timestamp.as_ref().unwrap().0 >= before, "{name} came too early");
            before = ready_since(&pod);
        }
        let first = pods.api().get("db-0").await.unwrap().metadata.uid;
        let second = pods.api().get("db-1").await.unwrap().metadata.uid;
        scale(&sets, 1).await;
        pods.gone("db-2").await;
        pods.gone("db-1").await;
        scale(&sets, 2).await;
        until_ready(&sets, 2).await;
        assert_eq!(pods.api().get("db-0").await.unwrap().metadata.uid, first);
        assert_ne!(pods.api().get("db-1").await.unwrap().metadata.uid, second);
    })
    .await;
}

async fn scale(sets: &Api<StatefulSet>, replicas: i32) {
    let patch = json!({ "spec": { "replicas": replicas } });
    sets.patch("db", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn until_ready(sets: &Api<StatefulSet>, replicas: i32) {
    wait::object(sets.clone(), "db", &format!("{replicas} ready replicas"), SOON, |set| {
        let status = set.and_then(|set| set.status.as_ref());
        status.is_some_and(|status| status.ready_replicas == Some(replicas))
    })
    .await
    .unwrap();
}

fn ready_since(pod: &Pod) -> Timestamp {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|each| each.type_ == "Ready" && each.status == "True").unwrap();
    ready.last_transition_time.as_ref().unwrap().0
}
