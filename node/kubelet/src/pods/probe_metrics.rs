//! What came of the probes of the node's containers, for monitoring: `prober_probe_total` and
//! `prober_probe_duration_seconds`, with the labels and buckets of upstream's `pkg/kubelet/prober`.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use super::lifecycle::{PodName, ProbeKind, Spec};

/// Seconds; Prometheus' own choice, which upstream leaves as it is.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counts and durations of all pods. Clones share them.
#[derive(Clone, Debug)]
pub struct ProbeMetrics {
    results: Family<Result, Counter>,
    durations: Family<ProbeSeries, Histogram, fn() -> Histogram>,
}

/// A result of a probe of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    probe_type: &'static str,
    result: &'static str,
    container: String,
    pod: String,
    namespace: String,
    pod_uid: String,
}

/// A probe of a container. Upstream gives it no UID, so that a pod which is made again goes on with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeSeries {
    probe_type: &'static str,
    container: String,
    pod: String,
    namespace: String,
}

impl Result {
    fn of(pod: &PodName, container: &str, kind: ProbeKind, success: bool) -> Self {
        Self {
            probe_type: kind.name(),
            result: if success { "successful" } else { "failed" },
            container: container.to_owned(),
            pod: pod.name.clone(),
            namespace: pod.namespace.clone(),
            pod_uid: pod.uid.clone(),
        }
    }
}

impl ProbeSeries {
    fn of(pod: &PodName, container: &str, kind: ProbeKind) -> Self {
        Self {
            probe_type: kind.name(),
            container: container.to_owned(),
            pod: pod.name.clone(),
            namespace: pod.namespace.clone(),
        }
    }
}

impl Default for ProbeMetrics {
    fn default() -> Self {
        Self {
            results: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

impl ProbeMetrics {
    /// Shows them among the metrics of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        // The encoder appends `_total`.
        let help = "Cumulative number of a liveness, readiness or startup probe for a container by result";
        registry.register("prober_probe", help, self.results.clone());
        let help = "Duration in seconds for a probe response";
        registry.register("prober_probe_duration_seconds", help, self.durations.clone());
    }

    /// Takes in a result. Probes that could not be carried out are no result, and of those that failed the time
    /// says nothing: it may be their limit.
    pub(super) fn record(
        &self,
        pod: &PodName,
        container: &str,
        kind: ProbeKind,
        success: bool,
        took: Duration,
    ) {
        self.results.get_or_create(&Result::of(pod, container, kind, success)).inc();
        if success {
            self.durations.get_or_create(&ProbeSeries::of(pod, container, kind)).observe(took.as_secs_f64());
        }
    }

    /// Forgets a pod that is not probed any more.
    pub(super) fn forget(&self, pod: &PodName, spec: &Spec) {
        for container in spec.all() {
            for kind in ProbeKind::ALL.into_iter().filter(|kind| kind.of(container).is_some()) {
                self.durations.remove(&ProbeSeries::of(pod, &container.name, kind));
                for success in [true, false] {
                    self.results.remove(&Result::of(pod, &container.name, kind, success));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_counted_and_measured_until_their_pod_is_forgotten() {
        let probe = json!({"tcpSocket": {"port": 1}});
        let containers = json!([{"name": "c", "image": "i", "readinessProbe": probe}]);
        let pod = serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap();
        let spec = Spec::of(&pod);
        let name = PodName { name: "p".to_owned(), namespace: "ns".to_owned(), uid: "u".to_owned() };
        let (metrics, mut registry) = (ProbeMetrics::default(), Registry::default());
        metrics.register(&mut registry);
        for (success, millis) in [(true, 4), (true, 300), (false, 1000)] {
            metrics.record(&name, "c", ProbeKind::Readiness, success, Duration::from_millis(millis));
        }
        let shown = || {
            let mut shown = String::new();
            text::encode(&mut shown, &registry).unwrap();
            shown
        };
        let labels = "container=\"c\",pod=\"p\",namespace=\"ns\"";
        for line in [
            format!("probe_total{{probe_type=\"Readiness\",result=\"successful\",{labels},pod_uid=\"u\"}} 2"),
            format!("probe_total{{probe_type=\"Readiness\",result=\"failed\",{labels},pod_uid=\"u\"}} 1"),
            format!("probe_duration_seconds_count{{probe_type=\"Readiness\",{labels}}} 2"),
            format!("probe_duration_seconds_bucket{{le=\"0.005\",probe_type=\"Readiness\",{labels}}} 1"),
            format!("probe_duration_seconds_bucket{{le=\"0.25\",probe_type=\"Readiness\",{labels}}} 1"),
            format!("probe_duration_seconds_bucket{{le=\"0.5\",probe_type=\"Readiness\",{labels}}} 2"),
            format!("probe_duration_seconds_bucket{{le=\"10.0\",probe_type=\"Readiness\",{labels}}} 2"),
        ] {
            assert!(shown().contains(&format!("\nprober_{line}\n")), "{line} in {}", shown());
        }
        metrics.forget(&name, &spec);
        assert!(!shown().contains("container="), "{}", shown());
    }
}
