//! The loopback of a workload: a block of 127.0.0.0/8 that no other workload has.
//!
//! On Linux all of 127.0.0.0/8 is there without being set up. Blocks are given in an order that differs from process to process,
//! so that two hosts on one machine are not likely to have the same.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use kubewasm_host::PodAddresses;

/// The first block: 127.64.0.0. Others on the machine like the beginning of the range.
const FIRST: u32 = 0x7f40_0000;
/// Addresses of a block.
const SIZE: u32 = 1 << 10;
/// Blocks, up to the end of the range.
const COUNT: u32 = (0x8000_0000 - FIRST) / SIZE;

/// Gives blocks to workloads.
#[derive(Debug)]
pub(crate) struct Loopbacks {
    start: u32,
    used: Mutex<HashSet<u32>>,
}

/// A block that is some workload's.
#[derive(Debug)]
pub(crate) struct Loopback {
    loopbacks: Arc<Loopbacks>,
    number: u32,
}

impl Loopbacks {
    pub(crate) fn new() -> Arc<Self> {
        // A hasher's keys are random.
        let start = u32::try_from(RandomState::new().hash_one(0) % u64::from(COUNT)).unwrap_or(0);
        Arc::new(Self { start, used: Mutex::default() })
    }

    /// `None` when there are as many workloads as blocks.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Loopback> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let number =
            (0..COUNT).map(|offset| (self.start + offset) % COUNT).find(|number| !used.contains(number))?;
        used.insert(number);
        Some(Loopback { loopbacks: Arc::clone(self), number })
    }
}

impl Loopback {
    /// For the sockets of its guests. There is none for `::1`.
    pub(crate) fn addresses(&self) -> Option<PodAddresses> {
        let network = Ipv4Addr::from(FIRST + self.number * SIZE);
        Some(PodAddresses {
            own: Vec::new(),
            loopback: format!("{network}/22").parse().ok()?,
            // Of no interface, so that nothing can be bound to it.
            loopback_v6: "fd6b:7761:736d:ffff::".parse().ok()?,
        })
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        let mut used = self.loopbacks.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_workloads_have_the_same_block() {
        let loopbacks = Loopbacks::new();
        let all: Vec<_> = std::iter::from_fn(|| loopbacks.take()).collect();
        let blocks: HashSet<_> = all.iter().map(|block| block.addresses().unwrap().loopback).collect();
        assert_eq!((all.len(), blocks.len()), (COUNT as usize, COUNT as usize));
        for block in &blocks {
            assert!(block.network().is_loopback() && block.broadcast().is_loopback(), "{block}");
        }
        drop(all);
        assert!(loopbacks.take().is_some());
    }
}
