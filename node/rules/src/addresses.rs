//! Sets of addresses.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

/// A set of addresses of both families, as ranges. IPv4 written as IPv6 (`::ffff:192.0.2.1`) is IPv4.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Addresses {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

/// What ranges are made of.
trait Number: Copy + Ord {
    /// The one after it, unless it is the last.
    fn next(self) -> Option<Self>;
    /// The one before it, unless it is the first.
    fn previous(self) -> Option<Self>;
}

impl Number for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Number for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Addresses {
    /// The set of these ranges, both ends included, in any order; they may overlap. A range whose end is before its
    /// start is empty.
    #[must_use]
    pub fn from_ranges(v4: Vec<(u32, u32)>, v6: Vec<(u128, u128)>) -> Self {
        Self { v4: normal(v4), v6: normal(v6) }
    }

    /// Its ranges of IPv4, sorted.
    #[must_use]
    pub fn v4_ranges(&self) -> &[(u32, u32)] {
        &self.v4
    }

    /// Its ranges of IPv6, sorted.
    #[must_use]
    pub fn v6_ranges(&self) -> &[(u128, u128)] {
        &self.v6
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => holds(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => holds(&self.v6, ip.to_bits()),
        }
    }

    /// All of these sets together.
    #[must_use]
    pub fn union<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for set in sets {
            v4.extend_from_slice(&set.v4);
            v6.extend_from_slice(&set.v6);
        }
        Self::from_ranges(v4, v6)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self { v4: subtract(&self.v4, &other.v4), v6: subtract(&self.v6, &other.v6) }
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self.v4.iter().map(|(first, last)| {
            format!("{}-{}", std::net::Ipv4Addr::from_bits(*first), std::net::Ipv4Addr::from_bits(*last))
        });
        let v6 = self.v6.iter().map(|(first, last)| {
            format!("{}-{}", std::net::Ipv6Addr::from_bits(*first), std::net::Ipv6Addr::from_bits(*last))
        });
        f.debug_set().entries(v4).entries(v6).finish()
    }
}

impl FromIterator<IpNet> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push((network.network().to_bits(), network.broadcast().to_bits())),
                IpNet::V6(network) => v6.push((network.network().to_bits(), network.broadcast().to_bits())),
            }
        }
        Self::from_ranges(v4, v6)
    }
}

impl FromIterator<IpAddr> for Addresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().map(|ip| IpNet::from(ip.to_canonical())).collect()
    }
}

/// Sorts ranges, and joins those that overlap or touch.
fn normal<N: Number>(mut ranges: Vec<(N, N)>) -> Vec<(N, N)> {
    ranges.retain(|(first, last)| first <= last);
    ranges.sort_unstable();
    let mut joined: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            // The one after the last number does not exist: everything behind is in the range already.
            Some((_, end)) if end.next().is_none_or(|after| first <= after) => *end = last.max(*end),
            Some(_) | None => joined.push((first, last)),
        }
    }
    joined.shrink_to_fit();
    joined
}

/// Whether a number is in normal ranges.
fn holds<N: Number>(ranges: &[(N, N)], number: N) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= number);
    behind.checked_sub(1).and_then(|index| ranges.get(index)).is_some_and(|(_, last)| number <= *last)
}

