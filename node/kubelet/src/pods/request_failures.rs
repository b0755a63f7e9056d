//! Requests of containers that have failed, for people: a provider that serves them goes on, so that nothing else shows it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;

use super::{
    index::PodIndex,
    lifecycle::{Note, Spec},
    pod_reference,
    reason::EventReason,
    shared::tell,
};
use crate::{
    events::Recorder,
    http_metrics::container_of,
    runtime::{FailedRequests, Runtime},
};

/// How often a container is told of at most: as often as an object can have Events in the long run, so that a failing guest
/// does not keep others of its pod from being told.
const TOLD: Duration = Duration::from_secs(5 * 60);
/// How long a failure waits for its container to be in the status of a pod that is known. Then nobody is told of it.
const UNNAMED: Duration = Duration::from_secs(60);
/// How often is looked for what has waited.
const LOOK: Duration = Duration::from_secs(5);

/// Tells of requests that have failed.
#[derive(Debug)]
pub(crate) struct RequestFailureWatch {
    runtime: Arc<dyn Runtime>,
    index: PodIndex,
    recorder: Recorder,
    tally: Tally,
}

/// What is to be told, by container id.
#[derive(Debug, Default)]
struct Tally(BTreeMap<String, Counted>);

/// What is known of a container.
#[derive(Debug)]
struct Counted {
    pod_uid: String,
    /// Failures since it was told of last.
    count: u64,
    last: String,
    /// When the first of them came, or, where that is later, the pod was known.
    since: Instant,
    told: Option<Instant>,
}

impl RequestFailureWatch {
    pub(crate) fn new(runtime: Arc<dyn Runtime>, index: PodIndex, recorder: Recorder) -> Self {
        Self { runtime, index, recorder, tally: Tally::default() }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        loop {
            let more = async {
                if self.tally.0.values().any(|counted| counted.count > 0) {
                    tokio::time::timeout(LOOK, self.runtime.failed_requests()).await.unwrap_or_default()
                } else {
                    self.runtime.failed_requests().await
                }
            };
            let more = more.await;
            for (pod, note) in self.tally.take_in(more, &self.index, Instant::now()) {
                tell(&self.recorder, &pod_reference(&pod), &Spec::of(&pod), &note);
            }
        }
    }
}

impl Tally {
    /// Counts what is new; returns what is to be said.
    fn take_in(
        &mut self,
        failures: Vec<FailedRequests>,
        index: &PodIndex,
        now: Instant,
    ) -> Vec<(Arc<Pod>, Note)> {
        for FailedRequests { id, pod_uid, count, last } in failures {
            let counted = self.0.entry(id);
            let counted =
                counted.or_insert(Counted { pod_uid, count: 0, last: String::new(), since: now, told: None });
            if counted.count == 0 {
                counted.since = now;
            }
            counted.count = counted.count.saturating_add(count);
            counted.last = last;
        }
        let mut notes = Vec::new();
        // Before any pod is looked for: they are put in first. What has waited for an agent comes before it knows its pods.
        let are_all_known = index.are_all_known();
        self.0.retain(|id, counted| {
            let Some(pod) = index.get(&counted.pod_uid) else {
                counted.since = now;
                return !are_all_known;
            };
            let Some(container) = container_of(&pod, id) else {
                return now.saturating_duration_since(counted.since) < UNNAMED;
            };
            let is_due = counted.told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD);
            if counted.count > 0 && is_due {
                let note = note(container, counted.count, &counted.last);
                (counted.count, counted.told) = (0, Some(now));
                notes.push((pod, note));
            }
            true
        });
        notes
    }
}

fn note(container: String, count: u64, last: &str) -> Note {
    let message = match count {
        1 => format!("a request to container {container} failed: {last}"),
        count => format!("{count} requests to container {container} failed; the last one: {last}"),
    };
    Note { container: Some(container), warning: true, reason: EventReason::RequestFailed, message }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(containers: &[&str]) -> Arc<Pod> {
        let statuses = containers.iter().map(|id| {
            json!({
                "name": "main", "containerID": format!("wasmtime://{id}"), "image": "i", "imageID": "",
                "ready": true, "restartCount": 0,
            })
        });
        let statuses: Vec<_> = statuses.collect();
        let pod = json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u"},
            "status": {"containerStatuses": statuses},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn failed(id: &str, count: u64, last: &str) -> Vec<FailedRequests> {
        vec![FailedRequests { id: id.to_owned(), pod_uid: "u".to_owned(), count, last: last.to_owned() }]
    }

    fn messages(notes: Vec<(Arc<Pod>, Note)>) -> Vec<String> {
        notes.into_iter().map(|(_, note)| note.message).collect()
    }

    #[test]
    fn failures_are_told_at_once_and_then_all_together() {
        let (index, begun) = (PodIndex::default(), Instant::now());
        index.put("u", pod(&["abc"]));
        let mut tally = Tally::default();
        let told = tally.take_in(failed("abc", 1, "unreachable"), &index, begun);
        assert_eq!(messages(told), ["a request to container main failed: unreachable"]);
        assert!(tally.take_in(failed("abc", 2, "x"), &index, begun + TOLD / 4).is_empty());
        assert!(tally.take_in(failed("abc", 3, "out of memory"), &index, begun + TOLD / 2).is_empty());
        let told = tally.take_in(Vec::new(), &index, begun + TOLD);
        assert_eq!(messages(told), ["5 requests to container main failed; the last one: out of memory"]);
        assert!(tally.take_in(Vec::new(), &index, begun + TOLD * 3).is_empty(), "nothing is new");
        index.put("u", pod(&["next"]));
        tally.take_in(Vec::new(), &index, begun + TOLD * 3);
        assert!(tally.0.is_empty(), "it has been replaced");
    }

    #[test]
    fn a_container_that_is_in_no_status_yet_is_waited_for() {
        let (index, begun) = (PodIndex::default(), Instant::now());
        let mut tally = Tally::default();
        index.set_all_known();
        assert!(tally.take_in(failed("abc", 1, "x"), &index, begun).is_empty());
        assert!(tally.0.is_empty(), "there is no such pod");
        index.put("u", pod(&[]));
        assert!(tally.take_in(failed("abc", 1, "x"), &index, begun).is_empty());
        index.put("u", pod(&["abc"]));
        assert_eq!(tally.take_in(Vec::new(), &index, begun + LOOK).len(), 1);
    }

    /// They have waited for an agent, and it does not know its pods yet.
    #[test]
    fn failures_wait_for_an_agent_to_know_its_pods() {
        let (index, begun) = (PodIndex::default(), Instant::now());
        let mut tally = Tally::default();
        let of = |pod: &str| FailedRequests { pod_uid: pod.to_owned(), ..failed(pod, 2, "x").remove(0) };
        assert!(tally.take_in(vec![of("u"), of("gone")], &index, begun).is_empty());
        assert!(tally.take_in(Vec::new(), &index, begun + UNNAMED).is_empty());
        index.put("u", pod(&[]));
        assert!(tally.take_in(Vec::new(), &index, begun + UNNAMED + LOOK).is_empty());
        assert_eq!(tally.0.len(), 2, "its status has a while from now on");
        index.set_all_known();
        index.put("u", pod(&["u"]));
        let told = tally.take_in(Vec::new(), &index, begun + UNNAMED + 2 * LOOK);
        assert_eq!(messages(told), ["2 requests to container main failed; the last one: x"]);
        assert!(!tally.0.contains_key("gone"), "it is none of this node's");
    }
}
