//! Traces of what policies judge, for OpenTelemetry.

use std::sync::Arc;

use anyhow::Context as _;
use http::HeaderMap;
use kubewasm_kubelet::traces::{
    Span, SpanContext, SpanKind, TRACEPARENT, TraceEndpoint, TraceExporter, TraceMetrics, Tracer,
};
use kubewasm_policy::{
    response::AdmissionResponse,
    server::observer::{EvaluationObserver, ObservedEvaluation},
};

/// Arguments about traces.
#[derive(Debug, clap::Args)]
pub(super) struct TraceArgs {
    /// A collector of OpenTelemetry, host:port, that is sent a span for each request [default: nobody is].
    #[arg(long, value_name = "ENDPOINT")]
    otlp_endpoint: Option<String>,

    /// Of a million requests that come without a trace of their caller's, so many are traced.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000, requires = "otlp_endpoint")]
    trace_samples_per_million: u32,
}

/// Who is told of requests, and what sends what comes of it.
type Tracing = (Option<Arc<dyn EvaluationObserver>>, Option<TraceExporter>);

impl TraceArgs {
    /// Nobody, where there is no collector.
    pub(super) fn open(&self) -> anyhow::Result<Tracing> {
        let Some(endpoint) = self.otlp_endpoint.as_deref() else { return Ok((None, None)) };
        let endpoint = TraceEndpoint::parse(Some(endpoint))
            .map_err(|why| anyhow::anyhow!("--otlp-endpoint {endpoint}: {why}"))?;
        let resource = vec![
            ("service.name", "kubewasm-policy-server".to_owned()),
            ("host.name", rustix::system::uname().nodename().to_string_lossy().into_owned()),
        ];
        let metrics = TraceMetrics::default();
        let opened = TraceExporter::open(endpoint, self.trace_samples_per_million, resource, metrics);
        let (tracer, exporter) = opened.context("cannot use --otlp-endpoint")?;
        Ok((Some(Arc::new(TracedEvaluations(tracer))), Some(exporter)))
    }
}

/// A span for each request, as a part of what its caller does.
#[derive(Debug)]
struct TracedEvaluations(Tracer);

struct TracedEvaluation(Span);

impl EvaluationObserver for TracedEvaluations {
    fn begin(&self, policy: &str, headers: &HeaderMap) -> Box<dyn ObservedEvaluation> {
        let parent = headers.get(TRACEPARENT).and_then(|value| SpanContext::parse(value.to_str().ok()?));
        let mut span = self.0.continuing(parent, "evaluatePolicy", SpanKind::Server);
        span.set("policy.id", policy);
        Box::new(TracedEvaluation(span))
    }
}

impl ObservedEvaluation for TracedEvaluation {
    fn judged(self: Box<Self>, response: &AdmissionResponse) {
        let Self(mut span) = *self;
        span.set("request.uid", response.uid.as_str());
        span.set("policy.allowed", response.allowed);
        span.set("policy.mutated", response.patch.is_some());
        if !response.allowed && response.is_failure() {
            let message = response.status.as_ref().and_then(|status| status.message.as_deref());
            span.fail(message.unwrap_or("the policy came to no verdict"));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_request_is_a_part_of_what_its_caller_does() {
        let (tracer, kept) = Tracer::keeping();
        let observer = TracedEvaluations(tracer);
        let mut headers = HeaderMap::new();
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert(TRACEPARENT, HeaderValue::from_static(parent));
        observer.begin("p", &headers).judged(&AdmissionResponse::reject("u", "no", 400));
        observer.begin("p", &headers).judged(&AdmissionResponse::fail("u", "it has crashed"));
        let spans = format!("{:?}", kept.take());
        assert_eq!(spans.matches("evaluatePolicy").count(), 2, "{spans}");
        assert!(spans.contains("it has crashed") && !spans.contains("\"no\""), "{spans}");
    }
}
