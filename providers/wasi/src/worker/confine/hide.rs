//! Files of the agent that a worker cannot see: they are covered by something empty in its own mount namespace.

use std::{
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};

/// Covers all of `hidden` that is there, but for `home`, which stays where it is. The process must be in a mount
/// namespace of its own.
pub(super) fn hide(hidden: &[PathBuf], home: &Path) -> io::Result<String> {
    let home = fs::canonicalize(home)?;
    let mut covered = Vec::new();
    for path in hidden {
        // What is not there today may be tomorrow: a kubeconfig that the bootstrap writes. It is the agent's to
        // make its folders private; here, what is there is covered.
        let Ok(path) = fs::canonicalize(path) else { continue };
        if path.is_dir() {
            cover_dir(&path, &home)?
        } else {
            cover_file(&path)?
        }
        covered.push(path.display().to_string());
    }
    Ok(if covered.is_empty() { "none".to_owned() } else { covered.join(", ") })
}

const NONE: Option<&str> = None;

fn cover_file(path: &Path) -> io::Result<()> {
    mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE)?;
    Ok(())
}

fn cover_dir(path: &Path, home: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Open before it is covered: the way back to it.
    let inside = home.strip_prefix(path).ok().map(|below| Ok::<_, io::Error>((below, fs::File::open(home)?)));
    let inside = inside.transpose()?;
    mount(Some("none"), path, Some("tmpfs"), flags, Some("size=4k,nr_inodes=16,mode=0700"))?;
    if let Some((below, dir)) = inside {
        let target = path.join(below);
        fs::create_dir_all(&target)?;
        let source = format!("/proc/self/fd/{}", dir.as_raw_fd());
        mount(Some(source.as_str()), &target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    }
    mount(NONE, path, NONE, flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, NONE)?;
    Ok(())
}
