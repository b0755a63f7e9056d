//! What a container may use, as its pod says it and as plain numbers.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

use super::admission::resources;
use crate::{
    quantity::{self, QuantityError},
    runtime::ContainerLimits,
};

/// The resources of one container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerResources {
    /// As its pod says it.
    pub requirements: ResourceRequirements,
    /// What the provider holds it to.
    pub limits: ContainerLimits,
    /// Bytes that it asked for.
    pub memory_request_bytes: u64,
}

impl ContainerResources {
    /// Those of a container of this pod. Without a limit of its own, it has that of the pod as a whole.
    #[must_use]
    pub fn of(pod: &Pod, container: &Container) -> Self {
        let own = container.resources.as_ref();
        let shared = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        let limit = |name, read: Read| match amount(own, true, name, read) {
            0 => amount(shared, true, name, read),
            limit => limit,
        };
        Self {
            requirements: own.cloned().unwrap_or_default(),
            limits: ContainerLimits {
                memory_limit_bytes: limit("memory", quantity::units),
                pod_memory_limit_bytes: resources::memory_limit(pod).unwrap_or(0),
                cpu_limit_millis: limit("cpu", quantity::millis),
                cpu_request_millis: amount(own, false, "cpu", quantity::millis),
            },
            memory_request_bytes: amount(own, false, "memory", quantity::units),
        }
    }

    /// What concerns the processors is the same.
    #[must_use]
    pub fn has_cpu_of(&self, other: &Self) -> bool {
        let cpu = |r: &Self| (r.limits.cpu_limit_millis, r.limits.cpu_request_millis);
        cpu(self) == cpu(other)
    }

    /// What concerns the container's own memory is the same.
    #[must_use]
    pub fn has_memory_of(&self, other: &Self) -> bool {
        let memory = |r: &Self| (r.limits.memory_limit_bytes, r.memory_request_bytes);
        memory(self) == memory(other)
    }
}

type Read = fn(&str) -> Result<u64, QuantityError>;

/// A limit or request, 0 where there is none. What the API server let through is a quantity.
fn amount(resources: Option<&ResourceRequirements>, limit: bool, name: &str, read: Read) -> u64 {
    let map = resources.and_then(|r| if limit { r.limits.as_ref() } else { r.requests.as_ref() });
    map.and_then(|m| m.get(name)).and_then(|q| read(&q.0).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_without_a_limit_has_that_of_its_pod() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
            "containers": [
                {"name": "a", "resources": {"limits": {"memory": "8Mi"}, "requests": {"cpu": "10m", "memory": "4Mi"}}},
                {"name": "b"},
            ],
        }}))
        .unwrap();
        let of = |index: usize| ContainerResources::of(&pod, &pod.spec.as_ref().unwrap().containers[index]);
        let limits = |memory_limit_bytes, cpu_request_millis| ContainerLimits {
            memory_limit_bytes,
            pod_memory_limit_bytes: 64 << 20,
            cpu_limit_millis: 500,
            cpu_request_millis,
        };
        assert_eq!((of(0).limits, of(0).memory_request_bytes), (limits(8 << 20, 10), 4 << 20));
        assert_eq!((of(1).limits, of(1).memory_request_bytes), (limits(64 << 20, 0), 0));
        assert!(!of(0).has_cpu_of(&of(1)) && !of(0).has_memory_of(&of(1)));
    }
}
