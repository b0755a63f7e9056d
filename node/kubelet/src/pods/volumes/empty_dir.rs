//! How large an `emptyDir` may grow.

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};

use super::source::containers;
use crate::{pods::environment::NodeFacts, quantity};

/// True for a volume that is to be kept in memory.
pub(super) fn is_memory(source: &EmptyDirVolumeSource) -> bool {
    source.medium.as_deref() == Some("Memory")
}

/// Bytes of `sizeLimit`, where there is one.
pub(super) fn size_limit(source: &EmptyDirVolumeSource) -> Option<u64> {
    source.size_limit.as_ref().and_then(|limit| quantity::units(&limit.0).ok()).filter(|bytes| *bytes > 0)
}

/// Name of the folder that upstream's plugin for it uses.
pub(super) const PLUGIN: &str = "empty-dir";

/// The least that a tmpfs can hold, in bytes.
const PAGE: u64 = 4096;

/// Bytes that a volume in memory may hold. It asks for its `sizeLimit`, or for all that the pod may have of memory (all
/// of the node's, where a container has no limit), and gets that much, unless all of the pod's volumes in memory together
/// ask for more than the pod may have: then each gets its share. `None` where nobody says anything, which is half of the
/// machine's memory to the kernel.
pub(super) fn memory_bytes(source: &EmptyDirVolumeSource, pod: &Pod, node: &NodeFacts) -> Option<u64> {
    let node = Some(node.memory_bytes).filter(|bytes| *bytes > 0);
    let Some(bound) = [pod_memory(pod), node].into_iter().flatten().min() else {
        return size_limit(source).map(|bytes| bytes.max(PAGE));
    };
    let asks = |source: &EmptyDirVolumeSource| size_limit(source).map_or(bound, |bytes| bytes.min(bound));
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let in_memory = volumes.iter().filter_map(|v| v.empty_dir.as_ref()).filter(|source| is_memory(source));
    let all: u128 = in_memory.map(|source| u128::from(asks(source))).sum();
    let own = asks(source);
    let share = if all <= u128::from(bound) {
        own
    } else {
        u64::try_from(u128::from(own) * u128::from(bound) / all).unwrap_or(own)
    };
    Some(share.max(PAGE))
}

/// The memory that all containers of the pod may have together; `None` when one of them has no limit.
fn pod_memory(pod: &Pod) -> Option<u64> {
    let spec = pod.spec.as_ref()?;
    let limit = |limits: Option<&std::collections::BTreeMap<String, _>>| -> Option<u64> {
        let quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity = limits?.get("memory")?;
        quantity::units(&quantity.0).ok().filter(|bytes| *bytes > 0)
    };
    if let Some(bytes) = limit(spec.resources.as_ref().and_then(|r| r.limits.as_ref())) {
        return Some(bytes);
    }
    containers(pod)
        .map(|container| limit(container.resources.as_ref().and_then(|r| r.limits.as_ref())))
        .try_fold(0_u64, |sum, bytes| Some(sum.saturating_add(bytes?)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_least_bound_counts() {
        let limits = |memory: &str| json!({"limits": {"memory": memory}});
        let container = |resources: Value| json!({"name": "c", "resources": resources});
        let table = [
            (None, json!({"containers": [container(json!({}))]}), 1 << 30),
            (Some("1Mi"), json!({"containers": [container(json!({}))]}), 1 << 20),
            (Some("8Gi"), json!({"containers": [container(json!({}))]}), 1 << 30),
            (None, json!({"containers": [container(limits("2Mi")), container(limits("3Mi"))]}), 5 << 20),
            (None, json!({"containers": [container(limits("2Mi")), container(json!({}))]}), 1 << 30),
            (None, json!({"resources": limits("7Mi"), "containers": [container(json!({}))]}), 7 << 20),
            (Some("1"), json!({"containers": []}), 4096),
        ];
        for (limit, spec, expected) in table {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let source: EmptyDirVolumeSource =
                serde_json::from_value(json!({"medium": "Memory", "sizeLimit": limit})).unwrap();
            let node = NodeFacts { memory_bytes: 1 << 30, ..NodeFacts::default() };
            assert_eq!(memory_bytes(&source, &pod, &node), Some(expected), "{limit:?} {spec}");
        }
    }

    #[test]
    fn all_volumes_in_memory_share_what_the_pod_may_have() {
        let memory = |limit: Option<&str>| json!({"medium": "Memory", "sizeLimit": limit});
        let shares = |limits: &[Option<&str>]| -> Vec<u64> {
            let volumes: Vec<Value> = limits
                .iter()
                .enumerate()
                .map(|(n, limit)| json!({"name": n.to_string(), "emptyDir": memory(*limit)}))
                .chain([json!({"name": "disk", "emptyDir": {"sizeLimit": "1Gi"}})])
                .collect();
            let containers = json!([{"name": "c", "resources": {"limits": {"memory": "12Mi"}}}]);
            let pod: Pod =
                serde_json::from_value(json!({"spec": {"containers": containers, "volumes": volumes}}))
                    .unwrap();
            let node = NodeFacts { memory_bytes: 1 << 30, ..NodeFacts::default() };
            let share = |limit: &Option<&str>| {
                let source = serde_json::from_value(memory(*limit)).unwrap();
                memory_bytes(&source, &pod, &node).unwrap() >> 10
            };
            limits.iter().map(share).collect()
        };
        assert_eq!(shares(&[None]), [12 << 10]);
        assert_eq!(shares(&[Some("4Mi"), Some("8Mi")]), [4 << 10, 8 << 10]);
        assert_eq!(shares(&[None, None, None]), [4 << 10; 3]);
        assert_eq!(shares(&[Some("6Mi"), None]), [4 << 10, 8 << 10]);
        assert_eq!(shares(&[Some("1Gi"), Some("1Gi")]), [6 << 10; 2]);
        assert_eq!(shares(&[Some("1"), None]), [4, (12 << 10) - 1]);
    }
}
