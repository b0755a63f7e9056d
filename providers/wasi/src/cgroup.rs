//! Memory cgroups: whether one has killed a process, and ones of our own, with limits.
//!
//! Both versions are spoken: the unified hierarchy, and the memory controller of version 1, which goes first
//! where both are mounted, because a controller belongs to one of them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// What a worker needs besides its guests' memory, in bytes: its own heap, its threads' stacks, tables of the
/// kernel. Machine code is of files and can be dropped.
const OF_ITS_OWN: u64 = 64 << 20;
/// A cgroup whose last process has just ended is busy for a moment.
const RETRY: Duration = Duration::from_millis(20);
const TRIES: u32 = 50;
/// How the names of our cgroups at the top of the hierarchy begin.
const PREFIX: &str = "kubewasm-";
/// What is younger than this may belong to a node that starts beside this one.
const YOUNG: Duration = Duration::from_secs(60);

/// Why there are no cgroups of our own.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}")]
pub(crate) struct CgroupError {
    what: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.display().to_string();
    move |source| CgroupError { what, path, source }
}

/// A directory of the hierarchy that accounts for memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    dir: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// The one that a process is in; nothing where that cannot be found out.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let (mount, path) = locate(&mounts, &membership)?;
        Some(Self { dir: mount.dir.join(path), unified: mount.unified })
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many of its processes the kernel has killed for want of memory, those below it included.
    pub(crate) fn kills(&self) -> Option<u64> {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        kills(&fs::read_to_string(self.dir.join(file)).ok()?)
    }

    /// Takes a process in, with all its threads.
    pub(crate) fn add(&self, pid: u32) -> Result<(), CgroupError> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Sets the limit: what guests may have, and what their worker needs. `None` takes it away.
    pub(crate) fn limit(&self, guests: Option<u64>) -> Result<(), CgroupError> {
        let bytes = guests.map(|bytes| bytes.saturating_add(OF_ITS_OWN).to_string());
        match self.unified {
            true => self.write("memory.max", bytes.as_deref().unwrap_or("max")),
            false => self.write("memory.limit_in_bytes", bytes.as_deref().unwrap_or("-1")),
        }
    }

    /// Removes it; its processes must have ended.
    pub(crate) fn remove(&self) -> Result<(), CgroupError> {
        for _ in 1..TRIES {
            match fs::remove_dir(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(RETRY),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => return other.map_err(failed("remove", &self.dir)),
            }
        }
        fs::remove_dir(&self.dir).map_err(failed("remove", &self.dir))
    }

    fn write(&self, file: &str, text: &str) -> Result<(), CgroupError> {
        let path = self.dir.join(file);
        fs::write(&path, text).map_err(failed("write", &path))
    }
}

/// The cgroup below which workers have theirs. It is there while one of them is.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    /// Where the hierarchy is mounted.
    top: PathBuf,
    own: Cgroup,
}

impl Parent {
    /// Finds out whether cgroups with limits can be made, at the top of the hierarchy, where the kubelet has its
    /// own. `name` follows [`PREFIX`], and is different for every node of this machine. What nodes that are no
    /// more have left there is removed.
    pub(crate) fn open(name: &str) -> Result<Self, CgroupError> {
        let mounts = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(mounts).map_err(failed("read", mounts))?;
        let mount = memory_mount(&text).ok_or_else(|| {
            failed("find the memory controller in", mounts)(io::Error::from(io::ErrorKind::Unsupported))
        })?;
        let own = Cgroup { dir: mount.dir.join(format!("{PREFIX}{name}")), unified: mount.unified };
        sweep(&own.dir);
        for entry in fs::read_dir(&mount.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) && is_old(&entry) {
                sweep(&entry.path());
            }
        }
        let parent = Self { top: mount.dir, own };
        parent.make()?;
        parent.leave();
        Ok(parent)
    }

    /// Makes the cgroup of a worker, or finds it.
    pub(crate) fn child(&self, name: &str) -> Result<Cgroup, CgroupError> {
        let child = self.at(name);
        let mut tries = TRIES;
        loop {
            self.make()?;
            match make(&child.dir) {
                // The last of the others has just left, and taken the parent along.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound && tries > 0 => tries -= 1,
                made => return made.map(|()| child),
            }
        }
    }

    /// The cgroup of a worker, which may not be there.
    pub(crate) fn at(&self, name: &str) -> Cgroup {
        Cgroup { dir: self.own.dir.join(name), unified: self.own.unified }
    }

    /// Removes the cgroup if no worker has one below it.
    pub(crate) fn leave(&self) {
        // One that is needed is busy.
        let _ = fs::remove_dir(&self.own.dir);
    }

    fn make(&self) -> Result<(), CgroupError> {
        make(&self.own.dir)?;
        if self.own.unified {
            // Controllers are handed down step by step; the top needs it too.
            Cgroup { dir: self.top.clone(), unified: true }.write("cgroup.subtree_control", "+memory")?;
            self.own.write("cgroup.subtree_control", "+memory")?;
        }
        Ok(())
    }
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

