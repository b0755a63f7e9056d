//! Requests to the API server, counted by the names of client-go's metrics.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Seconds; those of client-go.
const BUCKETS: [f64; 11] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0];
const WAITS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    code: String,
    method: String,
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    verb: String,
    host: String,
}

/// Counts and durations of all clients of a connection. Clones share them.
#[derive(Clone, Debug)]
pub struct ApiRequestMetrics {
    requests: Family<Answered, Counter>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    waits: Family<Asked, Histogram, fn() -> Histogram>,
}

impl Default for ApiRequestMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            waits: Family::new_with_constructor(|| Histogram::new(WAITS)),
        }
    }
}

impl ApiRequestMetrics {
    /// Shows them among the metrics of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Number of HTTP requests, partitioned by status code, method, and host";
        registry.register("rest_client_requests", help, self.requests.clone());
        let help = "Request latency in seconds. Broken down by verb, and host";
        registry.register("rest_client_request_duration_seconds", help, self.durations.clone());
        let help = "Client side rate limiter latency in seconds. Broken down by verb, and host";
        registry.register("rest_client_rate_limiter_duration_seconds", help, self.waits.clone());
    }

    /// A request has waited so long for the limit of its client.
    pub(super) fn waited(&self, method: &http::Method, host: &str, took: Duration) {
        let asked = Asked { verb: method.to_string(), host: host.to_owned() };
        self.waits.get_or_create(&asked).observe(took.as_secs_f64());
    }

    /// A request was answered with this status; without one, it was not answered.
    pub(super) fn answered(&self, method: &http::Method, host: &str, code: Option<u16>, took: Duration) {
        let (method, host) = (method.to_string(), host.to_owned());
        let code = code.map_or_else(|| "<error>".to_owned(), |code| code.to_string());
        let asked = Asked { verb: method.clone(), host: host.clone() };
        self.durations.get_or_create(&asked).observe(took.as_secs_f64());
        self.requests.get_or_create(&Answered { code, method, host }).inc();
    }
}
