//! What a pod has for 127.0.0.0/8 and ::1.
//!
//! All pods of a namespace share the kernel's loopback interface. Each has a block of 127.0.0.0/8 to itself there, and
//! one address of a prefix that is used nowhere else; host functions show a guest the usual addresses instead. The
//! blocks are told apart by the pod's slot, its number among the addresses of the node.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Length of the prefix of a pod's block: 1,024 addresses of 127.0.0.0/8.
pub const BLOCK_LENGTH: u8 = 22;
/// The highest slot that has a block. The lowest is 1: the first block is that of the namespace itself.
pub const LAST_SLOT: u32 = (1 << (BLOCK_LENGTH - 8)) - 1;
/// Unique local addresses that stand for `::1`, one for each slot. They are routed inside the namespaces of workers alone.
pub const PREFIX: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd6b, 0x7761, 0x736d, 0, 0, 0, 0, 0), 64);

/// A pod's loopback addresses, as the kernel knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Loopback {
    /// For 127.0.0.0/8; the guest's 127.0.0.1 is the block's second address.
    pub block: Ipv4Net,
    /// For `::1`.
    pub v6: Ipv6Addr,
}

impl Loopback {
    /// Those of a slot, from 1 to [`LAST_SLOT`].
    #[must_use]
    pub fn of(slot: u32) -> Option<Self> {
        if !(1..=LAST_SLOT).contains(&slot) {
            return None;
        }
        let first = u32::from(Ipv4Addr::new(127, 0, 0, 0)) + (slot << (32 - BLOCK_LENGTH));
        let block = Ipv4Net::new(first.into(), BLOCK_LENGTH).ok()?;
        let v6 = u128::from(PREFIX.addr()) | (u128::from(slot) << 16) | 1;
        Some(Self { block, v6: v6.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn blocks_are_inside_the_loopback_network_and_apart() {
        let loopback: Ipv4Net = "127.0.0.0/8".parse().unwrap();
        let all: Vec<_> = (1..=LAST_SLOT).map(|slot| Loopback::of(slot).unwrap()).collect();
        assert_eq!(all.iter().map(|one| one.block).collect::<HashSet<_>>().len(), all.len());
        assert_eq!(all.iter().map(|one| one.v6).collect::<HashSet<_>>().len(), all.len());
        for one in &all {
            assert!(loopback.contains(&one.block) && PREFIX.contains(&one.v6), "{one:?}");
            assert!(!one.block.contains(&Ipv4Addr::LOCALHOST), "{one:?}");
        }
        assert_eq!(all[0].block.to_string(), "127.0.4.0/22");
        assert_eq!(all[0].v6.to_string(), "fd6b:7761:736d::1:1");
    }

    #[test]
    fn slots_without_a_block_have_none() {
        assert_eq!((Loopback::of(0), Loopback::of(LAST_SLOT + 1)), (None, None));
    }
}
