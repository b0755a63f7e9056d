//! What the provider has to do with pods' own addresses.

use std::{net::IpAddr, path::Path};

use ipnet::IpNet;
use kubewasm_host::DeniedNetworks;
use kubewasm_kubelet::runtime::{ContainerSpec, StartError};
use kubewasm_network::{NetworkError, PodNetwork};

/// Whether a container's pod has addresses of its own.
pub(super) fn is_own(spec: &ContainerSpec) -> bool {
    spec.network_slot.is_some() && !spec.host_network
}

/// What tells the node with this directory of workers from others on this machine.
pub(super) fn name_of(dir: &Path) -> String {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()).display().to_string()
}

/// What a container does not reach. From a network namespace of its own, a worker cannot tell which addresses are this
/// machine's: they are named.
pub(super) async fn denied(
    denied: &DeniedNetworks,
    is_elsewhere: bool,
) -> Result<DeniedNetworks, StartError> {
    let mut denied = denied.clone();
    if denied.host && is_elsewhere {
        let addresses = kubewasm_network::node_addresses().await;
        let addresses = addresses.map_err(|error| StartError::Run(error.into()))?;
        denied.networks.extend(addresses.into_iter().map(IpNet::from));
    }
    Ok(denied)
}

/// Says which ranges pods have addresses of, once what is not in use leads nowhere any more.
pub(super) async fn set_ranges(
    network: &PodNetwork,
    ranges: &[IpNet],
    known: &[IpNet],
    in_use: &[IpAddr],
) -> Result<(), NetworkError> {
    let attached = network.attached().await.into_iter();
    let stale: Vec<_> = attached.filter(|address| !in_use.contains(address)).collect();
    network.detach(&stale, None).await?;
    network.set_ranges(ranges, known).await
}
