//! A node whose pods have addresses of their own, in a network namespace that nobody else is in.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use kubewasm_kubelet::runtime::{
    ContainerSpec, ContainerState, Presence, Runtime as _, ServiceRoutes, ServiceTable, StartError,
};
use kubewasm_modules::{Store, StoreOptions};
use kubewasm_network::{Namespace, PodNetwork};
use kubewasm_rules::{Peers, PodRules, PortRange, Ports, Protocol, Rule};
use kubewasm_wasi::provider::{WasiOptions, WasiRuntime};

use super::support::{self, until};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const RANGES: [&str; 2] = ["10.244.1.0/24", "fd00:10::/64"];

/// Runs a test on a node of its own. Its address is 192.0.2.1.
pub(crate) fn on_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let node = match Namespace::create() {
        Ok(node) => node,
        Err(error) => {
            eprintln!("skipped: no network namespace can be made here: {error}");
            return;
        }
    };
    let run = || {
        // One thread, so that all others, and all processes, are made by one that is inside.
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio.block_on(async {
            have_addresses().await;
            match PodNetwork::check("test").await {
                Ok(()) => test().await,
                Err(error) => eprintln!("skipped: {error}"),
            }
        });
        Ok(())
    };
    node.run(run).unwrap();
}

async fn have_addresses() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let up = rtnetlink::LinkUnspec::new_with_name("lo").up().build();
    handle.link().set(up).execute().await.unwrap();
    for (address, length) in [("192.0.2.1", 32), ("2001:db8::1", 128)] {
        handle.address().add(1, address.parse().unwrap(), length).execute().await.unwrap();
    }
}

pub(crate) struct Node {
    dir: tempfile::TempDir,
    runtime: WasiRuntime,
    guest: PathBuf,
}

