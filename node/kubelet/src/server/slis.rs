//! `/metrics/slis`: what health checks have found so far, for those who compute how available components are. The names are those
//! of all Kubernetes components; see
//! [component SLIs](https://kubernetes.io/docs/reference/instrumentation/slis/).

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// The kind of all checks of a kubelet.
const HEALTHZ: &str = "healthz";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Check {
    name: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    name: &'static str,
    r#type: &'static str,
    status: &'static str,
}

/// What was found whenever somebody asked for `/healthz`. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct HealthMetrics {
    last: Family<Check, Gauge>,
    all: Family<Outcome, Counter>,
}

impl HealthMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "This metric records the result of a single healthcheck";
        registry.register("kubernetes_healthcheck", help, self.last.clone());
        let help = "This metric records the results of all healthcheck";
        registry.register("kubernetes_healthchecks", help, self.all.clone());
    }

    /// A check was made.
    pub(super) fn observe(&self, name: &'static str, is_healthy: bool) {
        self.last.get_or_create(&Check { name, r#type: HEALTHZ }).set(i64::from(is_healthy));
        let status = if is_healthy { "success" } else { "error" };
        self.all.get_or_create(&Outcome { name, r#type: HEALTHZ, status }).inc();
    }
}
