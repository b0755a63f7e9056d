//! Tells, in the Node's condition `Ready`, whether this node can look after pods: whether what it keeps on disk can be written,
//! the provider can run containers, and the pods are looked after.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{node::NodeHandle, pods::PodIndex, runtime::Runtime};

/// Between two looks, as a kubelet has between two questions to its container runtime.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long an answer is waited for, upstream's number: a disk that is stuck never gives one.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is written, and removed.
const PROBE: &str = ".writable";

/// What it takes to tell.
#[derive(Debug)]
pub(crate) struct NodeHealth {
    /// Where records of pods are.
    pub(crate) root_dir: PathBuf,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) index: PodIndex,
    pub(crate) node: NodeHandle,
}

impl NodeHealth {
    /// Looks again and again.
    pub(crate) async fn run(self) {
        loop {
            let (disk, runtime) = tokio::join!(self.disk(), self.provider());
            self.tell("disk", disk);
            self.tell("runtime", runtime);
            let pods = self.index.looked_after(Instant::now());
            self.tell("pods", pods.err().map(|error| format!("PLEG is not healthy: {error}")));
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn tell(&self, source: &'static str, problem: Option<String>) {
        if self.node.set_problem(source, problem.clone()) {
            match problem {
                Some(problem) => tracing::error!(problem, "the node is not ready"),
                None => tracing::info!(source, "what kept the node from being ready is over"),
            }
        }
    }

    async fn disk(&self) -> Option<String> {
        let dir = self.root_dir.join("pods");
        let look = tokio::task::spawn_blocking(move || unwritable("the records of pods", &dir));
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(problem) => problem.unwrap_or(None),
            Err(_) => {
                let dir = self.root_dir.display();
                Some(format!("the disk of {dir} has not answered for {} s", PATIENCE.as_secs()))
            }
        }
    }

    async fn provider(&self) -> Option<String> {
        match tokio::time::timeout(PATIENCE, self.runtime.problem()).await {
            Ok(None) => None,
            Ok(Some(problem)) => Some(format!(
                "container runtime not ready: RuntimeReady=false reason:RuntimeNotReady message:{problem}"
            )),
            Err(_) => Some("container runtime is down".to_owned()),
        }
    }
}

/// Why nothing can be written to this directory, which holds `what`; for people. Blocks. A disk that is full is no reason: that
/// is pressure, and has its own condition.
#[must_use]
pub fn unwritable(what: &str, dir: &Path) -> Option<String> {
    let file = dir.join(PROBE);
    let write = || {
        std::fs::write(&file, "writable")?;
        std::fs::remove_file(&file)
    };
    match write() {
        Ok(()) => None,
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            None
        }
        Err(error) => Some(format!("{what} in {} cannot be written: {error}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(unwritable("modules", dir.path()), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
        let gone = dir.path().join("gone");
        let problem = unwritable("modules", &gone).unwrap();
        assert!(
            problem.starts_with(&format!("modules in {} cannot be written: ", gone.display())),
            "{problem}"
        );
        assert!(unwritable("modules", Path::new("/proc")).is_some(), "nor one that takes nothing");
    }
}
