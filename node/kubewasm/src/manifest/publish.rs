//! `--publish`: ports of this machine that lead to the pod.

use std::{fmt, net::IpAddr, net::Ipv4Addr, str::FromStr};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ContainerPort, Pod};

/// A port of the machine that leads to one of the pod: `[address:][port:]port[/tcp|/udp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    address: IpAddr,
    port: u16,
    container_port: u16,
    protocol: &'static str,
}

/// A text that is no [`Publish`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not of the form [ADDRESS:][PORT:]CONTAINER-PORT[/udp], as in 8080, 18080:8080 or 0.0.0.0:80:8080"
)]
pub(crate) struct InvalidPublish(String);

impl FromStr for Publish {
    type Err = InvalidPublish;

    fn from_str(text: &str) -> Result<Self, InvalidPublish> {
        let refusal = || InvalidPublish(text.to_owned());
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, "TCP"),
            Some((ports, protocol)) if protocol.eq_ignore_ascii_case("tcp") => (ports, "TCP"),
            Some((ports, protocol)) if protocol.eq_ignore_ascii_case("udp") => (ports, "UDP"),
            Some(_) => return Err(refusal()),
        };
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(refusal);
        let (rest, container_port) = match ports.rsplit_once(':') {
            None => (None, number(ports)?),
            Some((rest, port)) => (Some(rest), number(port)?),
        };
        let (address, port) = match rest {
            None => (None, container_port),
            Some(rest) => match rest.rsplit_once(':') {
                None => (None, number(rest)?),
                Some((address, port)) => (Some(address), number(port)?),
            },
        };
        let address = match address {
            None => IpAddr::from(Ipv4Addr::LOCALHOST),
            Some(address) => {
                let bare =
                    address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
                bare.parse().map_err(|_| refusal())?
            }
        };
        Ok(Self { address, port, container_port, protocol })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = std::net::SocketAddr::from((self.address, self.port));
        write!(f, "{at} → {}/{}", self.container_port, self.protocol)
    }
}

/// Gives the pod its ports of the machine: those of `published`, and, with `all`, one on the loopback for each container's
/// port that has none, of the same number.
///
/// # Errors
/// When there is no container to have a port.
pub(crate) fn apply(pod: &mut Pod, published: &[Publish], all: bool) -> anyhow::Result<()> {
    let Some(spec) = &mut pod.spec else { return Ok(()) };
    let (init, regular) = (spec.init_containers.iter_mut().flatten(), spec.containers.iter_mut());
    let mut lists: Vec<_> =
        regular.chain(init).map(|container| container.ports.get_or_insert_default()).collect();
    if all {
        for port in
            lists.iter_mut().flat_map(|ports| ports.iter_mut()).filter(|port| port.host_port.is_none())
        {
            port.host_port = Some(port.container_port);
            port.host_ip = Some(Ipv4Addr::LOCALHOST.to_string());
        }
    }
    for publish in published {
        let has_it = |ports: &&mut Vec<ContainerPort>| ports.iter().any(|port| is_for(port, publish));
        let index = lists.iter().position(has_it).unwrap_or(0);
        let ports = lists.get_mut(index).context("the Pod has no containers")?;
        // One that only says what the container listens on is the one that is meant.
        let told = ports.iter_mut().find(|port| is_for(port, publish) && port.host_port.is_none());
        let (host_port, host_ip) = (Some(publish.port.into()), Some(publish.address.to_string()));
        match told {
            Some(port) => (port.host_port, port.host_ip) = (host_port, host_ip),
            None => ports.push(ContainerPort {
                container_port: publish.container_port.into(),
                host_port,
                host_ip,
                protocol: Some(publish.protocol.to_owned()),
                ..ContainerPort::default()
            }),
        }
    }
    Ok(())
}

fn is_for(port: &ContainerPort, publish: &Publish) -> bool {
    let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
    port.container_port == i32::from(publish.container_port) && protocol == publish.protocol
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn publish(text: &str) -> Publish {
        text.parse().unwrap()
    }

    #[test]
    fn ports_are_on_the_loopback_unless_an_address_is_named() {
        for (text, shown) in [
            ("8080", "127.0.0.1:8080 → 8080/TCP"),
            ("18080:8080", "127.0.0.1:18080 → 8080/TCP"),
            ("0.0.0.0:80:8080/tcp", "0.0.0.0:80 → 8080/TCP"),
            ("[::1]:5353:53/UDP", "[::1]:5353 → 53/UDP"),
        ] {
            assert_eq!(publish(text).to_string(), shown, "{text}");
        }
        for text in ["", "0", "a:1", "1:2:3:x", "host:1:2", "1:", "70000", "1/sctp", "/udp"] {
            let error = text.parse::<Publish>().map_err(|error| error.to_string()).unwrap_err();
            assert!(error.contains("is not of the form"), "{text}: {error}");
        }
    }

    #[test]
    fn the_container_that_names_a_port_has_it() {
        let mut pod: Pod = serde_json::from_value(json!({ "spec": { "containers": [
            { "name": "a" },
            { "name": "b", "ports": [{ "containerPort": 80 }, { "containerPort": 53, "protocol": "UDP" }] },
        ] } }))
        .unwrap();
        apply(&mut pod, &[publish("8080:80"), publish("8081:80"), publish("9000")], true).unwrap();
        let ports = |index: usize| {
            let container = &pod.spec.as_ref().unwrap().containers[index];
            let told = container.ports.iter().flatten();
            told.map(|port| (port.container_port, port.host_port.unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(ports(0), [(9000, 9000)]);
        assert_eq!(ports(1), [(80, 80), (53, 53), (80, 8080), (80, 8081)]);
    }
}
