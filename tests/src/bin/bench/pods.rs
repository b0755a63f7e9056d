//! The pods that are measured: one container that sleeps, bound to its node from the start, so that no
//! scheduler takes part.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{
    Client,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{calm, observer::Observer, view};

/// Requests that are under way at once when many pods are created.
const CREATES: usize = 50;

/// Time for the API server to have all of a measurement's pods deleted by their node.
const REMOVAL: Duration = Duration::from_secs(120);

/// Seconds that guests get to end in; they have nothing to do in it.
const GRACE: u32 = 1;

/// Seconds that a guest sleeps: longer than any run.
const SLEEP: &str = "86400";

/// Label that holds the name of the measurement.
const LABEL: &str = "kubewasm.dev/bench";

/// Makes pods, and removes them.
#[derive(Clone)]
pub(crate) struct Pods {
    client: Client,
    image: String,
}

impl Pods {
    /// Pods that run `image`, the actor guest.
    pub(crate) fn new(client: &Client, image: &str) -> Self {
        Self { client: client.clone(), image: image.to_owned() }
    }

    /// Watches the pods of the measurement `name`, of which there are none yet.
    ///
    /// # Errors
    /// See [`Observer::start`].
    pub(crate) async fn observe(&self, name: &str) -> Result<Observer> {
        Observer::start(&self.client, &selector(name)).await
    }

    /// Creates pod number `number` of the measurement `name` on `node`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub(crate) async fn create(&self, name: &str, node: &str, number: usize) -> Result<()> {
        let pod = manifest(name, node, number, &self.image).to_string().into_bytes();
        let request = view::pods().create(&PostParams::default(), pod)?;
        self.client.request_text(request).await.context("cannot create a pod")?;
        Ok(())
    }

    /// The name of pod number `number` of the measurement `name`.
    pub(crate) fn name(name: &str, number: usize) -> String {
        format!("{name}-{number}")
    }

    /// Deletes pod number `number` of the measurement `name`, without waiting until it is gone.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub(crate) async fn delete(&self, name: &str, number: usize) -> Result<()> {
        let params = DeleteParams::default().grace_period(GRACE);
        let request = view::pods().delete(&Self::name(name, number), &params)?;
        self.client.request_text(request).await.context("cannot delete a pod")?;
        Ok(())
    }

    /// Creates the pods of the given numbers at once, and returns how long that took from the first request
    /// to the last answer.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub(crate) async fn create_all(
        &self,
        name: &str,
        node: &str,
        numbers: std::ops::Range<usize>,
    ) -> Result<Duration> {
        let start = Instant::now();
        stream::iter(numbers)
            .map(|number| self.create(name, node, number))
            .buffer_unordered(CREATES)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(start.elapsed())
    }

    /// Waits until their nodes have nothing more to say about the pods.
    ///
    /// # Errors
    /// See [`calm::silence`].
    pub(crate) async fn settle(&self) -> Result<()> {
        calm::silence(&self.client).await
    }

    /// Deletes the pods of the measurement `name`, waits until `observer` has seen them all go, and until
    /// their node has settled.
    ///
    /// # Errors
    /// When one does not go.
    pub(crate) async fn remove(&self, name: &str, mut observer: Observer) -> Result<()> {
        let params = DeleteParams::default().grace_period(GRACE);
        let request =
            view::pods().delete_collection(&params, &ListParams::default().labels(&selector(name)))?;
        self.client.request_text(request).await.context("cannot delete pods")?;
        observer.gone(REMOVAL).await?;
        self.settle().await
    }
}

/// The label selector of the pods of the measurement `name`.
pub(crate) fn selector(name: &str) -> String {
    format!("{LABEL}={name}")
}

fn manifest(name: &str, node: &str, number: usize, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": Pods::name(name, number), "labels": { LABEL: name } },
        "spec": {
            "nodeName": node,
            // Nodes have taints, for which a pod that is bound by hand would be evicted.
            "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "main", "image": image, "args": ["sleep", SLEEP] }],
        },
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    #[test]
    fn a_pod_is_bound_from_the_start_and_carries_its_label() {
        let pod: Pod = serde_json::from_value(manifest("burst", "a-node", 7, "registry/actor:v1")).unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("burst-7"));
        assert_eq!(pod.metadata.labels.unwrap()[LABEL], "burst");
        assert_eq!(selector("burst"), format!("{LABEL}=burst"));
        assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some("a-node"));
    }
}
