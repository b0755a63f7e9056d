//! The Services of a cluster: at which addresses they are, and who answers there. Pure.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use kubewasm_rules::Protocol;

/// A Service of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// namespace/name.
    pub key: String,
    /// Its ClusterIPs. What is sent to another port of theirs than [`Service::rules`] name is refused.
    pub cluster_ips: Vec<IpAddr>,
    /// Where what is sent to its addresses goes.
    pub rules: Vec<ServiceRule>,
}

/// Where what is sent to some addresses of a Service goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRule {
    /// How it is sent.
    pub transport: Protocol,
    /// The Service's addresses, of one family.
    pub at: Vec<SocketAddr>,
    /// Who answers, of the same family.
    pub endpoints: Vec<SocketAddr>,
    /// Only endpoints of this node count: where there are none, others may have some ([`Refused::NoLocalEndpoint`]).
    pub node_only: bool,
    /// For how long a pod is sent to the endpoint that it was sent to before, from each time on.
    pub affinity: Option<Duration>,
    /// Who may send there; empty for everybody.
    pub sources: Vec<IpNet>,
}

/// What has changed of the Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceChanges {
    /// New and changed ones.
    pub set: Vec<Service>,
    /// Keys of those that are gone.
    pub removed: Vec<String>,
}

/// Why what is sent to an address of a Service goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody answers for the Service now: refused at once, as `REJECT` does.
    #[error("the Service has no endpoints that are ready")]
    NoEndpoints,
    /// Nobody answers at this port of the ClusterIP.
    #[error("the Service has no such port")]
    NoPort,
    /// Nobody on this node answers, and no others may: lost, as `DROP` does.
    #[error("the Service has no endpoints on this node")]
    NoLocalEndpoint,
    /// The Service takes nothing from this pod: lost, as `DROP` does.
    #[error("the Service takes nothing from this address")]
    Source,
}

impl Refused {
    /// The network would say nothing, where it otherwise refuses.
    #[must_use]
    pub fn is_lost(self) -> bool {
        matches!(self, Self::NoLocalEndpoint | Self::Source)
    }
}

impl ServiceRule {
    /// Who answers.
    pub(super) fn endpoints(&self) -> Result<&[SocketAddr], Refused> {
        match &*self.endpoints {
            [] if self.node_only => Err(Refused::NoLocalEndpoint),
            [] => Err(Refused::NoEndpoints),
            endpoints => Ok(endpoints),
        }
    }

    /// Whether it may send there.
    pub(super) fn admits(&self, client: IpAddr) -> Result<(), Refused> {
        let admits = self.sources.is_empty() || self.sources.iter().any(|source| source.contains(&client));
        if admits { Ok(()) } else { Err(Refused::Source) }
    }
}

/// All Services, by their addresses.
#[derive(Debug, Default)]
pub(super) struct ServiceTable {
    services: HashMap<Arc<str>, KnownService>,
    at: HashMap<(Protocol, SocketAddr), Vec<Candidate>>,
    /// How many Services say that a ClusterIP is theirs: two do for a moment, when one takes the place of the other.
    cluster_ips: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct KnownService {
    cluster_ips: Vec<IpAddr>,
    rules: Vec<Arc<ServiceRule>>,
}

/// A Service that says that an address is its own. Of several, the first counts.
#[derive(Debug)]
struct Candidate {
    /// It is not its ClusterIP: nobody takes that of another Service by naming it among its external ones.
    is_external: bool,
    key: Arc<str>,
    rule: Arc<ServiceRule>,
}

impl ServiceTable {
    pub(super) fn apply(&mut self, changes: ServiceChanges) {
        for key in changes.removed {
            self.remove(&key);
        }
        for service in changes.set {
            self.remove(&service.key);
            self.insert(service);
        }
    }

    /// What is to be done with what is sent there; `None`: it is no Service's.
    pub(super) fn find(
        &self,
        transport: Protocol,
        wanted: SocketAddr,
    ) -> Result<Option<Arc<ServiceRule>>, Refused> {
        // Of IPv6, without what a guest may say of flow and scope.
        let at = SocketAddr::new(wanted.ip(), wanted.port());
        match self.at.get(&(transport, at)).and_then(|candidates| candidates.first()) {
            Some(candidate) => Ok(Some(Arc::clone(&candidate.rule))),
            None if self.cluster_ips.contains_key(&wanted.ip()) => Err(Refused::NoPort),
            None => Ok(None),
        }
    }

    fn insert(&mut self, service: Service) {
        let Service { key, cluster_ips, rules } = service;
        let key: Arc<str> = key.into();
        let rules: Vec<_> = rules.into_iter().map(Arc::new).collect();
        for rule in &rules {
            for address in &rule.at {
                let is_external = !cluster_ips.contains(&address.ip());
                let candidate = Candidate { is_external, key: Arc::clone(&key), rule: Arc::clone(rule) };
                // It is almost always the only one.
                let candidates = self.at.entry((rule.transport, *address));
                let candidates = candidates.or_insert_with(|| Vec::with_capacity(1));
                candidates.push(candidate);
                candidates.sort_by(|a, b| (a.is_external, &a.key).cmp(&(b.is_external, &b.key)));
            }
        }
        for ip in &cluster_ips {
            *self.cluster_ips.entry(*ip).or_default() += 1;
        }
        self.services.insert(key, KnownService { cluster_ips, rules });
    }

    fn remove(&mut self, key: &str) {
        let Some(KnownService { cluster_ips, rules }) = self.services.remove(key) else { return };
        for rule in rules {
            for address in &rule.at {
                if let Entry::Occupied(mut known) = self.at.entry((rule.transport, *address)) {
                    known.get_mut().retain(|candidate| &*candidate.key != key);
                    if known.get().is_empty() {
                        known.remove();
                    }
                }
            }
        }
        for ip in cluster_ips {
            if let Entry::Occupied(mut known) = self.cluster_ips.entry(ip) {
                *known.get_mut() -= 1;
                if *known.get() == 0 {
                    known.remove();
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty() && self.at.is_empty() && self.cluster_ips.is_empty()
    }
}
