//! Which endpoints of a Service count, after upstream's `pkg/proxy/topology.go`. Pure.

use std::{collections::BTreeMap, net::SocketAddr};

use super::Viewpoint;

/// Who answers for a Service, as far as that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Name of its Node; empty where none is told.
    pub(super) node: Box<str>,
    /// It takes connections, and is not about to end; of a Service that publishes all of its addresses, always.
    pub(super) is_ready: bool,
    /// It takes connections.
    pub(super) is_serving: bool,
    /// It is about to end.
    pub(super) is_terminating: bool,
    /// Zones that it is for; none where there is no such hint.
    pub(super) zones: Box<[Box<str>]>,
    /// Nodes that it is for; none where there is no such hint.
    pub(super) nodes: Box<[Box<str>]>,
}

impl Endpoint {
    /// It is about to end and still takes connections, for when there is nobody else.
    fn is_last_resort(&self) -> bool {
        self.is_serving && self.is_terminating
    }
}

/// All endpoints of one port of a Service, of one family.
pub(super) type Endpoints<'a> = BTreeMap<SocketAddr, &'a Endpoint>;

/// Which endpoints' hints are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    Anywhere,
    SameZone,
    SameNode,
}

/// Where what may go anywhere in the cluster goes: to those that are ready, as their hints say; to those that are about to
/// end where none is.
pub(super) fn of_cluster(endpoints: &Endpoints<'_>, here: &Viewpoint) -> Vec<SocketAddr> {
    let topology = topology(endpoints, here);
    let is_for_here = |endpoint: &Endpoint| match topology {
        Topology::Anywhere => true,
        Topology::SameZone => has(&endpoint.zones, &here.zone),
        Topology::SameNode => has(&endpoint.nodes, &here.node),
    };
    let ready = those(endpoints, |endpoint| endpoint.is_ready && is_for_here(endpoint));
    if ready.is_empty() { those(endpoints, Endpoint::is_last_resort) } else { ready }
}

/// Where what stays on this node goes.
pub(super) fn of_node(endpoints: &Endpoints<'_>, here: &Viewpoint) -> Vec<SocketAddr> {
    let is_here = |endpoint: &Endpoint| !here.node.is_empty() && *endpoint.node == *here.node;
    let ready = those(endpoints, |endpoint| endpoint.is_ready && is_here(endpoint));
    if ready.is_empty() {
        those(endpoints, |endpoint| endpoint.is_last_resort() && is_here(endpoint))
    } else {
        ready
    }
}

/// Whether anybody in the cluster answers.
pub(super) fn are_there(endpoints: &Endpoints<'_>) -> bool {
    endpoints.values().any(|endpoint| endpoint.is_ready || endpoint.is_last_resort())
}

fn those(endpoints: &Endpoints<'_>, are: impl Fn(&Endpoint) -> bool) -> Vec<SocketAddr> {
    endpoints.iter().filter(|(_, endpoint)| are(endpoint)).map(|(address, _)| *address).collect()
}

/// Hints are followed where every endpoint that is ready has one, and one is for here.
fn topology(endpoints: &Endpoints<'_>, here: &Viewpoint) -> Topology {
    let is_followed = |hints: fn(&Endpoint) -> &[Box<str>], name: &str| {
        let mut ready =
            endpoints.values().filter(|endpoint| endpoint.is_ready).map(|endpoint| hints(endpoint));
        ready.clone().all(|hints| !hints.is_empty()) && ready.any(|hints| has(hints, name))
    };
    if is_followed(|endpoint| &endpoint.nodes, &here.node) {
        Topology::SameNode
    } else if is_followed(|endpoint| &endpoint.zones, &here.zone) {
        Topology::SameZone
    } else {
        Topology::Anywhere
    }
}

fn has(hints: &[Box<str>], name: &str) -> bool {
    hints.iter().any(|hint| **hint == *name)
}
