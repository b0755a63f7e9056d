//! The cgroup of all workers and compilers of one node.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Cgroup, TRIES,
    error::{CgroupError, failed},
    plan,
};

/// How the names of our cgroups begin.
const PREFIX: &str = "kubewasm-";
/// Where processes go that are in the way of handing the controller down.
const AGENT: &str = "agent";
/// What is younger than this may belong to a node that starts beside this one.
const YOUNG: Duration = Duration::from_secs(60);
/// What systemd writes on a cgroup that it has handed over: the first for root's, the other for users'.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// The cgroup below which workers and compilers have theirs. It is there while one of them is.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    /// The directory that it is in.
    base: PathBuf,
    own: Cgroup,
    /// Bytes that all below it may have together.
    memory: Option<u64>,
}

impl Parent {
    /// Finds out whether cgroups with limits can be made. `name` follows [`PREFIX`], and is different for every node
    /// of this machine; `memory` is the limit of all of them together, in bytes. What nodes that are no more have
    /// left is removed.
    pub(crate) fn open(name: &str, memory: Option<u64>) -> Result<Self, CgroupError> {
        let mounts = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(mounts).map_err(failed("read", mounts))?;
        let mount = plan::memory_mount(&text)
            .ok_or_else(|| CgroupError::NoController { path: mounts.display().to_string() })?;
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = plan::locate(&mount, &membership);
        let base = plan::base(&mount, own.as_deref(), is_delegated);
        Self::open_at(base, mount.unified, name, memory)
    }

    fn open_at(base: PathBuf, unified: bool, name: &str, memory: Option<u64>) -> Result<Self, CgroupError> {
        let own = Cgroup { dir: base.join(format!("{PREFIX}{name}")), unified };
        sweep(&own.dir);
        for entry in fs::read_dir(&base).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) && is_old(&entry) {
                sweep(&entry.path());
            }
        }
        let parent = Self { base, own, memory };
        parent.make()?;
        // There may be workers already, and the limit may have been another one.
        if let Err(error) = parent.own.limit(memory) {
            tracing::warn!(%error, "the limit of all workers together stays what it was");
        }
        parent.leave();
        Ok(parent)
    }

    /// Its directory, for people.
    pub(crate) fn dir(&self) -> &Path {
        &self.own.dir
    }

    /// Makes a cgroup below it, or finds it.
    pub(crate) fn child(&self, name: &str) -> Result<Cgroup, CgroupError> {
        let child = self.at(name);
        let mut tries = TRIES;
        loop {
            self.make()?;
            match make(&child.dir) {
                // The last of the others has just left, and taken the parent along.
                Err(error) if error.kind() == Some(io::ErrorKind::NotFound) && tries > 0 => tries -= 1,
                made => return made.map(|_| child),
            }
        }
    }

    /// A cgroup below it, which may not be there.
    pub(crate) fn at(&self, name: &str) -> Cgroup {
        Cgroup { dir: self.own.dir.join(name), unified: self.own.unified }
    }

    /// Removes the cgroup if there is none below it.
    pub(crate) fn leave(&self) {
        // One that is needed is busy.
        let _ = fs::remove_dir(&self.own.dir);
    }

    fn make(&self) -> Result<(), CgroupError> {
        if self.own.unified {
            hand_down(&self.base)?;
        }
        let is_new = make(&self.own.dir)?;
        match self.own.unified {
            true => hand_down(&self.own.dir)?,
            // Kernels before 5.11 do not add up what is below a cgroup unless told to, before it has children; the
            // others always do.
            false => _ = self.own.write("memory.use_hierarchy", "1"),
        }
        if is_new { self.own.limit(self.memory) } else { Ok(()) }
    }
}

/// Hands the memory controller down to the children of a cgroup of version 2. Only the root of the hierarchy may
/// hand it down and have processes too; in a container, whose root is the container's own cgroup, they are moved
/// into a cgroup beside the others.
fn hand_down(dir: &Path) -> Result<(), CgroupError> {
    let controllers = dir.join("cgroup.controllers");
    let text = fs::read_to_string(&controllers).map_err(failed("read", &controllers))?;
    if !has_memory(&text) {
        return Err(CgroupError::NoController { path: dir.display().to_string() });
    }
    let control = dir.join("cgroup.subtree_control");
    if fs::read_to_string(&control).is_ok_and(|text| has_memory(&text)) {
        return Ok(());
    }
    let mut tries = TRIES;
    loop {
        match fs::write(&control, "+memory") {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries > 0 => {
                // One that is forked meanwhile is found the next time.
                tries -= 1;
                move_processes(dir, &dir.join(AGENT))?;
            }
            other => return other.map_err(failed("write", &control)),
        }
    }
}

fn has_memory(controllers: &str) -> bool {
    controllers.split_ascii_whitespace().any(|name| name == "memory")
}

