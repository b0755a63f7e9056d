//! Where configurations, plugins, records and namespaces are.

use std::path::PathBuf;

/// Where container runtimes keep what plugins have answered them: libcni's default, which containerd, CRI-O and podman have.
const OTHERS: &str = "/var/lib/cni/results";

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxOptions {
    /// Configurations of networks, of which the first by name is used.
    pub conf_dir: PathBuf,
    /// Plugins; the first directory that has one counts.
    pub bin_dirs: Vec<PathBuf>,
    /// Records of sandboxes: this node's alone.
    pub state_dir: PathBuf,
    /// Namespaces, one file each.
    pub namespaces_dir: PathBuf,
    /// Where other container runtimes on this machine keep what they have attached to networks.
    pub others_dir: PathBuf,
}

impl SandboxOptions {
    /// The usual places, with records in this directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into()],
            state_dir: state_dir.into(),
            namespaces_dir: "/var/run/netns".into(),
            others_dir: OTHERS.into(),
        }
    }
}
