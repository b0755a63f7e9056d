//! Network namespaces that a file holds, as `ip netns` and container runtimes keep them.
//!
//! A namespace is mounted on a file, so that it is there without a process in it, outlives the agent, and is found by its
//! path, by others too: CNI plugins are given the path of a pod's, and people enter it with `nsenter --net=<path>`.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::statfs::{NSFS_MAGIC, statfs},
};
use rtnetlink::LinkUnspec;

use crate::{
    domain::{Netlink, index, settle},
    error::{NetworkError, netlink},
    namespace::{Namespace, on_thread},
    sysctl,
};

const NOTHING: Option<&str> = None;

/// Makes a namespace and mounts it on a new file, whose directory is made if need be. Blocks.
///
/// # Errors
/// What the system says: EEXIST where there is a file, EPERM without CAP_SYS_ADMIN. Nothing is left behind.
pub fn pin(path: &Path) -> io::Result<Namespace> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(path)?;
    let made = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), path, NOTHING, MsFlags::MS_BIND, NOTHING)?;
        Namespace::at(path)
    });
    if made.is_err() {
        // What has failed first is what is told.
        let _ = unpin(path);
    }
    made
}

/// Lets go of a namespace: it goes with the last process in it. One that is gone already is fine. Blocks.
///
/// # Errors
/// What the system says.
pub fn unpin(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH) {
        // No mount (after a start of the machine), or no file.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    // This detaches what mount namespaces that were made meanwhile have copies of.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a namespace is mounted on a file. Blocks.
#[must_use]
pub fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|there| there.filesystem_type() == NSFS_MAGIC)
}

/// Makes a new namespace fit for one pod: its loopback interface is up, and its processes may listen on all ports. Must be
/// called within a tokio runtime.
///
/// # Errors
/// [`NetworkError`].
pub async fn prepare(namespace: &Arc<Namespace>) -> Result<(), NetworkError> {
    settle(namespace, &sysctl::ALONE).await?;
    let inside = Netlink::open_in(namespace).await?;
    let up = LinkUnspec::new_with_index(index(&inside.handle, "lo").await?).up().build();
    inside.handle.link().set(up).execute().await.map_err(netlink("set the loopback interface up"))
}
