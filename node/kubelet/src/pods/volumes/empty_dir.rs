//! How large an `emptyDir` may grow, and how large it is.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

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

/// Bytes that a volume in memory may hold: the least of its limit, what the pod may have of memory, and
/// what the node has to give. At least a page; `None` where nobody says anything, which is half of the
/// machine's memory to the kernel.
pub(super) fn memory_bytes(source: &EmptyDirVolumeSource, pod: &Pod, node: &NodeFacts) -> Option<u64> {
    let node = Some(node.memory_bytes).filter(|bytes| *bytes > 0);
    let bounds = [size_limit(source), pod_memory(pod), node];
    bounds.into_iter().flatten().min().map(|bytes| bytes.max(4096))
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

/// Bytes that files below `dir` take on their device. Neither links nor other file systems are followed.
///
/// # Errors
/// What the system says of the folder itself; what vanishes meanwhile counts nothing.
pub(super) fn usage(dir: &Path) -> io::Result<u64> {
    let device = fs::symlink_metadata(dir)?.dev();
    let mut folders = vec![dir.to_path_buf()];
    let mut bytes = 0_u64;
    // A file with several names takes its place once.
    let mut seen = std::collections::HashSet::new();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != device
                || (metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert(metadata.ino()))
            {
                continue;
            }
            bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(bytes)
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
    fn usage_counts_every_file_once_and_follows_no_links() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        fs::create_dir_all(volume.join("deep/er")).unwrap();
        let before = usage(&volume).unwrap();
        fs::write(dir.path().join("outside"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(dir.path(), volume.join("link")).unwrap();
        let with_link = usage(&volume).unwrap();
        assert!(with_link < before + (1 << 16), "{before} {with_link}");
        fs::write(volume.join("deep/er/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(volume.join("deep/er/file"), volume.join("again")).unwrap();
        let full = usage(&volume).unwrap();
        assert!(full >= with_link + (1 << 20) && full < with_link + (2 << 20), "{with_link} {full}");
    }
}
