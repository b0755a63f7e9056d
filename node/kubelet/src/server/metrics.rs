//! `/metrics`: what the node tells monitoring about itself.

use std::{fs, sync::Arc};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{
        MetricType, TypedMetric,
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};
use warp::reply::{Reply as _, Response};

use super::{Pods, reply};

/// Ticks per second in `/proc/*/stat`: what Linux shows to user space, on every architecture.
const TICKS: f64 = 100.0;

/// All metrics of the node.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
}

impl Metrics {
    pub(super) fn new(node_name: &str, pods: Arc<dyn Pods>) -> Self {
        let mut registry = Registry::default();
        let name = Family::<[(&'static str, String); 1], Gauge>::default();
        name.get_or_create(&[("node", node_name.to_owned())]).set(1);
        registry.register("kubelet_node_name", "The node's name. The count is always 1", name);
        registry.register_collector(Box::new(PodCounts(pods)));
        registry.register_collector(Box::new(Process));
        Self { registry }
    }

    pub(super) fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// The metrics as text, in the format that the scraper prefers.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let mut body = String::new();
        if text::encode(&mut body, &self.registry).is_err() {
            return reply::text(StatusCode::INTERNAL_SERVER_ERROR, "a metric could not be written\n");
        }
        let accepts_open_metrics = headers.get_all(header::ACCEPT).iter().any(|accept| {
            accept.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text"))
        });
        // The older format reads the newer's end mark as a comment.
        let format = if accepts_open_metrics {
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        } else {
            "text/plain; version=0.0.4; charset=utf-8"
        };
        let mut response = body.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format));
        response
    }
}

fn encode<M: EncodeMetric + TypedMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &M,
) -> std::fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, M::TYPE)?)
}

/// Pods and containers, counted when asked for.
struct PodCounts(Arc<dyn Pods>);

impl std::fmt::Debug for PodCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodCounts").finish_non_exhaustive()
    }
}

impl Collector for PodCounts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let pods = self.0.pods();
        let running = pods.iter().map(|pod| running_containers(pod)).filter(|count| *count > 0).count();
        let containers: usize = pods.iter().map(|pod| running_containers(pod)).sum();
        let gauge = |count: usize| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        encode(
            &mut encoder,
            "kubelet_running_pods",
            "Number of pods that have a running container",
            &gauge(running),
        )?;
        let mut family = encoder.encode_descriptor(
            "kubelet_running_containers",
            "Number of containers currently running",
            None,
            MetricType::Gauge,
        )?;
        gauge(containers).encode(family.encode_family(&[("container_state", "running")])?)
    }
}

fn running_containers(pod: &Pod) -> usize {
    let Some(status) = &pod.status else { return 0 };
    [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .filter(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
        .count()
}

/// This process, read from `/proc` when asked for. What cannot be read is left out.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let stat = Stat::parse(&read("/proc/self/stat"));
        if let Some(Stat { cpu_seconds, started_after_boot }) = stat {
            let help = "Total user and system CPU time spent in seconds";
            encode(&mut encoder, "process_cpu_seconds", help, &ConstCounter::new(cpu_seconds))?;
            if let Some(boot) = number_after(&read("/proc/stat"), "btime ") {
                let help = "Start time of the process since unix epoch in seconds";
                encode(
                    &mut encoder,
                    "process_start_time_seconds",
                    help,
                    &ConstGauge::new(boot + started_after_boot),
                )?;
            }
        }
        if let Some(kibibytes) = number_after(&read("/proc/self/status"), "VmRSS:") {
            let help = "Resident memory size in bytes";
            encode(
                &mut encoder,
                "process_resident_memory_bytes",
                help,
                &ConstGauge::new(kibibytes * 1024.0),
            )?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            let count = i64::try_from(open.count()).unwrap_or(i64::MAX);
            encode(
                &mut encoder,
                "process_open_fds",
                "Number of open file descriptors",
                &ConstGauge::new(count),
            )?;
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    started_after_boot: f64,
}

impl Stat {
    /// Reads `/proc/self/stat`. The second field, a name, may hold anything; what follows its last
    /// parenthesis are numbers.
    fn parse(text: &str) -> Option<Self> {
        let (_, numbers) = text.rsplit_once(')')?;
        let fields: Vec<&str> = numbers.split_whitespace().collect();
        let seconds = |index: usize| fields.get(index)?.parse::<f64>().ok().map(|ticks| ticks / TICKS);
        // Fields 14 (user), 15 (system) and 22 (start) of the whole line.
        Some(Self { cpu_seconds: seconds(11)? + seconds(12)?, started_after_boot: seconds(19)? })
    }
}

/// The first number behind a line's beginning.
fn number_after(text: &str, beginning: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(beginning))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_times_of_a_process() {
        let text = "7 (a) name) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 12345 0 0";
        assert_eq!(Stat::parse(text), Some(Stat { cpu_seconds: 2.0, started_after_boot: 123.45 }));
        assert_eq!(Stat::parse("nonsense"), None);
        assert_eq!(number_after("x 1\nbtime 17\n", "btime "), Some(17.0));
    }
}
