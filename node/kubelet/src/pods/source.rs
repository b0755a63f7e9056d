//! Where pods come from: the API server's pods of this node.

use std::collections::HashSet;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::sync::mpsc;

use super::manager::Update;

/// Mirrors the pods that are bound to `node` into `updates`, until nobody listens. Interruptions are
/// ridden out: the list is taken again and told as a whole.
pub async fn api_server(client: Client, node: &str, updates: mpsc::Sender<Update>) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let stream = watcher(Api::<Pod>::all(client), config).default_backoff().modify(|pod| {
        pod.metadata.managed_fields = None;
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
            Ok(watcher::Event::InitDone) => Update::Synced(std::mem::take(&mut listed)),
            Ok(watcher::Event::Apply(pod)) => Update::Set(Box::new(pod)),
            Ok(watcher::Event::Delete(pod)) => match pod.metadata.uid {
                Some(uid) => Update::Gone(uid),
                None => continue,
            },
            Err(error) => {
                tracing::warn!(%error, "the watch of this node's pods was interrupted");
                continue;
            }
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}
