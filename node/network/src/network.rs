//! All domains of a node.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    sync::{Arc, PoisonError},
};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        link::{LinkAttribute, LinkMessage},
        route::RouteMessage,
    },
};
use tokio::sync::{Mutex, MutexGuard, oneshot};

use crate::{
    HostPort, Loopback, Protocol, conntrack,
    domain::{Domain, Netlink, blocking},
    error::{NetworkError, netlink, unless},
    filter, host_ports,
    names::{LAST, Names},
    namespace::Namespace,
    routes::{self, FAMILIES, MISSING},
    sysctl,
};

/// A worker that lives already when a network is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivingWorker {
    /// Its domain.
    pub domain: String,
    /// The group that it is of.
    pub group: String,
    /// Its process.
    pub pid: u32,
}

/// The network of a node's pods. Clones are the same one.
///
/// Its methods do one thing after the other, and everything they do may be done again: after an error, what was asked
/// for is there, is not, or is half there, and asking again puts it right.
#[derive(Clone, Debug)]
pub struct PodNetwork(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    names: Names,
    node: Netlink,
    domains: Mutex<HashMap<String, Domain>>,
    /// Who wants to leave while somebody has the domains.
    departures: std::sync::Mutex<Vec<Departure>>,
    /// Ports of the node that lead to pods; nothing is known of an earlier agent's.
    host_ports: Mutex<Option<Vec<HostPort>>>,
}

/// A pod whose addresses are taken back.
#[derive(Debug)]
struct Departure {
    addresses: Vec<IpAddr>,
    loopback: Option<Loopback>,
    done: oneshot::Sender<Result<(), NetworkError>>,
}

/// Takes the addresses of some pods back at once, and tells each what came of it.
async fn depart(domains: &mut HashMap<String, Domain>, node: &Handle, departures: Vec<Departure>) {
    let mut staying = HashMap::new();
    for domain in domains.values_mut() {
        let has =
            |departure: &&Departure| departure.addresses.iter().any(|one| domain.addresses.contains(one));
        let here: Vec<&Departure> = departures.iter().filter(has).collect();
        if here.is_empty() {
            continue;
        }
        let addresses = here.iter().flat_map(|departure| departure.addresses.iter().copied());
        let addresses: Vec<_> = addresses.filter(|address| domain.addresses.contains(address)).collect();
        let loopbacks = here.iter().filter_map(|departure| departure.loopback);
        let loopbacks = loopbacks.flat_map(|Loopback { block, v6 }| [block.into(), IpAddr::V6(v6).into()]);
        staying.extend(domain.detach(node, &addresses, loopbacks.collect::<Vec<IpNet>>()).await);
    }
    for Departure { addresses, done, .. } in departures {
        let failed = addresses.iter().find_map(|address| staying.remove(address));
        // Nobody may be left to hear it.
        let _ = done.send(failed.map_or(Ok(()), Err));
    }
}

impl PodNetwork {
    /// Opens the network of the node of this name (any text that tells it from others on this machine): takes over what
    /// living workers are in, and removes what an earlier agent has left behind. Must be called within a tokio runtime.
    ///
    /// A worker that is not where it should be is returned; nothing can reach what it hosts.
    ///
    /// # Errors
    /// [`NetworkError`]: the rights are missing, or the kernel has not what it takes.
    pub async fn open(
        node: &str,
        living: Vec<LivingWorker>,
    ) -> Result<(Self, Vec<LivingWorker>), NetworkError> {
        let netlink =
            Netlink::open().map_err(|source| NetworkError::Namespace { what: "speak netlink", source })?;
        let inner = Inner {
            names: Names::of(node),
            node: netlink,
            domains: Mutex::default(),
            departures: std::sync::Mutex::default(),
            host_ports: Mutex::default(),
        };
        let network = Self(Arc::new(inner));
        let mut lost = Vec::new();
        for worker in living {
            if let Err(error) = network.adopt(&worker).await {
                tracing::error!(domain = worker.domain, pid = worker.pid, %error, "a worker cannot be reached");
                lost.push(worker);
            }
        }
        network.sweep().await?;
        Ok((network, lost))
    }

