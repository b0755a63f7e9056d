//! What a guest may do with sockets.
//!
//! WASI 0.1 makes no sockets: its guests have those that they are given at their start. A guest either shares the host's network,
//! with everything in it; or it has addresses of its own ([`pod`]), on which it listens and from which it connects; or its
//! pod has a network namespace to itself, in which it listens and connects as it likes; or it is a client: it resolves names,
//! connects and sends to the outside, and listens at most at ports of this host that are its pod's ([`exposed`]). None of the
//! latter reaches what listens on this host's loopback or is on its link only, among which are the metadata services of clouds.

mod affinity;
pub(crate) mod egress;
pub(crate) mod exposed;
pub(crate) mod firewall;
mod firewalls;
mod flows;
pub(crate) mod guard;
mod neighbour;
pub(crate) mod node_ports;
pub(crate) mod pod;
pub(crate) mod ports;
mod services;
mod tables;

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    str::FromStr,
};

use ipnet::IpNet;
use kubewasm_rules::Protocol;
use wasmtime_wasi::sockets::SocketAddrUse;

pub use egress::{EgressEntry, EgressList, InvalidEgress};
pub use exposed::{ExposedPort, ExposedPorts};
pub use firewall::{Firewall, Refusals};
pub use firewalls::{Firewalls, PodRuleKeys, RuleChanges};
pub use neighbour::PortPath;
pub use pod::PodAddresses;
pub use ports::PodPorts;
pub use services::{Refused, Service, ServiceChanges, ServiceRule};
pub use tables::{NetworkTables, OutOfStep, TablesUpdate};

/// What a guest may do with sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Connections to the outside; nothing of this host's own, and nothing that listens.
    Outgoing,
    /// The same, and what comes in at these ports of this host, which are its pod's.
    Exposed(ExposedPorts),
    /// Everything with these addresses, which no other pod has, in a network namespace that its pod shares with others.
    Pod(PodAddresses),
    /// Everything in the network namespace that this process is in, which is the guest's pod's alone.
    Namespace,
    /// All that a process on this host may do.
    Host,
}

/// What guests do not reach that do not share the host's network, besides what none of these reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeniedNetworks {
    /// Networks of either family; addresses of IPv4 that are written as IPv6 count as IPv4.
    pub networks: Vec<IpNet>,
    /// All addresses of this host, whichever they are when a guest wants to reach one.
    pub host: bool,
}

/// What else holds for the sockets of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketRules {
    /// It connects and sends, listens on nothing, and is bound to no port of its choice.
    pub connects_only: bool,
    /// Ports of this host's own loopback that it reaches, whatever list it has. Of those, there are none in its own.
    pub loopback_ports: Vec<u16>,
}

impl SocketRules {
    /// Nothing else.
    #[must_use]
    pub fn none() -> &'static Self {
        static NONE: SocketRules = SocketRules { connects_only: false, loopback_ports: Vec::new() };
        &NONE
    }

    fn opens(&self, to: SocketAddr) -> bool {
        to.ip().is_loopback() && self.loopback_ports.contains(&to.port())
    }
}

/// A text that names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write an address, a network such as 10.0.0.0/8, or `node`")]
pub struct InvalidNetwork(String);

/// One entry of [`DeniedNetworks`], as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedNetwork {
    /// A network, or a single address.
    Network(IpNet),
    /// `node`: all addresses of this host.
    Host,
}

impl FromStr for DeniedNetwork {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        if text == "node" {
            return Ok(Self::Host);
        }
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self::Network).map_err(|_| InvalidNetwork(text.to_owned()))
    }
}

impl FromIterator<DeniedNetwork> for DeniedNetworks {
    fn from_iter<I: IntoIterator<Item = DeniedNetwork>>(entries: I) -> Self {
        let mut denied = Self::default();
        for entry in entries {
            match entry {
                DeniedNetwork::Network(network) => denied.networks.push(network),
                DeniedNetwork::Host => denied.host = true,
            }
        }
        denied
    }
}

impl DeniedNetworks {
    fn holds(&self, ip: IpAddr) -> bool {
        self.holds_network(ip) || (self.host && is_of_host(ip.to_canonical()))
    }

