//! What the node counts of its own work, by the names of upstream's `pkg/kubelet/metrics`.

use std::time::{Duration, Instant};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Upstream's buckets, in seconds.
const POD_START: [f64; 25] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0,
    480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
const DEFAULT: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const STATUS_SYNC: [f64; 11] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
const IMAGE_PULL: [f64; 18] = [
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0,
    2700.0, 3600.0,
];
const OPERATION: [f64; 14] = [
    0.005,
    0.0125,
    0.03125,
    0.078_125,
    0.195_312_5,
    0.488_281_25,
    1.220_703_125,
    3.051_757_8,
    7.629_394_5,
    19.073_486,
    47.683_716,
    119.209_29,
    298.023_22,
    745.058_06,
];

const RESIZE_MILLISECONDS: [f64; 14] = [
    10.0, 50.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 30_000.0, 60_000.0, 120_000.0,
    300_000.0, 600_000.0,
];

/// Sizes of images, in bytes, from which on a label holds.
const IMAGE_SIZES: [(u64, &str); 12] = [
    (0, "0-10MB"),
    (10 << 20, "10MB-100MB"),
    (100 << 20, "100MB-500MB"),
    (500 << 20, "500MB-1GB"),
    (1 << 30, "1GB-5GB"),
    (5 << 30, "5GB-10GB"),
    (10 << 30, "10GB-20GB"),
    (20 << 30, "20GB-30GB"),
    (30 << 30, "30GB-40GB"),
    (40 << 30, "40GB-60GB"),
    (60 << 30, "60GB-100GB"),
    (100 << 30, "GT100GB"),
];

