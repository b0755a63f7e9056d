//! Ports of the node that lead to pods with addresses of their own: `hostPort`.
//!
//! What a pod has asked for is in its record ([`State::host_ports`](super::lifecycle::State::host_ports)) before its ports
//! lead to it. So an agent that comes back knows them all at once, and none is closed for a moment. They are closed before
//! the pod's addresses are anybody else's.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::Mutex;

use crate::runtime::{HostPort, HostPortProtocol, Runtime, RuntimeError, SandboxPort};

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

/// The host ports of a pod that has these addresses: those of its containers, and of its sidecars.
pub(super) fn of(pod: &Pod, addresses: &[IpAddr]) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let mut found = Vec::new();
    for port in asked_by(spec.containers.iter().chain(sidecars)) {
        let SandboxPort { host_port, container_port, .. } = port;
        let protocol = match &*port.protocol {
            "udp" => HostPortProtocol::Udp,
            "sctp" => HostPortProtocol::Sctp,
            _ => HostPortProtocol::Tcp,
        };
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
}
