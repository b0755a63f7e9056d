//! Hands out addresses of the node's ranges. Pure.
//!
//! A pod has one address of each family, at the same place of each range: its *slot*. Of each range the first address
//! (that of the network), the second (which networks give to their gateway), and the last (for broadcasts) are nobody's.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

/// The first slot that a pod gets.
const FIRST: u32 = 2;
/// The last one: a provider may have something of its own for each slot, and counts to this.
const LAST: u32 = (1 << 14) - 1;

/// Why ranges are none to give addresses from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RangeError {
    /// There is none.
    #[error("there is no range of addresses for pods")]
    Missing,
    /// There are two of a family, or more than two.
    #[error("{0} are not one range, or one of each family")]
    Families(String),
    /// It is too small, or none that pods can have.
    #[error("the range {0} has no address for a pod")]
    Unusable(IpNet),
}

/// Who has which addresses.
#[derive(Clone, Debug)]
pub(crate) struct AddressPool {
    /// One, or one of each family, the primary first.
    ranges: Vec<IpNet>,
    last: u32,
    owners: BTreeMap<u32, String>,
    slots: BTreeMap<String, u32>,
    /// Where to look first: an address that was just given back rests for as long as there are others.
    next: u32,
}

impl AddressPool {
    /// A pool of which nobody has anything yet.
    pub(crate) fn new(ranges: &[IpNet]) -> Result<Self, RangeError> {
        let ranges: Vec<_> = ranges.iter().map(IpNet::trunc).collect();
        let families = || RangeError::Families(list(&ranges));
        match &*ranges {
            [] => return Err(RangeError::Missing),
            [_] => {}
            [one, other] if one.addr().is_ipv4() != other.addr().is_ipv4() => {}
            _ => return Err(families()),
        }
        let mut last = LAST;
        for range in &ranges {
            let usable = most(*range).filter(|most| *most >= FIRST && !is_special(range.addr()));
            last = last.min(usable.ok_or(RangeError::Unusable(*range))?);
        }
        Ok(Self { ranges, last, owners: BTreeMap::new(), slots: BTreeMap::new(), next: FIRST })
    }

    /// A pool of which the pods that are not over have what their records say, if it can be had.
    pub(crate) fn of_records(
        ranges: &[IpNet],
        recorded: &[(String, Vec<IpAddr>)],
    ) -> Result<Self, RangeError> {
        let mut pool = Self::new(ranges)?;
        for (uid, addresses) in recorded {
            if !addresses.is_empty() && !pool.claim(uid, addresses) {
                tracing::debug!(
                    pod = uid,
                    ?addresses,
                    "a pod's addresses are not of the node's ranges, or another's"
                );
            }
        }
        Ok(pool)
    }

    pub(super) fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// The slot of these addresses, if they are those of one.
    fn slot_at(&self, addresses: &[IpAddr]) -> Option<u32> {
        let slot = offset(*self.ranges.first()?, *addresses.first()?)?;
        let is_slot = (FIRST..=self.last).contains(&slot) && self.addresses(slot) == addresses;
        is_slot.then_some(slot)
    }

    fn addresses(&self, slot: u32) -> Vec<IpAddr> {
        self.ranges.iter().map(|range| at(*range, slot)).collect()
    }

    /// What a pod has: its slot and its addresses.
    pub(crate) fn held_by(&self, uid: &str) -> Option<(u32, Vec<IpAddr>)> {
        let slot = *self.slots.get(uid)?;
        Some((slot, self.addresses(slot)))
    }

    /// Lets a pod keep the addresses that it has by its record. False where they are none of this pool's, or another
    /// pod has them.
    pub(super) fn claim(&mut self, uid: &str, addresses: &[IpAddr]) -> bool {
        let Some(slot) = self.slot_at(addresses) else { return false };
        if let Some(owner) = self.owners.get(&slot) {
            return owner == uid;
        }
        if self.slots.contains_key(uid) {
            return false;
        }
        self.put(uid, slot);
        true
    }

    /// Gives a pod its addresses: those that it has already, or others that nobody has. `None` when there are none left.
    pub(super) fn take(&mut self, uid: &str) -> Option<Vec<IpAddr>> {
        if let Some((_, addresses)) = self.held_by(uid) {
            return Some(addresses);
        }
        let free = |slot: &u32| !self.owners.contains_key(slot);
        let slot = (self.next..=self.last).find(free).or_else(|| (FIRST..self.next).find(free))?;
        self.put(uid, slot);
        self.next = if slot == self.last { FIRST } else { slot + 1 };
        Some(self.addresses(slot))
    }

    /// Takes a pod's addresses back.
    pub(super) fn release(&mut self, uid: &str) {
        if let Some(slot) = self.slots.remove(uid) {
            self.owners.remove(&slot);
        }
    }

    /// All addresses that somebody has.
    pub(crate) fn in_use(&self) -> Vec<IpAddr> {
        self.owners.keys().flat_map(|slot| self.addresses(*slot)).collect()
    }

    fn put(&mut self, uid: &str, slot: u32) {
        self.owners.insert(slot, uid.to_owned());
        self.slots.insert(uid.to_owned(), slot);
    }
}

/// The ranges, for people.
pub(super) fn list(ranges: &[IpNet]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The highest slot that a range has room for.
fn most(range: IpNet) -> Option<u32> {
    let bits = range.max_prefix_len() - range.prefix_len();
    // Minus one for the first address being 0, and one for the last.
    let last = 1_u128.checked_shl(bits.into()).map_or(u128::MAX, |count| count.saturating_sub(2));
    Some(u32::try_from(last).unwrap_or(u32::MAX))
}

/// No pod can have such an address.
fn is_special(address: IpAddr) -> bool {
    address.is_loopback() || address.is_multicast() || address.is_unspecified()
}

fn at(range: IpNet, slot: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(first) => IpAddr::V4(u32::from(first).saturating_add(slot).into()),
        IpAddr::V6(first) => IpAddr::V6(u128::from(first).saturating_add(slot.into()).into()),
    }
}

