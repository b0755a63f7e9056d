//! Where instances of modules are put: each in memory of its own, or in a place of a pool.
//!
//! A pool pays where instances come and go by the thousand a second, as those of HTTP requests do: their places stay mapped,
//! and what was touched of them is put back instead of being unmapped. It is all address space at first; what is kept of a
//! place after its use is bounded by [`KEPT_MEMORY`] and [`WARM`]. How instances are allocated shapes no machine code, so that
//! one file serves both.

use std::path::Path;

use wasmtime::{Enabled, PoolingAllocationConfig};

use crate::capacity;

/// How instances are allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Allocation {
    /// Each is mapped when it is made, and unmapped at its end.
    #[default]
    OnDemand,
    /// In a pool with places for so many.
    Pooled,
}

/// Most instances of a pool, of all containers together.
const MOST: usize = 1000;
/// Least.
const LEAST: usize = 64;
/// Core instances, memories and tables for each component on average. What toolchains emit has about four, one and two.
const CORE_INSTANCES: u32 = 8;
const MEMORIES: u32 = 2;
const TABLES: u32 = 4;
/// Elements of a table; a larger one does not fit into the pool.
const TABLE_ELEMENTS: usize = 64 << 10;
/// Bytes of a linear memory that stay resident after its instance, where the kernel tells which pages were written.
const KEPT_MEMORY: usize = 1 << 20;
/// The same, where all of them have to be written.
const KEPT_MEMORY_BLINDLY: usize = 128 << 10;
/// The same of a table.
const KEPT_TABLE: usize = 64 << 10;
/// Places that stay mapped for the module that had them.
const WARM: u32 = 64;

/// Instances that a pool has places for.
pub(crate) fn places() -> usize {
    (capacity::guests() / 8).clamp(LEAST, MOST)
}

/// The settings of a pool.
pub(crate) fn config() -> PoolingAllocationConfig {
    let places = u32::try_from(places()).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(places);
    pool.total_core_instances(places.saturating_mul(CORE_INSTANCES));
    pool.total_memories(places.saturating_mul(MEMORIES));
    pool.total_tables(places.saturating_mul(TABLES));
    pool.total_stacks(places);
    pool.table_elements(TABLE_ELEMENTS);
    pool.table_keep_resident(KEPT_TABLE);
    pool.max_unused_warm_slots(WARM);
    // A written page that was swapped out is not among those that the kernel tells: the next instance would find it.
    if has_swap(Path::new("/proc/swaps")) {
        pool.linear_memory_keep_resident(KEPT_MEMORY_BLINDLY);
    } else {
        pool.pagemap_scan(Enabled::Auto);
        pool.linear_memory_keep_resident(KEPT_MEMORY);
    }
    pool
}

/// Whether this machine swaps, or may: where that cannot be read, it may.
fn has_swap(swaps: &Path) -> bool {
    std::fs::read_to_string(swaps).map_or(true, |text| text.lines().count() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_swaps_that_has_a_line_below_the_head() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("swaps");
        let head = "Filename\tType\tSize\tUsed\tPriority\n";
        for (text, expected) in
            [(head.to_owned(), false), (format!("{head}/dev/zram0 partition 1024 0 100\n"), true)]
        {
            std::fs::write(&file, text).unwrap();
            assert_eq!(has_swap(&file), expected);
        }
        assert!(has_swap(&dir.path().join("gone")));
    }
}
