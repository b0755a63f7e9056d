//! The files that a node writes for a pod: `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
//!
//! ```text
//! pod, cluster domain ─► names        host name and domain        ┐
//! pod, addresses ──────► hosts        text of /etc/hosts          ├─ pure ─► write ─► <pods>/<uid>/…
//! pod, node's settings ► resolv_conf  text of /etc/resolv.conf    ┘
//! ```
//!
//! They are written anew whenever a container starts, and every container of the pod sees the same ones. The provider is
//! told what they say, too: guests' look-ups of names go by it.

mod hosts;
pub mod names;
pub mod resolv_conf;

use std::{
    fs,
    io::{self, Read as _},
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;

use self::{names::Names, resolv_conf::Dns};

/// Where guests look for them, and the names they have in the pod's folder.
const FILES: [(&str, &str); 3] =
    [("/etc/hosts", "etc-hosts"), ("/etc/hostname", "etc-hostname"), ("/etc/resolv.conf", "etc-resolv.conf")];

/// Paths that a guest sees, and the files of the pod's folder that it sees there.
#[must_use]
pub(super) fn mounts(pod_dir: &Path) -> [(&'static str, PathBuf); 3] {
    FILES.map(|(guest, name)| (guest, pod_dir.join(name)))
}

/// What the files are made from, besides the pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct PodFileSources<'a> {
    pub(super) names: &'a Names,
    pub(super) pod_ips: &'a [IpAddr],
    /// The node's own `/etc/hosts`, for pods that share its network.
    pub(super) node_hosts: &'a Path,
    pub(super) dns: &'a Dns,
}

/// Bytes of the node's own table of host names that are read at most.
const NODE_HOSTS_BYTES: u64 = 1 << 20;

/// The texts of the files of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodFiles {
    pub(super) hosts: String,
    pub(super) hostname: String,
    pub(super) resolv_conf: String,
}

impl PodFiles {
    /// What the files of a pod say.
    ///
    /// # Errors
    /// What the system says of the node's table of host names.
    pub(super) fn of(pod: &Pod, sources: PodFileSources<'_>) -> Result<Self, String> {
        let spec = pod.spec.as_ref();
        let aliases = spec.and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
        let hosts = if spec.and_then(|s| s.host_network) == Some(true) {
            let own = match read_node_hosts(sources.node_hosts) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                Err(error) => return Err(format!("cannot read {}: {error}", sources.node_hosts.display())),
            };
            hosts::of_node(&own, aliases)
        } else {
            hosts::of_pod(sources.pod_ips, sources.names, aliases)
        };
        let hostname = format!("{}\n", sources.names.hostname);
        Ok(Self { hosts, hostname, resolv_conf: sources.dns.to_string() })
    }

    /// Writes them.
    ///
    /// # Errors
    /// What the system says, with the file it says it of.
    pub(super) fn write(&self, pod_dir: &Path) -> Result<(), String> {
        let texts = [&self.hosts, &self.hostname, &self.resolv_conf];
        for ((_, path), text) in mounts(pod_dir).iter().zip(texts) {
            put(path, text.as_bytes())
                .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        }
        Ok(())
    }
}

/// The lines of the node's own table that are within bounds.
fn read_node_hosts(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(NODE_HOSTS_BYTES + 1).read_to_end(&mut bytes)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if bytes.len() as u64 > NODE_HOSTS_BYTES {
        tracing::warn!(path = %path.display(), "pods of the node's network see the first {NODE_HOSTS_BYTES} bytes of it");
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    }
    Ok(text)
}

/// Writes in place where something has changed: a container that runs has this very file mounted.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_once_and_again_when_they_differ() {
        let dir = tempfile::tempdir().unwrap();
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": []}}),
        )
        .unwrap();
        let names = Names { hostname: "p".to_owned(), domain: None };
        let dns = Dns { servers: vec!["10.0.0.10".to_owned()], ..Dns::default() };
        let ips = ["10.1.0.7".parse().unwrap()];
        let write = |ips: &[IpAddr]| {
            let node_hosts = Path::new("/nonexistent");
            let sources = PodFileSources { names: &names, pod_ips: ips, node_hosts, dns: &dns };
            PodFiles::of(&pod, sources).unwrap().write(dir.path()).unwrap();
            mounts(dir.path()).map(|(_, path)| fs::read_to_string(path).unwrap())
        };
        let [hosts, hostname, resolv_conf] = write(&ips);
        assert!(hosts.ends_with("\n10.1.0.7\tp\n"), "{hosts}");
        assert_eq!((hostname.as_str(), resolv_conf.as_str()), ("p\n", "nameserver 10.0.0.10\n"));
        // A guest has changed it; the next start of a container puts it right.
        fs::write(dir.path().join("etc-hostname"), "other").unwrap();
        let [hosts, hostname, _] = write(&["10.1.0.8".parse().unwrap()]);
        assert!(hosts.ends_with("\n10.1.0.8\tp\n"), "{hosts}");
        assert_eq!(hostname, "p\n");
    }

    /// Some machines keep lists of names to block there, of any size.
    #[test]
    fn of_a_large_table_of_the_node_whole_lines_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        fs::write(&path, "192.0.2.1 blocked.example\n".repeat(100_000)).unwrap();
        let text = read_node_hosts(&path).unwrap();
        assert!(text.len() as u64 <= NODE_HOSTS_BYTES && text.len() > 1_000_000, "{}", text.len());
        assert!(text.ends_with("192.0.2.1 blocked.example\n"));
    }
}
