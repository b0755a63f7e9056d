//! A machine beside the node's, with a kube-proxy and without guests: a network namespace that has a link to this one, and knows
//! no other way. Making it takes the rights of root.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _},
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

/// The machine. Dropped, its kube-proxy ends and its network goes; [`Beside::end`] takes its Node object away as well.
#[derive(Debug)]
pub struct Beside {
    namespace: Arc<Namespace>,
    proxy: Process,
    api: JoinHandle<()>,
    nodes: Api<Node>,
}

impl Beside {
    /// Makes the machine, and starts its kube-proxy.
    ///
    /// # Errors
    /// When there is no right to make it, or kube-proxy cannot be built or started.
    pub async fn start(home: &Home, cluster: &Cluster) -> Result<Self> {
        let namespace = Arc::new(Namespace::create().context("cannot make a network namespace")?);
        link(&namespace).await.context("cannot link a network namespace to this one")?;
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
        nodes.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
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
        Ok(Self { namespace, proxy, api, nodes })
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
        self.api.abort();
        self.nodes.delete(NAME, &DeleteParams::default()).await?;
        Ok(())
    }
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
async fn link(namespace: &Namespace) -> Result<()> {
    let (connection, here, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let beside = netlink_in(namespace)?;
    let name = format!("beside{}", std::process::id() % 100_000);
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name("eth0")
        .setns_by_fd(namespace.as_fd().as_raw_fd())
        .build();
    let pair = LinkVeth::new(&name, "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
    here.link().add(pair).execute().await?;
    for (handle, name, addresses) in
        [(&here, &*name, HERE.as_slice()), (&beside, "eth0", &BESIDE), (&beside, "lo", &[])]
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