    /// Whether one of the networks has this address. In a network namespace of pods, this host's addresses cannot be
    /// told from others; whoever denies them there has to name them.
    fn holds_network(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.iter().any(|network| network.contains(&ip))
    }
}

/// Whether this host has an address: only then can a socket be bound to it.
fn is_of_host(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether an address is of the network namespace that this process is in: its loopback, for which Linux also takes the
/// unspecified address, or one of its interfaces.
fn is_of_namespace(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified() || is_of_host(ip)
}

/// Whether any guest of this kind may use an address so. What holds for this one besides is the [`guard`]'s to say.
fn allowed(network: &Network, denied: &DeniedNetworks, address: SocketAddr, what: SocketAddrUse) -> bool {
    use SocketAddrUse::{TcpAccept, TcpBind, TcpConnect, TcpListen, UdpBind, UdpReceive, UdpSend};
    match network {
        Network::Host => true,
        // The addresses are the kernel's: see [`crate::sockets`].
        Network::Pod(pod) => match what {
            TcpConnect | UdpSend | UdpReceive => {
                let ip = address.ip();
                pod.has(ip) || (is_open_to_pods(denied, ip) && !pod.is_anothers_loopback(ip))
            }
            // Nobody else's loopback, and never the wildcard, which would be everybody's.
            TcpListen => pod.has(address.ip()),
            TcpBind | UdpBind => {
                // To connect or to send from.
                let is_any = pod.own.is_empty() && address.ip().is_unspecified() && address.port() == 0;
                pod.has(address.ip()) || is_any
            }
            TcpAccept => !pod.is_anothers_loopback(address.ip()),
        },
        // The kernel knows which addresses these are, and that there are no others.
        Network::Namespace => match what {
            TcpConnect | UdpSend | UdpReceive => {
                let ip = address.ip();
                (is_outside(ip) && !denied.holds_network(ip)) || is_of_namespace(ip)
            }
            TcpBind | UdpBind | TcpListen | TcpAccept => true,
        },
        Network::Outgoing => match what {
            TcpConnect | UdpSend | UdpReceive => is_outside(address.ip()) && !denied.holds(address.ip()),
            // A client's socket is bound before it connects or sends; to any address and a port that the
            // system chooses, which is what these say.
            TcpBind | UdpBind => address.ip().is_unspecified() && address.port() == 0,
            TcpListen | TcpAccept => false,
        },
        // The addresses are the kernel's. What is known of one socket besides is the guard's to say.
        Network::Exposed(exposed) => match what {
            TcpBind | TcpListen if exposed.has(Protocol::Tcp, address) => true,
            UdpBind if exposed.has(Protocol::Udp, address) => true,
            // Whoever has connected has done so to such a port.
            TcpAccept => true,
            what => allowed(&Network::Outgoing, denied, address, what),
        },
    }
}

/// Whether pods with addresses of their own reach an address beyond theirs. It is asked about where something goes, and
/// about what the guest has named, which may be a Service's.
pub(crate) fn is_open_to_pods(denied: &DeniedNetworks, ip: IpAddr) -> bool {
    is_outside(ip) && !ip.to_canonical().is_multicast() && !denied.holds_network(ip)
}

/// The metadata service that is on no link: EC2's, by IPv6.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether an address is neither this host by definition (Linux takes the unspecified address for loopback) nor on its
/// link only, nor a metadata service, which hands the machine's own credentials to whoever asks.
fn is_outside(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_near = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == METADATA,
    };
    !ip.is_loopback() && !ip.is_unspecified() && !is_near
}

#[cfg(test)]
mod tests {
    use super::*;
    use SocketAddrUse::{TcpAccept, TcpBind, TcpConnect, TcpListen, UdpBind, UdpReceive, UdpSend};

