//! `prober_probe_total`: how often the probes of the node's containers succeeded and failed, with the labels of
//! upstream's `pkg/kubelet/prober`.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::lifecycle::{PodName, ProbeKind, Spec};

/// Counts of all pods. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ProbeCounts(Family<Labels, Counter>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    probe_type: &'static str,
    result: &'static str,
    container: String,
    pod: String,
    namespace: String,
    pod_uid: String,
}

impl Labels {
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

impl ProbeCounts {
    /// Shows them among the metrics of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        // The encoder appends `_total`.
        let help = "Cumulative number of a liveness, readiness or startup probe for a container by result";
        registry.register("prober_probe", help, self.0.clone());
    }

    /// Counts a result. Probes that could not be carried out are no result.
    pub(super) fn count(&self, pod: &PodName, container: &str, kind: ProbeKind, success: bool) {
        self.0.get_or_create(&Labels::of(pod, container, kind, success)).inc();
    }

    /// Forgets the counts of a pod that is not probed any more.
    pub(super) fn forget(&self, pod: &PodName, spec: &Spec) {
        for container in spec.all() {
            for kind in ProbeKind::ALL.into_iter().filter(|kind| kind.of(container).is_some()) {
                for success in [true, false] {
                    self.0.remove(&Labels::of(pod, &container.name, kind, success));
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
    fn results_are_counted_until_their_pod_is_forgotten() {
        let probe = json!({"tcpSocket": {"port": 1}});
        let containers = json!([{"name": "c", "image": "i", "readinessProbe": probe}]);
        let pod = serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap();
        let spec = Spec::of(&pod);
        let name = PodName { name: "p".to_owned(), namespace: "ns".to_owned(), uid: "u".to_owned() };
        let (counts, mut registry) = (ProbeCounts::default(), Registry::default());
        counts.register(&mut registry);
        for success in [true, true, false] {
            counts.count(&name, "c", ProbeKind::Readiness, success);
        }
        let shown = || {
            let mut shown = String::new();
            text::encode(&mut shown, &registry).unwrap();
            shown
        };
        for (result, count) in [("successful", 2), ("failed", 1)] {
            let line = format!(
                "prober_probe_total{{probe_type=\"Readiness\",result=\"{result}\",container=\"c\",pod=\"p\",\
                 namespace=\"ns\",pod_uid=\"u\"}} {count}\n"
            );
            assert!(shown().contains(&line), "{}", shown());
        }
        counts.forget(&name, &spec);
        assert!(!shown().contains("container="), "{}", shown());
    }
}
