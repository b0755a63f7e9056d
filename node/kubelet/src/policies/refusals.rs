//! What the provider has refused, for people and for monitoring.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::{
    events::Recorder,
    pods::{PodIndex, pod_reference, reason::EventReason},
    runtime::{NetworkRefusals, Runtime},
};

/// How often the provider is asked.
const LOOK: Duration = Duration::from_secs(10);
/// How often a pod is told of at most.
const TOLD: Duration = Duration::from_secs(5 * 60);

/// Counts of what was refused. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RefusalMetrics(Family<Refused, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    direction: &'static str,
}

impl RefusalMetrics {
    /// Shows them among the metrics of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Connections, datagrams and name look-ups of pods that their NetworkPolicies or egress lists refused";
        registry.register("kubewasm_network_refusals", help, self.0.clone());
    }

    fn add(&self, direction: &'static str, count: u64) {
        if count > 0 {
            self.0.get_or_create(&Refused { direction }).inc_by(count);
        }
    }
}

/// Looks at what was refused, counts it, and tells of it.
#[derive(Debug)]
pub(crate) struct RefusalWatch {
    runtime: Arc<dyn Runtime>,
    recorder: Recorder,
    tally: Tally,
}

/// What was taken in so far.
#[derive(Debug)]
struct Tally {
    index: PodIndex,
    metrics: RefusalMetrics,
    seen: HashMap<String, Seen>,
}

/// What is known of a pod.
#[derive(Clone, Copy, Debug)]
struct Seen {
    ingress: u64,
    egress: u64,
    told: Option<Instant>,
}

impl RefusalWatch {
    pub(crate) fn new(
        runtime: Arc<dyn Runtime>,
        index: PodIndex,
        recorder: Recorder,
        metrics: RefusalMetrics,
    ) -> Self {
        Self { runtime, recorder, tally: Tally { index, metrics, seen: HashMap::new() } }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let refusals = self.runtime.network_refusals().await;
            for (pod, message) in self.tally.take_in(&refusals, Instant::now()) {
                let reason = EventReason::NetworkRefused.as_str();
                self.recorder.warning(&pod, reason, message);
            }
        }
    }
}

impl Tally {
    /// Counts what is new; returns what is to be said.
    fn take_in(&mut self, refusals: &[NetworkRefusals], now: Instant) -> Vec<(ObjectReference, String)> {
        self.seen.retain(|uid, _| self.index.get(uid).is_some());
        let mut messages = Vec::new();
        for refusal in refusals {
            let Some(pod) = self.index.get(&refusal.pod_uid) else { continue };
            let known = self.seen.entry(refusal.pod_uid.clone()).or_insert(Seen {
                ingress: 0,
                egress: 0,
                told: None,
            });
            // A worker that has taken a dead one's place counts from nothing.
            let more = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            let ingress = more(refusal.ingress, known.ingress);
            let egress = more(refusal.egress, known.egress);
            (known.ingress, known.egress) = (refusal.ingress, refusal.egress);
            self.metrics.add("ingress", ingress);
            self.metrics.add("egress", egress);
            let is_due = known.told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD);
            if ingress + egress > 0 && is_due {
                known.told = Some(now);
                messages.push((pod_reference(&pod), message(refusal, ingress + egress)));
            }
        }
        messages
    }
}

fn message(refusal: &NetworkRefusals, count: u64) -> String {
    let last = refusal.last.join("; ");
    format!("{count} refused, such as {last}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Twice within five minutes is told once, and all of it is counted.
    #[test]
    fn refusals_are_counted_and_now_and_then_told() {
        let index = PodIndex::default();
        let pod =
            json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": {"containers": []}});
        index.put("u", Arc::new(serde_json::from_value(pod).unwrap()));
        let metrics = RefusalMetrics::default();
        let mut tally = Tally { index, metrics: metrics.clone(), seen: HashMap::new() };
        let refusals = |uid: &str, ingress, egress| {
            let last = vec!["a TCP connection to 192.0.2.1:80".to_owned()];
            vec![NetworkRefusals { pod_uid: uid.to_owned(), ingress, egress, last }]
        };
        let begun = Instant::now();
        let told = tally.take_in(&refusals("u", 2, 1), begun);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].0.name.as_deref(), Some("p"));
        assert_eq!(told[0].1, "3 refused, such as a TCP connection to 192.0.2.1:80");
        assert_eq!(tally.take_in(&refusals("u", 2, 1), begun + TOLD), [], "nothing is new");
        assert_eq!(tally.take_in(&refusals("u", 4, 1), begun + TOLD / 2), [], "too soon");
        assert_eq!(tally.take_in(&refusals("u", 1, 1), begun + TOLD).len(), 1, "another worker");
        assert_eq!(tally.take_in(&refusals("other", 9, 9), begun), [], "none of this node's");
        let count = |direction| metrics.0.get_or_create(&Refused { direction }).get();
        assert_eq!((count("ingress"), count("egress")), (5, 1));
    }
}
