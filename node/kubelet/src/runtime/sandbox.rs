//! Networks of pods that a provider makes, each before anything of its pod begins.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::RuntimeCause;

/// A pod that is to have a network of its own. Its `Debug` shows no annotations: they are not for everybody.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PodSandbox {
    /// Pod UID.
    pub pod_uid: String,
    /// Pod namespace.
    pub pod_namespace: String,
    /// Pod name.
    pub pod_name: String,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
    /// Ports of the node that lead to the pod.
    pub host_ports: Vec<SandboxPort>,
    /// What the pod may receive, in bits each second; 0 is no limit.
    pub ingress_bandwidth: u64,
    /// What it may send, in bits each second; 0 is no limit.
    pub egress_bandwidth: u64,
    /// Addresses by which the pod resolves names.
    pub dns_servers: Vec<String>,
    /// Domains in which it looks for them.
    pub dns_searches: Vec<String>,
    /// Options of its resolver, as in `resolv.conf`.
    pub dns_options: Vec<String>,
}

impl fmt::Debug for PodSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodSandbox")
            .field("pod_uid", &self.pod_uid)
            .field("pod_namespace", &self.pod_namespace)
            .field("pod_name", &self.pod_name)
            .field("host_ports", &self.host_ports)
            .finish_non_exhaustive()
    }
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SandboxPort {
    /// The node's.
    pub host_port: u16,
    /// The pod's.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The node's address; empty for all of them.
    pub host_ip: String,
}

/// The network that a pod has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxAddresses {
    /// Its addresses: one, or one of each family, the first of them `status.podIP`.
    pub addresses: Vec<IpAddr>,
    /// It is another one than the pod had, which was lost: nothing runs in that any more.
    pub was_lost: bool,
}

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No pod gets one at present: `NetworkNotReady`. The cause is what a container runtime says of it.
    #[error(transparent)]
    NotReady(RuntimeCause),
    /// This one's could not be made: `FailedCreatePodSandBox`.
    #[error(transparent)]
    Failed(RuntimeCause),
}