fn offset(range: IpNet, address: IpAddr) -> Option<u32> {
    if !range.contains(&address) {
        return None;
    }
    match (range.network(), address) {
        (IpAddr::V4(first), IpAddr::V4(address)) => u32::from(address).checked_sub(first.into()),
        (IpAddr::V6(first), IpAddr::V6(address)) => {
            u128::from(address).checked_sub(first.into())?.try_into().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(ranges: &str) -> AddressPool {
        let ranges: Vec<IpNet> = ranges.split(',').map(|range| range.parse().unwrap()).collect();
        AddressPool::new(&ranges).unwrap()
    }

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn both_families_have_the_same_place() {
        let mut pool = pool("10.244.1.0/24,fd00:10::/64");
        assert_eq!(pool.take("a"), Some(ips("10.244.1.2 fd00:10::2")));
        assert_eq!(pool.take("b"), Some(ips("10.244.1.3 fd00:10::3")));
        assert_eq!(pool.take("a"), Some(ips("10.244.1.2 fd00:10::2")), "it has them already");
        assert_eq!(pool.held_by("b"), Some((3, ips("10.244.1.3 fd00:10::3"))));
        assert_eq!(pool.in_use(), ips("10.244.1.2 fd00:10::2 10.244.1.3 fd00:10::3"));
    }

    #[test]
    fn what_is_given_back_rests() {
        let mut pool = pool("10.0.0.0/29");
        let all: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|uid| pool.take(uid).unwrap()[0]).collect();
        assert_eq!(all, ips("10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"), "neither 0, 1 nor 7");
        assert_eq!(pool.take("f"), None);
        pool.release("c");
        pool.release("a");
        assert_eq!(pool.take("f"), Some(ips("10.0.0.2")));
        assert_eq!(pool.take("g"), Some(ips("10.0.0.4")));
    }

    #[test]
    fn a_pod_keeps_what_its_record_says_if_it_is_to_be_had() {
        let mut pool = pool("10.0.0.0/24,fd00::/64");
        assert!(pool.claim("a", &ips("10.0.0.9 fd00::9")));
        assert!(pool.claim("a", &ips("10.0.0.9 fd00::9")), "it is its own");
        for (uid, addresses) in [
            ("b", "10.0.0.9 fd00::9"),
            ("b", "10.0.0.8 fd00::9"),
            ("b", "10.0.0.8"),
            ("b", ""),
            ("b", "10.0.1.8 fd00::8"),
            ("b", "10.0.0.1 fd00::1"),
            ("b", "10.0.0.255 fd00::ff"),
            ("a", "10.0.0.8 fd00::8"),
        ] {
            assert!(!pool.claim(uid, &ips(addresses)), "{uid} {addresses}");
        }
    }

    #[test]
    fn ranges_that_are_none_are_named() {
        for (ranges, expected) in [
            ("10.0.0.0/31", "the range 10.0.0.0/31"),
            ("10.0.0.0/30", ""),
            ("fd00::/127", "the range fd00::/127"),
            ("127.0.0.0/24", "the range 127.0.0.0/24"),
            ("10.0.0.0/24,10.0.1.0/24", "10.0.0.0/24, 10.0.1.0/24 are not"),
            ("0.0.0.0/0", "the range 0.0.0.0/0"),
        ] {
            let ranges: Vec<IpNet> = ranges.split(',').map(|range| range.parse().unwrap()).collect();
            let error = AddressPool::new(&ranges).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with(expected) && error.is_empty() == expected.is_empty(), "{error}");
        }
        assert_eq!(AddressPool::new(&[]).unwrap_err(), RangeError::Missing);
    }

    proptest! {
        /// Whatever is taken, claimed and given back in whatever order: no address is two pods', none is outside the
        /// ranges or reserved, and what nobody has can be had.
        #[test]
        fn no_address_is_ever_two_pods(
            steps in prop::collection::vec((0_u8..3, 0_u8..24, 0_u32..40), 1..200),
            length in 27_u8..31,
        ) {
            let mut pool = pool(&format!("10.0.0.32/{length},fd00::/{}", length + 96));
            for (step, pod, slot) in steps {
                let uid = pod.to_string();
                match step {
                    0 => {
                        let had = pool.held_by(&uid).is_some();
                        let full = pool.owners.len() == (pool.last - FIRST + 1) as usize;
                        prop_assert_eq!(pool.take(&uid).is_none(), full && !had);
                    }
                    1 => {
                        let addresses = pool.addresses(slot);
                        let kept = pool.claim(&uid, &addresses);
                        prop_assert_eq!(kept, pool.held_by(&uid).is_some_and(|held| held.1 == addresses));
                    }
                    _ => pool.release(&uid),
                }
                let held: Vec<_> = (0..24).filter_map(|pod| pool.held_by(&pod.to_string())).collect();
                prop_assert_eq!(held.iter().map(|held| held.0).collect::<HashSet<_>>().len(), held.len());
                prop_assert_eq!(held.len(), pool.owners.len());
                for (slot, addresses) in held {
                    prop_assert_eq!(pool.slot_at(&addresses), Some(slot));
                    for (range, address) in pool.ranges.iter().zip(addresses) {
                        let reserved = [range.network(), at(*range, 1), range.broadcast()];
                        prop_assert!(range.contains(&address) && !reserved.contains(&address), "{}", address);
                    }
                }
            }
        }
    }
}
