//! What a provider is told of the network of pods with addresses of their own, and what it tells.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use kubewasm_rules::PodRules;
use serde::{Deserialize, Serialize};

/// What a port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the node that leads to a pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// The address of the node that it is at; `None` for all of the family of `pod_ip`.
    pub host_ip: Option<IpAddr>,
    /// Its number.
    pub host_port: u16,
    /// What it carries.
    pub protocol: HostPortProtocol,
    /// Address of the pod.
    pub pod_ip: IpAddr,
    /// The pod's port.
    pub container_port: u16,
}

/// A port of the node that is a pod's, which has no other address than the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposedPort {
    /// What it carries.
    pub protocol: HostPortProtocol,
    /// What the pod's containers call it.
    pub container_port: u16,
    /// The address of the node that it is at, which may be the unspecified one of a family; `None` for all of both.
    pub host_ip: Option<IpAddr>,
    /// Its number there.
    pub host_port: u16,
}

/// What is allowed of the traffic of pods, by UID.
pub type NetworkRules = BTreeMap<String, Arc<PodRules>>;

/// What was refused of a pod's traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkRefusals {
    /// The pod.
    pub pod_uid: String,
    /// Connections and datagrams to it.
    pub ingress: u64,
    /// Connections, datagrams and name look-ups of its guests.
    pub egress: u64,
    /// The last of each kind, for people.
    pub last: Vec<String>,
}
