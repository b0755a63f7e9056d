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

/// The machine's memory at one moment, in bytes. What could not be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryInfo {
    /// All there is.
    pub(crate) total: u64,
    /// What could be had without swapping.
    pub(crate) available: u64,
    /// Swap.
    pub(crate) swap: u64,
}

impl MemoryInfo {
    /// Reads `/proc/meminfo`. Blocks.
    pub(crate) fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kibibytes: u64 =
                line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0);
            kibibytes.saturating_mul(1024)
        };
        Self { total: field("MemTotal"), available: field("MemAvailable"), swap: field("SwapTotal") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_meminfo() {
        let text =
            "MemTotal:        2048 kB\nMemFree:  1 kB\nMemAvailable:    1024 kB\nSwapTotal:       0 kB\n";
        assert_eq!(MemoryInfo::parse(text), MemoryInfo { total: 2 << 20, available: 1 << 20, swap: 0 });
        assert_eq!(MemoryInfo::parse("nonsense"), MemoryInfo::default());
    }
}
