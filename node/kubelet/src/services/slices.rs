//! The EndpointSlices of the cluster: what is needed of them, which is little. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointPort, EndpointSlice};
use kube::runtime::watcher::Event;

use super::endpoints::{Endpoint, Endpoints};
use kubewasm_rules::Protocol;

/// Label of an EndpointSlice: the name of its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// All EndpointSlices, by Service.
#[derive(Debug, Default)]
pub(super) struct Slices {
    services: HashMap<String, ServiceSlices>,
    /// Key of the Service that a slice belongs to.
    owners: HashMap<SliceId, String>,
    /// Of a list that is being read: those that it has named so far.
    listed: Option<HashSet<SliceId>>,
    /// Grows with every change.
    revision: u64,
    is_complete: bool,
}

/// Namespace and name of a slice.
type SliceId = (String, String);

/// The slices of one Service.
#[derive(Debug, Default)]
pub(super) struct ServiceSlices {
    /// That of its last change.
    pub(super) revision: u64,
    by_id: BTreeMap<SliceId, Slice>,
}

/// What is needed of an EndpointSlice.
#[derive(Debug, PartialEq, Eq)]
struct Slice {
    ports: Box<[SlicePort]>,
    endpoints: Box<[(IpAddr, Endpoint)]>,
}

#[derive(Debug, PartialEq, Eq)]
struct SlicePort {
    name: Box<str>,
    transport: Protocol,
    port: u16,
}

impl Slices {
    /// Takes note of an event of their watch. True when what is needed of them has changed.
    pub(super) fn note(&mut self, event: Event<EndpointSlice>) -> bool {
        match event {
            Event::Init => {
                self.listed = Some(HashSet::new());
                false
            }
            Event::InitApply(slice) | Event::Apply(slice) => {
                let Some(id) = id_of(&slice) else { return false };
                if let Some(listed) = &mut self.listed {
                    listed.insert(id.clone());
                }
                match service_of(&slice) {
                    Some(service) => self.set(id, service, read(slice)),
                    None => self.remove(&id),
                }
            }
            Event::Delete(slice) => id_of(&slice).is_some_and(|id| self.remove(&id)),
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let was_complete = std::mem::replace(&mut self.is_complete, true);
                let gone = self.owners.keys().filter(|id| !listed.contains(*id));
                let gone: Vec<SliceId> = gone.cloned().collect();
                for id in &gone {
                    self.remove(id);
                }
                !gone.is_empty() || !was_complete
            }
        }
    }

    /// All have been read once.
    pub(super) fn are_complete(&self) -> bool {
        self.is_complete
    }

    /// Those of a Service, by its key.
    pub(super) fn of(&self, service: &str) -> Option<&ServiceSlices> {
        self.services.get(service)
    }

    fn set(&mut self, id: SliceId, service: String, slice: Slice) -> bool {
        if self.owners.get(&id).is_some_and(|owner| *owner != service) {
            self.remove(&id);
        }
        self.owners.insert(id.clone(), service.clone());
        let slices = self.services.entry(service).or_default();
        if slices.by_id.get(&id) == Some(&slice) {
            return false;
        }
        slices.by_id.insert(id, slice);
        self.revision += 1;
        slices.revision = self.revision;
        true
    }

    fn remove(&mut self, id: &SliceId) -> bool {
        let Some(service) = self.owners.remove(id) else { return false };
        let Some(slices) = self.services.get_mut(&service) else { return false };
        slices.by_id.remove(id);
        self.revision += 1;
        slices.revision = self.revision;
        if slices.by_id.is_empty() {
            self.services.remove(&service);
        }
        true
    }
}

impl ServiceSlices {
    /// The endpoints of a port of the Service, of one family. Of two that have one address, as when a pod's is given to
    /// another while its object is still there, one that is not about to end counts.
    pub(super) fn endpoints(&self, port: &str, transport: Protocol, v4: bool) -> Endpoints<'_> {
        let mut found = Endpoints::new();
        for slice in self.by_id.values() {
            let ports = slice.ports.iter().filter(|p| *p.name == *port && p.transport == transport);
            for SlicePort { port, .. } in ports {
                for (ip, endpoint) in slice.endpoints.iter().filter(|(ip, _)| ip.is_ipv4() == v4) {
                    let address = SocketAddr::new(*ip, *port);
                    if !found.contains_key(&address) || !endpoint.is_terminating {
                        found.insert(address, endpoint);
                    }
                }
            }
        }
        found
    }
}

fn id_of(slice: &EndpointSlice) -> Option<SliceId> {
    Some((slice.metadata.namespace.clone()?, slice.metadata.name.clone()?))
}

/// Key of the Service that a slice belongs to, if it belongs to any.
fn service_of(slice: &EndpointSlice) -> Option<String> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(format!("{}/{service}", slice.metadata.namespace.as_deref()?))
}

/// What is needed of a slice.
fn read(slice: EndpointSlice) -> Slice {
    let ports = slice.ports.unwrap_or_default().into_iter().filter_map(read_port).collect();
    let endpoints = slice.endpoints.unwrap_or_default().into_iter().filter_map(read_endpoint).collect();
    Slice { ports, endpoints }
}

fn read_port(port: EndpointPort) -> Option<SlicePort> {
    let transport = transport(port.protocol.as_deref())?;
    let number = port.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)?;
    Some(SlicePort { name: port.name.unwrap_or_default().into(), transport, port: number })
}

/// That of a `protocol`; none for SCTP.
pub(super) fn transport(protocol: Option<&str>) -> Option<Protocol> {
    protocol.unwrap_or("TCP").parse().ok()
}

/// One whose address is none (of type FQDN) is left out, as kube-proxy does.
fn read_endpoint(endpoint: ApiEndpoint) -> Option<(IpAddr, Endpoint)> {
    let ip = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.unwrap_or_default();
    let hints = endpoint.hints.unwrap_or_default();
    let zones = hints.for_zones.unwrap_or_default().into_iter().map(|zone| zone.name.into());
    let nodes = hints.for_nodes.unwrap_or_default().into_iter().map(|node| node.name.into());
    let endpoint = Endpoint {
        node: endpoint.node_name.unwrap_or_default().into(),
        is_ready: conditions.ready.unwrap_or(true),
        is_serving: conditions.serving.unwrap_or(true),
        is_terminating: conditions.terminating.unwrap_or(false),
        zones: zones.collect(),
        nodes: nodes.collect(),
    };
    Some((ip, endpoint))
}
