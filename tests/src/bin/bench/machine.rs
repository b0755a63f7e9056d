//! On what the figures were measured.

use std::fs;

use jiff::Timestamp;
use serde::Serialize;

/// The machine and the time. What cannot be read is empty or 0: no measurement hangs on it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Model of the first processor.
    pub(crate) cpu: String,
    /// Cores that this program may use.
    pub(crate) cores: usize,
    /// Memory, in KiB.
    pub(crate) memory_kib: u64,
    /// Version of Linux.
    pub(crate) kernel: String,
    /// `vm.max_map_count`, which bounds the guests of one worker.
    pub(crate) max_map_count: u64,
    /// Load average of the last minute when the measurement ended. More than the cores is no wonder then.
    pub(crate) load: f64,
    /// When the measurement ended.
    pub(crate) time: Timestamp,
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn look() -> Self {
        let load = read("/proc/loadavg");
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_kib: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| kib(&text))
                .unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            max_map_count: read("/proc/sys/vm/max_map_count").trim().parse().unwrap_or_default(),
            load: load.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or_default(),
            time: Timestamp::now(),
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The first `name: value` in a text of such lines.
fn field(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

/// The number in `123 kB`.
fn kib(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU @ 2:1\nmodel name\t: Another\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU @ 2:1"));
        assert_eq!(field(text, "flags"), None);
    }

    #[test]
    fn memory_is_told_in_kib() {
        assert_eq!(kib("25165824 kB"), Some(25_165_824));
        assert_eq!(kib("24 GB"), None);
    }
}
