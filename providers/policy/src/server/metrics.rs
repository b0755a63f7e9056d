//! What the server tells monitoring, by upstream's names
//! ([metrics](https://docs.kubewarden.io/reference/metrics-reference)).

use std::{
    collections::HashSet,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use super::Origin;
use crate::{request::Subject, response::AdmissionResponse, spec::Mode};

/// Series of one metric. Requests name kinds and namespaces as they like; what is new beyond that is counted without them.
const MOST_SERIES: usize = 4096;
/// Longest name of a kind or a namespace.
const LONGEST_NAME: usize = 253;
/// In milliseconds.
const BUCKETS: [f64; 12] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0, 5000.0];

type Labels = Vec<(&'static str, String)>;

/// One verdict of a policy, before anything became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evaluation<'a> {
    pub(super) policy: &'a str,
    pub(super) mode: Mode,
    pub(super) subject: &'a Subject,
    pub(super) origin: Origin,
    pub(super) response: &'a AdmissionResponse,
    pub(super) took: Duration,
}

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct ServerMetrics {
    registry: Registry,
    evaluations: Family<Labels, Counter>,
    latency: Family<Labels, Histogram, fn() -> Histogram>,
    known: Mutex<HashSet<Labels>>,
}

impl Default for ServerMetrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let evaluations = Family::default();
        registry.register("kubewarden_policy_evaluations", "Verdicts of policies", evaluations.clone());
        let latency =
            Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let help = "How long policies took for their verdicts, in milliseconds";
        registry.register("kubewarden_policy_evaluation_latency_milliseconds", help, latency.clone());
        Self { registry, evaluations, latency, known: Mutex::default() }
    }
}

impl ServerMetrics {
    pub(super) fn record(&self, evaluation: &Evaluation<'_>) {
        let labels = self.bounded(evaluation);
        self.evaluations.get_or_create(&labels).inc();
        self.latency.get_or_create(&labels).observe(evaluation.took.as_secs_f64() * 1000.0);
    }

    fn bounded(&self, evaluation: &Evaluation<'_>) -> Labels {
        let labels = labels(evaluation, evaluation.subject);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&labels) {
            return labels;
        }
        if known.len() >= MOST_SERIES {
            return self::labels(evaluation, &Subject::default());
        }
        known.insert(labels.clone());
        labels
    }

    /// All of it, as OpenMetrics.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The content type of [`ServerMetrics::text`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn labels(evaluation: &Evaluation<'_>, subject: &Subject) -> Labels {
    let mode = match evaluation.mode {
        Mode::Protect => "protect",
        Mode::Monitor => "monitor",
    };
    let mut labels = vec![
        ("policy_name", evaluation.policy.to_owned()),
        ("policy_mode", mode.to_owned()),
        ("accepted", evaluation.response.allowed.to_string()),
        ("mutated", evaluation.response.patch.is_some().to_string()),
        ("request_origin", evaluation.origin.name().to_owned()),
    ];
    let named = [
        ("resource_kind", &subject.kind),
        ("resource_namespace", &subject.namespace),
        ("resource_request_operation", &subject.operation),
    ];
    for (label, name) in named {
        labels
            .extend(name.iter().filter(|name| name.len() <= LONGEST_NAME).map(|name| (label, name.clone())));
    }
    let code = evaluation.response.status.as_ref().and_then(|status| status.code);
    labels.extend(code.map(|code| ("error_code", code.to_string())));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation<'a>(subject: &'a Subject, response: &'a AdmissionResponse) -> Evaluation<'a> {
        Evaluation {
            policy: "p",
            mode: Mode::Monitor,
            subject,
            origin: Origin::Validate,
            response,
            took: Duration::from_millis(3),
        }
    }

    fn subject(namespace: &str) -> Subject {
        Subject {
            kind: Some("Pod".into()),
            namespace: Some(namespace.into()),
            operation: Some("CREATE".into()),
        }
    }

    #[test]
    fn verdicts_are_counted_by_what_they_are_about() {
        let metrics = ServerMetrics::default();
        let refused = AdmissionResponse::reject("u", "no", 400);
        metrics.record(&evaluation(&subject("ns"), &refused));
        metrics.record(&evaluation(&subject("ns"), &refused));
        metrics.record(&evaluation(&Subject::default(), &AdmissionResponse::allow("u")));
        let text = metrics.text().unwrap();
        let expected = "kubewarden_policy_evaluations_total{policy_name=\"p\",policy_mode=\"monitor\",accepted=\"false\",\
                        mutated=\"false\",request_origin=\"validate\",resource_kind=\"Pod\",resource_namespace=\"ns\",\
                        resource_request_operation=\"CREATE\",error_code=\"400\"} 2\n";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("request_origin=\"validate\"} 1\n"), "{text}");
        assert!(
            text.contains(
                "kubewarden_policy_evaluation_latency_milliseconds_bucket{le=\"5.0\",policy_name=\"p\""
            ),
            "{text}"
        );
    }

    #[test]
    fn whoever_invents_namespaces_does_not_fill_the_memory() {
        let metrics = ServerMetrics::default();
        let allowed = AdmissionResponse::allow("u");
        for index in 0..MOST_SERIES + 10 {
            metrics.record(&evaluation(&subject(&index.to_string()), &allowed));
        }
        metrics.record(&evaluation(&subject(&"x".repeat(LONGEST_NAME + 1)), &allowed));
        let text = metrics.text().unwrap();
        assert_eq!(
            text.lines().filter(|line| line.starts_with("kubewarden_policy_evaluations_total{")).count(),
            MOST_SERIES + 1
        );
        assert!(
            text.contains("request_origin=\"validate\"} 11\n"),
            "what is too much is counted without its names"
        );
    }
}
