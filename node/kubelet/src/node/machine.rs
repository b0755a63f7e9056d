//! What the machine is and has. Limits of a cgroup around the node are not looked at: the capacity is the
//! machine's, as a kubelet's is; reserve what the node must not use with `systemReserved`.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The machine at one moment. What could not be read is zero or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Logical processors.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of memory that could be had without swapping.
    pub memory_available: u64,
    /// Bytes of swap.
    pub swap: u64,
    /// The file system of the root directory.
    pub disk: Disk,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's name of the machine.
    pub system_uuid: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// As `uname -r`.
    pub kernel_version: String,
    /// The distribution's name for itself.
    pub os_image: String,
}

/// A file system at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub capacity: u64,
    /// Bytes that unprivileged users may still write.
    pub available: u64,
    /// Inodes; 0 where the file system does not count them.
    pub inodes: u64,
    /// Inodes that are free.
    pub inodes_free: u64,
}

impl Machine {
    /// Looks around. Blocks on reading a few small files.
    #[must_use]
    pub fn read(root_dir: &Path) -> Self {
        let text =
            |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let memory = Memory::parse(&text("/proc/meminfo"));
        Self {
            cpus: std::thread::available_parallelism().map_or(0, |count| count.get() as u64),
            memory: memory.total,
            memory_available: memory.available,
            swap: memory.swap,
            disk: read_disk(root_dir),
            machine_id: text("/etc/machine-id"),
            system_uuid: [text("/sys/class/dmi/id/product_uuid"), text("/etc/machine-id")]
                .into_iter()
                .find(|id| !id.is_empty())
                .unwrap_or_default(),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel_version: text("/proc/sys/kernel/osrelease"),
            os_image: pretty_name(&text("/etc/os-release")),
        }
    }
}

/// The file system of a directory, or of the nearest parent that exists.
fn read_disk(dir: &Path) -> Disk {
    let there: PathBuf = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/")).to_path_buf();
    rustix::fs::statvfs(&there).map_or_else(
        |err| {
            tracing::warn!(dir = %there.display(), error = %err, "cannot read the size of the file system");
            Disk::default()
        },
        |stat| Disk {
            capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            inodes: stat.f_files,
            inodes_free: stat.f_favail,
        },
    )
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
    swap: u64,
}

impl Memory {
    /// Reads `/proc/meminfo`.
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

/// `PRETTY_NAME` of `/etc/os-release`.
fn pretty_name(os_release: &str) -> String {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_meminfo() {
        let text =
            "MemTotal:        2048 kB\nMemFree:  1 kB\nMemAvailable:    1024 kB\nSwapTotal:       0 kB\n";
        assert_eq!(Memory::parse(text), Memory { total: 2 << 20, available: 1 << 20, swap: 0 });
        assert_eq!(Memory::parse("nonsense"), Memory::default());
    }

    #[test]
    fn reads_the_name_of_the_distribution() {
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"Debian 13\"\n"), "Debian 13");
        assert_eq!(pretty_name(""), "Linux");
    }

    #[test]
    fn a_directory_that_is_not_there_yet_has_its_parents_file_system() {
        let machine = Machine::read(Path::new("/proc/../tmp/not/there/yet"));
        assert!(machine.disk.capacity > 0, "{machine:?}");
        assert!(machine.cpus > 0 && machine.memory > 0, "{machine:?}");
    }
}
