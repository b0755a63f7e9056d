//! Looking after the files that containers' output is in: what the kubelet does about them besides reading.
//!
//! ```text
//! worker ─ writes, rotates ─► <pod logs>/<pod>/<container>/0.log, 0.log.<time>
//!                                  │ every containerLogMonitorInterval, where a directory has changed
//!                                  ▼
//! LogKeeper ─ plan (pure) ─► compress, remove what is too many, forget old attempts
//! start and end of a container ─► LogLinks: the links that log collectors of the machine go by
//! ```
//!
//! The worker rotates, because it alone knows between which two lines. All else is done here, so that it goes on where
//! an agent or a worker has died in the middle of it: what is to be done is computed from the names that are there.

mod compress;
mod links;
mod plan;

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::{StreamExt as _, stream};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

pub use self::links::{LinkedLog, LogLinks};
use super::index::PodIndex;
use crate::logs;

/// How long ago a directory was changed whose time tells changes apart: file systems count in hundredths of seconds.
const SETTLED: Duration = Duration::from_secs(1);

/// How log files are kept; the fields of the KubeletConfiguration whose names begin with `containerLog`.
#[derive(Clone, Copy, Debug)]
pub struct LogUpkeep {
    /// Files of one attempt that stay, the one that is written to among them.
    pub max_files: u32,
    /// Directories that are worked on at once.
    pub workers: usize,
    /// Time between two looks at them.
    pub interval: Duration,
}

/// Looks after the logs of the pods of this node; see the [module](self).
#[derive(Debug)]
pub struct LogKeeper {
    upkeep: LogUpkeep,
    logs_dir: PathBuf,
    index: PodIndex,
    links: LogLinks,
    /// When the directory of a container's logs was changed last, as of the last time that all was done in it.
    done: HashMap<PathBuf, SystemTime>,
}

/// The directory of a container's logs, and whose they are.
#[derive(Clone, Debug)]
struct ContainerLogs {
    dir: PathBuf,
    namespace: String,
    pod: String,
    uid: String,
    container: String,
}

impl LogKeeper {
    /// For the pods in `index`, whose logs are below `logs_dir`.
    #[must_use]
    pub fn new(upkeep: LogUpkeep, logs_dir: PathBuf, index: PodIndex, links: LogLinks) -> Self {
        Self { upkeep, logs_dir, index, links, done: HashMap::new() }
    }

    /// Works until it is dropped. Compressions under way are then called off; the next agent begins them again.
    pub async fn run(mut self) {
        let stop = Arc::new(AtomicBool::new(false));
        let _on_drop = StopOnDrop(Arc::clone(&stop));
        loop {
            tokio::time::sleep(self.upkeep.interval).await;
            self.round(&stop).await;
        }
    }

    async fn round(&mut self, stop: &Arc<AtomicBool>) {
        let all = self.directories();
        let present: HashSet<&Path> = all.iter().map(|logs| logs.dir.as_path()).collect();
        self.done.retain(|dir, _| present.contains(dir.as_path()));
        let changed = all.into_iter().filter_map(|logs| {
            let modified = fs::metadata(&logs.dir).and_then(|metadata| metadata.modified()).ok()?;
            (self.done.get(&logs.dir) != Some(&modified)).then_some(logs)
        });
        let changed: Vec<_> = changed.collect();
        let (max_files, links) = (self.upkeep.max_files, self.links.clone());
        let finished: Vec<Option<(PathBuf, SystemTime)>> = stream::iter(changed)
            .map(|logs| {
                let (links, stop) = (links.clone(), Arc::clone(stop));
                tokio::task::spawn_blocking(move || match tend(&logs, max_files, &links, &stop) {
                    Ok(modified) => Some((logs.dir, modified?)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => {
                        tracing::warn!(dir = %logs.dir.display(), %error, "cannot look after the logs of a container; trying again");
                        None
                    }
                })
            })
            .buffer_unordered(self.upkeep.workers.max(1))
            .map(|tended| tended.unwrap_or_default())
            .collect()
            .await;
        self.done.extend(finished.into_iter().flatten());
    }

    /// Where the containers of this node's pods write to, whether anything is there or not.
    fn directories(&self) -> Vec<ContainerLogs> {
        let mut found = Vec::new();
        for pod in self.index.pods() {
            let (Some(uid), Some(spec)) = (&pod.metadata.uid, &pod.spec) else { continue };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let dir = logs::pod_dir(&self.logs_dir, namespace, name, uid);
            let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let names = containers.map(|container| &container.name);
            let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.name);
            found.extend(names.chain(ephemeral).map(|container| ContainerLogs {
                dir: dir.join(container),
                namespace: namespace.to_owned(),
                pod: name.to_owned(),
                uid: uid.clone(),
                container: container.clone(),
            }));
        }
        found
    }
}

