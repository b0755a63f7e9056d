//! How many guests one process can host.
//!
//! What ends it is the number of memory mappings that Linux allows a process (`vm.max_map_count`, 65,530
//! unless raised): a running guest takes six or seven (stack with its guard, linear memory with reservation
//! and guard, table, copy-on-write image). Address space would end it far later: 128 TiB hold more than
//! 30,000 guests at the 4 GiB that each memory reserves.

use std::path::Path;

/// Mappings that a running guest takes, measured.
const MAPPINGS_PER_GUEST: usize = 7;
/// Mappings that the process needs for itself: its own code, threads, loaded modules.
const MAPPINGS_OF_OUR_OWN: usize = 4096;
/// The kernel's default, taken when the file cannot be read.
const DEFAULT_MAX_MAP_COUNT: usize = 65_530;
const MAX_MAP_COUNT: &str = "/proc/sys/vm/max_map_count";

/// How many guests one worker can host on this machine.
#[must_use]
pub fn guests() -> usize {
    of(max_map_count(Path::new(MAX_MAP_COUNT)))
}

/// What to tell someone who wants more guests than [`guests`].
#[must_use]
pub fn advice() -> String {
    let maps = max_map_count(Path::new(MAX_MAP_COUNT));
    format!(
        "vm.max_map_count={maps} leaves room for {} guests in one worker; raise it with `sysctl -w vm.max_map_count={}`",
        of(maps),
        maps.saturating_mul(4)
    )
}

fn of(max_map_count: usize) -> usize {
    (max_map_count.saturating_sub(MAPPINGS_OF_OUR_OWN) / MAPPINGS_PER_GUEST).max(1)
}

fn max_map_count(path: &Path) -> usize {
    std::fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT_MAX_MAP_COUNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_follows_the_kernel_setting() {
        for (maps, guests) in [(65_530, 8_776), (262_144, 36_864), (4_096, 1), (0, 1)] {
            assert_eq!(of(maps), guests, "vm.max_map_count={maps}");
        }
    }

    #[test]
    fn a_kernel_without_the_setting_has_the_default() {
        assert_eq!(max_map_count(Path::new("/nonexistent")), DEFAULT_MAX_MAP_COUNT);
    }
}
