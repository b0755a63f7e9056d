//! What pods take on disk.

use std::{collections::HashMap, fs, io, path::Path, time::Duration};

use futures::StreamExt as _;
use tokio::task::JoinHandle;

use super::candidate::{Candidate, DiskUsage, PodDiskUsage};

/// A pod with what it takes on disk; nothing where that could not be measured in time.
pub(crate) type Measured = (Candidate, Option<PodDiskUsage>);

/// How long the measurement of one pod is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pods that are measured at once.
const AT_ONCE: usize = 4;

/// Measures pods on threads for blocking work, one for each pod at most.
#[derive(Debug, Default)]
pub(crate) struct Measuring {
    /// Measurements that took longer than they were waited for, by UID.
    slow: HashMap<String, JoinHandle<PodDiskUsage>>,
}

impl Measuring {
    /// Measures all of them; whose measurement takes too long is without, and is asked for it again the next time.
    pub(crate) async fn measure(&mut self, pods: Vec<Candidate>) -> Vec<Measured> {
        let mut slow = std::mem::take(&mut self.slow);
        let begun: Vec<_> = pods.into_iter().map(|pod| (slow.remove(&pod.uid), pod)).collect();
        let measure = |(begun, candidate): (Option<JoinHandle<PodDiskUsage>>, Candidate)| async move {
            let copy = candidate.clone();
            let mut handle = begun.unwrap_or_else(|| tokio::task::spawn_blocking(move || pod(&copy)));
            match tokio::time::timeout(PATIENCE, &mut handle).await {
                Ok(usage) => (candidate, usage.ok(), None),
                Err(_) => (candidate, None, Some(handle)),
            }
        };
        let measured: Vec<_> =
            futures::stream::iter(begun).map(measure).buffer_unordered(AT_ONCE).collect().await;
        let keep = |(candidate, usage, handle): (
            Candidate,
            Option<PodDiskUsage>,
            Option<JoinHandle<PodDiskUsage>>,
        )| {
            if let Some(handle) = handle {
                tracing::warn!(pod = candidate.name, "the files of a pod take long to measure");
                self.slow.insert(candidate.uid.clone(), handle);
            }
            (candidate, usage)
        };
        measured.into_iter().map(keep).collect()
    }
}

/// Measures a pod. What cannot be read counts nothing, and is told. Blocking.
fn pod(pod: &Candidate) -> PodDiskUsage {
    let of = |dir: &Path| {
        tree(dir).unwrap_or_else(|error| {
            tracing::warn!(pod = pod.name, dir = %dir.display(), %error, "cannot measure what a pod has written");
            DiskUsage::default()
        })
    };
    let containers = pod.containers.iter();
    PodDiskUsage {
        containers: containers.map(|c| (c.name.clone(), of(&c.written).plus(of(&c.logs)))).collect(),
        volumes: pod.volumes.iter().fold(DiskUsage::default(), |sum, dir| sum.plus(of(dir))),
    }
}

/// Whether something of what the pod has written, but for its logs, is still there. Blocking.
pub(crate) fn has_files(pod: &Candidate) -> bool {
    let is_attempt = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.path().is_dir());
    let has_attempts = |dir: &Path| fs::read_dir(dir).is_ok_and(|mut entries| entries.any(is_attempt));
    pod.volumes.iter().any(|dir| dir.exists()) || pod.containers.iter().any(|c| has_attempts(&c.written))
}

fn tree(dir: &Path) -> io::Result<DiskUsage> {
    match kubewasm_trees::measure(dir) {
        Ok(kubewasm_trees::TreeUsage { bytes, inodes }) => Ok(DiskUsage { bytes, inodes }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(DiskUsage::default()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::candidate::ContainerClaims;

    #[tokio::test]
    async fn containers_have_what_they_write_and_their_logs_and_the_pod_its_volumes() {
        let dir = tempfile::tempdir().unwrap();
        let file = |path: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, vec![1; 1 << 20]).unwrap();
        };
        file("written/0/upper/file");
        file("logs/0.log");
        file("volumes/v/file");
        let container = ContainerClaims {
            name: "a".to_owned(),
            written: dir.path().join("written"),
            logs: dir.path().join("logs"),
            ..ContainerClaims::default()
        };
        let missing = ContainerClaims { name: "b".to_owned(), logs: "/missing".into(), ..container.clone() };
        let missing = ContainerClaims { written: "/missing".into(), ..missing };
        let pod = Candidate {
            containers: vec![container, missing],
            volumes: vec![dir.path().join("volumes")],
            ..Candidate::default()
        };
        assert!(has_files(&pod));
        let measured = Measuring::default().measure(vec![pod.clone()]).await;
        let usage = measured.first().unwrap().1.clone().unwrap();
        let mebibytes = |usage: DiskUsage| usage.bytes >> 20;
        assert_eq!((mebibytes(usage.containers["a"]), mebibytes(usage.volumes)), (2, 1));
        assert_eq!(usage.containers["b"], DiskUsage::default());
        assert_eq!(mebibytes(usage.total()), 3);

        fs::remove_dir_all(dir.path().join("written/0")).unwrap();
        fs::remove_dir_all(dir.path().join("volumes")).unwrap();
        assert!(!has_files(&pod), "logs stay with the pod");
    }
}
