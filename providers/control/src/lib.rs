//! What controllers and their servers have in common: following a cluster, leader election, TLS, connections.
//!
//! ```text
//!   collections of the API ─[follow]─► Followed, a watch channel       Lease ◄─[elector]─► leading: a watch channel
//!   what a replica says ─[replicas]─► a Lease of its own ─► the leader
//!   files ─[tls_files]─► ServerConfig [tls], a watch channel ─► Listener [listener] ─► requests, each with its Peer
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod connections;
pub mod elector;
pub mod explain;
pub mod follow;
pub mod listener;
pub mod replicas;
pub mod tls;
pub mod tls_files;
