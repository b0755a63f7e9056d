//! The Services of a cluster, as a provider needs them that takes connections to where they are answered.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use kubewasm_rules::Protocol;

/// All Services that pods of this node can reach. Cheap to clone where little has changed: entries are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable {
    /// By namespace/name.
    pub services: BTreeMap<String, Arc<ServiceRoutes>>,
}

/// A Service: where it is, and who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRoutes {
    /// Its ClusterIPs. What is sent to another port of theirs than those of the routes is refused.
    pub cluster_ips: Vec<IpAddr>,
    /// For each port and family, at the ClusterIPs and at the other addresses.
    pub routes: Vec<ServiceRoute>,
}

/// Where what is sent to some addresses of a Service goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRoute {
    /// How it is sent. Not by SCTP, which WASI has not.
    pub transport: Protocol,
    /// The addresses of the Service, all of one family.
    pub at: Vec<SocketAddr>,
    /// Who answers, one of which is chosen for each connection; of the same family. None: refused at once.
    pub endpoints: Vec<SocketAddr>,
    /// Only endpoints of this node count (`internalTrafficPolicy: Local`): where there are none, what is sent is lost, as
    /// others may have some.
    pub node_only: bool,
    /// For how long a pod goes to the endpoint that it went to before (`sessionAffinity: ClientIP`).
    pub affinity: Option<Duration>,
    /// Who may send there (`loadBalancerSourceRanges`); empty for everybody.
    pub sources: Vec<IpNet>,
}
