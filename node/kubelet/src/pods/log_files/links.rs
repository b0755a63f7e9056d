//! The links that log collectors of a machine go by: `<pod>_<namespace>_<container>-<id>.log`, each to the log of one
//! attempt of a container. Collectors take names and ids from there.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    logs::{self, LogFileName},
    pods::container_id::container_id,
};

/// Longest name of a file, as upstream bounds it.
const LONGEST_NAME: usize = 255;
const SUFFIX: &str = ".log";

/// A directory of links to the logs of containers. Clones are the same one.
#[derive(Clone, Debug)]
pub struct LogLinks {
    inner: Option<Arc<LinksInner>>,
}

#[derive(Debug)]
struct LinksInner {
    dir: PathBuf,
    logs_dir: PathBuf,
}

/// One attempt of a container, as its link names it.
#[derive(Clone, Copy, Debug)]
pub struct LinkedLog<'a> {
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Name of the pod.
    pub pod: &'a str,
    /// UID of the pod.
    pub uid: &'a str,
    /// Name of the container.
    pub container: &'a str,
    /// Its `restartCount`.
    pub attempt: u32,
}

impl LogLinks {
    /// No links.
    #[must_use]
    pub fn off() -> Self {
        Self { inner: None }
    }

    /// Links in `dir` to what is in `logs_dir`, the directory of pods' logs. Makes `dir` where it is missing, and
    /// removes the links there that lead to logs of `logs_dir` which are gone.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(dir: &Path, logs_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let inner = LinksInner { dir: dir.to_owned(), logs_dir: logs_dir.to_owned() };
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if inner.is_ours(&path) && matches!(path.try_exists(), Ok(false)) {
                remove(&path);
            }
        }
        Ok(Self { inner: Some(Arc::new(inner)) })
    }

    /// Makes the link of an attempt whose log there is. One that is there already stays.
    pub fn add(&self, log: &LinkedLog<'_>) {
        let Some(inner) = &self.inner else { return };
        let path = inner.dir.join(name(log));
        let LinkedLog { namespace, pod, uid, container, attempt } = *log;
        let target = inner.target(&logs::file(&inner.logs_dir, namespace, pod, uid, container, attempt));
        match symlink(&target, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                tracing::warn!(link = %path.display(), %error, "a log collector's link cannot be made");
            }
            Err(_) if fs::read_link(&path).is_ok_and(|present| present != target) => {
                remove(&path);
                if let Err(error) = symlink(&target, &path) {
                    tracing::warn!(link = %path.display(), %error, "a log collector's link cannot be made");
                }
            }
            _ => {}
        }
    }

    /// Removes the link of an attempt whose log is gone.
    pub fn remove(&self, log: &LinkedLog<'_>) {
        if let Some(inner) = &self.inner {
            remove(&inner.dir.join(name(log)));
        }
    }

    /// Removes the links of all attempts whose logs are in the directory of a pod's logs, before that goes.
    pub fn remove_pod(&self, pod_dir: &Path) {
        let Some(inner) = &self.inner else { return };
        let Some((namespace, pod, uid)) = pod_dir.file_name().and_then(OsStr::to_str).and_then(pod_of) else {
            return;
        };
        for (container, attempts) in attempts(pod_dir) {
            let Some(container) = container.to_str() else { continue };
            for attempt in attempts {
                remove(&inner.dir.join(name(&LinkedLog { namespace, pod, uid, container, attempt })));
            }
        }
    }
}

impl LinksInner {
    /// Where a link leads: by the way from its own directory where both are beside each other, so that they can be
    /// mounted elsewhere together.
    fn target(&self, log: &Path) -> PathBuf {
        let beside = self.dir.parent().is_some_and(|parent| self.logs_dir.parent() == Some(parent));
        let below = log.strip_prefix(&self.logs_dir).ok().zip(self.logs_dir.file_name());
        match below {
            Some((below, logs)) if beside => Path::new("..").join(logs).join(below),
            _ => log.to_owned(),
        }
    }

