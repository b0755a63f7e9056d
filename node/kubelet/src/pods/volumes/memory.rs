//! Volumes that are kept in memory.
//!
//! One tmpfs is mounted for the whole node, at `<root>/memory`, before the first worker starts: workers have
//! mount namespaces of their own, made from the agent's, and what is mounted there before they begin is
//! there for them, whether or not the host passes mounts on. Secrets and tokens are folders in it. It is
//! shared, so that what is mounted below it later (a `medium: Memory` volume, which is a tmpfs with a size of
//! its own) is passed on to workers that run already.
//!
//! Where the agent may not mount, these volumes are on disk, in folders that only the agent's user may enter.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};

use super::mountinfo;

/// The source that these mounts show in lists of mounts.
const NAME: &str = "kubewasm";

/// The node's tmpfs.
#[derive(Clone, Debug)]
pub struct Memory {
    root: PathBuf,
}

impl Memory {
    /// Mounts the node's tmpfs below `root`, or finds the one that an earlier agent has mounted.
    ///
    /// # Errors
    /// What the system says; `PermissionDenied` where this process may not mount. Volumes are kept on disk
    /// then.
    pub fn open(root: &Path) -> io::Result<Self> {
        let path = root.join("memory");
        make_private(&path)?;
        let path = path.canonicalize()?;
        let present = mountinfo::read()?.into_iter().rfind(|mount| mount.path == path);
        if present.as_ref().is_none_or(|mount| mount.kind != "tmpfs") {
            mount_tmpfs(&path, "mode=0700")?;
        }
        if present.is_none_or(|mount| !mount.is_shared) {
            mount(None::<&str>, &path, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
        }
        Ok(Self { root: path })
    }

    /// The folder for the volumes of a pod.
    pub(super) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root.join(uid)
    }

    /// UIDs of all pods that have volumes here.
    pub(super) fn uids(&self) -> io::Result<Vec<String>> {
        let mut uids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            uids.extend(entry?.file_name().into_string().ok());
        }
        Ok(uids)
    }

    /// Mounts a tmpfs that holds `bytes` at a folder of this one; fine when one is there.
    pub(super) fn mount_volume(path: &Path, bytes: Option<u64>) -> io::Result<()> {
        if mountinfo::read()?.iter().any(|mount| mount.path == path) {
            return Ok(());
        }
        let size = bytes.map_or_else(String::new, |bytes| format!(",size={bytes}"));
        mount_tmpfs(path, &format!("mode=0777{size}"))
    }

    /// Unmounts the node's tmpfs, for a program that leaves nothing behind.
    ///
    /// # Errors
    /// What the system says.
    pub fn close(self) -> io::Result<()> {
        unmount_below(&self.root)?;
        fs::remove_dir(&self.root)
    }
}

/// Mounts a tmpfs whose pages are never swapped out, where the kernel can do that.
fn mount_tmpfs(path: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mount = |options: &str| mount(Some(NAME), path, Some("tmpfs"), flags, Some(options));
    match mount(&format!("{options},noswap")) {
        Err(Errno::EINVAL) => Ok(mount(options)?),
        other => Ok(other?),
    }
}

/// Unmounts every tmpfs of ours at `path` and below, the newest first. Anything else that is mounted there
/// was not mounted by this program, and must not be removed with the folder.
///
/// # Errors
/// What the system says, and a mount that is none of ours.
pub(super) fn unmount_below(path: &Path) -> io::Result<()> {
    let mounts = mountinfo::read()?;
    for mount in mountinfo::below(&mounts, path).rev() {
        if mount.kind != "tmpfs" {
            return Err(io::Error::other(format!(
                "a file system of type {} is mounted at {}; unmount it first",
                mount.kind,
                mount.path.display()
            )));
        }
        // Whoever still has a file open in it keeps that file, and nothing else.
        umount2(&mount.path, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// A folder that only its owner can enter.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node's tmpfs in a folder of the test's own; `None`, with a line that says so, where this process
    /// may not mount.
    fn open(root: &Path) -> Option<Memory> {
        match Memory::open(root) {
            Ok(memory) => Some(memory),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                eprintln!("not tested: this process may not mount");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn it_is_mounted_once_shared_and_found_again() {
        let root = tempfile::tempdir().unwrap();
        let Some(memory) = open(root.path()) else { return };
        let dir = memory.pod_dir("u-1");
        fs::create_dir(&dir).unwrap();
        let again = Memory::open(root.path()).unwrap();
        assert_eq!(again.uids().unwrap(), ["u-1"]);
        let mounts = mountinfo::read().unwrap();
        let own: Vec<_> = mountinfo::below(&mounts, &memory.root).collect();
        assert_eq!(own.len(), 1);
        assert!(own[0].is_shared && own[0].kind == "tmpfs");
        let mode = fs::metadata(&memory.root).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700);
        memory.close().unwrap();
        assert!(!root.path().join("memory").exists());
    }

    #[test]
    fn a_volume_holds_what_it_may_and_no_more() {
        let root = tempfile::tempdir().unwrap();
        let Some(memory) = open(root.path()) else { return };
        let dir = memory.pod_dir("u-1").join("scratch");
        fs::create_dir_all(&dir).unwrap();
        Memory::mount_volume(&dir, Some(64 << 10)).unwrap();
        Memory::mount_volume(&dir, Some(64 << 10)).unwrap();
        fs::write(dir.join("small"), [0; 4096]).unwrap();
        let error = fs::write(dir.join("large"), vec![0; 128 << 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o7777, 0o777);
        unmount_below(&memory.pod_dir("u-1")).unwrap();
        assert!(!dir.join("small").exists());
        memory.close().unwrap();
    }
}