/// Ends what works on other threads when the keeper is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does all that is to be done about the logs of one container, and returns when its directory was changed last,
/// as it was before that was looked at: what is changed meanwhile is seen the next time. `None` where that is so
/// short ago that another change could have the same time.
fn tend(
    logs: &ContainerLogs,
    max_files: u32,
    links: &LogLinks,
    stop: &AtomicBool,
) -> io::Result<Option<SystemTime>> {
    let dir = open(&logs.dir)?;
    loop {
        let modified = fs::metadata(&logs.dir)?.modified()?;
        let names: Vec<String> =
            fs::read_dir(&logs.dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        let plan = plan::plan(names.iter().map(String::as_str), max_files);
        let ContainerLogs { namespace, pod, uid, container, .. } = logs;
        let log = |attempt| LinkedLog { namespace, pod, uid, container, attempt };
        if (plan.remove.is_empty() && plan.compress.is_empty()) || stop.load(Ordering::Relaxed) {
            // An agent that had none, or died before it made them.
            plan.current.into_iter().for_each(|attempt| links.add(&log(attempt)));
            return Ok(modified.elapsed().is_ok_and(|age| age > SETTLED).then_some(modified));
        }
        plan.forget.into_iter().for_each(|attempt| links.remove(&log(attempt)));
        plan.remove.iter().try_for_each(|name| compress::remove(&dir, name))?;
        for name in &plan.compress {
            match compress::compress(&dir, name, stop) {
                // The worker has removed it for a newer one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
    }
}

/// Opens the directory of a container's logs, no part of whose path is a link.
fn open(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(CWD, dir, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;
    use crate::pods::container_id::container_id;

    struct Fixture {
        root: tempfile::TempDir,
        keeper: LogKeeper,
        dir: PathBuf,
    }

    impl Fixture {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let base = root.path().canonicalize().unwrap();
            let logs_dir = base.join("pods");
            let index = PodIndex::default();
            let pod = json!({
                "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
                "spec": { "containers": [{ "name": "c" }] },
            });
            index.put("u", Arc::new(serde_json::from_value::<Pod>(pod).unwrap()));
            let links = LogLinks::open(&base.join("containers"), &logs_dir).unwrap();
            let upkeep = LogUpkeep { max_files: 3, workers: 2, interval: Duration::from_secs(1) };
            let dir = logs::pod_dir(&logs_dir, "ns", "p", "u").join("c");
            fs::create_dir_all(&dir).unwrap();
            Self { root, keeper: LogKeeper::new(upkeep, logs_dir, index, links), dir }
        }

        fn write(&self, names: &[&str]) {
            for name in names {
                fs::write(self.dir.join(name), "2026-01-02T00:00:00Z stdout F x\n").unwrap();
            }
        }

        fn names(&self) -> Vec<String> {
            let names =
                fs::read_dir(&self.dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }

        /// Some time passes in which nothing is changed.
        fn settle(&self) {
            let dir = fs::File::open(&self.dir).unwrap();
            dir.set_modified(SystemTime::now() - 10 * SETTLED).unwrap();
        }

        async fn round(&mut self) {
            self.keeper.round(&Arc::default()).await;
        }
    }

    #[tokio::test]
    async fn rotated_files_are_compressed_and_counted_and_old_attempts_forgotten() {
        let mut fixture = Fixture::new();
        let old = LinkedLog { namespace: "ns", pod: "p", uid: "u", container: "c", attempt: 1 };
        fixture.keeper.links.add(&old);
        fixture.write(&["1.log", "2.log", "3.log", "3.log.20260102-000001", "3.log.20260102-000002"]);
        fixture.write(&["3.log.20260102-000003", "mine.txt"]);
        fixture.round().await;
        let left = ["2.log", "3.log", "3.log.20260102-000002.gz", "3.log.20260102-000003", "mine.txt"]
            .map(str::to_owned);
        assert_eq!(fixture.names(), left);
        let link = |attempt| {
            let name = format!("p_ns_c-{}.log", container_id("u", "c", attempt));
            fixture.root.path().join("containers").join(name).exists()
        };
        assert_eq!([1, 2, 3].map(link), [false, true, true]);
    }

    /// A directory in which nothing has changed is not read again; one that has changed is.
    #[tokio::test]
    async fn directories_are_read_when_they_have_changed() {
        let mut fixture = Fixture::new();
        fixture.write(&["0.log"]);
        fixture.round().await;
        assert!(fixture.keeper.done.is_empty(), "another change may have the same time");
        fixture.settle();
        fixture.round().await;
        let seen = fixture.keeper.done.clone();
        assert_eq!(seen.len(), 1);
        fixture.round().await;
        assert_eq!(fixture.keeper.done, seen);
        fixture.write(&["0.log.20260102-000001", "0.log.20260102-000002"]);
        fixture.round().await;
        assert_eq!(fixture.names(), ["0.log", "0.log.20260102-000001.gz", "0.log.20260102-000002"]);
        fixture.settle();
        fixture.round().await;
        assert_eq!(fixture.keeper.done.len(), 1);
        fixture.keeper.index.remove("u");
        fixture.round().await;
        assert!(fixture.keeper.done.is_empty());
    }

    /// Whoever puts a link in the place of a container's directory has nothing removed where it leads.
    #[tokio::test]
    async fn a_link_in_the_place_of_the_directory_is_not_followed() {
        let mut fixture = Fixture::new();
        let elsewhere = fixture.root.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        for name in ["0.log", "1.log", "2.log"] {
            fs::write(elsewhere.join(name), "x").unwrap();
        }
        fs::remove_dir(&fixture.dir).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &fixture.dir).unwrap();
        fixture.round().await;
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 3);
    }
}
