//! Which servers of names pods are told of that look names up as the node does (`resolvConf`), and who reaches them.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// The default of `resolvConf`.
const USUAL: &str = "/etc/resolv.conf";
/// The servers behind systemd-resolved, whose own address is on the loopback.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The node's servers of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolvers {
    /// The file that tells of them to pods with addresses of their own.
    pub(crate) file: PathBuf,
    /// They are on the node's loopback alone, which such pods do not reach.
    pub(crate) are_local: bool,
    /// There are servers of the cluster's, which they do reach, and which most pods ask.
    pub(crate) has_cluster_dns: bool,
}

impl Resolvers {
    /// Looks into the file that is configured, and, as kubeadm does, past systemd-resolved where that is the default.
    pub(crate) fn look(configured: &Path, cluster_dns: &[IpAddr]) -> Self {
        Self::choose(configured, cluster_dns, |path| fs::read_to_string(path).unwrap_or_default())
    }

    fn choose(configured: &Path, cluster_dns: &[IpAddr], read: impl Fn(&Path) -> String) -> Self {
        let is_local = |path: &Path| is_local(&read(path));
        let behind = Path::new(BEHIND_RESOLVED);
        let past = configured == Path::new(USUAL) && is_local(configured) && !is_local(behind);
        let file = if past { behind } else { configured };
        Self { file: file.to_owned(), are_local: is_local(file), has_cluster_dns: !cluster_dns.is_empty() }
    }

    /// Pods with addresses of their own look up names somewhere.
    pub(crate) fn are_reached(&self) -> bool {
        self.has_cluster_dns || !self.are_local
    }
}

/// Whether all resolvers of a `resolv.conf` are on the loopback; where it names none, that is where the system looks.
fn is_local(text: &str) -> bool {
    let mut servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    servers.all(|server| server.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_that_only_the_node_reaches_are_known() {
        for (text, expected) in [
            ("", true),
            ("nameserver 127.0.0.53\noptions edns0\n", true),
            ("nameserver ::1\n", true),
            ("nameserver 127.0.0.1\nnameserver 192.0.2.1\n", false),
            ("# nameserver 127.0.0.1\nnameserver 192.0.2.1\n", false),
            ("nameserver fe80::1%eth0\n", false),
        ] {
            assert_eq!(is_local(text), expected, "{text:?}");
        }
    }

    #[test]
    fn pods_are_told_of_the_servers_behind_systemd_resolved() {
        let (near, far) = ("nameserver 127.0.0.53\n", "nameserver 192.0.2.1\n");
        for (configured, usual, behind, file, are_local) in [
            (USUAL, near, far, BEHIND_RESOLVED, false),
            (USUAL, near, near, USUAL, true),
            (USUAL, near, "", USUAL, true),
            (USUAL, far, near, USUAL, false),
            ("/other", near, far, "/other", true),
        ] {
            let read = |path: &Path| {
                let text = if path == Path::new(BEHIND_RESOLVED) { behind } else { usual };
                text.to_owned()
            };
            let chosen = Resolvers::choose(Path::new(configured), &[], read);
            assert_eq!((chosen.file.as_path(), chosen.are_local), (Path::new(file), are_local));
            assert_eq!(chosen.are_reached(), !are_local);
            let of_cluster = Resolvers::choose(Path::new(configured), &[IpAddr::from([10, 96, 0, 10])], read);
            assert!(of_cluster.are_reached());
        }
    }
}
