//! DaemonSets: those that are for Wasm nodes, and those that want every node there is.

use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use kubewasm_tests::wait;
use serde_json::{Value, json};

use super::{create, template};
use crate::{
    pods::{Pods, phase, waiting},
    status::says,
    suite::{SOON, with_temp_ns},
};

/// A DaemonSet of Wasm pods has one on the node, and a new template replaces it. Its controller counts nodes by
/// what the template itself tolerates: a RuntimeClass adds its tolerations to pods only.
#[tokio::test]
async fn a_daemon_set_has_its_pod_on_the_node() {
    with_temp_ns(async |client, ns| {
        let mut template = template("Always", &["sleep", "600"]).await;
        template["spec"]["tolerations"] = json!([{ "key": "kubernetes.io/arch", "operator": "Exists" }]);
        let sets = create::<DaemonSet>(&client, ns, "agent", spec(template)).await;
        until_available(&sets, "agent", 1).await;
        let first = only_pod(&client, ns).await;
        let patch = json!({ "spec": { "template": { "metadata": { "annotations": { "version": "2" } } } } });
        sets.patch("agent", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        until_available(&sets, "agent", 2).await;
        assert_ne!(only_pod(&client, ns).await.uid(), first.uid());
    })
    .await;
}

/// The pod of a DaemonSet that wants every node, and that no Wasm node could ever run, is held and says why. It is
/// not failed: its controller would make it again at once, without end.
#[tokio::test]
async fn a_daemon_set_that_could_never_run_is_held() {
    with_temp_ns(async |client, ns| {
        let mut template = template("Always", &["sleep", "600"]).await;
        template["spec"]["runtimeClassName"] = Value::Null;
        template["spec"]["tolerations"] = json!([{ "operator": "Exists" }]);
        template["spec"]["hostNetwork"] = json!(true);
        template["spec"]["containers"][0]["securityContext"] = json!({ "privileged": true });
        create::<DaemonSet>(&client, ns, "proxy", spec(template)).await;
        let made = wait::until("the DaemonSet's pod", SOON, async || match all(&client, ns).await.first() {
            Some(pod) => Ok(pod.name_any()),
            None => Err("there is none".to_owned()),
        });
        let (pods, name) = (Pods::new(&client, ns), made.await.unwrap());
        let state = pods.waiting(&name, &["CreateContainerConfigError"]).await;
        let message = state.message.unwrap_or_default();
        assert!(message.starts_with("securityContext.privileged cannot be honoured"), "{message}");
        // It is tried again, and is the same pod all the time.
        let again =
            |event: &_| says(event, "Failed", "securityContext.privileged") && event_count(event) >= 2;
        pods.event(&name, "a second try", again).await;
        let pod = only_pod(&client, ns).await;
        assert_eq!((pod.name_any().as_str(), phase(&pod)), (name.as_str(), "Pending"));
        assert_eq!(
            waiting(&pod).and_then(|state| state.reason.as_deref()),
            Some("CreateContainerConfigError")
        );
    })
    .await;
}

fn spec(template: Value) -> Value {
    json!({ "selector": { "matchLabels": { "app": "test" } }, "template": template })
}

fn event_count(event: &k8s_openapi::api::core::v1::Event) -> i32 {
    event.count.unwrap_or(1)
}

/// Waits until the pod of that generation of the DaemonSet is available.
async fn until_available(sets: &Api<DaemonSet>, name: &str, generation: i64) {
    wait::object(sets.clone(), name, "an available pod", SOON, |set| {
        let status = set.and_then(|set| set.status.as_ref());
        status.is_some_and(|status| {
            status.observed_generation == Some(generation)
                && status.updated_number_scheduled == Some(1)
                && status.number_available == Some(1)
        })
    })
    .await
    .unwrap();
}

async fn all(client: &Client, ns: &str) -> Vec<Pod> {
    Api::namespaced(client.clone(), ns).list(&ListParams::default()).await.unwrap().items
}

async fn only_pod(client: &Client, ns: &str) -> Pod {
    let [pod] = <[Pod; 1]>::try_from(all(client, ns).await).unwrap();
    pod
}
