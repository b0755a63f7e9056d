//! Ports of the node that are a pod's, on the wire.

use std::net::IpAddr;

use kubewasm_host::{ExposedPort, ExposedPorts};

use super::{WireError, wire};

impl From<&ExposedPorts> for wire::ExposedPorts {
    fn from(ExposedPorts { own, ports }: &ExposedPorts) -> Self {
        Self {
            own: own.iter().map(ToString::to_string).collect(),
            ports: ports.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::ExposedPorts> for ExposedPorts {
    type Error = WireError;

    fn try_from(wire::ExposedPorts { own, ports }: wire::ExposedPorts) -> Result<Self, WireError> {
        let own = own.iter().map(|ip| ip.parse()).collect::<Result<_, _>>();
        Ok(Self {
            own: own.map_err(|_| WireError("an address of the pod is none"))?,
            ports: ports.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&ExposedPort> for wire::ExposedPort {
    fn from(port: &ExposedPort) -> Self {
        Self {
            transport: wire::Transport::from(port.protocol).into(),
            container_port: port.container_port.into(),
            host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            host_port: port.host_port.into(),
        }
    }
}

impl TryFrom<wire::ExposedPort> for ExposedPort {
    type Error = WireError;

    fn try_from(port: wire::ExposedPort) -> Result<Self, WireError> {
        let missing = WireError("what a port carries is missing or unknown");
        let protocol = port.transport().protocol().ok_or(missing)?;
        let number = |number: u32| {
            let number = u16::try_from(number).ok().filter(|number| *number > 0);
            number.ok_or(WireError("a port of the node, or the one that it stands for, is none"))
        };
        let host_ip = Some(port.host_ip.as_str()).filter(|ip| !ip.is_empty());
        let host_ip = host_ip.map(str::parse::<IpAddr>).transpose();
        Ok(Self {
            protocol,
            container_port: number(port.container_port)?,
            host_ip: host_ip.map_err(|_| WireError("the address of a port of the node is none"))?,
            host_port: number(port.host_port)?,
        })
    }
}
