//! The memory limit of one instance.

use std::time::Instant;

use wasmtime::ResourceLimiter;

/// What one table element takes on the host.
const TABLE_ELEMENT: usize = size_of::<usize>();
/// Most linear memories of one instance. Each reserves gigabytes of address space, whatever its size.
const MEMORIES: usize = 32;
/// Most tables of one instance.
const TABLES: usize = 256;
/// Most core instances that a component may be made of.
const INSTANCES: usize = 1024;

/// Counts the bytes of all linear memories and tables of one instance, and refuses growth beyond a limit.
///
/// What was granted is never given back: memories do not shrink, and growth that fails after it was granted
/// (for want of memory on the host) stays counted, which errs on the safe side.
#[derive(Debug)]
pub(super) struct MemoryGuard {
    limit: u64,
    used: u64,
    refused: Option<Refusal>,
}

/// The last growth of memory, if it was refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    /// When.
    pub(super) at: Instant,
    /// Bytes that would have been used.
    pub(super) wanted: u64,
    /// Bytes that may be used.
    pub(super) limit: u64,
}

impl MemoryGuard {
    /// A guard that grants `limit` bytes in all.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: 0, refused: None }
    }

    /// The last growth, if it was refused; a later growth that is granted makes it history.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refused
    }

    /// Decides on growth from `current` to `desired` bytes of something that can hold `maximum`.
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> bool {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // The module's own limit, not ours: wasmtime refuses it, and it is no reason to call this a
            // lack of memory.
            return true;
        }
        let wanted = self.used.saturating_add(desired.saturating_sub(current) as u64);
        if wanted > self.limit {
            self.refused = Some(Refusal { at: Instant::now(), wanted, limit: self.limit });
            return false;
        }
        self.used = wanted;
        self.refused = None;
        true
    }
}

impl ResourceLimiter for MemoryGuard {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(TABLE_ELEMENT);
        Ok(self.grow(bytes(current), bytes(desired), maximum.map(bytes)))
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        TABLES
    }

    fn memories(&self) -> usize {
        MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut guard = MemoryGuard::new(1000);
        assert!(guard.memory_growing(0, 600, None).unwrap());
        assert!(guard.table_growing(0, 50, None).unwrap());
        assert!(!guard.memory_growing(600, 601, None).unwrap());
        assert!(!guard.table_growing(50, 51, None).unwrap());
        let refusal = guard.refusal().unwrap();
        assert_eq!((refusal.wanted, refusal.limit), (1008, 1000));
    }

    #[test]
    fn a_refusal_is_history_after_growth_that_was_granted() {
        let mut guard = MemoryGuard::new(1000);
        assert!(!guard.memory_growing(0, 2000, None).unwrap());
        assert!(guard.refusal().is_some());
        assert!(guard.memory_growing(0, 500, None).unwrap());
        assert!(guard.refusal().is_none());
    }

    #[test]
    fn the_modules_own_maximum_is_no_refusal_of_ours() {
        let mut guard = MemoryGuard::new(1000);
        assert!(guard.memory_growing(0, 5000, Some(4000)).unwrap());
        assert!(guard.refusal().is_none());
        assert!(guard.memory_growing(0, 1000, None).unwrap(), "and it was not counted");
    }

    #[test]
    fn sizes_at_the_edge_do_not_wrap() {
        let mut guard = MemoryGuard::new(u64::MAX);
        assert!(guard.memory_growing(0, usize::MAX, None).unwrap());
        assert!(guard.table_growing(0, usize::MAX, None).unwrap());
    }
}
