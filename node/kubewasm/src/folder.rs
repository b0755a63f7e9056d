//! The folder of a `kubewasm run`: gone when the run ends, or, if it was killed, when the next one starts.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// How the folders' names begin.
const PREFIX: &str = "kubewasm-run-";
/// File that is locked for as long as the run goes on; the kernel lets go of it, however that ends.
const LOCK: &str = "lock";
/// A folder without a lock may be one that is just being made.
const YOUNG: Duration = Duration::from_secs(60);

/// A folder for one run.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    // Let go of after the folder is gone.
    _lock: File,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = kubewasm_trees::remove(&self.path) {
            tracing::debug!(%error, "the folder of a run stays until the next one");
        }
    }
}

impl Folder {
    /// Makes one among the machine's temporary files, and removes those of runs that were killed.
    pub(crate) fn make() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let lock = File::create(dir.path().join(LOCK))?;
        lock.lock()?;
        // What is in it is opened without following links.
        let path = dir.path().canonicalize()?;
        let _ = dir.keep();
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The folders of this user's runs that go on.
pub(crate) fn running() -> Vec<PathBuf> {
    running_in(&std::env::temp_dir())
}

fn running_in(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let named =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)));
    let mut folders: Vec<_> = named.map(|entry| entry.path()).filter(|folder| is_held(folder)).collect();
    folders.sort();
    folders
}

/// A folder of ours that a run holds.
fn is_held(folder: &Path) -> bool {
    let is_ours = fs::symlink_metadata(folder)
        .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw());
    is_ours && File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err())
}

/// Removes the folders of runs that are no more. What cannot be removed stays; it harms nobody.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) && is_left(&entry.path()) {
            match kubewasm_trees::remove(&entry.path()) {
                Ok(()) => {
                    tracing::debug!(folder = %entry.path().display(), "removed what a killed run has left")
                }
                Err(error) => {
                    tracing::debug!(folder = %entry.path().display(), %error, "what a killed run has left stays");
                }
            }
        }
    }
}

/// A folder of ours that no run holds. Folders of other users' are theirs, and links are nobody's.
fn is_left(folder: &Path) -> bool {
    let Ok(metadata) = fs::symlink_metadata(folder) else { return false };
    if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return false;
    }
    match File::open(folder.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let age = metadata.modified().ok().and_then(|time| time.elapsed().ok());
            age.is_some_and(|age| age > YOUNG)
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_folders_of_runs_that_are_no_more_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        for name in
            ["kubewasm-run-alive", "kubewasm-run-dead", "kubewasm-run-young", "kubewasm-run-old", "other"]
        {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("kubewasm-run-file"), "").unwrap();
        std::os::unix::fs::symlink(at("other"), at("kubewasm-run-link")).unwrap();
        let alive = File::create(at("kubewasm-run-alive").join(LOCK)).unwrap();
        alive.lock().unwrap();
        fs::write(at("kubewasm-run-dead").join(LOCK), "").unwrap();
        let long_ago = SystemTime::now() - YOUNG * 2;
        File::open(at("kubewasm-run-old")).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(running_in(parent.path()), [at("kubewasm-run-alive")]);
        sweep(parent.path());
        let mut left: Vec<_> =
            fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(
            left,
            ["kubewasm-run-alive", "kubewasm-run-file", "kubewasm-run-link", "kubewasm-run-young", "other"]
        );
    }
}
