//! How long a pod takes to start, for monitoring.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use crate::node_metrics::PodStartTimes;

/// Measures the start of a pod, once.
#[derive(Debug)]
pub(super) struct StartClock {
    seen: Instant,
    /// From the begin of the first pull to the end of the last.
    pulls: Option<(Instant, Instant)>,
    /// It has been told, or an earlier agent has begun to start the pod.
    is_done: bool,
}

impl StartClock {
    pub(super) fn new(seen: Instant, is_done: bool) -> Self {
        Self { seen, pulls: None, is_done }
    }

    /// A pull that had begun then is over.
    pub(super) fn pulled(&mut self, begun: Instant, ended: Instant) {
        let first = self.pulls.map_or(begun, |(first, _)| first.min(begun));
        self.pulls = Some((first, ended));
    }

    /// The pod has this status now; returns how long its start took, once all of its containers have started.
    pub(super) fn observe(
        &mut self,
        pod: &Pod,
        status: &PodStatus,
        now: (Instant, Timestamp),
    ) -> Option<PodStartTimes> {
        let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
        let statuses = status.container_statuses.as_deref().unwrap_or_default();
        if self.is_done || statuses.iter().filter(|status| has_started(status)).count() < containers {
            return None;
        }
        self.is_done = true;
        let since_seen = now.0.saturating_duration_since(self.seen);
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let since_created = created.map_or(since_seen, |created| between(created, now.1));
        let pulls = self.pulls.map_or(Duration::ZERO, |(first, last)| last.saturating_duration_since(first));
        let init =
            status.init_container_statuses.iter().flatten().map(took).fold(pulls, Duration::saturating_add);
        Some(PodStartTimes { since_seen, since_created: since_created.max(since_seen), apart: init })
    }
}

fn has_started(status: &ContainerStatus) -> bool {
    let has = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    has(status.state.as_ref()) || has(status.last_state.as_ref())
}

/// How long a container ran that has ended.
fn took(status: &ContainerStatus) -> Duration {
    let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let times = ended.and_then(|ended| Some((ended.started_at.as_ref()?.0, ended.finished_at.as_ref()?.0)));
    times.map_or(Duration::ZERO, |(from, to)| between(from, to))
}

fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_start_is_measured_once_and_without_pulls_and_init_containers_for_the_objective() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
        }))
        .unwrap();
        let status = |states: [serde_json::Value; 2]| -> PodStatus {
            let container = |name: &str, state| json!({"name": name, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state});
            let [a, b] = states;
            let ended = json!({"terminated": {"exitCode": 0, "startedAt": "2026-01-01T00:00:04Z", "finishedAt": "2026-01-01T00:00:06Z"}});
            serde_json::from_value(json!({
                "containerStatuses": [container("a", a), container("b", b)],
                "initContainerStatuses": [container("i", ended)],
            }))
            .unwrap()
        };
        let running = || json!({"running": {"startedAt": "2026-01-01T00:00:07Z"}});
        let (seen, second) = (Instant::now(), Duration::from_secs(1));
        let mut clock = StartClock::new(seen, false);
        clock.pulled(seen + second, seen + second * 3);
        let at = (seen + second * 8, "2026-01-01T00:00:10Z".parse().unwrap());
        assert_eq!(clock.observe(&pod, &status([running(), json!({"waiting": {}})]), at), None);
        let times = PodStartTimes { since_seen: second * 8, since_created: second * 10, apart: second * 4 };
        assert_eq!(clock.observe(&pod, &status([running(), running()]), at), Some(times));
        assert_eq!(clock.observe(&pod, &status([running(), running()]), at), None, "once");
        let known = &mut StartClock::new(seen, true);
        assert_eq!(known.observe(&pod, &status([running(), running()]), at), None, "of an earlier agent");
    }
}