/// What is in the first of two normal sets of ranges and not in the second.
fn subtract<N: Number>(ranges: &[(N, N)], holes: &[(N, N)]) -> Vec<(N, N)> {
    let mut left = Vec::with_capacity(ranges.len());
    for &(first, last) in ranges {
        let mut rest = Some(first);
        for &(hole_first, hole_last) in holes.iter().filter(|hole| hole.0 <= last && hole.1 >= first) {
            let Some(begin) = rest else { break };
            if let Some(before) = hole_first.previous().filter(|before| *before >= begin) {
                left.push((begin, before));
            }
            rest = hole_last.next().map(|after| after.max(begin));
        }
        left.extend(rest.filter(|rest| *rest <= last).map(|rest| (rest, last)));
    }
    left
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(text: &str) -> Addresses {
        text.split_whitespace().map(|network| network.parse::<IpNet>().unwrap()).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_of_both_families() {
        let all = set("10.0.0.0/8 192.0.2.1/32 2001:db8::/32");
        for (address, expected) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("9.255.255.255", false),
            ("11.0.0.0", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("::ffff:192.0.2.1", true),
            ("2001:db8::", true),
            ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", true),
            ("2001:db9::", false),
            ("::c000:201", false),
        ] {
            assert_eq!(all.contains(ip(address)), expected, "{address}");
        }
        assert!(set("0.0.0.0/0").contains(ip("255.255.255.255")) && !set("0.0.0.0/0").contains(ip("::1")));
        assert!(!Addresses::default().contains(ip("0.0.0.0")) && Addresses::default().is_empty());
    }

    /// The addresses of pods of one node are near each other.
    #[test]
    fn a_thousand_neighbours_are_one_range() {
        let pods: Addresses = (0..1000u32).rev().map(|n| IpAddr::V4((0x0af4_0102 + n).into())).collect();
        assert_eq!(pods.v4_ranges(), [(0x0af4_0102, 0x0af4_0102 + 999)]);
        assert_eq!(
            pods,
            set(
                "10.244.1.2/31 10.244.1.4/30 10.244.1.8/29 10.244.1.16/28 10.244.1.32/27 10.244.1.64/26 10.244.1.128/25 10.244.2.0/23 10.244.4.0/25 10.244.4.128/26 10.244.4.192/27 10.244.4.224/29 10.244.4.232/31"
            )
        );
    }

    #[test]
    fn holes_are_cut_out() {
        for (from, holes, expected) in [
            (
                "10.0.0.0/8",
                "10.1.0.0/16",
                "10.0.0.0/16 10.2.0.0/15 10.4.0.0/14 10.8.0.0/13 10.16.0.0/12 10.32.0.0/11 10.64.0.0/10 10.128.0.0/9",
            ),
            ("10.0.0.0/24", "10.0.0.0/16", ""),
            ("10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/24"),
            ("0.0.0.0/0", "0.0.0.0/1 128.0.0.0/1", ""),
            (
                "0.0.0.0/0",
                "255.255.255.255/32 0.0.0.0/1",
                "128.0.0.0/2 192.0.0.0/3 224.0.0.0/4 240.0.0.0/5 248.0.0.0/6 252.0.0.0/7 254.0.0.0/8 255.0.0.0/9 255.128.0.0/10 255.192.0.0/11 255.224.0.0/12 255.240.0.0/13 255.248.0.0/14 255.252.0.0/15 255.254.0.0/16 255.255.0.0/17 255.255.128.0/18 255.255.192.0/19 255.255.224.0/20 255.255.240.0/21 255.255.248.0/22 255.255.252.0/23 255.255.254.0/24 255.255.255.0/25 255.255.255.128/26 255.255.255.192/27 255.255.255.224/28 255.255.255.240/29 255.255.255.248/30 255.255.255.252/31 255.255.255.254/32",
            ),
            ("2001:db8::/32", "2001:db8::/33", "2001:db8:8000::/33"),
        ] {
            assert_eq!(set(from).without(&set(holes)), set(expected), "{from} without {holes}");
        }
    }

    fn ranges() -> impl Strategy<Value = Vec<(u32, u32)>> {
        proptest::collection::vec((0..40u32, 0..40u32), 0..8)
    }

    proptest! {
        #[test]
        fn sets_are_what_their_ranges_say(a in ranges(), b in ranges()) {
            let within = |ranges: &[(u32, u32)], n: u32| ranges.iter().any(|(first, last)| (*first..=*last).contains(&n));
            let of = |ranges: &[(u32, u32)]| Addresses::from_ranges(ranges.to_vec(), Vec::new());
            let (left, right) = (of(&a), of(&b));
            let (both, less) = (Addresses::union([&left, &right]), left.without(&right));
            for n in 0..45u32 {
                let ip = IpAddr::V4(n.into());
                prop_assert_eq!(left.contains(ip), within(&a, n));
                prop_assert_eq!(both.contains(ip), within(&a, n) || within(&b, n));
                prop_assert_eq!(less.contains(ip), within(&a, n) && !within(&b, n));
            }
            for set in [&left, &both, &less] {
                prop_assert!(set.v4_ranges().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{:?}", set);
                prop_assert_eq!(set, &of(set.v4_ranges()));
            }
        }
    }
}