fn make(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(failed("make the cgroup", dir)),
    }
}

/// A mount of a hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    dir: PathBuf,
    /// What of the hierarchy is mounted there.
    root: PathBuf,
    unified: bool,
}

/// The mount of the memory controller. See proc_pid_mountinfo(5).
fn memory_mount(mountinfo: &str) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, dir) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let unified = match kind {
            "cgroup2" => true,
            "cgroup" if options.split(',').any(|option| option == "memory") => false,
            _ => return None,
        };
        Some(Mount { dir: dir.into(), root: root.into(), unified })
    });
    mounts.min_by_key(|mount| mount.unified)
}

/// The mount of the memory controller, and the path below it of who has this `/proc/PID/cgroup`.
fn locate(mountinfo: &str, membership: &str) -> Option<(Mount, PathBuf)> {
    let mount = memory_mount(mountinfo)?;
    let path = membership.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_it = match mount.unified {
            true => controllers.is_empty(),
            false => controllers.split(',').any(|name| name == "memory"),
        };
        is_it.then_some(path)
    })?;
    let below = Path::new(path).strip_prefix(&mount.root).ok()?.to_owned();
    Some((mount, below))
}

/// The count in `memory.events` (version 2) or `memory.oom_control` (version 1).
fn kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "35 26 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      36 26 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      40 26 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 none rw\n";
    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const OF_A_CONTAINER: &str =
        "36 26 0:31 /kubepods/pod1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";

    #[test]
    fn the_memory_controller_is_found_wherever_it_is() {
        for (mounts, membership, expected) in [
            (V1, "4:memory:/a/b\n1:cpu:/x\n0::/y\n", Some("/sys/fs/cgroup/memory/a/b")),
            (V1, "4:memory:/\n", Some("/sys/fs/cgroup/memory/")),
            (V2, "0::/system.slice/kubewasm.service\n", Some("/sys/fs/cgroup/system.slice/kubewasm.service")),
            (OF_A_CONTAINER, "4:memory:/kubepods/pod1/c\n", Some("/sys/fs/cgroup/memory/c")),
            (OF_A_CONTAINER, "4:memory:/elsewhere\n", None),
            (V1, "1:cpu:/x\n", None),
            ("", "0::/y\n", None),
        ] {
            let found = locate(mounts, membership).map(|(mount, path)| mount.dir.join(path));
            assert_eq!(found, expected.map(PathBuf::from), "{membership}");
        }
    }

    #[test]
    fn kills_are_read_of_both_versions() {
        for (text, expected) in [
            ("low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\noom_group_kill 0\n", Some(1)),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", Some(3)),
            ("oom_kill_disable 0\nunder_oom 0\n", None),
            ("", None),
        ] {
            assert_eq!(kills(text), expected, "{text}");
        }
    }

    #[test]
    fn the_cgroup_of_this_process_can_be_read_where_there_is_one() {
        if let Some(cgroup) = Cgroup::of(std::process::id()) {
            assert!(cgroup.dir.is_dir(), "{cgroup:?}");
        }
    }
}