    #[test]
    fn a_client_reaches_the_outside_only() {
        let nothing = DeniedNetworks::default();
        for (address, what, expected) in [
            ("192.0.2.1:80", TcpConnect, true),
            ("[2001:db8::1]:80", TcpConnect, true),
            ("127.0.0.1:10250", TcpConnect, false),
            ("127.9.9.9:1", TcpConnect, false),
            ("[::1]:10250", TcpConnect, false),
            ("[::ffff:127.0.0.1]:10250", TcpConnect, false),
            ("0.0.0.0:10250", TcpConnect, false),
            ("[::]:10250", TcpConnect, false),
            ("169.254.169.254:80", TcpConnect, false),
            ("169.254.0.1:53", UdpSend, false),
            ("[::ffff:169.254.169.254]:80", TcpConnect, false),
            ("[fe80::1]:80", TcpConnect, false),
            ("[febf::1]:80", TcpConnect, false),
            ("[fec0::1]:80", TcpConnect, true),
            ("[fd00:ec2::254]:80", TcpConnect, false),
            ("[fd00:ec2::253]:80", TcpConnect, true),
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
            assert_eq!(allowed(&Network::Outgoing, &nothing, address, what), expected, "{address} {what:?}");
        }
    }

    fn denied(text: &str) -> DeniedNetworks {
        text.split(',').map(|entry| entry.parse::<DeniedNetwork>().unwrap()).collect()
    }

    #[test]
    fn what_is_denied_is_not_reached() {
        for (networks, address, expected) in [
            ("192.0.2.0/24", "192.0.2.1:80", false),
            ("192.0.2.0/24", "[::ffff:192.0.2.1]:80", false),
            ("192.0.2.0/24", "192.0.3.1:80", true),
            ("198.51.100.7,2001:db8::/32", "198.51.100.7:80", false),
            ("198.51.100.7,2001:db8::/32", "198.51.100.8:80", true),
            ("198.51.100.7,2001:db8::/32", "[2001:db8::1]:80", false),
            ("node", "192.0.2.1:80", true),
        ] {
            let address = address.parse().unwrap();
            for what in [TcpConnect, UdpSend, UdpReceive] {
                assert_eq!(
                    allowed(&Network::Outgoing, &denied(networks), address, what),
                    expected,
                    "{address}"
                );
            }
        }
    }

    /// The last word on addresses of the kernel's: whatever else is forgotten, a guest has no others.
    #[test]
    fn a_pod_has_its_own_addresses_and_nobody_elses() {
        let pod = Network::Pod(PodAddresses {
            own: vec!["10.244.1.7".parse().unwrap()],
            loopback: "127.0.28.0/22".parse().unwrap(),
            loopback_v6: "fd6b:7761:736d::7:1".parse().unwrap(),
        });
        for (address, what, expected) in [
            ("10.244.1.7:80", TcpBind, true),
            ("10.244.1.7:80", TcpListen, true),
            ("127.0.28.1:80", UdpBind, true),
            ("[fd6b:7761:736d::7:1]:80", TcpBind, true),
            ("0.0.0.0:0", TcpBind, false),
            ("[::]:0", UdpBind, false),
            ("127.0.0.1:80", TcpBind, false),
            ("10.244.1.8:80", TcpBind, false),
            ("127.0.32.1:80", TcpConnect, false),
            ("[::1]:80", TcpConnect, false),
            ("127.0.28.9:80", TcpConnect, true),
            ("10.244.1.8:80", TcpConnect, true),
            ("192.0.2.1:80", TcpConnect, true),
            ("198.51.100.1:80", TcpConnect, false),
            ("169.254.169.254:80", TcpConnect, false),
            ("224.0.0.251:5353", UdpSend, false),
            ("[ff02::fb]:5353", UdpSend, false),
            ("[fd6b:7761:736d::8:1]:80", TcpConnect, false),
            ("[fd6b:7761:736d::8:1]:80", UdpSend, false),
            ("[fd6b:7761:736d::8:1]:80", UdpReceive, false),
            ("[fd6b:7761:736d::8:1]:80", TcpAccept, false),
            ("[fd6b:7761:736d::7:1]:80", TcpAccept, true),
            ("[fd6b:7761:736e::8:1]:80", TcpConnect, true),
            ("127.0.32.1:80", UdpReceive, false),
            ("127.0.28.1:80", UdpReceive, true),
            ("127.0.32.1:80", TcpAccept, false),
            ("127.0.28.1:80", TcpAccept, true),
            ("192.0.2.1:80", TcpAccept, true),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(
                allowed(&pod, &denied("198.51.100.0/24,node"), address, what),
                expected,
                "{address} {what:?}"
            );
        }
    }

