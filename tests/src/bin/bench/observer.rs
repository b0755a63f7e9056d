//! What somebody who watches the pods sees, and when.
//!
//! An [`Observer`] has a watch of its own and stamps each event as it arrives; [`Sightings`] is what it has
//! seen so far. A watch that ends would leave a hole in the record, so that its end is an error here and not
//! something to recover from.

use std::{collections::BTreeMap, pin::pin, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// Seconds after which the API server ends a watch: the most that it takes; no measurement is that long.
const WATCH_TIMEOUT: u32 = 294;

/// When one pod was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// Bound to a node, for the first time.
    pub(crate) bound: Instant,
    /// In phase Running, for the first time.
    pub(crate) running: Option<Instant>,
    /// Deleted, for good.
    pub(crate) gone: bool,
}

/// All that was seen, by name of the pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sightings {
    pods: BTreeMap<String, Sighting>,
    /// Why no more can be learnt: a pod that ended, or the watch itself.
    trouble: Option<String>,
}

impl Sightings {
    /// Takes down that `pod` was seen like this at `now`.
    fn see(&mut self, pod: &Pod, now: Instant) {
        if pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_none() {
            return;
        }
        let name = pod.name_any();
        let sighting =
            self.pods.entry(name.clone()).or_insert(Sighting { bound: now, running: None, gone: false });
        let status = pod.status.as_ref();
        match status.and_then(|status| status.phase.as_deref()) {
            Some("Running") => {
                sighting.running.get_or_insert(now);
            }
            // Pods that are being deleted may end.
            Some(ended @ ("Failed" | "Succeeded")) if pod.metadata.deletion_timestamp.is_none() => {
                let why = status.and_then(|status| status.message.as_deref()).unwrap_or("no message");
                self.trouble = Some(format!("the pod {name} is {ended}, and should run on: {why}"));
            }
            _ => {}
        }
    }

    /// Takes down that `pod` is gone.
    fn miss(&mut self, pod: &Pod) {
        if let Some(sighting) = self.pods.get_mut(&pod.name_any()) {
            sighting.gone = true;
        }
    }

    /// Takes down one event of the watch.
    fn take(&mut self, event: Result<WatchEvent<Pod>, kube::Error>, now: Instant) {
        match event {
            Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)) => self.see(&pod, now),
            Ok(WatchEvent::Deleted(pod)) => self.miss(&pod),
            Ok(WatchEvent::Bookmark(_)) => {}
            Ok(WatchEvent::Error(status)) => {
                self.trouble = Some(format!("the watch was ended: {}", status.message));
            }
            Err(error) => self.trouble = Some(format!("the watch broke: {error}")),
        }
    }

    /// How many were seen Running.
    fn running(&self) -> usize {
        self.pods.values().filter(|pod| pod.running.is_some()).count()
    }

    /// How many are not gone.
    fn there(&self) -> usize {
        self.pods.values().filter(|pod| !pod.gone).count()
    }

    /// For every pod that was seen Running, the time from bound to Running.
    pub(crate) fn durations(&self) -> Vec<Duration> {
        self.pods.values().filter_map(|pod| Some(pod.running?.duration_since(pod.bound))).collect()
    }

    /// From the first pod seen bound to the last seen Running; `None` when none was.
    pub(crate) fn span(&self) -> Option<Duration> {
        let first = self.pods.values().map(|pod| pod.bound).min()?;
        let last = self.pods.values().filter_map(|pod| pod.running).max()?;
        Some(last.duration_since(first))
    }
}

/// Watches some pods, until it is dropped.
#[derive(Debug)]
pub(crate) struct Observer {
    seen: watch::Receiver<Sightings>,
    _watch: AbortOnDropHandle<()>,
}

impl Observer {
    /// Watches the pods that match `labels`, from now on.
    ///
    /// # Errors
    /// When the API server does not let us.
    pub(crate) async fn start(api: &Api<Pod>, labels: &str) -> Result<Self> {
        let there =
            api.list(&ListParams::default().labels(labels).limit(1)).await.context("cannot list pods")?;
        if !there.items.is_empty() {
            bail!("there are pods with the labels {labels} already");
        }
        let version = there.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default().labels(labels).timeout(WATCH_TIMEOUT);
        let events = api.watch(&params, &version).await.context("cannot watch pods")?;
        let (sender, seen) = watch::channel(Sightings::default());
        let task = tokio::spawn(async move { follow(events, &sender).await });
        Ok(Self { seen, _watch: AbortOnDropHandle::new(task) })
    }

