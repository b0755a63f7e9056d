//! Where pods come from: the API server's pods of this node.

use std::collections::HashSet;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::mpsc;

use super::{
    lifecycle::spec::CONFIG_SOURCE_ANNOTATION,
    manager::{PodSource, Update},
};
use crate::{collection::watch_collection, explain::explain_watch};

/// Mirrors the pods that are bound to `node` into `updates`, until nobody listens. Interruptions are
/// ridden out: the list is taken again and told as a whole. Among them are the mirrors of static pods.
pub async fn api_server(client: Client, node: &str, updates: mpsc::Sender<Update>) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let stream = watch_collection(Api::<Pod>::all(client), config).default_backoff().modify(|pod| {
        pod.metadata.managed_fields = None;
        own_up(pod);
    });
    let mut stream = std::pin::pin!(stream);
    let mut listed = HashSet::new();
    while let Some(event) = stream.next().await {
        let update = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                Update::Set(Box::new(pod))
            }
            Ok(watcher::Event::InitDone) => Update::Synced(PodSource::Api, std::mem::take(&mut listed)),
            Ok(watcher::Event::Apply(pod)) => Update::Set(Box::new(pod)),
            Ok(watcher::Event::Delete(pod)) => match pod.metadata.uid {
                Some(uid) => Update::Gone(uid),
                None => continue,
            },
            Err(error) => {
                let error = explain_watch(&error);
                tracing::warn!(error, "the watch of this node's pods was interrupted");
                continue;
            }
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

/// A pod of the API server is none from a file, whatever its author has annotated it with: static pods are
/// spared checks that other pods are not.
fn own_up(pod: &mut Pod) {
    let source = pod.metadata.annotations.as_mut().and_then(|a| a.get_mut(CONFIG_SOURCE_ANNOTATION));
    if let Some(source) = source {
        "api".clone_into(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::lifecycle::spec::is_static;

    #[test]
    fn no_annotation_makes_a_pod_static() {
        let annotations = serde_json::json!({"kubernetes.io/config.source": "file", "a": "b"});
        let metadata = serde_json::json!({"annotations": annotations});
        let mut pod: Pod = serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap();
        own_up(&mut pod);
        assert!(!is_static(&pod));
        assert_eq!(pod.metadata.annotations.unwrap()["a"], "b");
    }
}
