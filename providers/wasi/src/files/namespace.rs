//! A mount namespace of a worker's or the mounter's own, entered at the start of the process.
//!
//! As root, a mount namespace is enough. Others get one inside a user namespace, in which they stay who they
//! are and may mount. Both end with the process, and so does everything that was mounted in them. What is mounted
//! on this host later appears there, too (volumes in memory, say); nothing goes the other way.

use std::{fs, io, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::mount_api::{self, Reach};

/// How guests get their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// One preopened directory per guest, made of mounts.
    Mounts(Mounting),
    /// A preopened directory for each mount.
    Preopens {
        /// Why there are no mounts, for people.
        why: String,
    },
}

/// How mounts are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mounting {
    /// The process is in a user namespace, where overlays keep their notes in other attributes.
    pub user_namespace: bool,
    /// The kernel mounts below what hangs nowhere itself (Linux 6.15 and newer).
    pub nests: bool,
}

/// The process is in a user namespace in which it is nobody: it could not even make a file.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot map the user in the worker's user namespace ({path}: {source}); allow it, or start workers as root"
)]
pub struct UserMapError {
    path: &'static str,
    #[source]
    source: io::Error,
}

/// Enters a mount namespace of the process' own and finds out whether mounts work there. `dir` is a directory to
/// try it with; nothing in it changes.
///
/// Must be called while the process has one thread: threads share their namespaces with the thread that started
/// them, and a process with several threads cannot enter a user namespace.
///
/// # Errors
/// [`UserMapError`]: the process is of no use any more.
pub fn enter(dir: &Path) -> Result<Way, UserMapError> {
    let user_namespace = match unshare(CloneFlags::CLONE_NEWNS) {
        Ok(()) => in_user_namespace(),
        Err(first) => {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            if let Err(second) = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS) {
                let why = format!(
                    "no mount namespace ({}), and none in a user namespace ({})",
                    first.desc(),
                    second.desc()
                );
                return Ok(Way::Preopens { why });
            }
            for (path, text) in [
                ("/proc/self/setgroups", "deny".to_owned()),
                ("/proc/self/uid_map", format!("{uid} {uid} 1", uid = uid.as_raw())),
                ("/proc/self/gid_map", format!("{gid} {gid} 1", gid = gid.as_raw())),
            ] {
                fs::write(path, text).map_err(|source| UserMapError { path, source })?;
            }
            true
        }
    };
    match try_mounts(dir) {
        Ok(nests) => Ok(Way::Mounts(Mounting { user_namespace, nests })),
        Err(error) => Ok(Way::Preopens { why: format!("mounts are not allowed here ({error})") }),
    }
}

/// Closes the namespace to the outside, and mounts something for a try. Says whether mounts nest that hang nowhere.
fn try_mounts(dir: &Path) -> io::Result<bool> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)?;
    let open = super::walk::open_root(dir)?;
    let (outer, inner) = (mount_api::clone(&open, Reach::One)?, mount_api::clone(&open, Reach::One)?);
    // Newer than the others.
    mount_api::seal(&outer, mount_api::RESTRICTED, Reach::One)?;
    match mount_api::attach(&inner, &outer) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether users here are others than on the host: anything but all of them, each as itself.
fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_identity(&map))
}

fn is_identity(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_maps_every_user_to_itself() {
        for (map, expected) in [
            ("         0          0 4294967295\n", true),
            ("         0       1000          1\n", false),
            ("         0     100000      65536\n", false),
            ("", false),
        ] {
            assert_eq!(is_identity(map), expected, "{map:?}");
        }
    }
}
