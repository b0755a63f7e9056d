//! Addresses of pods, in the network namespaces of the workers that host them.
//!
//! ```text
//!   node's namespace                         namespace of a domain (its workers', and nobody else's)
//!   ┌──────────────────────────────┐         ┌───────────────────────────────────────┐
//!   │ unreachable <podCIDR>        │  veth   │ eth0   default via 169.254.1.1        │
//!   │ <pod> via 169.254.1.2 dev kw… ├─────────┤ local <pod> dev lo                    │
//!   │ neighbour 169.254.1.2 (fixed)│         │ rules: what pods send leaves by eth0  │
//!   └──────────────────────────────┘         └───────────────────────────────────────┘
//! ```
//!
//! A *domain* is what shares a network namespace: the workers of one group, of whatever age. Its namespace is made by
//! the agent, lives for as long as the agent or a worker of it does, and outlives each of them: a worker that takes the
//! place of a dead one finds the addresses where they were. A pod's address costs two routes, one on each side, and no
//! interface, namespace or neighbour of its own.
//!
//! What pods send beyond the cluster comes from the node's address ([`filter`], by the program `nft`), and ports of the node lead
//! to pods ([`host_ports`], by the same, and [`conntrack`] for what was there before). The rest
//! is netlink's work ([`rtnetlink`]), by the agent alone. [`names`] and [`routes`] are pure; [`namespace`] enters
//! namespaces, [`domain`] sets one up, [`sockets`] ends what a pod that is gone has left open. [`pinned`] makes namespaces
//! of another kind: for one pod each, mounted on a file, with a network that others lay.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod addresses;
mod conntrack;
mod domain;
mod error;
mod filter;
mod host_ports;
pub mod loopback;
mod names;
mod namespace;
mod network;
pub mod pinned;
mod routes;
mod sockets;
mod sysctl;

pub use addresses::node_addresses;
pub use error::NetworkError;
pub use host_ports::{HostPort, Protocol};
pub use loopback::Loopback;
pub use namespace::Namespace;
pub use network::{LivingWorker, PodNetwork};
