//! The Services of the cluster, for pods with addresses of their own: the agent's part of what kube-proxy does elsewhere.
//!
//! ```text
//!   Services ──── mirror, which the environment of containers is made from, too ─┐
//!   EndpointSlices ─► [slices] (what is needed of them) ─────────────────────────┼─► [table] ─► Runtime::set_services
//!   Node (its zone) ─────────────────────────────────────────────────────────────┘      │
//!                                                                     [routes], [endpoints] (pure)
//! ```
//!
//! Whose endpoints count for what is upstream's `pkg/proxy/topology.go`, where a Service is `pkg/proxy/serviceport.go`: both
//! for a packet that comes from a pod, which is all that there is here. To addresses of other nodes, connections go as they
//! are, as kube-proxy has it: who serves NodePorts there answers.

mod endpoints;
mod follower;
mod routes;
mod slices;
mod table;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, str::FromStr};

pub(crate) use follower::{Follower, FollowerParts};

/// Whether pods reach Services without a kube-proxy on this machine: `--services`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServicesMode {
    /// Where pods have addresses of their own, and this node may read EndpointSlices.
    #[default]
    Auto,
    /// What is sent to a Service's address is left to this machine.
    Off,
}

/// A text that is no [`ServicesMode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither auto nor off")]
pub struct InvalidServicesMode(String);

impl FromStr for ServicesMode {
    type Err = InvalidServicesMode;

    fn from_str(text: &str) -> Result<Self, InvalidServicesMode> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            other => Err(InvalidServicesMode(other.to_owned())),
        }
    }
}

impl fmt::Display for ServicesMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
        })
    }
}

/// Where all of this is seen from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Viewpoint {
    /// Name of the Node.
    pub(crate) node: String,
    /// Its label `topology.kubernetes.io/zone`; empty for none.
    pub(crate) zone: String,
    /// Its addresses, which NodePorts are at.
    pub(crate) addresses: Vec<IpAddr>,
}
