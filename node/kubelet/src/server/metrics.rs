//! `/metrics`, `/metrics/probes` and `/metrics/slis`: what the node tells monitoring about itself.

use std::{collections::BTreeMap, fs, sync::Arc};

use http::HeaderMap;
use k8s_openapi::api::core::v1::Pod;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType, TypedMetric,
        counter::ConstCounter,
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};
use warp::reply::Response;

use super::{Pods, features::Features, requests::RequestMetrics, slis::HealthMetrics};
use crate::{
    exposition::{self, Format},
    node::KUBELET_VERSION,
    pods::{is_static, status::is_terminal},
    stats::{NodeStats, ProcessTimes, booted_at, kibibytes},
};

/// All metrics of the node that are kept, rather than measured when they are asked for.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    probes: Registry,
    slis: Registry,
    /// Requests to this server.
    pub(super) requests: RequestMetrics,
    /// What health checks have found.
    pub(super) health: HealthMetrics,
}

impl Metrics {
    pub(super) fn new(node_name: &str, pods: Arc<dyn Pods>) -> Self {
        let mut registry = Registry::default();
        let name = Family::<[(&'static str, String); 1], Gauge>::default();
        name.get_or_create(&[("node", node_name.to_owned())]).set(1);
        registry.register("kubelet_node_name", "The node's name. The count is always 1", name);
        registry.register_collector(Box::new(PodCounts(pods)));
        registry.register_collector(Box::new(Build));
        registry.register_collector(Box::new(Features));
        registry.register_collector(Box::new(Process));
        let requests = RequestMetrics::default();
        requests.register(&mut registry);
        let (health, mut slis) = (HealthMetrics::default(), Registry::default());
        health.register(&mut slis);
        Self { registry, probes: Registry::default(), slis, requests, health }
    }

    pub(super) fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    pub(super) fn probes(&mut self) -> &mut Registry {
        &mut self.probes
    }

    /// The metrics as text, in the format that the scraper prefers; those of pods come after the others.
    pub(super) async fn answer(&self, stats: Option<&NodeStats>, headers: &HeaderMap) -> Response {
        let format = Format::of(headers);
        let of_pods = match stats {
            Some(stats) => stats.of_pods().await,
            None => Vec::new(),
        };
        let text = exposition::registry(&self.registry, format).and_then(|own| {
            let own = own.strip_suffix("# EOF\n").unwrap_or(&own).to_owned();
            Ok(own + &exposition::families(&of_pods, format)?)
        });
        exposition::answer(text, format, headers)
    }

    /// The metrics of probes as text.
    pub(super) fn answer_probes(&self, headers: &HeaderMap) -> Response {
        let format = Format::of(headers);
        exposition::answer(exposition::registry(&self.probes, format), format, headers)
    }

    /// What health checks have found, as text.
    pub(super) fn answer_slis(&self, headers: &HeaderMap) -> Response {
        let format = Format::of(headers);
        exposition::answer(exposition::registry(&self.slis, format), format, headers)
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

fn gauge(count: usize) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX))
}

/// A family of gauges with one label.
fn gauges<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    counts: impl IntoIterator<Item = (&'a str, usize)>,
) -> std::fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value, count) in counts {
        gauge(count).encode(family.encode_family(&[(label, value)])?)?;
    }
    Ok(())
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
        let encoder = &mut encoder;
        let pods = self.0.pods();
        let states = BTreeMap::from([("running", 0), ("exited", 0), ("created", 0)]);
        let containers = pods.iter().flat_map(|pod| states_of(pod)).fold(states, |mut counts, state| {
            *counts.entry(state).or_default() += 1;
            counts
        });
        let running = pods.iter().filter(|pod| states_of(pod).any(|state| state == "running")).count();
        encode(
            encoder,
            "kubelet_running_pods",
            "Number of pods that have a running container",
            &gauge(running),
        )?;
        let help = "Number of containers, by what has become of the newest attempt to run them";
        gauges(encoder, "kubelet_running_containers", help, "container_state", containers)?;

        let (of_files, of_api): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| is_static(pod));
        let active = |pods: &[&Arc<Pod>]| pods.iter().filter(|pod| !is_terminal(pod.status.as_ref())).count();
        let by_source = |api, files| [("", api), ("true", files)];
        let help = "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver";
        gauges(encoder, "kubelet_desired_pods", help, "static", by_source(of_api.len(), of_files.len()))?;
        let help = "The number of pods the kubelet considers active and which are being considered when admitting new pods. \
                    static is true if the pod is not from the apiserver";
        let counts = by_source(active(&of_api), active(&of_files));
        gauges(encoder, "kubelet_active_pods", help, "static", counts)?;
        let help = "The number of mirror pods the kubelet will try to create (one per admitted static pod)";
        encode(encoder, "kubelet_mirror_pods", help, &gauge(active(&of_files)))?;
        let resizing = pods.iter().filter(|pod| is_resizing(pod)).count();
        let help = "Number of in-progress resizes for pods";
        encode(encoder, "kubelet_pod_in_progress_resizes", help, &gauge(resizing))
    }
}

