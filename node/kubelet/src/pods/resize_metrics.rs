//! Resizes of pods, for monitoring, with the names and labels of upstream's `pkg/kubelet/metrics`.

use k8s_openapi::api::core::v1::{Container, Pod};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::container_resources::ContainerResources;

/// Counts of all pods. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ResizeMetrics {
    requested: Family<Requested, Counter>,
    pending: Family<Pending, Gauge>,
    infeasible: Family<Infeasible, Counter>,
    accepted: Family<Accepted, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Requested {
    resource: &'static str,
    requirement: &'static str,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Pending {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Infeasible {
    reason_detail: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Accepted {
    retry_trigger: &'static str,
}

impl ResizeMetrics {
    /// Shows them among the metrics of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        // The encoder appends `_total`.
        registry.register(
            "kubelet_container_requested_resizes",
            "Resizes that were asked for, of containers",
            self.requested.clone(),
        );
        registry.register("kubelet_pod_pending_resizes", "Pods whose resize waits", self.pending.clone());
        registry.register(
            "kubelet_pod_infeasible_resizes",
            "Resizes that the node cannot do",
            self.infeasible.clone(),
        );
        registry.register(
            "kubelet_pod_deferred_accepted_resizes",
            "Resizes that were done after they had to wait",
            self.accepted.clone(),
        );
    }

    /// Counts what a pod asks for other than before.
    pub(super) fn request(&self, before: &Pod, after: &Pod) {
        for container in containers(after) {
            let Some(old) = containers(before).find(|old| old.name == container.name) else { continue };
            let (old, new) = (ContainerResources::of(before, old), ContainerResources::of(after, container));
            self.count("memory", "limits", old.limits.memory_limit_bytes, new.limits.memory_limit_bytes);
            self.count("memory", "requests", old.memory_request_bytes, new.memory_request_bytes);
            self.count("cpu", "limits", old.limits.cpu_limit_millis, new.limits.cpu_limit_millis);
            self.count("cpu", "requests", old.limits.cpu_request_millis, new.limits.cpu_request_millis);
        }
    }

    fn count(&self, resource: &'static str, requirement: &'static str, old: u64, new: u64) {
        let operation = match (old, new) {
            (old, new) if old == new => return,
            (0, _) => "add",
            (_, 0) => "remove",
            (old, new) if new > old => "increase",
            _ => "decrease",
        };
        self.requested.get_or_create(&Requested { resource, requirement, operation }).inc();
    }

    /// So many wait now.
    pub(super) fn set_pending(&self, deferred: usize, infeasible: usize) {
        for (reason, count) in [("deferred", deferred), ("infeasible", infeasible)] {
            self.pending.get_or_create(&Pending { reason }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// One is more than the node has.
    pub(super) fn infeasible(&self) {
        self.infeasible.get_or_create(&Infeasible { reason_detail: "node_capacity" }).inc();
    }

    /// One was done that had to wait.
    pub(super) fn accepted_after_wait(&self, retry_trigger: &'static str) {
        self.accepted.get_or_create(&Accepted { retry_trigger }).inc();
    }
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}
