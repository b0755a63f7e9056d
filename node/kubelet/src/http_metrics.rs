//! What containers that serve HTTP have answered, for monitoring.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    pods::PodIndex,
    runtime::{HttpContainerStats, Runtime},
};

/// How often the provider is asked.
const LOOK: Duration = Duration::from_secs(10);
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What was counted the last time that the provider was asked. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct HttpMetrics(Arc<RwLock<Vec<Served>>>);

/// One container.
#[derive(Clone, Debug)]
struct Served {
    namespace: String,
    pod: String,
    container: String,
    stats: HttpContainerStats,
}

/// A number of each container: its name, what it is, and where it is.
type Number = (&'static str, &'static str, Kind, fn(&HttpContainerStats) -> u64);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Counter,
    Gauge,
}

const NUMBERS: [Number; 8] = [
    ("kubewasm_http_requests_in_flight", "Requests that are not answered yet", Kind::Gauge, |stats| {
        stats.in_flight
    }),
    ("kubewasm_http_requests_queued", "Requests that wait for an instance", Kind::Gauge, |stats| {
        stats.queued
    }),
    ("kubewasm_http_instances", "Instances of the container's module", Kind::Gauge, |stats| stats.instances),
    ("kubewasm_http_connections", "Connections", Kind::Gauge, |stats| stats.connections),
    (
        "kubewasm_http_rejected",
        "Requests that were sent away because too many waited, or memory was short",
        Kind::Counter,
        |stats| stats.rejected,
    ),
    (
        "kubewasm_http_failures",
        "Instances that trapped, exited, or left without an answer",
        Kind::Counter,
        |stats| stats.failures,
    ),
    ("kubewasm_http_timeouts", "Requests whose time was over", Kind::Counter, |stats| stats.timeouts),
    (
        "kubewasm_http_tls_handshake_failures",
        "Connections whose TLS handshake failed or took too long",
        Kind::Counter,
        |stats| stats.handshake_failures,
    ),
];

impl HttpMetrics {
    /// Shows them among the metrics of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    /// Asks the provider again and again, for ever.
    pub(crate) async fn follow(self, runtime: Arc<dyn Runtime>, index: PodIndex) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.take_in(runtime.http_stats().await, &index);
        }
    }

    /// From now on, these count. Those of containers that are not among a pod's any more are left out.
    fn take_in(&self, stats: Vec<HttpContainerStats>, index: &PodIndex) {
        let named = |stats: HttpContainerStats| {
            let pod = index.get(&stats.pod_uid)?;
            let container = container_of(&pod, &stats.id)?;
            let meta = &pod.metadata;
            let (namespace, pod) = (meta.namespace.clone()?, meta.name.clone()?);
            Some(Served { namespace, pod, container, stats })
        };
        let served = stats.into_iter().filter_map(named).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = served;
    }
}

/// What a pod calls its container with this id.
pub(crate) fn container_of(pod: &Pod, id: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses].into_iter().flatten().flatten();
    let has_id = |container_id: &String| container_id.ends_with(id);
    let mut all = all.filter(|status| status.container_id.as_ref().is_some_and(has_id));
    all.next().map(|status| status.name.clone())
}

impl Served {
    fn labels(&self) -> [(&'static str, &str); 3] {
        [("namespace", &self.namespace), ("pod", &self.pod), ("container", &self.container)]
    }
}

impl Collector for HttpMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        if all.is_empty() {
            return Ok(());
        }
        let help = "Requests that were answered, by the class of the status";
        let mut family =
            encoder.encode_descriptor("kubewasm_http_requests", help, None, MetricType::Counter)?;
        for served in &all {
            for (class, count) in CLASSES.into_iter().zip(served.stats.answers) {
                let [namespace, pod, container] = served.labels();
                let labels = [namespace, pod, container, ("class", class)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Seconds from the head of a request to the end of its answer";
        let name = "kubewasm_http_request_duration_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for served in &all {
            let stats = &served.stats;
            let count = stats.answers.iter().sum();
            let within: u64 = stats.buckets.iter().map(|(_, count)| count).sum();
            let buckets = stats.buckets.iter().map(|(bound, count)| (bound.as_secs_f64(), *count));
            let buckets: Vec<_> =
                buckets.chain(std::iter::once((f64::INFINITY, u64::saturating_sub(count, within)))).collect();
            family.encode_family(&served.labels())?.encode_histogram::<NoLabelSet>(
                stats.duration.as_secs_f64(),
                count,
                &buckets,
                None,
            )?;
        }
        for (name, help, kind, number) in NUMBERS {
            let metric_type = match kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(name, help, None, metric_type)?;
            for served in &all {
                let labels = served.labels();
                let encoder = family.encode_family(&labels)?;
                let number = number(&served.stats);
                match kind {
                    Kind::Counter => ConstCounter::new(number).encode(encoder)?,
                    Kind::Gauge => {
                        ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX)).encode(encoder)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_named_and_counted() {
        let index = PodIndex::default();
        let pod = json!({
            "metadata": { "name": "web", "namespace": "shop", "uid": "u" },
            "status": { "containerStatuses": [{
                "name": "main", "containerID": "wasmtime://abc", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            }] },
        });
        index.put("u", Arc::new(serde_json::from_value(pod).unwrap()));
        let stats = |id: &str, pod_uid: &str| HttpContainerStats {
            id: id.into(),
            pod_uid: pod_uid.into(),
            answers: [0, 3, 0, 1, 2],
            duration: Duration::from_millis(1500),
            buckets: vec![(Duration::from_millis(5), 4), (Duration::from_secs(1), 1)],
            in_flight: 7,
            queued: 8,
            instances: 9,
            connections: 10,
            rejected: 11,
            failures: 12,
            timeouts: 13,
            handshake_failures: 14,
        };
        let metrics = HttpMetrics::default();
        metrics.take_in(vec![stats("abc", "u"), stats("gone", "u"), stats("abc", "other")], &index);
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let labels = r#"namespace="shop",pod="web",container="main""#;
        for expected in [
            format!("kubewasm_http_requests_total{{{labels},class=\"2xx\"}} 3\n"),
            format!("kubewasm_http_requests_total{{{labels},class=\"5xx\"}} 2\n"),
            format!("kubewasm_http_request_duration_seconds_sum{{{labels}}} 1.5\n"),
            format!("kubewasm_http_request_duration_seconds_count{{{labels}}} 6\n"),
            format!("kubewasm_http_request_duration_seconds_bucket{{le=\"1.0\",{labels}}} 5\n"),
            format!("kubewasm_http_request_duration_seconds_bucket{{le=\"+Inf\",{labels}}} 6\n"),
            format!("kubewasm_http_instances{{{labels}}} 9\n"),
            format!("kubewasm_http_failures_total{{{labels}}} 12\n"),
            format!("kubewasm_http_tls_handshake_failures_total{{{labels}}} 14\n"),
        ] {
            assert!(text.contains(&expected), "{expected}{text}");
        }
        assert_eq!(text.matches("class=\"2xx\"").count(), 1, "{text}");
    }
}