    /// Waits until `count` pods were seen Running, and returns all that was seen.
    ///
    /// # Errors
    /// When `limit` is over, a pod has ended, or the watch has.
    pub(crate) async fn running(&mut self, count: usize, limit: Duration) -> Result<Sightings> {
        self.until("Running", limit, |seen| (seen.running(), count)).await
    }

    /// Waits until every pod that was seen is gone.
    ///
    /// # Errors
    /// See [`Observer::running`].
    pub(crate) async fn gone(&mut self, limit: Duration) -> Result<()> {
        self.until("gone", limit, |seen| (seen.pods.len() - seen.there(), seen.pods.len())).await?;
        Ok(())
    }

    /// Waits until `progress` says that as many pods are there as are wanted.
    async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        progress: impl Fn(&Sightings) -> (usize, usize),
    ) -> Result<Sightings> {
        let enough = |seen: &Sightings| {
            let (have, want) = progress(seen);
            seen.trouble.is_some() || have >= want
        };
        let waited = tokio::time::timeout(limit, self.seen.wait_for(enough)).await;
        let Ok(seen) = waited.map(|seen| seen.map(|seen| seen.clone())) else {
            let (have, want) = progress(&self.seen.borrow());
            bail!("after {} s, {have} of {want} pods are {what}", limit.as_secs());
        };
        let seen = seen.context("the observer is gone")?;
        match seen.trouble {
            Some(trouble) => bail!(trouble),
            None => Ok(seen),
        }
    }
}

/// Takes down the events of a watch until it ends.
async fn follow(
    events: impl Stream<Item = Result<WatchEvent<Pod>, kube::Error>>,
    seen: &watch::Sender<Sightings>,
) {
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        let now = Instant::now();
        seen.send_modify(|seen| seen.take(event, now));
    }
    seen.send_modify(|seen| {
        seen.trouble.get_or_insert_with(|| "the API server ended the watch".to_owned());
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str) -> Pod {
        let spec = json!({ "containers": [], "nodeName": node });
        let pod = json!({ "metadata": { "name": name }, "spec": spec, "status": { "phase": phase } });
        serde_json::from_value(pod).unwrap()
    }

    /// Sees pods, one millisecond after the other.
    fn seen(pods: &[Pod]) -> Sightings {
        let (start, mut seen) = (Instant::now(), Sightings::default());
        for (at, pod) in (0..).zip(pods) {
            seen.see(pod, start + Duration::from_millis(at));
        }
        seen
    }

    #[test]
    fn the_first_sight_of_each_state_counts() {
        let node = Some("node");
        let seen = seen(&[
            pod("a", None, "Pending"),
            pod("a", node, "Pending"),
            pod("a", node, "Pending"),
            pod("b", node, "Pending"),
            pod("a", node, "Running"),
            pod("a", node, "Running"),
            pod("b", node, "Running"),
        ]);
        let milliseconds = Duration::from_millis;
        assert_eq!(seen.durations(), [milliseconds(3), milliseconds(3)]);
        assert_eq!(seen.span(), Some(milliseconds(5)));
        assert_eq!((seen.running(), seen.there()), (2, 2));
    }

    #[test]
    fn nothing_seen_is_no_time() {
        let seen = seen(&[pod("a", None, "Pending")]);
        assert_eq!((seen.span(), seen.durations()), (None, vec![]));
    }

    #[test]
    fn a_pod_that_ends_is_trouble_unless_it_is_being_deleted() {
        let mut deleted = pod("a", Some("node"), "Failed");
        deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(seen(&[deleted]).trouble, None);
        let trouble = seen(&[pod("a", Some("node"), "Failed")]).trouble.unwrap();
        assert_eq!(trouble, "the pod a is Failed, and should run on: no message");
    }

    #[tokio::test]
    async fn the_end_of_the_watch_is_trouble() {
        let (sender, receiver) = watch::channel(Sightings::default());
        let added = Ok(WatchEvent::Added(pod("a", Some("node"), "Running")));
        follow(futures::stream::iter([added]), &sender).await;
        let mut observer =
            Observer { seen: receiver, _watch: AbortOnDropHandle::new(tokio::spawn(async {})) };
        assert_eq!(observer.seen.borrow().running(), 1);
        let error = observer.running(2, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.to_string(), "the API server ended the watch");
    }
}
