//! What somebody who watches the pods sees, and when.
//!
//! An [`Observer`] has a watch of its own and stamps each event as it arrives; [`Sightings`] is what it has
//! seen so far. The API server closes a watch whose reader falls behind, which happens on a busy machine; it
//! is taken up again where it ended, so that nothing is missed, and counted, because what comes late that
//! way is stamped late.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures::{Stream, StreamExt as _};
use kube::{
    Client,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::view::{self, View};

/// Seconds after which the API server ends a watch: the most that it takes; no measurement is that long.
const WATCH_TIMEOUT: u32 = 294;

/// How often a watch may end before that is no accident any more.
const RESUMPTIONS: usize = 20;

/// When one pod was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// Bound to a node, for the first time.
    pub(crate) bound: Instant,
    /// In phase Running, for the first time.
    pub(crate) running: Option<Instant>,
    /// Ready, at least once.
    pub(crate) ready: bool,
    /// Deleted, for good.
    pub(crate) gone: bool,
}

/// All that was seen, by name of the pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sightings {
    pods: BTreeMap<String, Sighting>,
    /// How often the watch was closed.
    pub(crate) closed: usize,
    /// Why no more can be learnt: a pod that ended, or the watch itself.
    trouble: Option<String>,
}

impl Sightings {
    /// Takes down that `pod` was seen like this at `now`.
    fn see(&mut self, pod: &View, now: Instant) {
        if pod.spec.node_name.is_none() {
            return;
        }
        let name = &pod.metadata.name;
        let unseen = Sighting { bound: now, running: None, ready: false, gone: false };
        let sighting = self.pods.entry(name.clone()).or_insert(unseen);
        sighting.ready |= pod.status.is_ready();
        match pod.status.phase.as_str() {
            "Running" => {
                sighting.running.get_or_insert(now);
            }
            // Pods that are being deleted may end.
            ended @ ("Failed" | "Succeeded") if pod.metadata.deletion_timestamp.is_none() => {
                let why = pod.status.message.as_deref().unwrap_or("no message");
                self.trouble = Some(format!("the pod {name} is {ended}, and should run on: {why}"));
            }
            _ => {}
        }
    }

    /// Takes down that `pod` is gone.
    fn miss(&mut self, pod: &View) {
        if let Some(sighting) = self.pods.get_mut(&pod.metadata.name) {
            sighting.gone = true;
        }
    }

    /// Takes down one event of the watch.
    fn take(&mut self, event: &WatchEvent<View>, now: Instant) {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => self.see(pod, now),
            WatchEvent::Deleted(pod) => self.miss(pod),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => {
                self.trouble =
                    Some(format!("the API server refuses to go on with the watch: {}", status.message));
            }
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

    /// When the first pod was seen Running.
    pub(crate) fn first_running(&self) -> Option<Instant> {
        self.pods.values().filter_map(|pod| pod.running).min()
    }

    /// From the first pod seen bound to the last seen Running; `None` when none was.
    pub(crate) fn span(&self) -> Option<Duration> {
        let first = self.pods.values().map(|pod| pod.bound).min()?;
        let last = self.pods.values().filter_map(|pod| pod.running).max()?;
        Some(last.duration_since(first))
    }
}

/// Watches some pods, until it and its clones are dropped.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    seen: watch::Receiver<Sightings>,
    _watch: Arc<AbortOnDropHandle<()>>,
}

impl Observer {
    /// Watches the pods that match `labels`, from now on.
    ///
    /// # Errors
    /// When the API server does not let us.
    pub(crate) async fn start(client: &Client, labels: &str) -> Result<Self> {
        let list = view::pods().list(&ListParams::default().labels(labels).limit(1))?;
        let there: view::List = client.request(list).await.context("cannot list pods")?;
        if !there.items.is_empty() {
            bail!("there are pods with the labels {labels} already");
        }
        let version = there.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default().labels(labels).timeout(WATCH_TIMEOUT);
        let (sender, seen) = watch::channel(Sightings::default());
        let client = client.clone();
        let task = tokio::spawn(async move {
            let watch = |version: String| {
                let (client, params) = (client.clone(), params.clone());
                async move {
                    let request = view::pods().watch(&params, &version).map_err(kube::Error::BuildRequest)?;
                    client.request_events(request).await
                }
            };
            let ended = follow(version, &sender, watch).await;
            if let Err(error) = ended {
                sender.send_modify(|seen| seen.trouble = Some(format!("{error:#}")));
            }
        });
        Ok(Self { seen, _watch: Arc::new(AbortOnDropHandle::new(task)) })
    }

    /// Waits until `count` pods were seen Running, and returns all that was seen.
    ///
    /// # Errors
    /// When `limit` is over, a pod has ended, or the watch has.
    pub(crate) async fn running(&mut self, count: usize, limit: Duration) -> Result<Sightings> {
        self.until("Running", limit, |seen| (seen.running(), count)).await
    }