impl Node {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut WasiOptions)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("modules"), StoreOptions::default()).unwrap();
        let mut options = WasiOptions::new(store, dir.path().join("workers"), support::program());
        options.with_parent = true;
        options.allow_paths = true;
        options.pod_network = true;
        change(&mut options);
        let runtime = WasiRuntime::new(options).await.unwrap();
        runtime.set_pod_ranges(&RANGES.map(|range| range.parse().unwrap()), &[]).await.unwrap();
        let guest = dir.path().join("sockets.wasm");
        std::fs::write(&guest, kubewasm_tests::guests::guest("sockets-0.2.c").await.unwrap()).unwrap();
        runtime.pull(&guest.display().to_string(), &[]).await.unwrap();
        Self { dir, runtime, guest }
    }

    /// Makes these the Services of the cluster.
    pub(crate) fn set_services(&self, services: &[(&str, ServiceRoutes)]) {
        let services = services.iter().map(|(key, routes)| ((*key).to_owned(), Arc::new(routes.clone())));
        self.runtime.set_services(&Arc::new(ServiceTable { services: services.collect() }));
    }

    fn log(&self, id: &str) -> PathBuf {
        self.dir.path().join(format!("{}.log", id.replace(' ', "-")))
    }

    /// Builds another guest, and has it taken in.
    pub(crate) async fn have(&self, source: &str) -> String {
        let path = self.dir.path().join(format!("{source}.wasm"));
        std::fs::write(&path, kubewasm_tests::guests::guest(source).await.unwrap()).unwrap();
        let image = path.display().to_string();
        self.runtime.pull(&image, &[]).await.unwrap();
        image
    }

    /// Starts a container; in a slot, it has addresses of its own.
    pub(crate) async fn start_spec(&self, slot: Option<u32>, spec: ContainerSpec) -> Result<(), StartError> {
        let pod_ips = slot.map_or_else(|| vec![[192, 0, 2, 1].into()], addresses);
        self.runtime.start(&ContainerSpec { pod_ips, network_slot: slot, ..spec }).await.map(drop)
    }

    /// Ends a container at once.
    pub(crate) async fn kill(&self, id: &str) {
        self.runtime.stop(id, Duration::ZERO).await.unwrap();
        self.ended(id).await;
    }

    pub(crate) fn runtime(&self) -> &WasiRuntime {
        &self.runtime
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn spec(
        &self,
        pod: &str,
        id: &str,
        namespace: &str,
        what: &str,
        address: &str,
    ) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            pod_uid: format!("pod-{pod}"),
            pod_namespace: namespace.into(),
            pod_name: pod.into(),
            name: id.into(),
            runtime_handler: String::new(),
            image: self.guest.display().to_string(),
            argv: ["sockets", what, address].map(str::to_owned).into(),
            env: Vec::new(),
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            service_account: String::new(),
            pod_containers: Vec::new(),
            objects: Default::default(),
            working_dir: None,
            scratch: self.dir.path().join("scratch").join(id.replace(' ', "-")),
            read_only_root: false,
            mounts: Vec::new(),
            log_path: self.log(id),
            pod_ips: Vec::new(),
            network_slot: None,
            host_network: false,
            tcp_ports: Vec::new(),
            exposed_ports: Vec::new(),
            name_files: None,
            stdin: false,
            stdin_once: false,
            tty: false,
            memory_limit_bytes: 0,
            memory_volumes: Vec::new(),
            pod_memory_limit_bytes: 0,
            cpu_limit_millis: 0,
            cpu_request_millis: 0,
        }
    }

    /// Starts a pod's only container, in the slot `slot`.
    pub(crate) async fn start(&self, id: &str, namespace: &str, slot: u32, what: &str, address: &str) {
        self.start_in(id, id, namespace, slot, what, address).await;
    }

    /// Starts one more container of a pod.
    pub(crate) async fn start_in(
        &self,
        pod: &str,
        id: &str,
        namespace: &str,
        slot: u32,
        what: &str,
        address: &str,
    ) {
        let spec = ContainerSpec {
            pod_ips: addresses(slot),
            network_slot: Some(slot),
            ..self.spec(pod, id, namespace, what, address)
        };
        self.runtime.start(&spec).await.unwrap();
    }

    /// Starts a pod's only container, in the slot `slot`, with the list of what it may reach.
    pub(crate) async fn start_listed(
        &self,
        id: &str,
        slot: u32,
        list: &str,
        what: &str,
        address: &str,
    ) -> Result<(), StartError> {
        let spec = ContainerSpec {
            pod_ips: addresses(slot),
            network_slot: Some(slot),
            annotations: [(format!("egress.kubewasm.dev/{id}"), list.to_owned())].into(),
            ..self.spec(id, id, "ns", what, address)
        };
        self.runtime.start(&spec).await.map(|_| ())
    }

    /// Says what is allowed of pods' traffic: to them and from them, each as `10.0.0.0/8 80`, with commas between them.
    pub(crate) async fn allow(&self, pods: &[(&str, Option<&str>, Option<&str>)]) {
        let rules = |text: &str| text.split(", ").filter(|rule| !rule.is_empty()).map(rule).collect();
        let pod = |ingress: &Option<&str>, egress: &Option<&str>| PodRules {
            ingress: ingress.map(rules),
            egress: egress.map(rules),
        };
        let all = pods
            .iter()
            .map(|(name, ingress, egress)| (format!("pod-{name}"), Arc::new(pod(ingress, egress))));
        self.runtime.set_network_rules(&all.collect()).await.unwrap();
    }

    /// What was refused of a pod, once it was so much: to it, and from it.
    pub(crate) async fn refused(&self, pod: &str, ingress: u64, egress: u64) -> Vec<String> {
        let uid = format!("pod-{pod}");
        loop {
            let all = self.runtime.network_refusals().await;
            let of_pod = all.into_iter().find(|refusals| refusals.pod_uid == uid).unwrap_or_default();
            if (of_pod.ingress, of_pod.egress) == (ingress, egress) {
                return of_pod.last;
            }
            assert!(of_pod.ingress <= ingress && of_pod.egress <= egress, "{of_pod:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a pod that shares the node's network.
    pub(crate) async fn start_on_host(&self, id: &str, what: &str, address: &str) {
        let spec = ContainerSpec {
            pod_ips: vec![[192, 0, 2, 1].into()],
            host_network: true,
            ..self.spec(id, id, "ns", what, address)
        };
        self.runtime.start(&spec).await.unwrap();
    }

    /// The lines that a container has printed.
    pub(crate) fn printed(&self, id: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.log(id)).unwrap_or_default();
        log.lines().filter_map(|line| Some(line.splitn(4, ' ').nth(3)?.to_owned())).collect()
    }

    /// A line that a container prints.
    pub(crate) async fn line(&self, id: &str, number: usize) -> String {
        until(&format!("line {number} of {id}"), PATIENCE, || self.printed(id).get(number).cloned()).await
    }

    /// All lines of a container that has ended.
    pub(crate) async fn lines(&self, id: &str) -> Vec<String> {
        self.ended(id).await;
        self.printed(id)
    }

    /// Waits until a container has ended.
    pub(crate) async fn ended(&self, id: &str) {
        let ended =
            || matches!(self.runtime.observe(id), Presence::Known(ContainerState::Exited(_))).then_some(());
        until(&format!("the end of {id}"), PATIENCE, ended).await;
    }

    /// What the node is told that connects to a server.
    pub(crate) async fn ask(&self, address: &str) -> io::Result<String> {
        let address: SocketAddr = address.parse().unwrap();
        let ask = move || {
            let mut client = TcpStream::connect(address)?;
            client.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            client.read_to_string(&mut answer)?;
            Ok(answer.trim_end().to_owned())
        };
        tokio::task::spawn_blocking(ask).await.unwrap()
    }

    /// Whether a pod listens at an address of the node, as a probe asks.
    pub(crate) async fn listens(&self, pod: &str, address: &str) -> bool {
        self.runtime.listens(&format!("pod-{pod}"), address.parse().unwrap()).await.unwrap()
    }

    /// Removes a pod's only container, and takes its addresses back.
    pub(crate) async fn remove(&self, id: &str, slot: u32) {
        self.runtime.remove(id).await.unwrap();
        self.runtime.release_network(slot, &addresses(slot)).await.unwrap();
    }

    /// The process of the only worker.
    pub(crate) fn worker(&self) -> i32 {
        let workers = std::fs::read_dir(self.dir.path().join("workers")).unwrap();
        let locks = workers.map(|entry| entry.unwrap().path().join("worker.lock"));
        let pids: Vec<i32> = locks
            .filter_map(|lock| std::fs::read_to_string(lock).ok())
            .map(|pid| pid.trim().parse().unwrap())
            .collect();
        assert_eq!(pids.len(), 1, "{pids:?}");
        pids[0]
    }

    /// Kills the only worker.
    pub(crate) async fn kill_worker(&self) {
        let pid = rustix::process::Pid::from_raw(self.worker()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

/// A network, and a port of TCP and UDP.
fn rule(text: &str) -> Arc<Rule> {
    let (network, port) = text.split_once(' ').unwrap();
    let network: IpNet = network.parse().unwrap();
    let port: u16 = port.parse().unwrap();
    let ports =
        [Protocol::Tcp, Protocol::Udp].map(|protocol| PortRange { protocol, first: port, last: port });
    let peers = Peers::These(std::iter::once(network).collect());
    Arc::new(Rule { peers, ports: Ports::These(ports.into()) })
}

/// The addresses of a slot.
fn addresses(slot: u32) -> Vec<IpAddr> {
    [format!("10.244.1.{slot}"), format!("fd00:10::{slot:x}")].map(|ip| ip.parse().unwrap()).into()
}

/// Which of the capabilities that are about networks a process has: CAP_NET_BIND_SERVICE, _BROADCAST, _ADMIN and _RAW.
pub(crate) fn network_capabilities(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & (0b1111 << 10)
}
