//! Containers' output: where it lies on disk, and how `kubectl logs` reads it.
//!
//! ```text
//! query ─ Options::parse ─► Options ─┐
//! pod status ─ select ─► attempt ────┼─ file ─► stream: tail ─► bytes of the file ─► Formatter (pure) ─► chunks
//! ```
//!
//! The provider writes the files, in the [CRI
//! format](https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md) and
//! under the kubelet's own layout, so that log collectors find what they know. Compressing, removing and linking
//! them is the business of `pods::log_files`.
//!
//! Reading never holds more than a block and one line in memory, whatever the size of the file.

pub mod cri;
mod format;
mod names;
mod options;
mod reader;
mod select;
mod tail;

use std::path::{Path, PathBuf};

pub(crate) use self::names::{FileKind, LogFileName};
pub use self::{
    options::{LogReadOptions, OptionsError},
    reader::stream,
    select::{Selected, is_running, select},
};

/// The directory of all logs of a pod: `<dir>/<namespace>_<pod>_<uid>`.
///
/// Names cannot hold `_`, so that no two pods share a directory.
#[must_use]
pub fn pod_dir(dir: &Path, namespace: &str, pod: &str, uid: &str) -> PathBuf {
    dir.join(format!("{namespace}_{pod}_{uid}"))
}

/// The directories of pods' logs below `dir` that belong to a pod of this UID, whatever its name was.
#[must_use]
pub fn dirs_of(dir: &Path, uid: &str) -> Vec<PathBuf> {
    let is_its = |name: &std::ffi::OsStr| {
        name.to_str().and_then(|name| name.rsplit_once('_')).is_some_and(|(_, of)| of == uid)
    };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| is_its(&entry.file_name())).map(|entry| entry.path()).collect()
}

/// The current log file of one attempt of one container. Rotated ones lie beside it, with the time of
/// their rotation behind the name; `attempt` is the container's `restartCount`.
#[must_use]
pub fn file(dir: &Path, namespace: &str, pod: &str, uid: &str, container: &str, attempt: u32) -> PathBuf {
    pod_dir(dir, namespace, pod, uid).join(container).join(format!("{attempt}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_where_collectors_look() {
        assert_eq!(
            file(Path::new("/var/log/pods"), "b-c", "a", "1-2", "main", 3),
            Path::new("/var/log/pods/b-c_a_1-2/main/3.log")
        );
    }
}
