//! What the machine has of memory and disk, and what is left of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A file system at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub capacity: u64,
    /// Bytes that unprivileged users may still write.
    pub available: u64,
    /// Bytes that nothing is in, those that are kept for the system included.
    pub free: u64,
    /// Inodes; 0 where the file system does not count them.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

impl Disk {
    /// The file system of a directory, or of the nearest parent that exists.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let there: PathBuf = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/")).to_path_buf();
        let stat = rustix::fs::statvfs(&there)?;
        Ok(Self {
            capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            free: stat.f_bfree.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_favail,
        })
    }
}

/// The machine's memory at one moment, in bytes, by the rules of the root cgroup that a kubelet asks. What could not be
/// read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryInfo {
    /// All there is.
    pub(crate) total: u64,
    /// What of it no file is behind: heaps, stacks, memories of guests.
    pub(crate) anonymous: u64,
    /// Anonymous memory, and pages of files. That of the kernel itself is not in it.
    pub(crate) used: u64,
    /// `used` without pages of files that were not used lately, which the kernel gives up first.
    pub(crate) working_set: u64,
    /// Swap.
    pub(crate) swap_total: u64,
    /// Swap that nothing is in.
    pub(crate) swap_free: u64,
}

impl MemoryInfo {
    /// Reads `/proc/meminfo`. Blocks.
    pub(crate) fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    /// What `memory.available` is: all that is not in the working set.
    pub(crate) fn available(self) -> u64 {
        self.total.saturating_sub(self.working_set)
    }

    pub(crate) fn parse(text: &str) -> Self {
        let find = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        let field = |name: &str| find(name).unwrap_or(0);
        let total = field("MemTotal");
        let anonymous = field("AnonPages");
        let files =
            ["Cached", "Buffers", "SwapCached"].map(field).iter().fold(0, |a: u64, b| a.saturating_add(*b));
        let (used, working_set) = match (find("AnonPages"), find("Inactive(file)")) {
            (Some(_), Some(inactive)) => {
                let used = anonymous.saturating_add(files);
                (used, used.saturating_sub(inactive))
            }
            // Some machines in containers are shown a shorter list.
            _ => (total.saturating_sub(field("MemFree")), total.saturating_sub(field("MemAvailable"))),
        };
        Self {
            total,
            anonymous,
            used,
            working_set,
            swap_total: field("SwapTotal"),
            swap_free: field("SwapFree"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cAdvisor has it of a root cgroup: `anon` and `file` of `memory.stat`, without `inactive_file`.
    #[test]
    fn what_is_available_is_what_is_not_in_the_working_set() {
        let text = "MemTotal: 1000 kB\nMemFree: 300 kB\nMemAvailable: 700 kB\nBuffers: 20 kB\nCached: 200 kB\n\
                    SwapCached: 5 kB\nActive(file): 60 kB\nInactive(file): 130 kB\nSwapTotal: 8 kB\nSwapFree: 7 kB\n\
                    AnonPages: 400 kB\nSlab: 50 kB\n";
        let memory = MemoryInfo::parse(text);
        let kibibytes = [
            memory.total,
            memory.anonymous,
            memory.used,
            memory.working_set,
            memory.available(),
            memory.swap_total,
            memory.swap_free,
        ]
        .map(|bytes| bytes / 1024);
        assert_eq!(kibibytes, [1000, 400, 625, 495, 505, 8, 7]);
    }

    #[test]
    fn a_shorter_list_will_do_and_nonsense_is_nothing() {
        let memory =
            MemoryInfo::parse("MemTotal:        2048 kB\nMemFree:  1 kB\nMemAvailable:    1024 kB\n");
        assert_eq!((memory.total, memory.available(), memory.used), (2 << 20, 1 << 20, 2047 << 10));
        assert_eq!(MemoryInfo::parse("nonsense"), MemoryInfo::default());
        assert_eq!(MemoryInfo::default().available(), 0);
    }
}
