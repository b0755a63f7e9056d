//! Memory cgroups: whether one has killed a process, and ones of our own, with limits.
//!
//! ```text
//! top of the hierarchy, or what systemd has delegated
//! └── kubewasm-<node>        memory.max = what pods may have of the machine
//!     ├── <group>            one per worker; with a limit where a pod has the worker to itself
//!     └── compile-<pid>      one per compilation
//! ```
//!
//! Both versions are spoken: the unified hierarchy, and the memory controller of version 1, which goes first
//! where both are mounted, because a controller belongs to one of them. A cgroup is there while something is in it.

mod compilers;
mod error;
mod parent;
mod plan;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use compilers::Compilers;
pub(crate) use error::CgroupError;
pub(crate) use parent::Parent;

use error::failed;

/// What a worker needs besides its guests' memory, in bytes: its own heap, its threads' stacks, tables of the
/// kernel. Machine code is of files and can be dropped.
pub(crate) const OF_A_WORKER: u64 = 64 << 20;
/// A cgroup whose last process has just ended is busy for a moment.
const RETRY: Duration = Duration::from_millis(20);
const TRIES: u32 = 50;

/// A directory of the hierarchy that accounts for memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    dir: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// The one that a process is in; nothing where that cannot be found out.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let mount = plan::memory_mount(&fs::read_to_string("/proc/self/mountinfo").ok()?)?;
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(Self { dir: plan::locate(&mount, &membership)?, unified: mount.unified })
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many of its processes the kernel has killed for want of memory, those below it included.
    pub(crate) fn kills(&self) -> Option<u64> {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        plan::kills(&fs::read_to_string(self.dir.join(file)).ok()?)
    }

    /// How often it, and each of those that it is in, had no more to give by a limit of its own. Empty where the kernel does not
    /// tell these apart, as version 1 does not. Of those above the top that is mounted here nothing is seen.
    pub(crate) fn shortages(&self) -> Vec<(PathBuf, u64)> {
        let count = |dir: &Path| {
            let text = fs::read_to_string(dir.join("memory.events.local")).ok()?;
            Some((dir.to_owned(), plan::shortages(&text)?))
        };
        self.dir.ancestors().filter(|_| self.unified).map_while(count).collect()
    }

    /// Takes a process in, with all its threads.
    pub(crate) fn add(&self, pid: u32) -> Result<(), CgroupError> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Sets the limit, in bytes, of all that is in it, and has none of it swapped, as a kubelet does by default: what is
    /// swapped would not count. `None` takes both away.
    pub(crate) fn limit(&self, bytes: Option<u64>) -> Result<(), CgroupError> {
        let number = bytes.map(|bytes| bytes.to_string());
        if self.unified {
            self.write_if_there("memory.swap.max", if bytes.is_some() { "0" } else { "max" })?;
            return self.write("memory.max", number.as_deref().unwrap_or("max"));
        }
        // Memory and swap together: never less than memory alone. So it goes first on the way up, and last down.
        let (file, number) = ("memory.memsw.limit_in_bytes", number.as_deref().unwrap_or("-1"));
        let together = self.write_if_there(file, number);
        self.write("memory.limit_in_bytes", number)?;
        together.or_else(|_| self.write_if_there(file, number))
    }

    /// A kernel may account for no swap.
    fn write_if_there(&self, file: &str, text: &str) -> Result<(), CgroupError> {
        if self.dir.join(file).exists() { self.write(file, text) } else { Ok(()) }
    }

    /// Removes it; its processes must have ended. One that is not there is fine.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_short_is_told_of_each_level_as_far_as_the_kernel_does() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("node/worker");
        fs::create_dir_all(&dir).unwrap();
        for (level, count) in [("node", 3), ("node/worker", 0)] {
            let text = format!("low 0\nhigh 0\nmax 9\noom {count}\noom_kill 7\noom_group_kill 0\n");
            fs::write(top.path().join(level).join("memory.events.local"), text).unwrap();
        }
        let cgroup = Cgroup { dir: dir.clone(), unified: true };
        assert_eq!(cgroup.shortages(), [(dir.clone(), 0), (top.path().join("node"), 3)]);
        assert!(Cgroup { dir, unified: false }.shortages().is_empty());
    }

    #[test]
    fn the_cgroup_of_this_process_can_be_read_where_there_is_one() {
        if let Some(cgroup) = Cgroup::of(std::process::id()) {
            assert!(cgroup.dir.is_dir(), "{cgroup:?}");
        }
    }
}
