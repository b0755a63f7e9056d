//! The memory limit of one instance.

use std::{sync::Arc, time::Instant};

use wasmtime::ResourceLimiter;

use super::account::{Account, Exceeded};

/// What one table element takes on the host.
const TABLE_ELEMENT: usize = size_of::<usize>();
/// Most linear memories of one instance. Each reserves gigabytes of address space, whatever its size.
const MEMORIES: usize = 32;
/// Most tables of one instance.
const TABLES: usize = 256;
/// Most core instances that a component may be made of.
const INSTANCES: usize = 1024;

/// Counts the bytes of all linear memories and tables of one instance, on the account of its container, and
/// refuses growth beyond the container's limit.
///
/// What was granted is given back with the instance: memories do not shrink, and growth that fails after it
/// was granted (for want of memory on the host) stays counted, which errs on the safe side.
#[derive(Debug)]
pub(super) struct MemoryGuard {
    account: Arc<Account>,
    /// What this instance took.
    taken: u64,
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
    /// A guard that takes from this account.
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self { account, taken: 0, refused: None }
    }

    /// Whose account it is.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Bytes that the instance has.
    pub(super) fn taken(&self) -> u64 {
        self.taken
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
        let more = desired.saturating_sub(current) as u64;
        match self.account.take_memory(more) {
            Ok(()) => {
                self.taken = self.taken.saturating_add(more);
                self.refused = None;
                true
            }
            Err(Exceeded { wanted, limit }) => {
                self.refused = Some(Refusal { at: Instant::now(), wanted, limit });
                false
            }
        }
    }
}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        self.account.give_memory(self.taken);
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
    use crate::{CpuShare, GuestLimits};

    fn guard(memory_bytes: u64) -> MemoryGuard {
        MemoryGuard::new(Arc::new(Account::new(GuestLimits { memory_bytes, cpu: CpuShare::default() })))
    }

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut guard = guard(1000);
        assert!(guard.memory_growing(0, 600, None).unwrap());
        assert!(guard.table_growing(0, 50, None).unwrap());
        assert!(!guard.memory_growing(600, 601, None).unwrap());
        assert!(!guard.table_growing(50, 51, None).unwrap());
        let refusal = guard.refusal().unwrap();
        assert_eq!((refusal.wanted, refusal.limit), (1008, 1000));
    }

    #[test]
    fn instances_of_a_container_share_its_limit_and_give_back() {
        let mut first = guard(1000);
        let mut second = MemoryGuard::new(Arc::clone(&first.account));
        assert!(first.memory_growing(0, 600, None).unwrap());
        assert!(!second.memory_growing(0, 600, None).unwrap());
        drop(first);
        assert!(second.memory_growing(0, 600, None).unwrap());
        assert_eq!(second.account.usage().memory_bytes, 600);
    }

    #[test]
    fn a_refusal_is_history_after_growth_that_was_granted() {
        let mut guard = guard(1000);
        assert!(!guard.memory_growing(0, 2000, None).unwrap());
        assert!(guard.refusal().is_some());
        assert!(guard.memory_growing(0, 500, None).unwrap());
        assert!(guard.refusal().is_none());
    }

    #[test]
    fn the_modules_own_maximum_is_no_refusal_of_ours() {
        let mut guard = guard(1000);
        assert!(guard.memory_growing(0, 5000, Some(4000)).unwrap());
        assert!(guard.refusal().is_none());
        assert!(guard.memory_growing(0, 1000, None).unwrap(), "and it was not counted");
    }

    #[test]
    fn sizes_at_the_edge_do_not_wrap() {
        let mut guard = guard(u64::MAX);
        assert!(guard.memory_growing(0, usize::MAX, None).unwrap());
        assert!(!guard.table_growing(0, usize::MAX, None).unwrap());
    }
}
