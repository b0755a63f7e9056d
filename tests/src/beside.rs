//! A machine beside the node's, with a kube-proxy and without guests: a network namespace that has a link to this one, and knows
//! no other way. Making it takes the rights of root.
//!
//! Its addresses are always the same, so that there is one at a time, of all processes of this network namespace: whoever wants one
//! waits until the other has ended.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use kubewasm_network::Namespace;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressHeaderFlags,
        link::{InfoData, InfoVeth},
    },
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{
    cluster::{self, Cluster, programs},
    home::Home,
    process::Process,
    wait,
};

/// The addresses of this end of the link: of ranges for benchmarks (RFC 2544, RFC 5180).
pub const HERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 18, 77, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0x77, 0, 0, 0, 1))];
/// Those of the other end, which are the machine's.
pub const BESIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 18, 77, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0x77, 0, 0, 0, 2))];
const PREFIXES: [u8; 2] = [24, 64];
/// The ranges that both ends are of; NodePorts answer at the machine's addresses of these.
const RANGES: &str = "198.18.77.0/24,2001:2:0:77::/64";
/// The Node object that its kube-proxy asks for, to which nothing is bound.
const NAME: &str = "beside-the-node";
const STOP: Duration = Duration::from_secs(10);
/// Time for all others who want such a machine to have had theirs.
const TURN: Duration = Duration::from_secs(1200);
/// Time for the kernel to take away a network that nobody is in any more.
const GONE: Duration = Duration::from_secs(60);

/// The machine. Dropped, its kube-proxy ends and its network goes; [`Beside::end`] takes its Node object away as well.
#[derive(Debug)]
pub struct Beside {
    namespace: Arc<Namespace>,
    /// The name of this end of the link.
    link: String,
    proxy: Process,
    api: JoinHandle<()>,
    nodes: Api<Node>,
    _turn: Turn,
}

/// The right to have the addresses. It is a socket of an abstract name, which is as much of one network namespace as addresses are,
/// and which the kernel gives back however its process ends.
#[derive(Debug)]
struct Turn {
    _socket: UnixListener,
}

impl Turn {
    /// Waits for it.
    async fn take() -> Result<Self> {
        let name = SocketAddr::from_abstract_name(NAME)?;
        let socket = wait::until("the end of another machine beside the node", TURN, async || {
            UnixListener::bind_addr(&name).map_err(|error| error.to_string())
        })
        .await?;
        // What the last one had is gone a moment after it.
        wait::until("the addresses of a machine that has ended", GONE, async || {
            let taken = std::net::UdpSocket::bind((HERE[0], 0)).is_ok();
            if taken { Err("a link still has them".to_owned()) } else { Ok(()) }
        })
        .await?;
        Ok(Self { _socket: socket })
    }
}

