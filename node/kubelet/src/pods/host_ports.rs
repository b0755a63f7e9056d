//! Ports of the node that lead to pods with addresses of their own, or that are those of pods without: `hostPort`.
//!
//! What a pod has asked for is in its record ([`State::host_ports`](super::lifecycle::State::host_ports)) before its ports
//! lead to it. So an agent that comes back knows them all at once, and none is closed for a moment. They are closed before
//! the pod's addresses are anybody else's.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::Mutex;

use super::sidecar;
use crate::runtime::{ExposedPort, HostPort, HostPortProtocol, Runtime, RuntimeError, SandboxPort};

/// The host ports of all pods of a node.
#[derive(Debug, Default)]
pub struct HostPorts(Mutex<BTreeMap<String, Vec<HostPort>>>);

impl HostPorts {
    /// Those of the pods that an earlier agent has recorded, by UID.
    ///
    /// # Errors
    /// What the provider says; then nothing is known yet.
    pub(crate) async fn restore(
        &self,
        runtime: &dyn Runtime,
        recorded: BTreeMap<String, Vec<HostPort>>,
    ) -> Result<(), RuntimeError> {
        let mut all = self.0.lock().await;
        runtime.set_host_ports(&list(&recorded)).await?;
        *all = recorded;
        Ok(())
    }

    /// Has ports of the node lead to a pod, and to nothing else of it.
    ///
    /// # Errors
    /// What the provider says; then all is as it was.
    pub(super) async fn open(
        &self,
        runtime: &dyn Runtime,
        uid: &str,
        ports: &[HostPort],
    ) -> Result<(), RuntimeError> {
        let mut all = self.0.lock().await;
        if all.get(uid).map_or(&[][..], Vec::as_slice) == ports {
            return Ok(());
        }
        let mut next = all.clone();
        if ports.is_empty() {
            next.remove(uid);
        } else {
            next.insert(uid.to_owned(), ports.to_vec());
        }
        runtime.set_host_ports(&list(&next)).await?;
        *all = next;
        Ok(())
    }

    /// Has no port of the node lead to a pod any more.
    ///
    /// # Errors
    /// What the provider says; then they do.
    pub(super) async fn close(&self, runtime: &dyn Runtime, uid: &str) -> Result<(), RuntimeError> {
        self.open(runtime, uid, &[]).await
    }
}

fn list(all: &BTreeMap<String, Vec<HostPort>>) -> Vec<HostPort> {
    all.values().flatten().copied().collect()
}

/// The ports of the node that containers ask for.
pub(super) fn asked_by<'a>(
    containers: impl Iterator<Item = &'a Container>,
) -> impl Iterator<Item = SandboxPort> {
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        Some(SandboxPort {
            host_port: port.host_port.and_then(number)?,
            container_port: number(port.container_port)?,
            protocol: port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
    })
}

/// The ports of the node that a pod asks for: those of its containers, and of its sidecars.
fn asked_by_pod(pod: &Pod) -> impl Iterator<Item = SandboxPort> {
    asked_by(pod.spec.iter().flat_map(sidecar::staying))
}

fn protocol(port: &SandboxPort) -> HostPortProtocol {
    match &*port.protocol {
        "udp" => HostPortProtocol::Udp,
        "sctp" => HostPortProtocol::Sctp,
        _ => HostPortProtocol::Tcp,
    }
}

/// The host ports of a pod that has these addresses.
pub(super) fn of(pod: &Pod, addresses: &[IpAddr]) -> Vec<HostPort> {
    let mut found = Vec::new();
    for port in asked_by_pod(pod) {
        let SandboxPort { host_port, container_port, .. } = port;
        let protocol = protocol(&port);
        let host_ip = port.host_ip.parse().ok();
        for pod_ip in addresses {
            let fits = host_ip.is_none_or(|ip: IpAddr| ip.is_ipv4() == pod_ip.is_ipv4());
            if fits {
                let host_ip = host_ip.filter(|ip| !ip.is_unspecified());
                found.push(HostPort { host_ip, host_port, protocol, pod_ip: *pod_ip, container_port });
            }
        }
    }
    found
}

/// The ports of the node that are those of a pod without addresses of its own, each once. One at something that is no
/// address is at none.
pub(super) fn exposed(pod: &Pod) -> Vec<ExposedPort> {
    let mut found: Vec<ExposedPort> = Vec::new();
    for port in asked_by_pod(pod) {
        let host_ip = match &*port.host_ip {
            "" => None,
            ip => match ip.parse() {
                Ok(ip) => Some(ip),
                Err(_) => continue,
            },
        };
        let SandboxPort { host_port, container_port, .. } = port;
        let exposed = ExposedPort { protocol: protocol(&port), container_port, host_ip, host_port };
        if !found.contains(&exposed) {
            found.push(exposed);
        }
    }
    found
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_address_of_a_pod_has_its_ports() {
        let spec = json!({
            "containers": [
                { "name": "a", "ports": [
                    { "containerPort": 80, "hostPort": 8080 },
                    { "containerPort": 81 },
                    { "containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1" },
                    { "containerPort": 9, "hostPort": 9, "protocol": "SCTP", "hostIP": "::" },
                ]},
            ],
            "initContainers": [
                { "name": "once", "ports": [{ "containerPort": 1, "hostPort": 1 }] },
                { "name": "sidecar", "restartPolicy": "Always", "ports": [
                    { "containerPort": 2, "hostPort": 2, "hostIP": "0.0.0.0" },
                ]},
            ],
        });
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        let addresses = ["10.244.1.2", "fd00:10::2"].map(|ip| ip.parse().unwrap());
        let found: Vec<_> = of(&pod, &addresses)
            .iter()
            .map(|port| {
                let node = port.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
                format!(
                    "{node} {} {:?} {} {}",
                    port.host_port, port.protocol, port.pod_ip, port.container_port
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                " 8080 Tcp 10.244.1.2 80",
                " 8080 Tcp fd00:10::2 80",
                "192.0.2.1 53 Udp 10.244.1.2 53",
                " 9 Sctp fd00:10::2 9",
                " 2 Tcp 10.244.1.2 2",
            ]
        );
    }

    #[test]
    fn a_pod_without_addresses_has_ports_of_the_node_itself() {
        let spec = json!({
            "containers": [{ "name": "a", "ports": [
                { "containerPort": 80, "hostPort": 8080 },
                { "containerPort": 80, "hostPort": 8080, "name": "again" },
                { "containerPort": 80, "hostPort": 8081, "hostIP": "127.0.0.1" },
                { "containerPort": 81 },
                { "containerPort": 82, "hostPort": 82, "hostIP": "everywhere" },
                { "containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "::" },
            ]}],
            "initContainers": [
                { "name": "once", "ports": [{ "containerPort": 1, "hostPort": 1 }] },
                { "name": "sidecar", "restartPolicy": "Always", "ports": [{ "containerPort": 2, "hostPort": 2 }]},
            ],
        });
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        let found: Vec<_> = exposed(&pod)
            .iter()
            .map(|port| {
                let ip = port.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
                format!("{:?} {} {ip} {}", port.protocol, port.container_port, port.host_port)
            })
            .collect();
        assert_eq!(found, ["Tcp 80  8080", "Tcp 80 127.0.0.1 8081", "Udp 53 :: 53", "Tcp 2  2"]);
    }
}