fn move_processes(from: &Path, to: &Path) -> Result<(), CgroupError> {
    let list = from.join("cgroup.procs");
    let text = fs::read_to_string(&list).map_err(failed("read", &list))?;
    make(to)?;
    let target = to.join("cgroup.procs");
    for pid in text.split_ascii_whitespace() {
        match fs::write(&target, pid) {
            // It has ended.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            other => other.map_err(failed("move processes to", to))?,
        }
    }
    Ok(())
}

fn is_delegated(dir: &Path) -> bool {
    let mut value = [0; 8];
    DELEGATED.iter().any(|name| {
        rustix::fs::getxattr(dir, *name, &mut value).is_ok_and(|size| value.get(..size) == Some(b"1"))
    })
}

/// Removes a cgroup and those below it, as far as they have no processes.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // Files of the kernel's are no directories, and what is in use is busy.
        let _ = fs::remove_dir(entry.path());
    }
    let _ = fs::remove_dir(dir);
}

/// A cgroup without processes may be one that is just being made.
fn is_old(entry: &fs::DirEntry) -> bool {
    let made = entry.metadata().and_then(|metadata| metadata.modified()).ok();
    made.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > YOUNG)
}

/// True when it was not there before.
fn make(dir: &Path) -> Result<bool, CgroupError> {
    match fs::create_dir(dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("make the cgroup", dir)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path, file: &str) -> String {
        fs::read_to_string(dir.join(file)).unwrap_or_default()
    }

    /// A directory with the files of a cgroup of version 2, as far as they are written to.
    fn hierarchy(controllers: &str) -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("cgroup.controllers"), controllers).unwrap();
        let own = top.path().join("kubewasm-n");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("cgroup.controllers"), controllers).unwrap();
        top
    }

    #[test]
    fn the_controller_is_handed_down_and_the_limit_is_that_of_all() {
        let top = hierarchy("cpuset cpu io memory pids\n");
        let parent = Parent::open_at(top.path().to_owned(), true, "n", Some(1 << 30)).unwrap();
        let child = parent.child("ns-default").unwrap();
        fs::write(child.dir().join("memory.swap.max"), "max").unwrap();
        child.limit(Some(5)).unwrap();
        assert_eq!(read(child.dir(), "memory.swap.max"), "0");
        child.limit(None).unwrap();
        child.add(7).unwrap();
        let own = top.path().join("kubewasm-n");
        assert_eq!(parent.dir(), own);
        for (dir, file, expected) in [
            (top.path(), "cgroup.subtree_control", "+memory"),
            (&own, "cgroup.subtree_control", "+memory"),
            (&own, "memory.max", "1073741824"),
            (&own.join("ns-default"), "memory.max", "max"),
            (&own.join("ns-default"), "memory.swap.max", "max"),
            (&own.join("ns-default"), "cgroup.procs", "7"),
        ] {
            assert_eq!(read(dir, file), expected, "{} {file}", dir.display());
        }
    }

    #[test]
    fn version_1_has_the_same_under_other_names() {
        let top = tempfile::tempdir().unwrap();
        let parent = Parent::open_at(top.path().to_owned(), false, "n", Some(5 << 20)).unwrap();
        let child = parent.child("a").unwrap();
        fs::write(child.dir().join("memory.memsw.limit_in_bytes"), "-1").unwrap();
        child.limit(Some(1)).unwrap();
        let own = top.path().join("kubewasm-n");
        for (dir, file, expected) in [
            (&own, "memory.use_hierarchy", "1"),
            (&own, "memory.limit_in_bytes", "5242880"),
            (&own.join("a"), "memory.limit_in_bytes", "1"),
            (&own.join("a"), "memory.memsw.limit_in_bytes", "1"),
        ] {
            assert_eq!(read(dir, file), expected, "{} {file}", dir.display());
        }
    }

    #[test]
    fn a_hierarchy_that_does_not_account_for_memory_is_named() {
        let top = hierarchy("hugetlb\n");
        let error = Parent::open_at(top.path().to_owned(), true, "n", None).unwrap_err().to_string();
        assert!(
            error.contains(&top.path().display().to_string()) && error.contains("cgroup_enable=memory"),
            "{error}"
        );
    }

    #[test]
    fn processes_that_are_in_the_way_are_moved() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("cgroup.procs"), "1\n").unwrap();
        move_processes(top.path(), &top.path().join(AGENT)).unwrap();
        assert_eq!(read(&top.path().join(AGENT), "cgroup.procs"), "1");
    }

    #[test]
    fn what_nobody_uses_is_removed_with_all_below_it() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("kubewasm-n/a")).unwrap();
        sweep(&top.path().join("kubewasm-n"));
        assert!(!top.path().join("kubewasm-n").exists());
    }
}
