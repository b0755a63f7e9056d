//! What the machine is and has. Limits of a cgroup around the node are not looked at: the capacity is the
//! machine's, as a kubelet's is; reserve what the node must not use with `systemReserved`.

use std::{fs, path::Path};

use crate::supply::{Disk, MemoryInfo};

/// The machine at one moment. What could not be read is zero or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Logical processors.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
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

impl Machine {
    /// Looks around. Blocks on reading a few small files.
    #[must_use]
    pub fn read(root_dir: &Path) -> Self {
        let text =
            |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let memory = MemoryInfo::read();
        Self {
            cpus: std::thread::available_parallelism().map_or(0, |count| count.get() as u64),
            memory: memory.total,
            swap: memory.swap_total,
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

fn read_disk(dir: &Path) -> Disk {
    Disk::of(dir).unwrap_or_else(|error| {
        tracing::warn!(dir = %dir.display(), %error, "cannot read the size of the file system");
        Disk::default()
    })
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