    /// Finds out whether this process has the rights, and the kernel what it takes, by making a domain and removing it.
    ///
    /// # Errors
    /// What is missing.
    pub async fn check(node: &str) -> Result<(), NetworkError> {
        let netlink =
            Netlink::open().map_err(|source| NetworkError::Namespace { what: "speak netlink", source })?;
        let names = Names::of(&format!("{node} {}", std::process::id()));
        let namespace = blocking("make a network namespace", Namespace::create).await?;
        let name = names.link(LAST);
        let domain = Domain::link(&netlink.handle, namespace, LAST, &name, "check").await;
        match domain {
            Ok(domain) => domain.unlink(&netlink.handle).await,
            Err(error) => {
                // The link goes with the namespace, if it was made.
                Err(error)
            }
        }
    }

    /// Removes all that a node of this name has left behind on this machine, none of whose workers lives: links, routes, and rules
    /// of the packet filter.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn uninstall(node: &str) -> Result<(), NetworkError> {
        let (network, _) = Self::open(node, Vec::new()).await?;
        network.remove_unassigned(&[]).await?;
        if Self::has_filter().await {
            let names = &network.0.names;
            let rules = [names.ports_table(), names.table()].map(|table| filter::no_rules(&table)).concat();
            blocking("take rules of the packet filter away with nft", move || filter::apply(&rules)).await?;
        }
        Ok(())
    }

    async fn adopt(&self, worker: &LivingWorker) -> Result<(), NetworkError> {
        let LivingWorker { domain: name, group, pid } = worker;
        let elsewhere = || NetworkError::Elsewhere { pid: *pid, domain: name.clone() };
        let pid = *pid;
        let find = move || Ok((Namespace::of(pid)?, Namespace::own()?));
        let (namespace, own) = blocking("find the network namespace of a worker", find).await?;
        let mut domains = self.domains().await;
        if let Some(domain) = domains.get_mut(name) {
            if *domain.namespace != namespace {
                return Err(elsewhere());
            }
            domain.users.insert(group.clone());
            return Ok(());
        }
        if namespace == own {
            return Err(elsewhere());
        }
        let node = &self.0.node.handle;
        let Some(mut domain) = Domain::adopt(node, namespace, 0).await? else { return Err(elsewhere()) };
        let link = self.links().await?.into_iter().find(|(_, index)| *index == domain.link);
        domain.number = link.ok_or_else(elsewhere)?.0;
        domain.users.insert(group.clone());
        tracing::info!(domain = name, addresses = domain.addresses.len(), "took over a network namespace");
        domains.insert(name.clone(), domain);
        Ok(())
    }

    /// Removes the links of namespaces that are gone, or that nobody lives in.
    async fn sweep(&self) -> Result<(), NetworkError> {
        let domains = self.domains().await;
        let kept: HashSet<u32> = domains.values().map(|domain| domain.link).collect();
        for (number, index) in self.links().await? {
            if kept.contains(&index) {
                continue;
            }
            tracing::info!(link = self.0.names.link(number), "removing the link of a worker that is gone");
            let removed = self.0.node.handle.link().del(index).execute().await;
            unless(removed, &MISSING, "remove a link")?;
        }
        Ok(())
    }

    /// This node's links: their numbers and indices.
    async fn links(&self) -> Result<Vec<(u16, u32)>, NetworkError> {
        let listed: Vec<LinkMessage> = self
            .0
            .node
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(netlink("list the links"))?;
        let named = |link: LinkMessage| {
            let name = link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.as_str()),
                _ => None,
            });
            Some((self.0.names.number(name?)?, link.header.index))
        };
        Ok(listed.into_iter().filter_map(named).collect())
    }

    async fn domains(&self) -> MutexGuard<'_, HashMap<String, Domain>> {
        self.0.domains.lock().await
    }

    /// The namespace that a worker of this group of a domain is to be started in. It is made if need be, and stays
    /// until [`PodNetwork::leave`].
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn enter(&self, domain: &str, group: &str) -> Result<Arc<Namespace>, NetworkError> {
        let mut domains = self.domains().await;
        if let Some(domain) = domains.get_mut(domain) {
            domain.users.insert(group.to_owned());
            return Ok(Arc::clone(&domain.namespace));
        }
        let names = &self.0.names;
        let number = names.free(|number| domains.values().any(|domain| domain.number == number));
        let number = number.ok_or(NetworkError::TooMany(LAST))?;
        let namespace = blocking("make a network namespace", Namespace::create).await?;
        let node = &self.0.node.handle;
        let linked = Domain::link(node, namespace, number, &names.link(number), domain).await;
        if linked.is_err() {
            // What has come of it is in nobody's way, if it can be removed.
            if let Some((_, index)) = self.links().await?.into_iter().find(|(one, _)| *one == number) {
                let _ = node.link().del(index).execute().await;
            }
        }
        let mut linked = linked?;
        self.open_loopback(number).await?;
        linked.users.insert(group.to_owned());
        let namespace = Arc::clone(&linked.namespace);
        domains.insert(domain.to_owned(), linked);
        Ok(namespace)
    }

    /// The last worker of a group is gone. With the last group of a domain, its namespace goes.
    pub async fn leave(&self, domain: &str, group: &str) {
        let mut domains = self.domains().await;
        let Some(present) = domains.get_mut(domain) else { return };
        present.users.remove(group);
        if !present.users.is_empty() {
            return;
        }
        let Some(gone) = domains.remove(domain) else { return };
        if let Err(error) = gone.unlink(&self.0.node.handle).await {
            tracing::warn!(domain, %error, "a link stays");
        }
    }

    /// Leads a pod's addresses to a domain that somebody has entered.
    ///
    /// # Errors
    /// [`NetworkError::InUse`] where another domain has one of them, and others.
    pub async fn attach(&self, domain: &str, addresses: &[IpAddr]) -> Result<(), NetworkError> {
        let mut domains = self.domains().await;
        for (name, other) in domains.iter().filter(|(name, _)| *name != domain) {
            if let Some(address) = addresses.iter().find(|address| other.addresses.contains(*address)) {
                return Err(NetworkError::InUse { address: *address, domain: name.clone() });
            }
        }
        let missing = || NetworkError::Netlink {
            what: format!("lead addresses to {domain}"),
            source: io::Error::other("it has no network namespace"),
        };
        let present = domains.get_mut(domain).ok_or_else(missing)?;
        for address in addresses {
            sysctl::set(forwarding(*address), "1")?;
            // Also one that leads there already: somebody may have removed a route.
            present.attach(&self.0.node.handle, *address).await?;
        }
        Ok(())
    }

    /// Takes a pod's addresses back, wherever they lead: nothing reaches them afterwards, and nothing of the pod's is
    /// open any more.
    ///
    /// # Errors
    /// [`NetworkError`]; the addresses must not be given to anybody then.
    pub async fn detach(&self, addresses: &[IpAddr], loopback: Option<Loopback>) -> Result<(), NetworkError> {
        loop {
            let (done, outcome) = oneshot::channel();
            self.departures().push(Departure { addresses: addresses.to_vec(), loopback, done });
            let mut domains = self.domains().await;
            // Those that have come meanwhile go together; often one that was before us has taken ours along.
            let together = std::mem::take(&mut *self.departures());
            depart(&mut domains, &self.0.node.handle, together).await;
            drop(domains);
            // Unanswered, whoever took it along was given up in the middle of it.
            if let Ok(outcome) = outcome.await {
                return outcome;
            }
        }
    }

    fn departures(&self) -> std::sync::MutexGuard<'_, Vec<Departure>> {
        self.0.departures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses that lead somewhere.
    pub async fn attached(&self) -> HashSet<IpAddr> {
        let domains = self.domains().await;
        domains.values().flat_map(|domain| domain.addresses.iter().copied()).collect()
    }

    /// Says which networks the node's pods have: whoever asks for an address in them that no pod has is told that it is
    /// unreachable, instead of being sent back to where the network comes from. What pods send to others than the `known`
    /// networks comes from the node's address, where there is `nft`.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn set_ranges(&self, ranges: &[IpNet], known: &[IpNet]) -> Result<(), NetworkError> {
        self.set_rules(ranges, known).await?;
        self.remove_unassigned(ranges).await?;
        let (node, metric) = (&self.0.node.handle, self.0.names.metric());
        for range in ranges {
            let added = node.route().add(routes::unassigned(*range, metric)).replace().execute().await;
            added.map_err(netlink(format!("add the route to {range}")))?;
            sysctl::set(forwarding(range.addr()), "1")?;
        }
        Ok(())
    }

    /// Removes what an agent of this node has said of other ranges than these.
    async fn remove_unassigned(&self, ranges: &[IpNet]) -> Result<(), NetworkError> {
        let (node, metric) = (&self.0.node.handle, self.0.names.metric());
        for family in FAMILIES {
            let mut all = RouteMessageBuilder::<IpAddr>::new().build();
            all.header.address_family = family;
            let listed: Vec<RouteMessage> =
                node.route().get(all).execute().try_collect().await.map_err(netlink("list the routes"))?;
            for route in listed {
                let Some((range, _)) = routes::unassigned_range(&route).filter(|(_, of)| *of == metric)
                else {
                    continue;
                };
                // One of another range that the node had before, which may be another node's now.
                if !ranges.iter().any(|wanted| wanted.trunc() == range) {
                    let removed = node.route().del(route).execute().await;
                    unless(removed, &MISSING, format!("remove the route to {range}"))?;
                }
            }
        }
        Ok(())
    }

    async fn set_rules(&self, ranges: &[IpNet], known: &[IpNet]) -> Result<(), NetworkError> {
        let names = &self.0.names;
        let rules = filter::ruleset(&names.table(), names.links(), ranges, known);
        if !Self::has_filter().await {
            tracing::warn!(
                "the program nft is not there: what pods send beyond the cluster keeps their addresses, and is answered \
                 only where these are known; and the sources of what a worker sends by IPv6 are not looked at"
            );
            return Ok(());
        }
        blocking("set the rules of the packet filter with nft", move || filter::apply(&rules)).await
    }

    /// Says which ports of the node lead to pods; all others lead nowhere any more. What is connected stays, and ends with its
    /// pod. Must be said before the address of a pod that had one is given to another.
    ///
    /// # Errors
    /// [`NetworkError`]: without `nft` there are none.
    pub async fn set_host_ports(&self, ports: &[HostPort]) -> Result<(), NetworkError> {
        let mut present = self.0.host_ports.lock().await;
        if present.as_deref() == Some(ports)
            || (present.is_none() && ports.is_empty() && !Self::has_filter().await)
        {
            return Ok(());
        }
        let names = &self.0.names;
        let rules = if ports.is_empty() {
            filter::no_rules(&names.ports_table())
        } else {
            host_ports::ruleset(&names.ports_table(), names.links(), ports)
        };
        let what = "have ports of the node lead to pods with nft";
        blocking(what, move || filter::apply(&rules)).await?;
        let before = present.replace(ports.to_vec()).unwrap_or_default();
        let is_in_one = |port: &&HostPort| before.contains(*port) != ports.contains(*port);
        let changed: Vec<HostPort> = before.iter().chain(ports).filter(is_in_one).copied().collect();
        drop(present);
        for (number, _) in self.links().await? {
            self.open_loopback(number).await?;
        }
        let forgotten = blocking("forget what has come to ports of the node", move || forget(&changed)).await;
        if let Err(error) = forgotten {
            tracing::warn!(%error, "UDP that has come to a port of the node may go on to where it went");
        }
        Ok(())
    }

    /// Lets a link carry what ports of the node's loopback lead to, once the packet filter keeps all else back.
    async fn open_loopback(&self, number: u16) -> Result<(), NetworkError> {
        let is_wanted = self.0.host_ports.lock().await.as_ref().is_some_and(|ports| !ports.is_empty());
        let (setting, value) = sysctl::loopback_beyond(&self.0.names.link(number), is_wanted);
        sysctl::set(&setting, value)
    }

    /// Whether there is the program by which what pods send beyond the cluster comes from the node's address.
    pub async fn has_filter() -> bool {
        tokio::task::spawn_blocking(filter::is_there).await.unwrap_or(false)
    }
}

/// Has the kernel forget the UDP that has come to these ports.
fn forget(ports: &[HostPort]) -> io::Result<()> {
    let udp = ports.iter().filter(|port| port.protocol == Protocol::Udp);
    udp.map(|port| conntrack::forget_udp(port.node, port.pod.is_ipv4(), port.port)).fold(Ok(()), Result::and)
}

/// The setting by which the machine forwards what is to and from pods.
fn forwarding(family: IpAddr) -> &'static str {
    if family.is_ipv4() { "ipv4/ip_forward" } else { "ipv6/conf/all/forwarding" }
}