/// A resize of the pod is under way, or has failed and is tried again.
fn is_resizing(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "PodResizeInProgress" && condition.status == "True")
}

/// What has become of each container of a pod, by upstream's names.
fn states_of(pod: &Pod) -> impl Iterator<Item = &'static str> {
    let lists = pod.status.iter().flat_map(|status| {
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
    });
    lists.flatten().flatten().filter_map(|status| {
        let state = status.state.as_ref()?;
        if state.running.is_some() {
            Some("running")
        } else if state.terminated.is_some() {
            Some("exited")
        } else {
            state.waiting.as_ref().map(|_| "created")
        }
    })
}

/// What this program is.
#[derive(Debug)]
struct Build;

impl Collector for Build {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let help = "A metric with a constant '1' value labeled by the version of Kubernetes whose kubelet this node is like, and \
                    by what it was built for";
        let mut family = encoder.encode_descriptor("kubernetes_build_info", help, None, MetricType::Gauge)?;
        let mut numbers = KUBELET_VERSION.trim_start_matches('v').split('.');
        let labels = [
            ("git_version", KUBELET_VERSION),
            ("major", numbers.next().unwrap_or_default()),
            ("minor", numbers.next().unwrap_or_default()),
            ("platform", &format!("linux/{}", std::env::consts::ARCH)),
        ];
        gauge(1).encode(family.encode_family(&labels)?)
    }
}

/// This process, read from `/proc` when asked for. What cannot be read is left out.
#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let encoder = &mut encoder;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let count = |count: u64| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        if let Some(process) = ProcessTimes::parse(&read("/proc/self/stat")) {
            let help = "Total user and system CPU time spent in seconds";
            encode(encoder, "process_cpu_seconds", help, &ConstCounter::new(process.cpu.as_secs_f64()))?;
            if let Some(boot) = booted_at(&read("/proc/stat")) {
                let help = "Start time of the process since unix epoch in seconds";
                let boot = boot.as_duration().as_secs_f64();
                let start = ConstGauge::new(boot + process.started_after_boot.as_secs_f64());
                encode(encoder, "process_start_time_seconds", help, &start)?;
            }
            let help = "Virtual memory size in bytes";
            encode(encoder, "process_virtual_memory_bytes", help, &count(process.virtual_bytes))?;
            encode(encoder, "kubewasm_process_threads", "Threads of the agent", &count(process.threads))?;
        }
        if let Some(bytes) = kibibytes(&read("/proc/self/status"), "VmRSS") {
            encode(encoder, "process_resident_memory_bytes", "Resident memory size in bytes", &count(bytes))?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            encode(encoder, "process_open_fds", "Number of open file descriptors", &gauge(open.count()))?;
        }
        let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        if let Some(limit) = limits.current {
            encode(encoder, "process_max_fds", "Maximum number of open file descriptors", &count(limit))?;
        }
        if let Ok(tokio) = tokio::runtime::Handle::try_current() {
            let help = "Tasks of the agent that have not ended";
            encode(encoder, "kubewasm_agent_tasks", help, &gauge(tokio.metrics().num_alive_tasks()))?;
        }
        Ok(())
    }
}
