//! One domain: a namespace, its link to the node, and the addresses in it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::IpAddr,
    os::fd::AsRawFd as _,
    sync::Arc,
};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressHeaderFlags,
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
        route::RouteType,
    },
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    error::{NetworkError, netlink, unless},
    loopback,
    names::{INSIDE, NODE_V4, NODE_V6, OWN_V4, OWN_V6, WORKER_V4, WORKER_V6, macs, own_addresses},
    namespace::Namespace,
    routes::{self, EXISTS, FAMILIES, MISSING},
    sysctl,
};

/// A netlink socket in a namespace, and the task that reads it.
#[derive(Debug)]
pub(crate) struct Netlink {
    pub(crate) handle: Handle,
    _task: AbortOnDropHandle<()>,
}

impl Netlink {
    /// Opens one where the calling thread is. Must be called within a tokio runtime.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, _task: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    /// Opens one in a namespace.
    pub(crate) async fn open_in(namespace: &Arc<Namespace>) -> Result<Self, NetworkError> {
        let (namespace, runtime) = (Arc::clone(namespace), tokio::runtime::Handle::current());
        let open = move || {
            namespace.run(|| {
                let _inside = runtime.enter();
                Self::open()
            })
        };
        blocking("speak netlink in a network namespace", open).await
    }
}

/// Does what blocks, on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    function: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, NetworkError> {
    let done = tokio::task::spawn_blocking(function).await;
    let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|source| NetworkError::Namespace { what, source })
}

/// A namespace, its link to the node, and what is in it.
#[derive(Debug)]
pub(crate) struct Domain {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) number: u16,
    /// Index of the node's end of the link.
    pub(crate) link: u32,
    /// Index of the loopback interface inside.
    loopback: u32,
    inside: Netlink,
    /// Addresses that lead here.
    pub(crate) addresses: HashSet<IpAddr>,
    /// Groups whose workers live here.
    pub(crate) users: BTreeSet<String>,
}

