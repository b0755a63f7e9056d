//! Requests to the HTTPS API, counted by the names of upstream's `pkg/kubelet/server/metrics`.

use std::time::Instant;

use http::{HeaderMap, Method, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::traces::{self, Span, SpanKind, Tracer};

/// Seconds, by which durations are told apart; upstream's.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Paths that have a label of their own; all others share one, so that no caller makes up labels.
const PATHS: [&str; 23] = [
    "metrics/cadvisor",
    "metrics/probes",
    "metrics/resource",
    "metrics/slis",
    "metrics",
    "stats/summary",
    "stats",
    "healthz",
    "pods",
    "runningpods",
    "configz",
    "containerLogs",
    "exec",
    "attach",
    "portForward",
    "run",
    "logs",
    "checkpoint",
    "debug",
    "flagz",
    "statusz",
    "livez",
    "readyz",
];
/// Those whose answers may go on for as long as somebody wants them to.
const LONG: [&str; 7] = ["containerLogs", "exec", "attach", "portForward", "run", "logs", "debug"];

/// A kind of request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
    path: &'static str,
    server_type: &'static str,
    long_running: &'static str,
}

impl Request {
    fn of(method: &Method, path: &str) -> Self {
        let path = path.trim_start_matches('/');
        let is_at = |known: &str| {
            path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let path = PATHS.into_iter().find(|known| is_at(known)).unwrap_or("other");
        Self {
            method: match *method {
                Method::GET => "GET",
                Method::POST => "POST",
                Method::PUT => "PUT",
                Method::DELETE => "DELETE",
                _ => "other",
            },
            path,
            server_type: "readwrite",
            long_running: if LONG.contains(&path) { "true" } else { "false" },
        }
    }
}

/// Counts of requests that have passed the gate. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct RequestMetrics {
    requests: Family<Request, Counter>,
    durations: Family<Request, Histogram, fn() -> Histogram>,
    in_flight: Family<Request, Gauge>,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            in_flight: Family::default(),
        }
    }
}

impl RequestMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Number of the http requests received since the server started";
        registry.register("kubelet_http_requests", help, self.requests.clone());
        let help = "Duration in seconds until an http request is answered";
        registry.register("kubelet_http_requests_duration_seconds", help, self.durations.clone());
        let help = "Number of the inflight http requests";
        registry.register("kubelet_http_inflight_requests", help, self.in_flight.clone());
    }

    /// A request has come, and belongs to the trace that its caller says.
    pub(super) fn begin(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        tracer: &Tracer,
    ) -> RequestInFlight {
        let request = Request::of(method, path);
        self.requests.get_or_create(&request).inc();
        self.in_flight.get_or_create(&request).inc();
        let route = route(request.path);
        let mut span = traces::requests::receiving(tracer, headers, route);
        span.set("http.request.method", request.method);
        span.set("http.route", route);
        RequestInFlight { metrics: self.clone(), request, begun: Instant::now(), span }
    }
}

/// A request that is not answered yet. It is answered, or given up, when this is dropped.
#[derive(Debug)]
pub(super) struct RequestInFlight {
    metrics: RequestMetrics,
    request: Request,
    begun: Instant,
    span: Span,
}

impl RequestInFlight {
    /// It was answered; what is left is the sending of that, or what comes after an upgrade.
    pub(super) fn answered(&mut self, status: StatusCode) {
        traces::requests::answered(&mut self.span, status, SpanKind::Server);
    }
}

/// What a request's span is called: the kubelet's route, without what a caller makes up.
fn route(path: &'static str) -> &'static str {
    match path {
        "metrics/cadvisor" => "/metrics/cadvisor",
        "metrics/probes" => "/metrics/probes",
        "metrics/resource" => "/metrics/resource",
        "metrics" => "/metrics",
        "stats/summary" => "/stats/summary",
        "stats" => "/stats",
        "healthz" => "/healthz",
        "pods" => "/pods",
        "runningpods" => "/runningpods/",
        "configz" => "/configz",
        "containerLogs" => "/containerLogs/{podNamespace}/{podID}/{containerName}",
        "exec" => "/exec/{podNamespace}/{podID}/{containerName}",
        "attach" => "/attach/{podNamespace}/{podID}/{containerName}",
        "portForward" => "/portForward/{podNamespace}/{podID}",
        "run" => "/run/{podNamespace}/{podID}/{containerName}",
        "logs" => "/logs/{logpath:*}",
        "flagz" => "/flagz",
        "statusz" => "/statusz",
        _ => "route not found",
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.get_or_create(&self.request).dec();
        let took = self.begun.elapsed().as_secs_f64();
        self.metrics.durations.get_or_create(&self.request).observe(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::{self, Format};

    #[test]
    fn requests_are_counted_by_what_they_ask_for_and_not_by_what_a_caller_makes_up() {
        let (metrics, mut registry) = (RequestMetrics::default(), Registry::default());
        metrics.register(&mut registry);
        let begin = |path: &str| metrics.begin(&Method::GET, path, &HeaderMap::new(), &Tracer::off());
        let held = begin("/containerLogs/ns/pod/container");
        for path in ["/metrics", "/metrics/cadvisor", "/made/up", "/made/up/too", "/metricsx"] {
            drop(begin(path));
        }
        let text = exposition::registry(&registry, Format::Classic).unwrap();
        let labels = |path: &str, long: bool| {
            format!("{{method=\"GET\",path=\"{path}\",server_type=\"readwrite\",long_running=\"{long}\"}}")
        };
        for line in [
            format!("kubelet_http_requests_total{} 1", labels("metrics/cadvisor", false)),
            format!("kubelet_http_requests_total{} 3", labels("other", false)),
            format!("kubelet_http_inflight_requests{} 1", labels("containerLogs", true)),
            format!("kubelet_http_inflight_requests{} 0", labels("metrics", false)),
            format!("kubelet_http_requests_duration_seconds_count{} 1", labels("metrics", false)),
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
        }
        drop(held);
    }

    #[test]
    fn a_request_is_a_part_of_what_its_caller_does_and_is_called_by_its_route() {
        let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let (tracer, kept) = Tracer::keeping();
        let metrics = RequestMetrics::default();
        let mut headers = HeaderMap::new();
        metrics.begin(&Method::GET, "/pods", &headers, &tracer).answered(StatusCode::OK);
        assert_eq!(kept.take(), [], "nobody records it");
        headers.insert(traces::TRACEPARENT, caller.parse().unwrap());
        metrics
            .begin(&Method::GET, "/containerLogs/ns/p/secret", &headers, &tracer)
            .answered(StatusCode::INTERNAL_SERVER_ERROR);
        let spans = kept.take();
        let [span] = &spans[..] else { panic!("{spans:?}") };
        let parent = traces::SpanContext::parse(caller).unwrap();
        assert_eq!((span.context, span.parent), (parent.at(span.context.span_id()), Some(parent.span_id())));
        assert_eq!(span.name, "/containerLogs/{podNamespace}/{podID}/{containerName}");
        assert!(span.attributes.contains(&("http.response.status_code", 500_i64.into())), "{span:?}");
        assert_eq!(span.error.as_deref(), Some("Internal Server Error"));
        headers.append(traces::TRACEPARENT, caller.parse().unwrap());
        metrics.begin(&Method::GET, "/pods", &headers, &tracer).answered(StatusCode::OK);
        assert_eq!(kept.take(), [], "of two callers, none is believed");
    }
}