    /// Waits until the pod `name` was seen Ready.
    ///
    /// # Errors
    /// See [`Observer::running`].
    pub(crate) async fn one_ready(&mut self, name: &str, limit: Duration) -> Result<()> {
        let ready = |seen: &Sightings| usize::from(seen.pods.get(name).is_some_and(|pod| pod.ready));
        self.until("Ready", limit, |seen| (ready(seen), 1)).await?;
        Ok(())
    }

    /// Waits until the pod `name` was seen to go.
    ///
    /// # Errors
    /// See [`Observer::running`].
    pub(crate) async fn one_gone(&mut self, name: &str, limit: Duration) -> Result<()> {
        let gone = |seen: &Sightings| usize::from(seen.pods.get(name).is_some_and(|pod| pod.gone));
        self.until("gone", limit, |seen| (gone(seen), 1)).await?;
        Ok(())
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

/// Takes down the events of a watch that begins at `version`, and again of one that begins where it ended.
async fn follow<F, S>(
    mut version: String,
    seen: &watch::Sender<Sightings>,
    watch: impl Fn(String) -> F,
) -> Result<()>
where
    F: Future<Output = kube::Result<S>>,
    S: Stream<Item = kube::Result<WatchEvent<View>>>,
{
    for _ in 0..=RESUMPTIONS {
        let mut events = pin!(watch(version.clone()).await.context("cannot watch pods")?);
        // Whether the API server closed the watch or the connection broke makes no difference.
        while let Some(Ok(event)) = events.next().await {
            let now = Instant::now();
            seen.send_modify(|seen| seen.take(&event, now));
            version = version_of(&event).unwrap_or(version);
        }
        seen.send_modify(|seen| seen.closed += 1);
    }
    bail!("the observer's watch was closed more than {RESUMPTIONS} times, and is given up")
}

/// The version of the pods that the next watch must begin after, where an event tells it.
fn version_of(event: &WatchEvent<View>) -> Option<String> {
    match event {
        WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod) => {
            pod.metadata.resource_version.clone()
        }
        WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version.clone()),
        WatchEvent::Error(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str) -> View {
        let mut view = View::default();
        view.metadata.name = name.to_owned();
        view.spec.node_name = node.map(str::to_owned);
        view.status.phase = phase.to_owned();
        view
    }

    fn observer_of(seen: watch::Receiver<Sightings>) -> Observer {
        Observer { seen, _watch: Arc::new(AbortOnDropHandle::new(tokio::spawn(async {}))) }
    }

    /// Sees pods, one millisecond after the other.
    fn seen(pods: &[View]) -> Sightings {
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
        deleted.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
        assert_eq!(seen(&[deleted]).trouble, None);
        let trouble = seen(&[pod("a", Some("node"), "Failed")]).trouble.unwrap();
        assert_eq!(trouble, "the pod a is Failed, and should run on: no message");
    }

    #[tokio::test]
    async fn a_watch_that_is_closed_goes_on_where_it_ended_but_not_for_ever() {
        let (sender, receiver) = watch::channel(Sightings::default());
        let begins = Mutex::new(Vec::new());
        let ended = follow("1".to_owned(), &sender, async |version| {
            let number = begins.lock().unwrap().len() + 2;
            begins.lock().unwrap().push(version);
            let mut pod = pod(&format!("pod-{number}"), Some("node"), "Running");
            pod.metadata.resource_version = Some(number.to_string());
            Ok(futures::stream::iter([Ok(WatchEvent::Added(pod))]))
        });
        let error = ended.await.unwrap_err().to_string();
        assert_eq!(error, "the observer's watch was closed more than 20 times, and is given up");
        assert_eq!((receiver.borrow().running(), receiver.borrow().closed), (21, 21));
        assert_eq!(begins.lock().unwrap()[..3], ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn one_pod_is_waited_for_whatever_the_others_do() {
        let (sender, seen) = watch::channel(Sightings::default());
        let mut observer = observer_of(seen);
        let mut ready = pod("b", Some("node"), "Running");
        ready.status.conditions =
            vec![view::Condition { kind: "Ready".to_owned(), status: "True".to_owned() }];
        sender.send_modify(|seen| seen.see(&pod("a", Some("node"), "Running"), Instant::now()));
        let soon = Duration::from_millis(1);
        for name in ["a", "b"] {
            let error = observer.one_ready(name, soon).await.unwrap_err().to_string();
            assert_eq!(error, "after 0 s, 0 of 1 pods are Ready");
        }
        sender.send_modify(|seen| seen.see(&ready, Instant::now()));
        observer.one_ready("b", Duration::from_secs(60)).await.unwrap();
        observer.one_gone("b", soon).await.unwrap_err();
        sender.send_modify(|seen| seen.miss(&ready));
        observer.one_gone("b", Duration::from_secs(60)).await.unwrap();
    }

    #[tokio::test]
    async fn trouble_ends_the_waiting() {
        let (sender, seen) = watch::channel(Sightings::default());
        let mut observer = observer_of(seen);
        sender.send_modify(|seen| seen.trouble = Some("the sky fell".to_owned()));
        let error = observer.running(2, Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(error.to_string(), "the sky fell");
    }
}