impl Domain {
    /// Links a namespace to the node; what it has of a link and of addresses is kept. `number` and `name` are for the
    /// node's end of a new link, `alias` is for people who look at it.
    pub(crate) async fn link(
        node: &Handle,
        namespace: Namespace,
        number: u16,
        name: &str,
        alias: &str,
    ) -> Result<Self, NetworkError> {
        let namespace = Arc::new(namespace);
        let inside = Netlink::open_in(&namespace).await?;
        let [outer, inner] = macs(number);
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(INSIDE)
            .address(inner.to_vec())
            .setns_by_fd(namespace_fd(&namespace))
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(name, INSIDE)
            .address(outer.to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        node.link().add(pair).execute().await.map_err(netlink(format!("make the link {name}")))?;
        let link = index(node, name).await?;
        // Not at once: the kernel takes no alias for a link that it makes.
        let named = LinkUnspec::new_with_index(link).alias(alias).build();
        node.link().set(named).execute().await.map_err(netlink(format!("name the link {name}")))?;
        for (setting, value) in sysctl::outside(name) {
            sysctl::set(&setting, value)?;
        }
        let eth0 = index(&inside.handle, INSIDE).await?;
        let loopback = index(&inside.handle, "lo").await?;
        settle(&namespace, &sysctl::INSIDE).await?;
        for (handle, index) in [(&inside.handle, loopback), (&inside.handle, eth0), (node, link)] {
            let up = LinkUnspec::new_with_index(index).up().build();
            handle.link().set(up).execute().await.map_err(netlink(format!("set the link {name} up")))?;
        }
        let hops: [(&Handle, u32, [IpAddr; 2], _); 2] = [
            (node, link, [WORKER_V4.into(), WORKER_V6.into()], inner),
            (&inside.handle, eth0, [NODE_V4.into(), NODE_V6.into()], outer),
        ];
        for (handle, link, addresses, mac) in hops {
            for address in addresses {
                let neighbour = handle.neighbours().add(link, address).link_layer_address(&mac).replace();
                let added = neighbour.execute().await;
                // Where the kernel has no IPv6, nobody needs it.
                let fine: &[i32] = if address.is_ipv6() { &NO_IPV6 } else { &[] };
                unless(added, fine, format!("add the neighbour {address}"))?;
            }
        }
        let domain = Self {
            namespace,
            number,
            link,
            loopback,
            inside,
            addresses: HashSet::new(),
            users: BTreeSet::new(),
        };
        for (family, own) in FAMILIES.into_iter().zip(own_addresses(number)) {
            domain.direct(node, family, eth0, own).await?;
        }
        Ok(domain)
    }

    /// Makes the routes and rules of one family by which everything goes to the node.
    async fn direct(
        &self,
        node: &Handle,
        family: AddressFamily,
        eth0: u32,
        own: IpAddr,
    ) -> Result<(), NetworkError> {
        let handle = &self.inside.handle;
        let fine: &[i32] = if family == AddressFamily::Inet6 { &NO_IPV6 } else { &[] };
        if family == AddressFamily::Inet6 {
            // A route makes an address local, and none to send from.
            let mut address = handle.address().add(self.loopback, own, 128);
            address.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            unless(address.execute().await, fine, "give a worker an address of its own")?;
        } else {
            let added = handle.route().add(routes::own(own, self.loopback)).replace().execute().await;
            unless(added, fine, "give a worker an address of its own")?;
        }
        let out = handle.route().add(routes::way_out(family, eth0, own)).replace().execute().await;
        unless(out, fine, "add the default route of a network namespace")?;
        let back = node.route().add(routes::pod(own, self.link)).replace().execute().await;
        unless(back, fine, "add the route to a worker")?;
        if family == AddressFamily::Inet6 {
            let all = routes::local(IpNet::V6(loopback::PREFIX), self.loopback);
            let added = handle.route().add(all).replace().execute().await;
            unless(added, fine, "add the loopback addresses of a network namespace")?;
        }
        for rule in routes::rules(family) {
            let mut request = handle.rule().add();
            *request.message_mut() = rule;
            let fine = if family == AddressFamily::Inet6 { &RULE_V6[..] } else { &[EXISTS] };
            unless(request.execute().await, fine, "add a rule of a network namespace")?;
        }
        let first = handle.rule().del(routes::first_rule(family)).execute().await;
        unless(first, &[MISSING[0], NO_IPV6[0], NO_IPV6[1]], "remove the first rule of a network namespace")
    }

    /// Takes over a namespace that an earlier agent has made, with its link and its addresses.
    pub(crate) async fn adopt(
        node: &Handle,
        namespace: Namespace,
        number: u16,
    ) -> Result<Option<Self>, NetworkError> {
        let namespace = Arc::new(namespace);
        let inside = Netlink::open_in(&namespace).await?;
        let Some(eth0) = find(&inside.handle, INSIDE).await? else { return Ok(None) };
        let peer = eth0.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        });
        let Some(link) = peer else { return Ok(None) };
        let mut there = node.link().get().match_index(link).execute();
        if there.try_next().await.is_err() {
            return Ok(None);
        }
        let loopback = index(&inside.handle, "lo").await?;
        let (addresses, users) = (HashSet::new(), BTreeSet::new());
        let mut domain = Self { namespace, number, link, loopback, inside, addresses, users };
        domain.addresses = domain.own_addresses().await?;
        for address in domain.addresses.clone() {
            // A way that was lost is made again.
            domain.attach(node, address).await?;
        }
        Ok(Some(domain))
    }

    /// Addresses of pods that the namespace has.
    async fn own_addresses(&self) -> Result<HashSet<IpAddr>, NetworkError> {
        let mut found = HashSet::new();
        for family in FAMILIES {
            let mut all = RouteMessageBuilder::<IpAddr>::new().build();
            all.header.address_family = family;
            let mut listed = self.inside.handle.route().get(all).execute();
            while let Some(route) =
                listed.try_next().await.map_err(netlink("list the routes of a network namespace"))?
            {
                let address = routes::address_of(&route, RouteType::Local);
                found.extend(address.filter(|address| !is_own(*address)));
            }
        }
        Ok(found)
    }

    /// Leads an address here: first inside, so that whoever comes finds somebody.
    pub(crate) async fn attach(&mut self, node: &Handle, address: IpAddr) -> Result<(), NetworkError> {
        let own = routes::own(address, self.loopback);
        let added = self.inside.handle.route().add(own).replace().execute().await;
        added.map_err(netlink(format!("give {address} to a network namespace")))?;
        self.addresses.insert(address);
        let added = node.route().add(routes::pod(address, self.link)).replace().execute().await;
        added.map_err(netlink(format!("add the route to {address}")))
    }

    /// Leads addresses here no more: first outside, and what is still open with one of them, or with one of `loopbacks`, is
    /// ended before any goes. Finding that takes a look at every socket of the machine, so that it is done once for all of them.
    /// Returns the addresses that stay, each with the reason.
    pub(crate) async fn detach(
        &mut self,
        node: &Handle,
        addresses: &[IpAddr],
        loopbacks: impl IntoIterator<Item = IpNet>,
    ) -> HashMap<IpAddr, NetworkError> {
        let mut staying = HashMap::new();
        for address in addresses {
            let removed = node.route().del(routes::pod(*address, self.link)).execute().await;
            let removed = unless(removed, &MISSING, format!("remove the route to {address}"));
            staying.extend(removed.err().map(|error| (*address, error)));
        }
        let leaving = |address: &&IpAddr| !staying.contains_key(*address);
        let leaving: Vec<IpAddr> = addresses.iter().filter(leaving).copied().collect();
        self.end_sockets(leaving.iter().copied().map(IpNet::from).chain(loopbacks).collect()).await;
        for address in leaving {
            let removed = self.inside.handle.route().del(routes::own(address, self.loopback)).execute().await;
            match unless(removed, &MISSING, format!("take {address} from a network namespace")) {
                Ok(()) => drop(self.addresses.remove(&address)),
                Err(error) => drop(staying.insert(address, error)),
            }
        }
        staying
    }

    /// Ends what is open with a local address of one of these networks. What cannot be ended is said, and stays.
    async fn end_sockets(&self, networks: Vec<IpNet>) {
        let namespace = Arc::clone(&self.namespace);
        let end = move || namespace.run(|| crate::sockets::end(&networks));
        match blocking("end the sockets of a pod", end).await {
            Ok(0) => {}
            Ok(ended) => tracing::debug!(ended, "ended sockets that a pod has left"),
            Err(error) => {
                tracing::warn!(%error, "connections of a pod that is gone stay open until they time out")
            }
        }
    }

    /// Removes the link, and with it what leads here.
    pub(crate) async fn unlink(&self, node: &Handle) -> Result<(), NetworkError> {
        let removed = node.link().del(self.link).execute().await;
        unless(removed, &MISSING, "remove the link of a network namespace")
    }
}