impl Beside {
    /// Makes the machine, and starts its kube-proxy.
    ///
    /// # Errors
    /// When there is no right to make it, or kube-proxy cannot be built or started.
    pub async fn start(home: &Home, cluster: &Cluster) -> Result<Self> {
        let turn = Turn::take().await?;
        let namespace = Arc::new(Namespace::create().context("cannot make a network namespace")?);
        let link = format!("beside{}", std::process::id() % 100_000);
        connect(&namespace, &link).await.context("cannot link a network namespace to this one")?;
        // The API server listens on this machine's loopback.
        let config = cluster::config_of(&cluster.admin_kubeconfig()).await?;
        let port = config.cluster_url.port_u16().context("the API server's URL has no port")?;
        let listener = TcpListener::bind((HERE[0], 0)).await.context("cannot listen for the API server")?;
        let here = listener.local_addr()?;
        let api = lead_to_loopback(listener, port);
        let folder = home.folder(NAME)?;
        let text = std::fs::read_to_string(cluster.admin_kubeconfig())?;
        let mut kubeconfig: Value = serde_yaml_ng::from_str(&text)?;
        kubeconfig["clusters"][0]["cluster"]["server"] = json!(format!("https://{here}"));
        kubeconfig["clusters"][0]["cluster"]["tls-server-name"] = json!("127.0.0.1");
        let path = folder.join("kubeconfig");
        std::fs::write(&path, kubeconfig.to_string())?;
        let nodes: Api<Node> = Api::all(cluster.client().await?);
        let taints = json!([{ "key": "no-node", "effect": "NoSchedule" }]);
        let object =
            json!({ "metadata": { "name": NAME }, "spec": { "unschedulable": true, "taints": taints } });
        match nodes.create(&PostParams::default(), &serde_json::from_value(object)?).await {
            // One that was dropped has left it.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            other => drop(other?),
        }
        let addresses: Vec<Value> =
            BESIDE.iter().map(|address| json!({ "type": "InternalIP", "address": address })).collect();
        let status = Patch::Merge(json!({ "status": { "addresses": addresses } }));
        nodes.patch_status(NAME, &PatchParams::default(), &status).await?;

        let program = programs::build("tools/kube-proxy/build.sh").await?.join("kube-proxy");
        let mut command = Command::new(program);
        command.arg(format!("--kubeconfig={}", path.display())).args([
            &format!("--hostname-override={NAME}"),
            "--proxy-mode=nftables",
            &format!("--nodeport-addresses={RANGES}"),
            // Settings of the machine, not of a namespace.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]);
        let log = home.log("kube-proxy");
        let start = || Process::start("kube-proxy", &mut command, &log).map_err(io::Error::other);
        let proxy = namespace.run(start).context("cannot start kube-proxy")?;
        Ok(Self { namespace, link, proxy, api, nodes, _turn: turn })
    }

    /// Its network.
    #[must_use]
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// Does something on it that blocks.
    ///
    /// # Errors
    /// What comes of it.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let namespace = Arc::clone(&self.namespace);
        tokio::task::spawn_blocking(move || namespace.run(work)).await.map_err(io::Error::other)?
    }

    /// Ends it.
    ///
    /// # Errors
    /// When kube-proxy does not stop, or the API server does not answer.
    pub async fn end(mut self) -> Result<()> {
        self.proxy.stop(STOP).await?;
        self.nodes.delete(NAME, &DeleteParams::default()).await?;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Nothing can be reported from here.
        let _ = self.proxy.kill();
        self.api.abort();
        // Whoever is in the network still keeps it, but not the addresses, which the next one wants to have.
        std::thread::scope(|scope| drop(scope.spawn(|| disconnect(&self.link)).join()));
    }
}

/// Takes a link away. Blocks, and belongs to no runtime.
fn disconnect(link: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, here, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let found = here.link().get().match_name(link.to_owned()).execute().try_next().await?;
        let index = found.context("the link is gone")?.header.index;
        Ok(here.link().del(index).execute().await?)
    })
}

/// Takes connections to a port of this machine's loopback, until the task is aborted.
pub fn lead_to_loopback(listener: TcpListener, port: u16) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    })
}

/// Netlink in a namespace.
fn netlink_in(namespace: &Namespace) -> io::Result<Handle> {
    let runtime = tokio::runtime::Handle::current();
    namespace.run(|| {
        let _guard = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection()?;
        runtime.spawn(connection);
        Ok(handle)
    })
}

/// Links a namespace to this one: each has its addresses, and the namespace knows no other way than here.
async fn connect(namespace: &Namespace, name: &str) -> Result<()> {
    let (connection, here, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let beside = netlink_in(namespace)?;
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name("eth0")
        .setns_by_fd(namespace.as_fd().as_raw_fd())
        .build();
    let pair = LinkVeth::new(name, "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
    here.link().add(pair).execute().await?;
    for (handle, name, addresses) in
        [(&here, name, HERE.as_slice()), (&beside, "eth0", &BESIDE), (&beside, "lo", &[])]
    {
        let link = handle.link().get().match_name(name).execute().try_next().await?;
        let index = link.context("a link that was made is not there")?.header.index;
        for (address, prefix) in addresses.iter().zip(PREFIXES) {
            let mut request = handle.address().add(index, *address, prefix);
            if address.is_ipv6() {
                // Good at once, because nobody else can have it.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            request.execute().await?;
        }
        handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
    }
    for gateway in HERE {
        let route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build(),
        };
        beside.route().add(route).execute().await?;
    }
    Ok(())
}
