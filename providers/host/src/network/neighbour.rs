//! Where somebody connects who is in a pod: to its loopback, and else to its address. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    Network,
    ports::{PodPorts, Transport},
};

/// A way to a port of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPath {
    /// Where the connection comes from; `None` where the kernel chooses.
    pub from: Option<IpAddr>,
    /// Where it goes.
    pub to: SocketAddr,
}

impl PortPath {
    /// The ways to a TCP port of a pod whose guests have this network and listen on these ports, the likeliest first. All are
    /// addresses that are the pod's: where a pod shares the node's network and has no port there, there is none, because who
    /// answers would be anybody.
    #[must_use]
    pub fn to(port: u16, network: &Network, listening: &PodPorts) -> Vec<Self> {
        let loopbacks = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        match network {
            Network::Outgoing => Vec::new(),
            Network::Host | Network::Namespace => {
                loopbacks.map(|ip| Self { from: None, to: SocketAddr::new(ip, port) }).into_iter().collect()
            }
            Network::Exposed(exposed) => {
                let places = exposed.listeners(port).flat_map(|place| {
                    let near = match place.ip() {
                        IpAddr::V4(ip) if ip.is_unspecified() => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
                        IpAddr::V6(ip) if ip.is_unspecified() => loopbacks.to_vec(),
                        ip => vec![ip],
                    };
                    near.into_iter().map(move |ip| SocketAddr::new(ip, place.port()))
                });
                let own = places.filter(|place| listening.listens_at(*place));
                own.map(|to| Self { from: None, to }).collect()
            }
            Network::Pod(addresses) => {
                let mut ways = Vec::new();
                for loopback in loopbacks {
                    let wanted = SocketAddr::new(loopback, port);
                    let on_all = |port| listening.has(Transport { tcp: true, v4: loopback.is_ipv4() }, port);
                    let from = addresses.source(wanted).map(|from| from.ip());
                    let near = addresses.destination(wanted, on_all).map(|to| Self { from, to });
                    let own = addresses.own_like(loopback).map(|own| SocketAddr::new(own, port));
                    let own = own.filter(|own| near.is_none_or(|near| near.to != *own));
                    ways.extend(near);
                    ways.extend(own.map(|to| Self { from: Some(to.ip()), to }));
                }
                ways
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kubewasm_rules::Protocol;

    use super::*;
    use crate::network::{ExposedPort, ExposedPorts, PodAddresses};

    fn ways(network: &Network, listening: &PodPorts) -> Vec<String> {
        let text = |way: PortPath| match way.from {
            Some(from) => format!("{from}>{}", way.to),
            None => way.to.to_string(),
        };
        PortPath::to(80, network, listening).into_iter().map(text).collect()
    }

    #[test]
    fn a_pod_with_addresses_is_reached_by_its_own() {
        let network = Network::Pod(PodAddresses {
            own: vec!["10.0.0.7".parse().unwrap()],
            loopback: "127.0.9.0/24".parse().unwrap(),
            loopback_v6: "fd00::9".parse().unwrap(),
        });
        let listening = Arc::new(PodPorts::default());
        let local = ["127.0.9.1>127.0.9.1:80", "10.0.0.7>10.0.0.7:80", "fd00::9>[fd00::9]:80"];
        assert_eq!(ways(&network, &listening), local);
        let _open = listening.open(Transport { tcp: true, v4: true }, 80);
        assert_eq!(ways(&network, &listening), ["127.0.9.1>10.0.0.7:80", "fd00::9>[fd00::9]:80"]);
    }

    #[test]
    fn a_pod_on_the_node_is_reached_where_it_listens_and_nowhere_else() {
        let listening = Arc::new(PodPorts::default());
        assert_eq!(ways(&Network::Outgoing, &listening), Vec::<String>::new());
        assert_eq!(ways(&Network::Host, &listening), ["127.0.0.1:80", "[::1]:80"]);
        let port = ExposedPort {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_ip: Some(Ipv4Addr::UNSPECIFIED.into()),
            host_port: 8080,
        };
        let network = Network::Exposed(ExposedPorts { own: Vec::new(), ports: vec![port] });
        assert_eq!(ways(&network, &listening), Vec::<String>::new());
        let _open = listening.listening(Protocol::Tcp, "0.0.0.0:8080".parse().unwrap());
        assert_eq!(ways(&network, &listening), ["127.0.0.1:8080"]);
    }
}