    fn is_ours(&self, link: &Path) -> bool {
        fs::read_link(link).is_ok_and(|target| self.dir.join(target).starts_with(&self.logs_dir))
            || fs::read_link(link).is_ok_and(|target| {
                self.logs_dir.file_name().is_some_and(|logs| target.starts_with(Path::new("..").join(logs)))
                    && self.dir.parent() == self.logs_dir.parent()
            })
    }
}

/// `<namespace>_<pod>_<uid>`.
fn pod_of(name: &str) -> Option<(&str, &str, &str)> {
    let mut parts = name.splitn(3, '_');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

/// Containers of a pod that have logs, each with its attempts.
fn attempts(pod_dir: &Path) -> Vec<(OsString, BTreeSet<u32>)> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let attempt = |name: OsString| Some(LogFileName::parse(name.to_str()?)?.attempt);
    entries(pod_dir)
        .map(|dir| (dir.file_name(), entries(&dir.path()).filter_map(|e| attempt(e.file_name())).collect()))
        .collect()
}

/// The name of an attempt's link, cut as upstream cuts it.
fn name(log: &LinkedLog<'_>) -> String {
    let LinkedLog { namespace, pod, uid, container, attempt } = *log;
    let mut name = format!("{pod}_{namespace}_{container}-{}", container_id(uid, container, attempt));
    // Kubernetes' names and ids are ASCII, where every place is a border of characters.
    name.truncate(LONGEST_NAME - SUFFIX.len());
    name + SUFFIX
}

fn remove(link: &Path) {
    // Never anything but a link: the directory may be that of other programs, too.
    if fs::symlink_metadata(link).is_ok_and(|metadata| metadata.is_symlink())
        && let Err(error) = fs::remove_file(link)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(link = %link.display(), %error, "a log collector's link stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(attempt: u32) -> LinkedLog<'static> {
        LinkedLog { namespace: "ns", pod: "web-0", uid: "u1", container: "main", attempt }
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn write(dir: &Path, attempt: u32) {
        let path = logs::file(dir, "ns", "web-0", "u1", "main", attempt);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("attempt {attempt}")).unwrap();
    }

    #[test]
    fn a_link_leads_to_its_log_and_goes_with_its_pod() {
        let root = tempfile::tempdir().unwrap();
        for (links_dir, way) in [("containers", "../pods/ns_web-0_u1/main/0.log"), ("deep/links", "/")] {
            let (logs, dir) = (root.path().join("pods"), root.path().join(links_dir));
            let links = LogLinks::open(&dir, &logs).unwrap();
            write(&logs, 0);
            write(&logs, 1);
            links.add(&log(0));
            links.add(&log(0));
            links.add(&log(1));
            let name = format!("web-0_ns_main-{}.log", container_id("u1", "main", 0));
            assert_eq!(fs::read_to_string(dir.join(&name)).unwrap(), "attempt 0");
            assert!(fs::read_link(dir.join(&name)).unwrap().starts_with(way.trim_start_matches("./")));
            fs::write(dir.join("somebody-elses.log"), "").unwrap();
            links.remove_pod(&logs.join("ns_web-0_u1"));
            assert_eq!(names(&dir), ["somebody-elses.log"]);
        }
    }

    #[test]
    fn links_to_nowhere_are_removed_at_the_start() {
        let root = tempfile::tempdir().unwrap();
        let (logs, dir) = (root.path().join("pods"), root.path().join("containers"));
        let links = LogLinks::open(&dir, &logs).unwrap();
        write(&logs, 0);
        links.add(&log(0));
        links.add(&log(7));
        symlink("/nowhere/at/all", dir.join("other.log")).unwrap();
        symlink(logs.join("ns_gone_u/main/0.log"), dir.join("absolute.log")).unwrap();
        LogLinks::open(&dir, &logs).unwrap();
        let present = format!("web-0_ns_main-{}.log", container_id("u1", "main", 0));
        assert_eq!(names(&dir), ["other.log".to_owned(), present]);
    }

    #[test]
    fn names_are_no_longer_than_a_file_may_have() {
        let pod = "p".repeat(253);
        let log = LinkedLog { pod: &pod, ..log(0) };
        assert_eq!(name(&log).len(), 255);
        assert!(name(&log).ends_with("pp.log"));
    }
}
