//! What an address costs: pods are given theirs in a network of its own, in which nothing else happens.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use kubewasm_network::{Namespace, PodNetwork};
use serde::Serialize;

/// Pods whose addresses are timed.
pub(crate) const PODS: u16 = 1_000;
/// Pods whose addresses are weighed: enough to tell them from what else the kernel does.
const WEIGHED: u16 = 20_000;
/// The network's name; it is gone when its namespace is.
const NODE: &str = "bench-addresses";
const DOMAIN: &str = "bench";

/// What an address costs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct AddressCost {
    /// To give a pod an address of IPv4, in microseconds.
    pub(crate) v4_us: f64,
    /// To give a pod one of each family.
    pub(crate) both_us: f64,
    /// To take one of IPv4 back.
    pub(crate) back_us: f64,
    /// To take one of each family back, where all pods go at once.
    pub(crate) together_us: f64,
    /// Kernel memory of one of IPv4, in bytes.
    pub(crate) v4_bytes: f64,
}

/// Measures it. Blocks.
pub(super) fn measure() -> Result<AddressCost> {
    let node = Namespace::create().context("cannot make a network namespace")?;
    Ok(node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(look()).map_err(io::Error::other)
    })?)
}

fn v4(pod: u16) -> IpAddr {
    let [high, low] = pod.to_be_bytes();
    Ipv4Addr::new(10, 250, high, low).into()
}

fn v6(pod: u16) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0x10, 0x250, 0, 0, 0, 0, pod).into()
}

async fn look() -> Result<AddressCost> {
    have_address().await?;
    let (network, _) = PodNetwork::open(NODE, Vec::new()).await?;
    network.enter(DOMAIN, "bench.1").await?;
    let ranges = ["10.250.0.0/16".parse()?, "fd00:10:250::/64".parse()?];
    network.set_ranges(&ranges, &[]).await?;
    let v4_us = attach(&network, PODS, |pod| vec![v4(pod)]).await?;
    let back_us = detach(&network, PODS, |pod| vec![v4(pod)]).await?;
    let both_us = attach(&network, PODS, |pod| vec![v4(pod), v6(pod)]).await?;
    let together_us = detach_together(&network).await?;
    let before = slab_bytes()?;
    attach(&network, WEIGHED, |pod| vec![v4(pod)]).await?;
    let grown = slab_bytes()?.saturating_sub(before);
    Ok(AddressCost { v4_us, both_us, back_us, together_us, v4_bytes: grown as f64 / f64::from(WEIGHED) })
}

/// Microseconds per pod.
async fn attach(network: &PodNetwork, pods: u16, addresses: fn(u16) -> Vec<IpAddr>) -> Result<f64> {
    let start = Instant::now();
    for pod in 1..=pods {
        network.attach(DOMAIN, &addresses(pod)).await?;
    }
    Ok(per_pod(start.elapsed(), pods))
}

/// Microseconds per pod.
async fn detach(network: &PodNetwork, pods: u16, addresses: fn(u16) -> Vec<IpAddr>) -> Result<f64> {
    let start = Instant::now();
    for pod in 1..=pods {
        network.detach(&addresses(pod), None).await?;
    }
    Ok(per_pod(start.elapsed(), pods))
}

/// Microseconds per pod.
async fn detach_together(network: &PodNetwork) -> Result<f64> {
    let start = Instant::now();
    let pods = (1..=PODS).map(async |pod| network.detach(&[v4(pod), v6(pod)], None).await);
    futures::future::try_join_all(pods).await?;
    Ok(per_pod(start.elapsed(), PODS))
}

fn per_pod(time: Duration, pods: u16) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(pods)
}

/// Gives the namespace an address, as every node has one: the kernel takes no next hop before there is any.
async fn have_address() -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let up = rtnetlink::LinkUnspec::new_with_name("lo").up().build();
    handle.link().set(up).execute().await?;
    handle.address().add(1, Ipv4Addr::new(192, 0, 2, 1).into(), 32).execute().await?;
    Ok(())
}

/// What the kernel has allocated for its own objects.
fn slab_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let slab = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kib = slab.and_then(|value| value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok());
    Ok(kib.context("/proc/meminfo does not tell the slab")? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_addresses_of_its_own() {
        assert_eq!(v4(258).to_string(), "10.250.1.2");
        assert_eq!(v6(258).to_string(), "fd00:10:250::102");
        assert!(slab_bytes().unwrap() > 0);
    }
}
