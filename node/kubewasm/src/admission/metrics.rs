//! What a node counts of its policies.

use kubewasm_policy::spec::Mode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// What a policy has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CountedVerdict {
    Accepted,
    Refused,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    policy: String,
    mode: &'static str,
    verdict: &'static str,
}

/// Verdicts by policy. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct AdmissionMetrics(Family<Labels, Counter>);

impl AdmissionMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Verdicts of the node's own admission policies";
        registry.register("kubewasm_admission_verdicts", help, self.0.clone());
    }

    pub(super) fn count(&self, policy: &str, mode: Mode, verdict: CountedVerdict) {
        let mode = match mode {
            Mode::Protect => "protect",
            Mode::Monitor => "monitor",
        };
        let verdict = match verdict {
            CountedVerdict::Accepted => "accepted",
            CountedVerdict::Refused => "refused",
            CountedVerdict::Failed => "failed",
        };
        self.0.get_or_create(&Labels { policy: policy.to_owned(), mode, verdict }).inc();
    }
}
