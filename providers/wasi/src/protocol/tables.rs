//! Updates of the tables of the network, and their parts on the wire.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use kubewasm_host::network::{Service, ServiceChanges, ServiceRule, TablesUpdate};
use kubewasm_kubelet::runtime::{ServiceRoute, ServiceRoutes};
use prost::Message as _;

use super::{
    WireError,
    rules::{self, OutgoingRules},
    wire,
};

/// Bytes that a part comes to before another one is begun. A message may have 4 MiB.
const PART: usize = 1 << 20;
/// Bytes that one Service may come to: some 80,000 endpoints. etcd keeps objects of 1.5 MiB.
const LARGEST_SERVICE: usize = 2 << 20;

/// An update of a worker's tables, as its agent has it.
#[derive(Debug, Default)]
pub(crate) struct OutgoingUpdate {
    /// See [`TablesUpdate::base`].
    pub(crate) base: Option<u64>,
    /// See [`TablesUpdate::revision`].
    pub(crate) revision: u64,
    /// Services that are set, with their keys.
    pub(crate) services: Vec<(String, std::sync::Arc<ServiceRoutes>)>,
    /// Keys of Services that are removed.
    pub(crate) removed_services: Vec<String>,
    /// What has changed of rules; `None` before anything is known of them.
    pub(crate) rules: Option<OutgoingRules>,
}

impl OutgoingUpdate {
    /// The messages of one stream: at least one, none of them too large.
    pub(crate) fn parts(&self, session: &str) -> Vec<wire::SetNetworkRequest> {
        let empty = || wire::SetNetworkRequest {
            session: session.to_owned(),
            base: self.base.unwrap_or(0),
            revision: self.revision,
            services: None,
            // That there are none is something to say, too.
            rules: self.rules.as_ref().map(|_| wire::RuleChanges::default()),
        };
        let (mut parts, mut part, mut size) = (Vec::new(), empty(), 0);
        let mut add = |length: usize, put: &mut dyn FnMut(&mut wire::SetNetworkRequest)| {
            if size > 0 && size + length > PART {
                parts.push(std::mem::replace(&mut part, empty()));
                size = 0;
            }
            size += length;
            put(&mut part);
        };
        for key in &self.removed_services {
            add(key.len(), &mut |part| {
                part.services.get_or_insert_default().removed.push(key.clone());
            });
        }
        for (key, routes) in &self.services {
            let service = service(key, routes);
            let length = service.encoded_len();
            if length > LARGEST_SERVICE {
                tracing::error!(service = key, length, "a Service has too many endpoints, and is left out");
                let removed = |part: &mut wire::SetNetworkRequest| {
                    part.services.get_or_insert_default().removed.push(key.clone());
                };
                add(key.len(), &mut { removed });
                continue;
            }
            let mut service = Some(service);
            add(length, &mut |part| part.services.get_or_insert_default().set.extend(service.take()));
        }
        for (length, piece) in self.rules.iter().flat_map(OutgoingRules::pieces) {
            let mut piece = Some(piece);
            add(length, &mut |part| {
                let wire::RuleChanges { set, removed, set_pods, removed_pods } =
                    piece.take().unwrap_or_default();
                let rules = part.rules.get_or_insert_default();
                rules.set.extend(set);
                rules.removed.extend(removed);
                rules.set_pods.extend(set_pods);
                rules.removed_pods.extend(removed_pods);
            });
        }
        parts.push(part);
        parts
    }
}

/// A Service on the wire.
fn service(key: &str, routes: &ServiceRoutes) -> wire::Service {
    wire::Service {
        key: key.to_owned(),
        cluster_ips: routes.cluster_ips.iter().map(ToString::to_string).collect(),
        rules: routes.routes.iter().map(Into::into).collect(),
    }
}

