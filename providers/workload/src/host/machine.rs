//! What a machine says of itself.

use std::{fs, io, num::NonZeroUsize};

use crate::{error::HostError, workload::HostHeartbeat};

/// Reads it: those fields of a heartbeat that are about the machine. Blocks for a moment.
pub(super) fn read() -> Result<HostHeartbeat, HostError> {
    let file =
        |what, path: &str| fs::read_to_string(path).map_err(|source| HostError::Machine { what, source });
    let memory = file("the memory", "/proc/meminfo")?;
    let load = file("the load", "/proc/loadavg")?;
    let bytes = |name: &str| {
        kibibytes(&memory, name).map(|count| count << 10).ok_or_else(|| HostError::Machine {
            what: "the memory",
            source: io::Error::other(format!("/proc/meminfo has no {name}")),
        })
    };
    let names = rustix::system::uname();
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    Ok(HostHeartbeat {
        hostname: text(names.nodename()),
        os_arch: text(names.machine()),
        os_name: std::env::consts::OS.to_owned(),
        os_kernel: text(names.release()),
        system_cpu_usage: usage(&load, std::thread::available_parallelism().map_or(1, NonZeroUsize::get)),
        system_memory_total: bytes("MemTotal")?,
        system_memory_free: bytes("MemAvailable")?,
        ..HostHeartbeat::default()
    })
}

fn kibibytes(memory: &str, name: &str) -> Option<u64> {
    let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processes that ran or wanted to, of the last minute, in percent of the processors.
fn usage(load: &str, processors: usize) -> f32 {
    let running = load.split_whitespace().next().and_then(|load| load.parse::<f32>().ok()).unwrap_or(0.0);
    #[expect(clippy::cast_precision_loss, reason = "processors are few")]
    let processors = processors as f32;
    (running / processors * 100.0).min(100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let memory = "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\n";
        assert_eq!(kibibytes(memory, "MemAvailable"), Some(8_000_000));
        assert_eq!(kibibytes(memory, "Mem"), None);
        for (load, expected) in [("1.00 0.5 0.1 1/2 3", 50.0), ("8.0 1 1", 100.0), ("", 0.0)] {
            assert!((usage(load, 2) - expected).abs() < f32::EPSILON, "{load}");
        }
    }
}
