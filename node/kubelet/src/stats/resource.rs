//! `/metrics/resource`, after upstream's `pkg/kubelet/metrics/collectors/resource_metrics.go`: what metrics-server reads.

use jiff::Timestamp;

use super::{
    as_f64,
    usage::{CpuUsage, NodeUsage},
};
use crate::exposition::{
    Family,
    Kind::{Counter, Gauge},
};

/// Each sample has the time at which it was so: from two of one container, metrics-server tells how much it uses.
pub(super) fn families(usage: &NodeUsage) -> Vec<Family> {
    let help = "Cumulative cpu time consumed by the node in core-seconds";
    let mut node_cpu = Family::new("node_cpu_usage_seconds_total", Counter, help);
    let mut node_memory =
        Family::new("node_memory_working_set_bytes", Gauge, "Current working set of the node in bytes");
    let help = "Current swap usage of the node in bytes. Reported only on non-windows systems";
    let mut node_swap = Family::new("node_swap_usage_bytes", Gauge, help);
    let help = "Cumulative cpu time consumed by the container in core-seconds";
    let mut container_cpu = Family::new("container_cpu_usage_seconds_total", Counter, help);
    let help = "Current working set of the container in bytes";
    let mut container_memory = Family::new("container_memory_working_set_bytes", Gauge, help);
    let help = "Start time of the container since unix epoch in seconds";
    let mut container_start = Family::new("container_start_time_seconds", Gauge, help);
    let help = "Cumulative cpu time consumed by the pod in core-seconds";
    let mut pod_cpu = Family::new("pod_cpu_usage_seconds_total", Counter, help);
    let mut pod_memory =
        Family::new("pod_memory_working_set_bytes", Gauge, "Current working set of the pod in bytes");

    let machine = &usage.machine;
    let memory = &machine.memory;
    node_cpu.add(&[], seconds(machine.cpu), Some(machine.at));
    node_memory.add(&[], as_f64(memory.working_set), Some(machine.at));
    node_swap.add(&[], as_f64(memory.swap_total.saturating_sub(memory.swap_free)), Some(machine.at));
    for pod in &usage.pods {
        for container in &pod.containers {
            let labels =
                [("container", &*container.name), ("pod", &*pod.name), ("namespace", &*pod.namespace)];
            let at = Some(container.at);
            container_cpu.add(&labels, seconds(container.cpu), at);
            container_memory.add(&labels, as_f64(container.memory), at);
            container_start.add(&labels, unix_seconds(container.started_at), None);
        }
        let labels = [("pod", &*pod.name), ("namespace", &*pod.namespace)];
        pod_cpu.add(&labels, seconds(pod.cpu), Some(pod.at()));
        pod_memory.add(&labels, as_f64(pod.memory()), Some(pod.at()));
    }
    let error = |name| {
        let help = "1 if there was an error while getting container metrics, 0 otherwise";
        let mut family = Family::new(name, Gauge, help);
        family.add(&[], 0.0, None);
        family
    };
    let errors = [error("scrape_error"), error("resource_scrape_error")];
    let own = [
        node_cpu,
        node_memory,
        node_swap,
        container_cpu,
        container_memory,
        container_start,
        pod_cpu,
        pod_memory,
    ];
    own.into_iter().chain(errors).collect()
}

pub(super) fn seconds(cpu: CpuUsage) -> f64 {
    cpu.used.as_secs_f64()
}

/// Seconds since 1970, with their parts.
pub(super) fn unix_seconds(time: Timestamp) -> f64 {
    time.duration_since(Timestamp::UNIX_EPOCH).as_secs_f64()
}
