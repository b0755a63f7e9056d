//! Everything that the API server ever said about the pods of a namespace.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    runtime::watcher::{self, Event},
};
use tokio::task::JoinHandle;

use crate::pods::{phase, restarts};

/// One status of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    phase: String,
    /// Of the first container.
    restarts: i32,
}

/// Watches until it is dropped.
pub(crate) struct History {
    seen: Arc<Mutex<BTreeMap<String, Vec<Seen>>>>,
    watching: JoinHandle<()>,
}

impl Drop for History {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl History {
    pub(crate) fn of(pods: Api<Pod>) -> Self {
        let seen = Arc::new(Mutex::new(BTreeMap::<String, Vec<Seen>>::new()));
        let record = Arc::clone(&seen);
        let watching = tokio::spawn(async move {
            let mut events = watcher::watcher(pods, watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                // What cannot be watched at the moment is watched again.
                let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { continue };
                let now = Seen { phase: phase(&pod).to_owned(), restarts: restarts(&pod) };
                let name = format!("{} ({})", pod.name_any(), pod.uid().unwrap_or_default());
                record.lock().unwrap().entry(name).or_default().push(now);
            }
        });
        Self { seen, watching }
    }

    /// Fails if a pod came back from a final phase, or if a restart count fell.
    pub(crate) fn check(&self) {
        for (pod, seen) in self.seen.lock().unwrap().iter() {
            for pair in seen.windows(2) {
                let over = ["Succeeded", "Failed"].contains(&pair[0].phase.as_str());
                assert!(!over || pair[0].phase == pair[1].phase, "{pod} came back: {seen:?}");
                assert!(pair[0].restarts <= pair[1].restarts, "{pod} forgot restarts: {seen:?}");
            }
        }
    }
}
