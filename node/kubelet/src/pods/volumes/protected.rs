//! Paths of the node that no pod may have, whoever allows it: who has one of them has the node.

use std::{
    io,
    path::{Path, PathBuf},
};

/// What gives any machine away: the kernel's own files, devices, and the sockets and state of those who start
/// containers or hold the node's credentials.
const ALWAYS: [&str; 20] = [
    "/proc",
    "/sys",
    "/dev",
    "/boot",
    "/etc/kubernetes",
    "/run/containerd",
    "/run/crio",
    "/run/cri-dockerd.sock",
    "/run/docker",
    "/run/docker.sock",
    "/run/dockershim.sock",
    "/run/k3s",
    "/run/podman",
    "/run/secrets",
    "/run/systemd",
    "/run/user",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/kubelet",
];

/// The paths, and with them whatever is below them or holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedPaths {
    paths: Vec<PathBuf>,
}

impl Default for ProtectedPaths {
    fn default() -> Self {
        Self { paths: ALWAYS.iter().map(PathBuf::from).collect() }
    }
}

impl ProtectedPaths {
    /// Those of every machine, and these of this program's own: its root directory, and whatever holds keys.
    #[must_use]
    pub fn with(own: impl IntoIterator<Item = PathBuf>) -> Self {
        Self::default().and(own)
    }

    /// The same, and these.
    pub(super) fn and(mut self, more: impl IntoIterator<Item = PathBuf>) -> Self {
        self.paths.extend(more.into_iter().map(|path| std::path::absolute(&path).unwrap_or(path)));
        self
    }

    /// Why no pod may have `path`, which is absolute; `None` when one may. Links are followed, on both sides.
    pub(super) fn refusal(&self, path: &Path) -> Option<String> {
        let resolved = resolve(path);
        self.paths.iter().find_map(|protected| {
            let ends = [protected.clone(), resolve(protected)];
            let how = ends.iter().find_map(|protected| relation(&resolved, protected))?;
            let is = if resolved == path { String::new() } else { format!(" (which is {})", resolved.display()) };
            Some(format!(
                "no pod may have the path {}{is} of the node, because it {how} {}, with which it would have the node",
                path.display(),
                protected.display()
            ))
        })
    }
}

/// How a path has to do with a protected one.
fn relation(path: &Path, protected: &Path) -> Option<&'static str> {
    if path == protected {
        Some("is")
    } else if path.starts_with(protected) {
        Some("is in")
    } else if protected.starts_with(path) {
        Some("holds")
    } else {
        None
    }
}

/// The path without links, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    for known in path.ancestors() {
        match known.canonicalize() {
            Ok(found) => {
                return path.strip_prefix(known).map_or_else(
                    |_| path.to_owned(),
                    |rest| {
                        // Joining nothing would add a slash.
                        if rest.as_os_str().is_empty() { found.clone() } else { found.join(rest) }
                    },
                );
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(_) => break,
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_gives_the_node_away_is_refused_with_its_parents_and_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let own = root.join("var/kubewasm");
        std::fs::create_dir_all(own.join("pki")).unwrap();
        std::fs::create_dir_all(root.join("data")).unwrap();
        for (target, link) in [
            (own.clone(), "data/own"),
            (own.join("pki"), "data/pki"),
            ("/".into(), "data/root"),
            ("/proc/self".into(), "data/proc"),
            (root.join("data"), "link"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let key = root.join("keys/node.key");
        let protected = ProtectedPaths::with([own.clone(), key.clone()]);
        let refused = [
            (PathBuf::from("/"), "it holds /proc"),
            ("/proc".into(), "it is /proc"),
            ("/proc/1/root".into(), "it is in /proc"),
            ("/sys/fs/cgroup".into(), "it is in /sys"),
            ("/dev/sda".into(), "it is in /dev"),
            ("/run".into(), "it holds /run/"),
            ("/run/containerd/containerd.sock".into(), "it is in /run/containerd"),
            ("/run/docker.sock".into(), "it is /run/docker.sock"),
            ("/var/lib".into(), "it holds /var/lib/"),
            (own.join("modules/precompiled"), "it is in"),
            (own, "it is"),
            (root.join("var"), "it holds"),
            (root.clone(), "it holds"),
            (key.clone(), "it is"),
            (root.join("keys"), "it holds"),
            (root.join("data/own"), "(which is "),
            (root.join("data/own/new"), "it is in"),
            (root.join("data/pki"), "it is in"),
            (root.join("data/root"), "it holds /proc"),
            // What the process's root leads to.
            (root.join("data/proc/root"), "it holds /proc"),
        ];
        for (path, part) in refused {
            let refusal = protected.refusal(&path);
            let refusal = refusal.unwrap_or_else(|| panic!("{} is not refused", path.display()));
            assert!(refusal.contains(part), "{refusal}");
        }
        for path in ["data", "link", "link/new/deep", "varia", "keys2", "data/own2"] {
            assert_eq!(protected.refusal(&root.join(path)), None, "{path}");
        }
    }
}
