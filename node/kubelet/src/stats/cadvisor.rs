//! `/metrics/cadvisor`: the rows of upstream's that mean something where a container is no process.
//!
//! Dashboards tell containers by `container!=""` and `image!=""`; the sums of a pod have neither. There is no row for what a
//! guest does not have: no page cache, no resident set of its own, no periods of a quota (it is held back to the
//! microsecond, not by periods), no devices, no packets: what
//! goes through the sockets and the files of guests is counted in bytes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{
    as_f64,
    resource::{seconds, unix_seconds},
    usage::{ContainerUsage, NodeUsage, PodUsage},
};
use crate::{
    exposition::{
        Family,
        Kind::{self, Counter, Gauge},
    },
    oom_events::OomEvents,
    pods::status::is_terminal,
    runtime::ContainerFileIo,
};

/// The period in which a quota of the processors is told, in microseconds; that of cgroups.
const PERIOD_MICROS: u64 = 100_000;

/// A row of a container.
type Row = (&'static str, Kind, &'static str, fn(&ContainerUsage) -> Option<f64>);

const ROWS: [Row; 9] = [
    ("container_memory_working_set_bytes", Gauge, "Current working set in bytes", |c| Some(as_f64(c.memory))),
    ("container_memory_usage_bytes", Gauge, "Current memory usage in bytes", |c| Some(as_f64(c.memory))),
    (
        "container_cpu_cfs_throttled_seconds_total",
        Counter,
        "Total time duration the container has been throttled",
        |c| Some(c.throttled.as_secs_f64()),
    ),
    ("container_spec_memory_limit_bytes", Gauge, "Memory limit for the container; 0 is none", |c| {
        Some(as_f64(c.memory_limit))
    }),
    ("container_spec_cpu_period", Gauge, "CPU period of the container in microseconds", |_| {
        Some(as_f64(PERIOD_MICROS))
    }),
    ("container_spec_cpu_quota", Gauge, "CPU quota of the container in microseconds of each period", |c| {
        (c.cpu_limit > 0).then(|| as_f64(c.cpu_limit.saturating_mul(PERIOD_MICROS / 1000)))
    }),
    ("container_spec_cpu_shares", Gauge, "CPU share of the container", |c| {
        Some(as_f64((c.cpu_request.saturating_mul(1024) / 1000).max(2)))
    }),
    ("container_start_time_seconds", Gauge, "Start time of the container since unix epoch in seconds", |c| {
        Some(unix_seconds(c.started_at))
    }),
    ("container_last_seen", Gauge, "Last time a container was seen by the exporter", |c| {
        Some(unix_seconds(c.at).trunc())
    }),
];

/// A row of what a container does with files: of no device, since nobody knows what has reached one.
type FileRow = (&'static str, &'static str, fn(&ContainerFileIo) -> u64);

const FILE_ROWS: [FileRow; 4] = [
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |io| io.read_bytes),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |io| io.written_bytes),
    ("container_fs_reads_total", "Cumulative count of reads completed", |io| io.reads),
    ("container_fs_writes_total", "Cumulative count of writes completed", |io| io.writes),
];