impl From<&ServiceRoute> for wire::ServiceRule {
    fn from(route: &ServiceRoute) -> Self {
        let texts = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect();
        Self {
            transport: wire::Transport::from(route.transport).into(),
            at: texts(&route.at),
            endpoints: texts(&route.endpoints),
            node_only: route.node_only,
            affinity_seconds: route.affinity.map_or(0, |affinity| affinity.as_secs()),
            sources: route.sources.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Takes up the parts of one update as they come.
#[derive(Debug, Default)]
pub(crate) struct IncomingUpdate {
    begun: Option<(String, TablesUpdate)>,
}

impl IncomingUpdate {
    /// Takes up one more part.
    pub(crate) fn take(&mut self, part: wire::SetNetworkRequest) -> Result<(), WireError> {
        let wire::SetNetworkRequest { session, base, revision, services, rules } = part;
        let (_, update) = self.begun.get_or_insert_with(|| {
            let update = TablesUpdate {
                base: (base > 0).then_some(base),
                revision,
                services: ServiceChanges::default(),
                rules: None,
            };
            (session, update)
        });
        let wire::ServiceChanges { set, removed } = services.unwrap_or_default();
        update.services.removed.extend(removed);
        for service in set {
            update.services.set.push(service.try_into()?);
        }
        if let Some(piece) = rules {
            rules::take(update.rules.get_or_insert_default(), piece)?;
        }
        Ok(())
    }

    /// The update, and the session that it is of.
    pub(crate) fn end(self) -> Result<(String, TablesUpdate), WireError> {
        self.begun.ok_or(WireError("an update of the network's tables has no parts"))
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = WireError;

    fn try_from(service: wire::Service) -> Result<Self, WireError> {
        let wire::Service { key, cluster_ips, rules } = service;
        Ok(Self {
            key,
            cluster_ips: all::<IpAddr>(&cluster_ips)?,
            rules: rules.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<wire::ServiceRule> for ServiceRule {
    type Error = WireError;

    fn try_from(rule: wire::ServiceRule) -> Result<Self, WireError> {
        let missing = WireError("the transport of a Service is missing");
        let transport = rule.transport().protocol().ok_or(missing)?;
        Ok(Self {
            transport,
            at: all(&rule.at)?,
            endpoints: all(&rule.endpoints)?,
            node_only: rule.node_only,
            affinity: (rule.affinity_seconds > 0).then(|| Duration::from_secs(rule.affinity_seconds)),
            sources: all(&rule.sources)?,
        })
    }
}

fn all<T: FromStr>(texts: &[String]) -> Result<Vec<T>, WireError> {
    let read = texts.iter().map(|text| text.parse());
    read.collect::<Result<_, _>>().map_err(|_| WireError("an address of a Service is none"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kubewasm_host::RuleChanges;
    use kubewasm_rules::Protocol;

    use super::*;

    fn routes(endpoints: u32) -> ServiceRoutes {
        let first = u32::from(std::net::Ipv4Addr::new(10, 1, 0, 0));
        let endpoint = |n: u32| SocketAddr::new(IpAddr::V4((first + n).into()), 8080);
        ServiceRoutes {
            cluster_ips: vec!["10.96.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            routes: vec![ServiceRoute {
                transport: Protocol::Udp,
                at: vec!["10.96.0.9:53".parse().unwrap()],
                endpoints: (0..endpoints).map(endpoint).collect(),
                node_only: true,
                affinity: Some(Duration::from_secs(10_800)),
                sources: vec!["192.0.2.0/24".parse().unwrap()],
            }],
        }
    }

    fn read(parts: Vec<wire::SetNetworkRequest>) -> Result<(String, TablesUpdate), WireError> {
        let mut update = IncomingUpdate::default();
        for part in parts {
            update.take(part)?;
        }
        update.end()
    }

    #[test]
    fn updates_survive_the_wire() {
        let outgoing = OutgoingUpdate {
            base: Some(7),
            revision: 9,
            services: vec![("kube-system/dns".into(), Arc::new(routes(2)))],
            removed_services: vec!["ns/old".into()],
            rules: Some(OutgoingRules { removed_pods: vec!["u".into()], ..OutgoingRules::default() }),
        };
        let (session, update) = read(outgoing.parts("s")).unwrap();
        let rule = ServiceRule {
            transport: Protocol::Udp,
            at: vec!["10.96.0.9:53".parse().unwrap()],
            endpoints: ["10.1.0.0:8080", "10.1.0.1:8080"].map(|text| text.parse().unwrap()).into(),
            node_only: true,
            affinity: Some(Duration::from_secs(10_800)),
            sources: vec!["192.0.2.0/24".parse().unwrap()],
        };
        let service = Service {
            key: "kube-system/dns".into(),
            cluster_ips: vec!["10.96.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            rules: vec![rule],
        };
        let services = ServiceChanges { set: vec![service], removed: vec!["ns/old".into()] };
        assert_eq!(session, "s");
        let rules = RuleChanges { removed_pods: vec!["u".into()], ..RuleChanges::default() };
        assert_eq!(update, TablesUpdate { base: Some(7), revision: 9, services, rules: Some(rules) });
    }

    /// Empty tables are something to say, too.
    #[test]
    fn there_is_always_a_part() {
        let nothing = OutgoingUpdate { revision: 1, ..OutgoingUpdate::default() };
        let (_, update) = read(nothing.parts("s")).unwrap();
        assert_eq!(update, TablesUpdate { revision: 1, ..TablesUpdate::default() });
        let no_rules = OutgoingUpdate { rules: Some(OutgoingRules::default()), ..nothing };
        let (_, update) = read(no_rules.parts("s")).unwrap();
        assert_eq!(update.rules, Some(RuleChanges::default()));
        assert!(read(Vec::new()).is_err());
    }

    #[test]
    fn parts_fit_into_messages_and_nothing_is_lost_between_them() {
        let many = Arc::new(routes(2000));
        let outgoing = OutgoingUpdate {
            base: None,
            revision: 1,
            services: (0..200).map(|n| (format!("ns/{n}"), Arc::clone(&many))).collect(),
            removed_services: Vec::new(),
            rules: None,
        };
        let parts = outgoing.parts("s");
        assert!(parts.len() > 2, "{}", parts.len());
        assert!(parts.iter().all(|part| part.encoded_len() < 2 * PART));
        let (_, update) = read(parts).unwrap();
        let keys: Vec<_> = update.services.set.iter().map(|service| service.key.clone()).collect();
        assert_eq!(keys, outgoing.services.into_iter().map(|(key, _)| key).collect::<Vec<_>>());
    }

    /// One that fits into no message is left out, and the others are not.
    #[test]
    fn a_service_that_is_too_large_is_left_out() {
        let large = ServiceRoutes { routes: vec![routes(60_000).routes.remove(0); 3], ..routes(0) };
        let outgoing = OutgoingUpdate {
            base: Some(1),
            revision: 2,
            services: vec![("ns/large".into(), Arc::new(large)), ("ns/small".into(), Arc::new(routes(1)))],
            removed_services: Vec::new(),
            rules: None,
        };
        let (_, update) = read(outgoing.parts("s")).unwrap();
        assert_eq!(update.services.removed, ["ns/large"]);
        assert_eq!(update.services.set.len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let sane = service("ns/a", &routes(1));
        let broken = |change: fn(&mut wire::Service)| {
            let mut service = sane.clone();
            change(&mut service);
            Service::try_from(service)
        };
        assert!(broken(|_| {}).is_ok());
        assert!(broken(|service| service.cluster_ips.push("None".into())).is_err());
        assert!(broken(|service| service.rules[0].transport = 0).is_err());
        assert!(broken(|service| service.rules[0].endpoints.push("10.0.0.1".into())).is_err());
        assert!(broken(|service| service.rules[0].sources.push("10.0.0.1".into())).is_err());
    }
}
