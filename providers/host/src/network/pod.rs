//! The addresses of a pod, and which of them a guest sees as which. Pure.
//!
//! Pods share a network namespace, and there its loopback interface. What a guest calls 127.0.0.1 is an address of a block
//! that only its pod uses, and what it calls `::1` one that stands for it; a guest is shown the usual ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::Ipv4Net;

/// The addresses of a pod, as the kernel has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddresses {
    /// One, or one of each family. None: the guests have their loopback alone, listen there, and connect from whichever address
    /// this host has.
    pub own: Vec<IpAddr>,
    /// Part of 127.0.0.0/8: its first addresses are those of the guest's 127.0.0.0/8, and the guest has no others.
    pub loopback: Ipv4Net,
    /// For `::1`.
    pub loopback_v6: Ipv6Addr,
}

/// What a socket is bound to, as its guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// Every address of the pod, that is, the own one and all of its loopback.
    Wildcard,
    /// This one.
    Single,
}

impl PodAddresses {
    /// The pod's own address of the same family.
    pub(crate) fn own_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.own.iter().copied().find(|own| own.is_ipv4() == like.is_ipv4())
    }

    /// The pod's loopback address for a guest's.
    fn of_loopback(&self, ip: IpAddr) -> Option<IpAddr> {
        match ip {
            IpAddr::V4(ip) => {
                let offset = u32::from(ip) & !u32::from(Ipv4Net::new(ip, 8).ok()?.netmask());
                let ip = Ipv4Addr::from(u32::from(self.loopback.network()).checked_add(offset)?);
                self.loopback.contains(&ip).then_some(ip.into())
            }
            IpAddr::V6(_) => Some(self.loopback_v6.into()),
        }
    }

    /// Whether an address of the kernel's is one of the pod's loopback.
    pub(crate) fn is_loopback(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.loopback.contains(&ip),
            IpAddr::V6(ip) => ip == self.loopback_v6,
        }
    }

    /// Whether an address of the kernel's is the pod's.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        self.own.contains(&ip) || self.is_loopback(ip)
    }

    /// Whether an address of the kernel's is of the loopback of some pod, or of nobody's, and not of this one's.
    pub(crate) fn is_anothers_loopback(&self, ip: IpAddr) -> bool {
        let stands_in = match ip.to_canonical() {
            IpAddr::V4(ip) => ip.is_loopback(),
            // Those of all pods begin with the same four groups.
            IpAddr::V6(ip) => ip.is_loopback() || ip.segments()[..4] == self.loopback_v6.segments()[..4],
        };
        stands_in && !self.is_loopback(ip)
    }

    /// Where a socket is bound of which the guest wants this. `None`: it is no address of the pod.
    pub(crate) fn bind(&self, wanted: SocketAddr) -> Option<(SocketAddr, Binding)> {
        let ip = wanted.ip();
        let (ip, binding) = match ip {
            ip if ip.is_unspecified() && self.own.is_empty() && wanted.port() == 0 => (ip, Binding::Single),
            ip if ip.is_unspecified() && self.own.is_empty() => {
                (self.of_loopback(localhost(ip))?, Binding::Wildcard)
            }
            ip if ip.is_unspecified() => (self.own_like(ip)?, Binding::Wildcard),
            ip if ip.is_loopback() => (self.of_loopback(ip)?, Binding::Single),
            ip if self.own.contains(&ip) => (ip, Binding::Single),
            _ => return None,
        };
        Some((SocketAddr::new(ip, wanted.port()), binding))
    }

    /// Where a guest's connection or datagram goes. What it sends to its loopback goes to whoever listens there, or on
    /// all addresses of the pod, of which `on_all` tells by the port. `None`: there is no such address of the pod.
    pub(crate) fn destination(&self, wanted: SocketAddr, on_all: impl Fn(u16) -> bool) -> Option<SocketAddr> {
        let ip = wanted.ip();
        if !ip.is_loopback() {
            return Some(wanted);
        }
        let mapped = self.of_loopback(ip)?;
        let own = self.own_like(ip).filter(|_| on_all(wanted.port()));
        Some(SocketAddr::new(own.unwrap_or(mapped), wanted.port()))
    }

    /// Where a socket is bound that its guest has bound to nothing before it connects there.
    pub(crate) fn source(&self, wanted: SocketAddr) -> Option<SocketAddr> {
        let ip = match wanted.ip() {
            ip if ip.is_loopback() => self.of_loopback(localhost(ip))?,
            ip if self.own.is_empty() => unspecified(ip),
            ip => self.own_like(ip)?,
        };
        Some(SocketAddr::new(ip, 0))
    }

    /// An address of the kernel's, as the guest sees it.
    pub(crate) fn shown(&self, address: SocketAddr) -> SocketAddr {
        let ip = match address.ip() {
            IpAddr::V4(ip) if self.loopback.contains(&ip) => {
                let offset = u32::from(ip) - u32::from(self.loopback.network());
                IpAddr::V4((u32::from(Ipv4Addr::new(127, 0, 0, 0)) | offset).into())
            }
            ip if self.is_loopback(ip) => localhost(ip),
            ip => ip,
        };
        SocketAddr::new(ip, address.port())
    }

    /// The guest's own end of a connection, as it sees it: what comes from its loopback has come to its loopback.
    pub(crate) fn shown_local(&self, local: SocketAddr, remote: SocketAddr) -> SocketAddr {
        let ip = local.ip();
        if self.own.contains(&ip) && self.is_loopback(remote.ip()) {
            return SocketAddr::new(localhost(ip), local.port());
        }
        self.shown(local)
    }
}

