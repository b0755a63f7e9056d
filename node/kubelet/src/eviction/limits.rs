//! Pods that have written more than they may, after `localStorageEviction` of upstream's
//! `pkg/kubelet/eviction/eviction_manager.go`. Pure.

use super::candidate::{Candidate, PodDiskUsage};

/// By which signal a pod has to go that is beyond its limit, or one of whose containers is, and what to say of it; in
/// upstream's order.
pub(crate) fn excess(pod: &Candidate, usage: &PodDiskUsage) -> Option<(&'static str, String)> {
    if let Some(limit) = pod.storage_limit.as_ref().filter(|limit| usage.total().bytes > limit.bytes) {
        let message = format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            limit.text
        );
        return Some(("ephemeralpodfs.limit", message));
    }
    pod.containers.iter().find_map(|container| {
        let limit = container.storage_limit.as_ref()?;
        let used = usage.containers.get(&container.name)?;
        (used.bytes > limit.bytes).then(|| {
            let message = format!(
                "Container {} exceeded its local ephemeral storage limit \"{}\". ",
                container.name, limit.text
            );
            ("ephemeralcontainerfs.limit", message)
        })
    })
}

/// Bytes that the pod may still write before it is beyond a limit; `None` without any.
pub(crate) fn slack(pod: &Candidate, usage: &PodDiskUsage) -> Option<u64> {
    let of_pod = pod.storage_limit.as_ref().map(|limit| limit.bytes.saturating_sub(usage.total().bytes));
    let of_containers = pod.containers.iter().filter_map(|container| {
        let used = usage.containers.get(&container.name).copied().unwrap_or_default();
        Some(container.storage_limit.as_ref()?.bytes.saturating_sub(used.bytes))
    });
    of_containers.chain(of_pod).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::candidate::{ContainerClaims, DiskUsage, StatedAmount};

    fn limit(mebibytes: u64) -> StatedAmount {
        StatedAmount { bytes: mebibytes << 20, text: format!("{mebibytes}Mi") }
    }

    fn container(name: &str, limit: Option<StatedAmount>) -> ContainerClaims {
        ContainerClaims { name: name.to_owned(), storage_limit: limit, ..ContainerClaims::default() }
    }

    fn usage(a: u64, b: u64, volumes: u64) -> PodDiskUsage {
        let disk = |mebibytes: u64| DiskUsage { bytes: mebibytes << 20, inodes: 1 };
        PodDiskUsage {
            containers: [("a".to_owned(), disk(a)), ("b".to_owned(), disk(b))].into(),
            volumes: disk(volumes),
        }
    }

    #[test]
    fn the_pods_sum_counts_first_and_then_each_container() {
        let pod = Candidate {
            storage_limit: Some(limit(5)),
            containers: vec![container("a", Some(limit(2))), container("b", Some(limit(3)))],
            ..Candidate::default()
        };
        let of_pod = "Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. ";
        let of_a = "Container a exceeded its local ephemeral storage limit \"2Mi\". ";
        for (used, expected, left) in [
            ((2, 3, 0), None, 0),
            ((1, 1, 1), None, 1 << 20),
            ((3, 1, 0), Some(of_a), 0),
            ((3, 3, 0), Some(of_pod), 0),
            ((1, 1, 4), Some(of_pod), 0),
        ] {
            let usage = usage(used.0, used.1, used.2);
            let found = excess(&pod, &usage).map(|(_, message)| message);
            assert_eq!(found.as_deref(), expected, "{used:?}");
            assert_eq!(slack(&pod, &usage), Some(left), "{used:?}");
        }
    }

    #[test]
    fn without_limits_there_is_no_end() {
        let pod = Candidate { containers: vec![container("a", None)], ..Candidate::default() };
        assert_eq!((excess(&pod, &usage(9, 9, 9)), slack(&pod, &usage(9, 9, 9))), (None, None));
        assert!(!pod.is_limited());
    }
}
