//! Pods of tests: how they are made, awaited and read.

use k8s_openapi::api::core::v1::{
    ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Event, Pod,
};
use kube::{
    Api, Client,
    api::{ListParams, LogParams, PostParams},
};
use kubewasm_tests::wait;
use serde_json::{Value, json};

use crate::suite::{NODE, SOON, suite};

/// The pods of a test's namespace.
#[derive(Clone)]
pub(crate) struct Pods {
    client: Client,
    namespace: String,
}

impl Pods {
    pub(crate) fn new(client: &Client, namespace: &str) -> Self {
        Self { client: client.clone(), namespace: namespace.to_owned() }
    }

    pub(crate) fn api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates a pod named `name` of one container that runs `image` with `args`, never restarted, on the
    /// shared node.
    pub(crate) async fn run(&self, name: &str, image: &str, args: &[&str]) {
        self.create(name, json!({ "containers": [{ "name": "main", "image": image, "args": args }] })).await;
    }

    /// Creates a pod of one container that runs the actor guest with `args`.
    pub(crate) async fn act(&self, name: &str, args: &[&str]) {
        self.run(name, &suite().await.actor.tagged, args).await;
    }

    /// Creates a pod from a spec. Unless the spec says otherwise, it is for the shared node and never
    /// restarted.
    pub(crate) async fn create(&self, name: &str, spec: Value) {
        let mut whole = json!({
            "restartPolicy": "Never",
            "runtimeClassName": "wasm",
            "nodeSelector": { "kubernetes.io/hostname": NODE },
        });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let pod = json!({ "metadata": { "name": name }, "spec": whole });
        self.api().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }

    /// Waits until the pod satisfies `condition`.
    pub(crate) async fn until(&self, name: &str, what: &str, condition: impl Fn(&Pod) -> bool) -> Pod {
        let pod =
            wait::object(self.api(), name, what, SOON, |pod| pod.is_some_and(&condition)).await.unwrap();
        pod.expect("the condition asks for a pod")
    }

    /// Waits for a phase; a pod that ends in another one fails the test at once.
    pub(crate) async fn phase(&self, name: &str, wanted: &str) -> Pod {
        let pod = self
            .until(name, &format!("phase {wanted}"), |pod| {
                phase(pod) == wanted || ["Succeeded", "Failed"].contains(&phase(pod))
            })
            .await;
        assert_eq!(phase(&pod), wanted, "{:?}", pod.status);
        pod
    }

    /// Waits until the first container waits with one of `reasons`.
    pub(crate) async fn waiting(&self, name: &str, reasons: &[&str]) -> ContainerStateWaiting {
        let pod = self
            .until(name, &format!("waiting with {reasons:?}"), |pod| {
                waiting(pod)
                    .is_some_and(|state| reasons.contains(&state.reason.as_deref().unwrap_or_default()))
            })
            .await;
        waiting(&pod).cloned().expect("the condition asks for one")
    }

    /// Waits until the object is gone.
    pub(crate) async fn gone(&self, name: &str) {
        wait::object(self.api(), name, "deletion", SOON, |pod| pod.is_none()).await.unwrap();
    }

    /// Waits until no object with these labels is left.
    pub(crate) async fn all_gone(&self, labels: &str) {
        let labelled = ListParams::default().labels(labels);
        wait::until(&format!("the end of all pods with {labels}"), SOON, async || {
            match self.api().list(&labelled).await.map_err(|error| error.to_string())?.items.len() {
                0 => Ok(()),
                left => Err(format!("{left} pods are left")),
            }
        })
        .await
        .unwrap();
    }

    /// What the first container has printed.
    pub(crate) async fn logs(&self, name: &str) -> String {
        self.api().logs(name, &LogParams::default()).await.unwrap()
    }

    /// What the first container has printed, as soon as an agent that has just started knows the pod. Until then
    /// it asks for patience, and says of no pod that it is not there.
    pub(crate) async fn logs_once_known(&self, name: &str) -> String {
        wait::until(&format!("the log of {name}"), SOON, async || {
            match self.api().logs(name, &LogParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 503 => Err(status.message),
                other => Ok(other.unwrap()),
            }
        })
        .await
        .unwrap()
    }

    /// Waits until an Event about the pod satisfies `condition`.
    pub(crate) async fn event(&self, name: &str, what: &str, condition: impl Fn(&Event) -> bool) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let about = ListParams::default().fields(&format!("involvedObject.name={name}"));
        wait::until(&format!("{what} about {name}"), SOON, async || {
            let seen = events.list(&about).await.map_err(|error| error.to_string())?.items;
            if seen.iter().any(&condition) { Ok(()) } else { Err(format!("{:?}", messages(&seen))) }
        })
        .await
        .unwrap();
    }
}

fn messages(events: &[Event]) -> Vec<(Option<&str>, Option<&str>)> {
    events.iter().map(|event| (event.reason.as_deref(), event.message.as_deref())).collect()
}

/// The phase, empty when there is none yet.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Status of the first container.
pub(crate) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// How the first container ended, if it has.
pub(crate) fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    container(pod)?.state.as_ref()?.terminated.as_ref()
}

/// What the first container waits for, if it does.
pub(crate) fn waiting(pod: &Pod) -> Option<&ContainerStateWaiting> {
    container(pod)?.state.as_ref()?.waiting.as_ref()
}

/// Whether the first container runs.
pub(crate) fn running(pod: &Pod) -> bool {
    container(pod).and_then(|status| status.state.as_ref()).is_some_and(|state| state.running.is_some())
}

/// How often the first container was restarted.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    container(pod).map_or(0, |status| status.restart_count)
}

/// Whether a condition of the pod is true.
pub(crate) fn is(pod: &Pod, condition: &str) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|each| each.type_ == condition && each.status == "True")
}