/// All addresses of a family.
fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// The usual loopback address of a family.
pub(crate) fn localhost(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodAddresses {
        PodAddresses {
            own: ["10.244.1.7", "fd00:10::7"].map(|ip| ip.parse().unwrap()).into(),
            loopback: "127.0.28.0/22".parse().unwrap(),
            loopback_v6: "fd6b::7:1".parse().unwrap(),
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_socket_is_bound_to_the_pods_addresses_and_to_no_others() {
        for (wanted, expected) in [
            ("0.0.0.0:80", Some(("10.244.1.7:80", Binding::Wildcard))),
            ("[::]:0", Some(("[fd00:10::7]:0", Binding::Wildcard))),
            ("10.244.1.7:80", Some(("10.244.1.7:80", Binding::Single))),
            ("127.0.0.1:80", Some(("127.0.28.1:80", Binding::Single))),
            ("127.0.3.255:80", Some(("127.0.31.255:80", Binding::Single))),
            ("[::1]:80", Some(("[fd6b::7:1]:80", Binding::Single))),
            ("127.0.4.0:80", None),
            ("127.255.255.255:80", None),
            ("127.0.28.1:80", None),
            ("10.244.1.8:80", None),
            ("[fd6b::7:1]:80", None),
            ("[fd6b::8:1]:80", None),
            ("[::ffff:10.244.1.7]:80", None),
            ("[::ffff:127.0.0.1]:80", None),
            ("224.0.0.1:80", None),
            ("169.254.1.2:80", None),
        ] {
            let expected = expected.map(|(address, binding)| (at(address), binding));
            assert_eq!(pod().bind(at(wanted)), expected, "{wanted}");
        }
        let v4 = PodAddresses { own: vec!["10.244.1.7".parse().unwrap()], ..pod() };
        assert_eq!(v4.bind(at("[::]:80")), None, "it has no address of that family");
    }

    #[test]
    fn what_is_sent_to_the_loopback_finds_who_listens_on_all_addresses() {
        for (wanted, expected, source) in [
            ("192.0.2.1:80", Some("192.0.2.1:80"), "10.244.1.7:0"),
            ("[2001:db8::1]:80", Some("[2001:db8::1]:80"), "[fd00:10::7]:0"),
            ("10.244.1.7:80", Some("10.244.1.7:80"), "10.244.1.7:0"),
            ("127.0.0.1:80", Some("10.244.1.7:80"), "127.0.28.1:0"),
            ("127.0.0.9:80", Some("10.244.1.7:80"), "127.0.28.1:0"),
            ("127.0.0.9:81", Some("127.0.28.9:81"), "127.0.28.1:0"),
            ("127.1.0.8:81", None, "127.0.28.1:0"),
            ("[::1]:80", Some("[fd00:10::7]:80"), "[fd6b::7:1]:0"),
            ("[::1]:81", Some("[fd6b::7:1]:81"), "[fd6b::7:1]:0"),
        ] {
            assert_eq!(pod().destination(at(wanted), |port| port == 80), expected.map(at), "{wanted}");
            assert_eq!(pod().source(at(wanted)), Some(at(source)), "{wanted}");
        }
    }

    /// A socket for clients is bound to a port that the system chooses; to listen, there is the loopback.
    #[test]
    fn without_addresses_there_is_the_loopback() {
        let alone = PodAddresses { own: Vec::new(), ..pod() };
        for (wanted, expected) in [
            ("0.0.0.0:80", Some(("127.0.28.1:80", Binding::Wildcard))),
            ("0.0.0.0:0", Some(("0.0.0.0:0", Binding::Single))),
            ("127.0.0.2:80", Some(("127.0.28.2:80", Binding::Single))),
            ("10.244.1.7:80", None),
        ] {
            let expected = expected.map(|(address, binding)| (at(address), binding));
            assert_eq!(alone.bind(at(wanted)), expected, "{wanted}");
        }
        for (wanted, destination, source) in [
            ("192.0.2.1:80", "192.0.2.1:80", "0.0.0.0:0"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80", "[::]:0"),
            ("127.0.0.1:80", "127.0.28.1:80", "127.0.28.1:0"),
        ] {
            assert_eq!(alone.destination(at(wanted), |_| true), Some(at(destination)), "{wanted}");
            assert_eq!(alone.source(at(wanted)), Some(at(source)), "{wanted}");
        }
    }

    #[test]
    fn a_guest_sees_the_usual_addresses() {
        for (kernel, shown) in [
            ("127.0.28.1:80", "127.0.0.1:80"),
            ("127.0.31.255:80", "127.0.3.255:80"),
            ("[fd6b::7:1]:80", "[::1]:80"),
            ("10.244.1.7:80", "10.244.1.7:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            assert_eq!(pod().shown(at(kernel)), at(shown));
        }
        for (local, remote, shown) in [
            ("10.244.1.7:80", "127.0.28.1:5000", "127.0.0.1:80"),
            ("10.244.1.7:80", "192.0.2.1:5000", "10.244.1.7:80"),
            ("127.0.28.5:80", "127.0.28.1:5000", "127.0.0.5:80"),
            ("[fd00:10::7]:80", "[fd6b::7:1]:5000", "[::1]:80"),
        ] {
            assert_eq!(pod().shown_local(at(local), at(remote)), at(shown), "{local} {remote}");
        }
    }

    #[test]
    fn what_is_the_pods_is_known_as_such() {
        for (ip, expected) in [
            ("10.244.1.7", true),
            ("127.0.28.0", true),
            ("fd6b::7:1", true),
            ("127.0.0.1", false),
            ("127.0.32.1", false),
            ("fd6b::8:1", false),
            ("10.244.1.8", false),
        ] {
            assert_eq!(pod().has(ip.parse().unwrap()), expected, "{ip}");
        }
    }
}
