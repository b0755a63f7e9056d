//! Under which address the node is known.
//!
//! As in the kubelet: what `--node-ip` says; else the host name, when it is an address; else what DNS says
//! of it; else the address that the machine talks to the world from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use k8s_openapi::api::core::v1::NodeAddress;

/// Why the node has no address. The message is meant for the user.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeAddressError {
    /// `--node-ip` cannot be.
    #[error("--node-ip {address}: {problem}")]
    Unusable {
        /// What was asked for.
        address: IpAddr,
        /// Why it cannot be.
        problem: &'static str,
    },
    /// `--node-ip` is another machine's.
    #[error("node IP: {0:?} not found in the host's network interfaces")]
    NotOurs(String),
    /// Nothing was found.
    #[error(
        "no address for this node: its host name {hostname:?} does not resolve to one and there is no default route; give \
         one with --node-ip"
    )]
    None {
        /// The host name that was looked up.
        hostname: String,
    },
}

/// Finds the node's addresses: one, or one of each family when `--node-ip` names two. Blocks on DNS.
///
/// # Errors
/// [`NodeAddressError`] when there is none, or the wanted one cannot be.
pub fn find(wanted: &[IpAddr], hostname: &str) -> Result<Vec<IpAddr>, NodeAddressError> {
    match wanted {
        [] => automatic(hostname, None).map(|address| vec![address]),
        // Only a family is asked for.
        [any] if any.is_unspecified() => {
            automatic(hostname, Some(any.is_ipv4())).map(|address| vec![address])
        }
        addresses => {
            for address in addresses {
                check(*address)?;
            }
            Ok(addresses.to_vec())
        }
    }
}

/// `status.addresses`: addresses first, then the host name.
pub(super) fn list(addresses: &[IpAddr], hostname: &str) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    addresses
        .iter()
        .map(|ip| address("InternalIP", ip.to_string()))
        .chain([address("Hostname", hostname.to_owned())])
        .collect()
}

fn check(address: IpAddr) -> Result<(), NodeAddressError> {
    if address.is_loopback() {
        tracing::warn!(
            %address,
            "the node's address is a loopback address: only an API server on this machine reaches the node, and its \
             nodes/proxy refuses to",
        );
    } else if let Some(problem) = problem(address) {
        return Err(NodeAddressError::Unusable { address, problem });
    }
    // A socket can be bound to the addresses of this machine, and to no other.
    match UdpSocket::bind(SocketAddr::new(address, 0)) {
        Ok(_) => Ok(()),
        Err(_) => Err(NodeAddressError::NotOurs(address.to_string())),
    }
}

/// Why an address cannot be a node's. Loopback is refused too, unless it was asked for.
fn problem(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        Some("the unspecified address is no address")
    } else if address.is_multicast() {
        Some("it is a multicast address")
    } else if link_local {
        Some("it is a link-local address")
    } else if address.is_loopback() {
        Some("it is a loopback address")
    } else {
        None
    }
}

fn automatic(hostname: &str, want_v4: Option<bool>) -> Result<IpAddr, NodeAddressError> {
    let suits =
        |address: &IpAddr| problem(*address).is_none() && want_v4.is_none_or(|v4| v4 == address.is_ipv4());
    let own = hostname.parse::<IpAddr>().ok().filter(suits);
    let resolved = || {
        use std::net::ToSocketAddrs as _;
        let found: Vec<IpAddr> = (hostname, 0)
            .to_socket_addrs()
            .into_iter()
            .flatten()
            .map(|address| address.ip())
            .filter(suits)
            .collect();
        // Of several, the older family, which every cluster speaks.
        found.iter().find(|address| address.is_ipv4()).or(found.first()).copied()
    };
    let routed = || {
        [
            (true, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
            (false, IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
        ]
        .into_iter()
        .filter(|(v4, _)| want_v4.is_none_or(|want| want == *v4))
        .find_map(|(_, target)| source_towards(target).filter(suits))
    };
    own.or_else(resolved)
        .or_else(routed)
        .ok_or_else(|| NodeAddressError::None { hostname: hostname.to_owned() })
}

/// The address that packets to `target` would come from. Connecting a UDP socket sends none.
fn source_towards(target: IpAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(target, 53)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_addresses_cannot_be_a_nodes() {
        for (text, expected) in [
            ("10.0.0.1", None),
            ("2001:db8::1", None),
            ("127.0.0.1", Some("loopback")),
            ("::1", Some("loopback")),
            ("169.254.1.1", Some("link-local")),
            ("fe80::1", Some("link-local")),
            ("224.0.0.1", Some("multicast")),
            ("0.0.0.0", Some("unspecified")),
        ] {
            let found = problem(text.parse().unwrap());
            match expected {
                None => assert_eq!(found, None, "{text}"),
                Some(part) => {
                    assert!(found.is_some_and(|problem| problem.contains(part)), "{text}: {found:?}")
                }
            }
        }
    }

    #[test]
    fn loopback_is_taken_when_it_was_asked_for() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        assert_eq!(find(&[loopback], "x"), Ok(vec![loopback]));
    }

    #[test]
    fn another_machines_address_is_refused() {
        // Reserved for documentation, so that no machine has it.
        let err = find(&[[192, 0, 2, 77].into()], "x").unwrap_err();
        assert_eq!(err.to_string(), "node IP: \"192.0.2.77\" not found in the host's network interfaces");
        let err = find(&[[169, 254, 0, 1].into()], "x").unwrap_err();
        assert_eq!(err.to_string(), "--node-ip 169.254.0.1: it is a link-local address");
    }

    #[test]
    fn a_host_name_that_is_an_address_is_the_address() {
        assert_eq!(find(&[], "10.1.2.3"), Ok(vec![[10, 1, 2, 3].into()]));
    }

    #[test]
    fn addresses_come_before_the_name() {
        let listed = list(&[[10, 0, 0, 1].into()], "edge");
        let listed: Vec<_> = listed.iter().map(|a| (a.type_.as_str(), a.address.as_str())).collect();
        assert_eq!(listed, [("InternalIP", "10.0.0.1"), ("Hostname", "edge")]);
    }
}