    /// What is in the pod's own namespace is the pod's; metadata services, and what is denied, are not.
    #[test]
    fn a_namespace_is_the_pods_and_the_rest_is_outside() {
        for (address, what, expected) in [
            ("0.0.0.0:80", TcpBind, true),
            ("[::]:53", UdpBind, true),
            ("127.0.0.1:80", TcpListen, true),
            ("198.51.100.1:80", TcpAccept, true),
            ("127.0.0.1:80", TcpConnect, true),
            ("127.9.9.9:80", UdpSend, true),
            ("[::1]:80", TcpConnect, true),
            ("[::ffff:127.0.0.1]:80", UdpReceive, true),
            ("0.0.0.0:80", TcpConnect, true),
            ("192.0.2.1:80", TcpConnect, true),
            ("224.0.0.251:5353", UdpSend, true),
            ("198.51.100.1:80", TcpConnect, false),
            ("198.51.100.1:80", UdpSend, false),
            ("198.51.100.1:80", UdpReceive, false),
            ("[::ffff:198.51.100.1]:80", TcpConnect, false),
            ("169.254.169.254:80", TcpConnect, false),
            ("[::ffff:169.254.169.254]:80", TcpConnect, false),
            ("[fd00:ec2::254]:80", TcpConnect, false),
            ("[fe80::1]:80", UdpSend, false),
        ] {
            let denied = denied("198.51.100.0/24,127.0.0.0/8,::1,node");
            let address = address.parse().unwrap();
            assert_eq!(allowed(&Network::Namespace, &denied, address, what), expected, "{address} {what:?}");
        }
    }

    #[test]
    fn what_is_exposed_is_listened_on_and_the_rest_is_as_for_a_client() {
        let exposed = |protocol, host_ip: Option<&str>, host_port| ExposedPort {
            protocol,
            container_port: 8080,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
        };
        let network = Network::Exposed(ExposedPorts {
            own: vec!["192.0.2.1".parse().unwrap()],
            ports: vec![exposed(Protocol::Tcp, None, 18080), exposed(Protocol::Udp, Some("192.0.2.1"), 5353)],
        });
        for (address, what, expected) in [
            ("0.0.0.0:18080", TcpBind, true),
            ("[::]:18080", TcpListen, true),
            ("192.0.2.1:5353", UdpBind, true),
            ("0.0.0.0:18080", UdpBind, false),
            ("0.0.0.0:5353", UdpBind, false),
            ("0.0.0.0:8080", TcpBind, false),
            ("127.0.0.1:18080", TcpBind, false),
            ("192.0.2.1:18080", TcpListen, false),
            ("0.0.0.0:0", TcpBind, true),
            ("0.0.0.0:40000", TcpListen, false),
            ("127.0.0.1:5000", TcpAccept, true),
            ("127.0.0.1:18080", TcpConnect, false),
            ("192.0.2.7:80", TcpConnect, true),
            ("198.51.100.1:80", TcpConnect, false),
            ("127.0.0.1:53", UdpSend, false),
            ("127.0.0.1:53", UdpReceive, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(
                allowed(&network, &denied("198.51.100.0/24"), address, what),
                expected,
                "{address} {what:?}"
            );
        }
    }

    #[test]
    fn the_hosts_addresses_are_found() {
        assert!(is_of_host("127.0.0.1".parse().unwrap()));
        assert!(!is_of_host("192.0.2.1".parse().unwrap()), "an address for documentation");
    }

    #[test]
    fn what_is_no_network_is_named() {
        for text in ["", "10.0.0.0/33", "example.com", "Node"] {
            assert_eq!(text.parse::<DeniedNetwork>(), Err(InvalidNetwork(text.to_owned())));
        }
    }

    #[test]
    fn with_the_hosts_network_everything_goes() {
        for what in [TcpBind, TcpListen, TcpAccept, TcpConnect, UdpBind, UdpSend, UdpReceive] {
            assert!(
                allowed(&Network::Host, &denied("0.0.0.0/0"), "127.0.0.1:80".parse().unwrap(), what),
                "{what:?}"
            );
        }
    }
}
