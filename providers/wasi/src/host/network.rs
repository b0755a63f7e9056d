//! What a guest may do with sockets.
//!
//! WASI 0.1 has no sockets of its own, so that these rules concern components. Until a pod has an address
//! of its own, a guest either shares the host's network, with everything in it, or is a client: it resolves
//! names, connects and sends to the outside, but reaches nothing that listens on this host's loopback, and
//! does not listen itself.

use std::net::{IpAddr, SocketAddr};

use wasmtime_wasi::{WasiCtxBuilder, sockets::SocketAddrUse};

use crate::spec::Network;

/// Applies the rules to a guest.
pub(super) fn allow(wasi: &mut WasiCtxBuilder, network: Network) {
    wasi.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true);
    wasi.socket_addr_check(move |address, what| {
        Box::pin(std::future::ready(allowed(network, address, what)))
    });
}

/// Whether a guest may use an address so.
fn allowed(network: Network, address: SocketAddr, what: SocketAddrUse) -> bool {
    use SocketAddrUse::{TcpAccept, TcpBind, TcpConnect, TcpListen, UdpBind, UdpReceive, UdpSend};
    match network {
        Network::Host => true,
        Network::Outgoing => match what {
            TcpConnect | UdpSend | UdpReceive => is_outside(address.ip()),
            // A client's socket is bound before it connects or sends; to any address and a port that the
            // system chooses, which is what these say.
            TcpBind | UdpBind => address.ip().is_unspecified() && address.port() == 0,
            TcpListen | TcpAccept => false,
        },
    }
}

/// Whether an address is not this host by definition. Linux takes the unspecified address for loopback.
fn is_outside(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    !ip.is_loopback() && !ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;
    use SocketAddrUse::{TcpAccept, TcpBind, TcpConnect, TcpListen, UdpBind, UdpReceive, UdpSend};

    #[test]
    fn a_client_reaches_the_outside_only() {
        for (address, what, expected) in [
            ("192.0.2.1:80", TcpConnect, true),
            ("[2001:db8::1]:80", TcpConnect, true),
            ("127.0.0.1:10250", TcpConnect, false),
            ("127.9.9.9:1", TcpConnect, false),
            ("[::1]:10250", TcpConnect, false),
            ("[::ffff:127.0.0.1]:10250", TcpConnect, false),
            ("0.0.0.0:10250", TcpConnect, false),
            ("[::]:10250", TcpConnect, false),
            ("192.0.2.1:53", UdpSend, true),
            ("127.0.0.53:53", UdpSend, false),
            ("192.0.2.1:53", UdpReceive, true),
            ("127.0.0.53:53", UdpReceive, false),
            ("0.0.0.0:0", TcpBind, true),
            ("[::]:0", UdpBind, true),
            ("0.0.0.0:8080", TcpBind, false),
            ("192.0.2.9:0", UdpBind, false),
            ("0.0.0.0:0", TcpListen, false),
            ("192.0.2.1:5000", TcpAccept, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(allowed(Network::Outgoing, address, what), expected, "{address} {what:?}");
        }
    }

    #[test]
    fn with_the_hosts_network_everything_goes() {
        for what in [TcpBind, TcpListen, TcpAccept, TcpConnect, UdpBind, UdpSend, UdpReceive] {
            assert!(allowed(Network::Host, "127.0.0.1:80".parse().unwrap(), what), "{what:?}");
        }
    }
}
