//! How links are named and numbered. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use sha2::{Digest as _, Sha256};

use crate::routes::LAST_RESORT;

/// The interface of a namespace.
pub(crate) const INSIDE: &str = "eth0";
/// Next hops: what the namespaces reach the node by, and what the node reaches them by. Nobody has these addresses; the
/// neighbours that stand for them are permanent.
pub(crate) const NODE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
pub(crate) const WORKER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
pub(crate) const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const WORKER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// Where the addresses of [`own_addresses`] are.
pub(crate) const OWN_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 64, 0), 18);
pub(crate) const OWN_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd6b, 0x7761, 0x736d, 1, 0, 0, 0, 0), 64);
/// The highest number of a link.
pub(crate) const LAST: u16 = 9999;
/// Hexadecimal digits that tell the nodes of one machine apart.
const DIGITS: usize = 6;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// The names of a node's links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    prefix: String,
}

impl Names {
    /// Those of the node of this name; any text that tells it from others on this machine.
    pub(crate) fn of(node: &str) -> Self {
        let digest: String = Sha256::digest(node).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { prefix: format!("kw{}x", &digest[..DIGITS]) }
    }

    /// The node's end of a link: at most 13 of the 15 bytes that a name may have.
    pub(crate) fn link(&self, number: u16) -> String {
        format!("{}{number}", self.prefix)
    }

    /// How the names of all links begin.
    pub(crate) fn links(&self) -> &str {
        &self.prefix
    }

    /// The table of the packet filter.
    pub(crate) fn table(&self) -> String {
        format!("kubewasm_{}", self.prefix.trim_start_matches("kw").trim_end_matches('x'))
    }

    /// The table of the packet filter for ports that lead to pods.
    pub(crate) fn ports_table(&self) -> String {
        format!("{}_ports", self.table())
    }

    /// The metric of the node's routes for what is unassigned.
    pub(crate) fn metric(&self) -> u32 {
        let digits = self.prefix.trim_start_matches("kw").trim_end_matches('x').get(..5);
        // Five digits are twenty bits.
        LAST_RESORT + digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0)
    }

    /// The number of a link, if it is one of this node's.
    pub(crate) fn number(&self, name: &str) -> Option<u16> {
        let number = name.strip_prefix(&self.prefix)?.parse().ok()?;
        (self.link(number) == name).then_some(number)
    }

    /// A number that is not taken.
    pub(crate) fn free(&self, taken: impl Fn(u16) -> bool) -> Option<u16> {
        (1..=LAST).find(|number| !taken(*number))
    }
}

/// What sockets of a worker's own, which are bound to nothing, send from: look-ups of names. Nobody else knows these
/// addresses, so that such packets go on from the node's.
pub(crate) fn own_addresses(number: u16) -> [IpAddr; 2] {
    let [high, low] = number.to_be_bytes();
    // 169.254.64.0 and on: numbers end before the fortieth of 256.
    let v4 = Ipv4Addr::new(169, 254, 64 | high, low);
    let v6 = u128::from(OWN_V6.addr()) | u128::from(number);
    [v4.into(), IpAddr::V6(v6.into())]
}

/// The hardware addresses of a link: the node's end, and the worker's.
pub(crate) fn macs(number: u16) -> [Mac; 2] {
    let [high, low] = number.to_be_bytes();
    // Locally administered, unicast.
    [[0x02, 0x6b, 0x77, 0, high, low], [0x02, 0x6b, 0x77, 1, high, low]]
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;

    use super::*;

    #[test]
    fn links_are_known_by_their_names() {
        let (ours, theirs) = (Names::of("/var/lib/kubewasm"), Names::of("/tmp/other"));
        for number in [1, 7, LAST] {
            let name = ours.link(number);
            assert!(name.len() < 16, "{name}");
            assert_eq!((ours.number(&name), theirs.number(&name)), (Some(number), None), "{name}");
        }
        for name in ["eth0", "kw", &format!("{}01", ours.prefix), &format!("{}+1", ours.prefix), &ours.prefix]
        {
            assert_eq!(ours.number(name), None, "{name}");
        }
    }

    #[test]
    fn nodes_of_one_machine_have_metrics_of_their_own() {
        let [ours, theirs] = ["/var/lib/kubewasm", "/tmp/other"].map(|node| Names::of(node).metric());
        assert!(ours != theirs && ours.min(theirs) >= LAST_RESORT && ours.max(theirs) < 2 * LAST_RESORT);
    }

    #[test]
    fn numbers_are_used_again() {
        let names = Names::of("n");
        assert_eq!(names.free(|_| false), Some(1));
        assert_eq!(names.free(|number| [1, 2, 4].contains(&number)), Some(3));
        assert_eq!(names.free(|_| true), None);
    }

    #[test]
    fn workers_have_addresses_of_their_own() {
        for number in [1, 255, 256, LAST] {
            let [v4, v6] = own_addresses(number);
            assert!(IpNet::V4(OWN_V4).contains(&v4) && IpNet::V6(OWN_V6).contains(&v6), "{v4} {v6}");
        }
        assert_eq!(own_addresses(258)[0], IpAddr::from([169, 254, 65, 2]));
    }

    #[test]
    fn the_ends_of_a_link_have_addresses_of_their_own() {
        let [node, worker] = macs(258);
        assert_eq!((node, worker), ([2, 0x6b, 0x77, 0, 1, 2], [2, 0x6b, 0x77, 1, 1, 2]));
    }
}