/// Whether an address is a worker's own.
fn is_own(address: IpAddr) -> bool {
    IpNet::V4(OWN_V4).contains(&address) || IpNet::V6(OWN_V6).contains(&address)
}

/// EAFNOSUPPORT and EOPNOTSUPP: the kernel has no IPv6, or has it switched off (EACCES, ENODEV).
const NO_IPV6: [i32; 4] = [97, 95, 13, 19];
/// The same for rules, which may be there.
const RULE_V6: [i32; 3] = [EXISTS, 97, 95];

fn namespace_fd(namespace: &Namespace) -> i32 {
    use std::os::fd::AsFd as _;
    namespace.as_fd().as_raw_fd()
}

/// Writes settings of a namespace from inside.
pub(crate) async fn settle(
    namespace: &Arc<Namespace>,
    settings: &'static [(&'static str, &'static str)],
) -> Result<(), NetworkError> {
    let namespace = Arc::clone(namespace);
    let settle = move || {
        namespace.run(|| {
            for (name, value) in settings {
                sysctl::set(name, value).map_err(io::Error::other)?;
            }
            Ok(())
        })
    };
    blocking("set a network namespace up", settle).await
}

async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, NetworkError> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    match found.try_next().await {
        Ok(link) => Ok(link),
        Err(rtnetlink::Error::NetlinkError(message)) if MISSING.contains(&message.raw_code().abs()) => {
            Ok(None)
        }
        Err(error) => Err(netlink(format!("find the link {name}"))(error)),
    }
}

/// The index of a link.
pub(crate) async fn index(handle: &Handle, name: &str) -> Result<u32, NetworkError> {
    let missing = || NetworkError::Netlink {
        what: format!("find the link {name}"),
        source: io::ErrorKind::NotFound.into(),
    };
    Ok(find(handle, name).await?.ok_or_else(missing)?.header.index)
}
