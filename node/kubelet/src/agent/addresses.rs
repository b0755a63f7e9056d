//! The node's own addresses, which may change while it runs.

use std::net::IpAddr;

use tokio::sync::watch;

use crate::{config::Config, node::address, pods::NodeFacts};

/// Looks whether the machine has another address, as after a new lease of DHCP, and tells the Node's status, the serving
/// certificate and pods that begin. Where none is found, the last one stays; one that was asked for stays anyway.
pub(super) async fn follow_addresses(
    config: Config,
    addresses: watch::Sender<Vec<IpAddr>>,
    facts: watch::Sender<NodeFacts>,
) {
    if config.node_ip.iter().any(|address| !address.is_unspecified()) {
        return;
    }
    loop {
        tokio::time::sleep(config.kubelet.node_status_update_frequency).await;
        let (wanted, hostname) = (config.node_ip.clone(), config.hostname.clone());
        let found = tokio::task::spawn_blocking(move || address::find(&wanted, &hostname)).await;
        let Ok(Ok(found)) = found else { continue };
        if found == *addresses.borrow() {
            continue;
        }
        tracing::info!(addresses = ?found, "the node's address has changed");
        facts.send_modify(|facts| facts.host_ips.clone_from(&found));
        addresses.send_replace(found);
    }
}
