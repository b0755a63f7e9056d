//! Which address the node is to have.
//!
//! The API server dials a kubelet at its node's InternalIP and refuses to proxy to a loopback address
//! (`nodes/proxy`; logs would work), and a kubelet refuses to be a node with one. So the machine's own
//! address is taken where it has one; packets to it do not leave the machine.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The address of the interface with the default route, or 127.0.0.1 on a machine without one.
#[must_use]
pub fn of_this_machine() -> IpAddr {
    outgoing().filter(|address| is_node_address(*address)).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The source address that the kernel would take for the world. Connecting a UDP socket looks up the route
/// and sends nothing; the address is of a range set aside for documentation.
fn outgoing() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether the kubelet and the API server accept the address as a node's.
fn is_node_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_multicast())
        }
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_a_kubelet_refuses() {
        for (address, expected) in [
            ("10.0.0.7", true),
            ("192.168.1.2", true),
            ("127.0.0.1", false),
            ("169.254.10.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
        ] {
            assert_eq!(is_node_address(address.parse().unwrap()), expected, "{address}");
        }
    }
}
