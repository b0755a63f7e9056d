//! What the network costs: a guest that sends back what it gets, against the same under `wasmtime run`; connections through a
//! Service, against those of a program behind a kube-proxy; an address; and what a node needs to know of Services.
//!
//! ```text
//!  echo      ── this process ──► guest with an address of its own, guest on the loopback, `wasmtime run` on the loopback
//!  services  ── guest ──────────────────────────────────────────► server of this process  (directly, and by a Service)
//!               this process, on a machine with a kube-proxy ────► (the same)
//!  addresses ── a network of its own ── 1,000 pods ──► netlink ── /proc/meminfo
//!  tables    ── 2,000 Services ──► a node with a guest ── /proc
//! ```
//!
//! All of it takes the rights of root.

pub(crate) mod addresses;
pub(crate) mod echo;
pub(crate) mod services;
pub(crate) mod tables;

use std::path::Path;

use anyhow::{Context as _, Result};
use kubewasm_tests::{
    cluster::{Cluster, bootstrap::let_follow_services},
    guests,
    home::Home,
    node::Node,
    progress::say,
    registry::{Registry, image::Content},
};
use serde::Serialize;

use self::{addresses::AddressCost, echo::Echoes, services::ServiceRates, tables::TableCost};
use crate::guest::Site;

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Network {
    /// A guest that sends back what it gets.
    pub(crate) echo: Echoes,
    /// Connections through a Service.
    pub(crate) services: ServiceRates,
    /// What an address costs.
    pub(crate) addresses: AddressCost,
    /// What Services cost that nobody uses.
    pub(crate) tables: TableCost,
}

/// Whether this process has the rights for it.
pub(crate) fn is_possible() -> bool {
    rustix::process::geteuid().is_root()
}

/// Measures all of it on a node whose pods have addresses of their own.
///
/// # Errors
/// When a pod does not come to run, or something does not answer.
pub(crate) async fn measure(
    home: &Home,
    cluster: &Cluster,
    registry: &Registry,
    node: &Node,
    wasmtime: Option<&Path>,
) -> Result<Network> {
    let client = cluster.client().await?;
    let module = guests::guest("sockets-0.2.c").await?;
    let image = registry.push("sockets:bench", &Content::program("sockets", module.clone())).await?.tagged;
    let site = Site { client: &client, node, image: &image };
    let_follow_services(&client, node.name()).await?;
    let file = home.folder("network")?.join("sockets.wasm");
    std::fs::write(&file, module).context("cannot write the guest")?;
    let echo = echo::measure(site, home, &file, wasmtime).await?;
    say("  connections through a Service");
    let services = services::measure(site, home, cluster).await?;
    say("  addresses");
    let addresses = tokio::task::spawn_blocking(addresses::measure).await??;
    let tables = tables::measure(site).await?;
    Ok(Network { echo, services, addresses, tables })
}
