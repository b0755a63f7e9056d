//! What has become of spans.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Counts of spans. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct TraceMetrics {
    spans: Family<Outcome, Counter>,
}

impl TraceMetrics {
    /// Shows them among the metrics of `registry`, which appends `_total` to the name.
    pub fn register(&self, registry: &mut Registry) {
        let help =
            "Spans of traces that were recorded, by what has become of them: exported, refused or dropped";
        registry.register("kubewasm_trace_spans", help, self.spans.clone());
    }

    pub(super) fn exported(&self, spans: u64) {
        self.count("exported", spans);
    }

    /// The collector does not take them, or could not be reached for too long.
    pub(super) fn refused(&self, spans: u64) {
        self.count("refused", spans);
    }

    /// There was no room to let them wait.
    pub(super) fn dropped(&self) {
        self.count("dropped", 1);
    }

    fn count(&self, outcome: &'static str, spans: u64) {
        if spans > 0 {
            self.spans.get_or_create(&Outcome { outcome }).inc_by(spans);
        }
    }

    #[cfg(test)]
    pub(super) fn counted(&self, outcome: &'static str) -> u64 {
        self.spans.get_or_create(&Outcome { outcome }).get()
    }
}