pub(super) fn families(usage: &NodeUsage) -> Vec<Family> {
    let mut families: Vec<Family> =
        ROWS.into_iter().map(|(name, kind, help, _)| Family::new(name, kind, help)).collect();
    let mut cpu =
        Family::new("container_cpu_usage_seconds_total", Counter, "Cumulative cpu time consumed in seconds");
    let mut written = Family::new(
        "container_fs_usage_bytes",
        Gauge,
        "Number of bytes that are consumed by the container on this filesystem",
    );
    let traffic = |name, help| Family::new(name, Counter, help);
    let mut received = traffic("container_network_receive_bytes_total", "Cumulative count of bytes received");
    let mut sent = traffic("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted");
    let mut io: Vec<Family> =
        FILE_ROWS.iter().map(|(name, help, _)| Family::new(name, Counter, help)).collect();
    for pod in &usage.pods {
        for container in &pod.containers {
            let labels = labels(pod, Some(container));
            for (family, (_, _, value)) in io.iter_mut().zip(FILE_ROWS) {
                // Less than there was would be taken for all there was.
                if !container.files.has_uncounted {
                    let value = as_f64(value(&container.files));
                    family.add(&with(&labels, ("device", "")), value, Some(container.at));
                }
            }
            cpu.add(&with(&labels, ("cpu", "total")), seconds(container.cpu), Some(container.at));
            for (family, (_, _, _, value)) in families.iter_mut().zip(ROWS) {
                if let Some(value) = value(container) {
                    family.add(&labels, value, Some(container.at));
                }
            }
            if let Some(storage) = pod.storage.as_ref().and_then(|storage| storage.of(&container.name)) {
                written.add(&with(&labels, ("device", "")), as_f64(storage.root.bytes), None);
            }
        }
        let labels = labels(pod, None);
        cpu.add(&with(&labels, ("cpu", "total")), seconds(pod.cpu), Some(pod.at()));
        if let Some(counted) = pod.counted_traffic() {
            let labels = with(&labels, ("interface", PodUsage::INTERFACE));
            received.add(&labels, as_f64(counted.received_bytes), Some(pod.at()));
            sent.add(&labels, as_f64(counted.sent_bytes), Some(pod.at()));
        }
        for (family, (name, ..)) in families.iter_mut().zip(ROWS) {
            if matches!(name, "container_memory_working_set_bytes" | "container_memory_usage_bytes") {
                family.add(&labels, as_f64(pod.memory()), Some(pod.at()));
            }
        }
    }
    let machine = |name, help, value| {
        let mut family = Family::new(name, Gauge, help);
        family.add(&[], value, None);
        family
    };
    let processors = u64::try_from(usage.machine.processors).unwrap_or(u64::MAX);
    families.extend(io);
    families.extend([
        cpu,
        written,
        received,
        sent,
        machine("machine_cpu_cores", "Number of logical CPU cores", as_f64(processors)),
        machine(
            "machine_memory_bytes",
            "Amount of memory installed on the machine",
            as_f64(usage.machine.memory.total),
        ),
    ]);
    families
}

/// How often containers have ended by their memory limit, of all pods that are not over. What ends in a container that goes on,
/// such as an instance that answers a request, is not among it. The series of a container go on over its restarts, which an id
/// would not: it is left empty.
pub(super) fn oom_events(pods: &[Arc<Pod>], events: &OomEvents) -> Family {
    let help = "Count of out of memory events observed for the container";
    let mut family = Family::new("container_oom_events_total", Counter, help);
    for pod in pods.iter().filter(|pod| !is_terminal(pod.status.as_ref())) {
        let (meta, Some(spec)) = (&pod.metadata, &pod.spec) else { continue };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (uid, namespace, name) = (text(&meta.uid), text(&meta.namespace), text(&meta.name));
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let labels = [
                ("container", &*container.name),
                ("id", ""),
                ("image", container.image.as_deref().unwrap_or_default()),
                ("name", ""),
                ("namespace", &*namespace),
                ("pod", &*name),
            ];
            family.add(&labels, as_f64(events.of(&uid, &container.name)), None);
        }
    }
    family
}

/// The labels that all rows have; those of the pod as a whole are without a container.
fn labels<'a>(pod: &'a PodUsage, container: Option<&'a ContainerUsage>) -> Vec<(&'static str, &'a str)> {
    let of = |value: fn(&ContainerUsage) -> &str| container.map_or("", value);
    vec![
        ("container", of(|c| &c.name)),
        ("id", of(|c| &c.id)),
        ("image", of(|c| &c.image)),
        ("name", of(|c| &c.id)),
        ("namespace", &*pod.namespace),
        ("pod", &*pod.name),
    ]
}

fn with<'a>(
    labels: &[(&'static str, &'a str)],
    more: (&'static str, &'a str),
) -> Vec<(&'static str, &'a str)> {
    labels.iter().copied().chain([more]).collect()
}