type Counters<L> = Family<L, Counter>;
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfContainer {
    container_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailedStart {
    container_type: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Termination {
    container_type: &'static str,
    exit_code: i32,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ImageSize {
    image_size_in_bytes: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EvictionSignal {
    eviction_signal: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PreemptionSignal {
    preemption_signal: String,
}

/// `true` for pods that are not of the API server, and else empty.
type StaticLabel = [(&'static str, &'static str); 1];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Success {
    success: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

/// Counts and durations of all that the node does for pods. Clones share them.
#[derive(Clone, Debug)]
pub struct NodeMetrics {
    operations: Counters<Operation>,
    operation_errors: Counters<Operation>,
    operation_durations: Histograms<Operation>,
    worker_durations: Histograms<Operation>,
    worker_start: Histogram,
    pod_start: Histogram,
    pod_start_sli: Histogram,
    pod_start_total: Histogram,
    status_sync: Histogram,
    started_pods: Counter,
    failed_pod_starts: Counter,
    restarted_pods: Counters<StaticLabel>,
    resizes: Histograms<Success>,
    http_fallbacks: Counter,
    started_containers: Counters<OfContainer>,
    failed_starts: Counters<FailedStart>,
    terminated: Counters<Termination>,
    pulls: Histograms<ImageSize>,
    /// A counter by its meaning. Its name has no `_total`, which one of OpenMetrics cannot be without.
    evictions: Family<EvictionSignal, Gauge>,
    /// Likewise.
    preemptions: Family<PreemptionSignal, Gauge>,
    rejections: Counters<Reason>,
    pre_registration: Gauge<f64, std::sync::atomic::AtomicU64>,
    registration: Gauge<f64, std::sync::atomic::AtomicU64>,
    startup: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl Default for NodeMetrics {
    fn default() -> Self {
        Self {
            operations: Family::default(),
            operation_errors: Family::default(),
            operation_durations: Family::new_with_constructor(|| Histogram::new(OPERATION)),
            worker_durations: Family::new_with_constructor(|| Histogram::new(DEFAULT)),
            worker_start: Histogram::new(DEFAULT),
            pod_start: Histogram::new(POD_START),
            pod_start_sli: Histogram::new(POD_START),
            pod_start_total: Histogram::new(POD_START),
            status_sync: Histogram::new(STATUS_SYNC),
            started_pods: Counter::default(),
            failed_pod_starts: Counter::default(),
            restarted_pods: Family::default(),
            resizes: Family::new_with_constructor(|| Histogram::new(RESIZE_MILLISECONDS)),
            http_fallbacks: Counter::default(),
            started_containers: Family::default(),
            failed_starts: Family::default(),
            terminated: Family::default(),
            pulls: Family::new_with_constructor(|| Histogram::new(IMAGE_PULL)),
            evictions: Family::default(),
            preemptions: Family::default(),
            rejections: Family::default(),
            pre_registration: Gauge::default(),
            registration: Gauge::default(),
            startup: Gauge::default(),
        }
    }
}

impl NodeMetrics {
    /// Shows them among the metrics of `registry`, which appends `_total` to the names of counters.
    pub fn register(&self, registry: &mut Registry) {
        let mut add = |name: &str, help: &str, metric: &dyn Registered| metric.register(registry, name, help);
        add(
            "kubelet_runtime_operations",
            "Cumulative number of runtime operations by operation type",
            &self.operations,
        );
        add(
            "kubelet_runtime_operations_errors",
            "Cumulative number of runtime operation errors by operation type",
            &self.operation_errors,
        );
        add(
            "kubelet_runtime_operations_duration_seconds",
            "Duration in seconds of runtime operations. Broken down by operation type",
            &self.operation_durations,
        );
        add(
            "kubelet_pod_worker_duration_seconds",
            "Duration in seconds to sync a single pod. Broken down by operation type: create, update, sync or kill",
            &self.worker_durations,
        );
        add(
            "kubelet_pod_worker_start_duration_seconds",
            "Duration in seconds from kubelet seeing a pod to starting a worker",
            &self.worker_start,
        );
        add(
            "kubelet_pod_start_duration_seconds",
            "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
            &self.pod_start,
        );
        add(
            "kubelet_pod_start_sli_duration_seconds",
            "Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod \
             creation timestamp to when all its containers are reported as started",
            &self.pod_start_sli,
        );
        add(
            "kubelet_pod_start_total_duration_seconds",
            "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured \
             from pod creation timestamp to when all its containers are reported as started",
            &self.pod_start_total,
        );
        add(
            "kubelet_pod_status_sync_duration_seconds",
            "Duration in seconds to sync a pod status update, from detection of a change to when the API server has it",
            &self.status_sync,
        );
        add("kubelet_started_pods", "Cumulative number of pods started", &self.started_pods);
        add(
            "kubelet_started_pods_errors",
            "Cumulative number of errors when starting pods",
            &self.failed_pod_starts,
        );
        add(
            "kubelet_restarted_pods",
            "Number of pods that have been restarted because they were deleted and recreated with the same UID while the \
             kubelet was watching them (common for static pods, extremely uncommon for API pods)",
            &self.restarted_pods,
        );
        add(
            "kubelet_pod_resize_duration_milliseconds",
            "Duration in milliseconds to actuate a pod resize",
            &self.resizes,
        );
        add(
            "kubelet_lifecycle_handler_http_fallbacks",
            "The number of times lifecycle handlers successfully fell back to http from https",
            &self.http_fallbacks,
        );
        add(
            "kubelet_started_containers",
            "Cumulative number of containers started",
            &self.started_containers,
        );
        add(
            "kubelet_started_containers_errors",
            "Cumulative number of errors when starting containers",
            &self.failed_starts,
        );
        add("kubelet_terminated_containers", "Cumulative number of container terminations", &self.terminated);
        add("kubelet_image_pull_duration_seconds", "Duration in seconds to pull an image", &self.pulls);
        add("kubelet_evictions", "Cumulative number of pod evictions by eviction signal", &self.evictions);
        add(
            "kubelet_preemptions",
            "Cumulative number of pod preemptions by preemption resource",
            &self.preemptions,
        );
        add(
            "kubelet_admission_rejections",
            "Cumulative number pod admission rejections by the Kubelet",
            &self.rejections,
        );
        add(
            "kubelet_node_startup_pre_registration_duration_seconds",
            "Duration in seconds of node startup before registration",
            &self.pre_registration,
        );
        add(
            "kubelet_node_startup_registration_duration_seconds",
            "Duration in seconds of node startup during registration",
            &self.registration,
        );
        add(
            "kubelet_node_startup_duration_seconds",
            "Duration in seconds of node startup in total",
            &self.startup,
        );
    }

    /// Measures something that a provider is asked to do, by the name that upstream has for it.
    pub(crate) async fn operation<T, E>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let result = work.await;
        let label = Operation { operation_type: name };
        self.operations.get_or_create(&label).inc();
        self.operation_durations.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
        if result.is_err() {
            self.operation_errors.get_or_create(&label).inc();
        }
        result
    }

    /// A pod was looked after once.
    pub(crate) fn pod_synced(&self, what: &'static str, took: Duration) {
        let label = Operation { operation_type: what };
        self.worker_durations.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// The task of a pod has begun, so long after the pod was seen.
    pub(crate) fn pod_taken_up(&self, after: Duration) {
        self.worker_start.observe(after.as_secs_f64());
    }

    /// All containers of a pod have started.
    pub(crate) fn pod_started(&self, times: PodStartTimes) {
        self.started_pods.inc();
        let PodStartTimes { since_seen, since_created, apart } = times;
        self.pod_start.observe(since_seen.as_secs_f64());
        self.pod_start_total.observe(since_created.as_secs_f64());
        self.pod_start_sli.observe(since_created.saturating_sub(apart).as_secs_f64());
    }

    /// The network of a pod could not be made, so that nothing of it can start.
    pub(crate) fn pod_not_started(&self) {
        self.failed_pod_starts.inc();
    }

    /// A pod has come back under the UID that it had, and is begun anew.
    pub(crate) fn pod_restarted(&self, is_static: bool) {
        self.restarted_pods.get_or_create(&[("static", if is_static { "true" } else { "" })]).inc();
    }

    /// A container was given other limits, or could not be.
    pub(crate) fn resized(&self, success: bool, took: Duration) {
        let label = Success { success: if success { "true" } else { "false" } };
        self.resizes.get_or_create(&label).observe(took.as_secs_f64() * 1000.0);
    }

    /// A hook by HTTPS was answered in plain HTTP.
    pub(crate) fn hook_fell_back(&self) {
        self.http_fallbacks.inc();
    }

    /// The API server has a status that had changed so long before.
    pub(crate) fn status_synced(&self, after: Duration) {
        self.status_sync.observe(after.as_secs_f64());
    }

    /// A container of this kind was started, or could not be for this reason.
    pub(crate) fn container_started(&self, container_type: &'static str, result: Result<(), String>) {
        self.started_containers.get_or_create(&OfContainer { container_type }).inc();
        if let Err(code) = result {
            self.failed_starts.get_or_create(&FailedStart { container_type, code }).inc();
        }
    }

    /// A container has ended.
    pub(crate) fn container_terminated(&self, container_type: &'static str, exit_code: i32, reason: &str) {
        let termination = Termination { container_type, exit_code, reason: reason.to_owned() };
        self.terminated.get_or_create(&termination).inc();
    }

    /// An image of this size was pulled.
    pub(crate) fn image_pulled(&self, bytes: u64, took: Duration) {
        let label =
            IMAGE_SIZES.iter().rev().find(|(from, _)| *from <= bytes).map_or("0-10MB", |(_, label)| label);
        let size = ImageSize { image_size_in_bytes: label };
        self.pulls.get_or_create(&size).observe(took.as_secs_f64());
    }

    /// A pod was evicted for this.
    pub(crate) fn evicted(&self, eviction_signal: &'static str) {
        self.evictions.get_or_create(&EvictionSignal { eviction_signal }).inc();
    }

    /// A pod has made room for a critical one that lacked this resource.
    pub(crate) fn preempted(&self, resource: &str) {
        self.preemptions.get_or_create(&PreemptionSignal { preemption_signal: resource.to_owned() }).inc();
    }

    /// A pod was not taken for this reason.
    pub(crate) fn rejected(&self, reason: &str) {
        self.rejections.get_or_create(&Reason { reason: reason.to_owned() }).inc();
    }

    /// The node has registered: so long after its start it began to try, and so long after that it had succeeded.
    pub(crate) fn registered(&self, before: Duration, took: Duration) {
        self.pre_registration.set(before.as_secs_f64());
        self.registration.set(took.as_secs_f64());
        self.startup.set(before.saturating_add(took).as_secs_f64());
    }
}

/// How long a pod took to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PodStartTimes {
    /// Since the node has seen it.
    pub(crate) since_seen: Duration,
    /// Since it was created.
    pub(crate) since_created: Duration,
    /// Of that, what pulls and init containers took.
    pub(crate) apart: Duration,
}

/// What a registry can show.
trait Registered {
    fn register(&self, registry: &mut Registry, name: &str, help: &str);
}

impl<M: prometheus_client::registry::Metric + Clone> Registered for M {
    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.clone());
    }
}

#[cfg(test)]
mod tests;
