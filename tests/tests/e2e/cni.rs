//! Pods whose networks CNI plugins make: the reference plugins, as a cluster's own network would bring them.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod};
use kube::{Api, Client, api::DeleteParams};
use kubewasm_tests::{
    cluster::programs,
    guests,
    node::{Node, Options},
    ports,
    progress::say,
    registry::image::Content,
    wait,
};
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpStream, process::Command};

use crate::{
    pods::{Pods, container, is, restarts, running},
    port_forward::Forward,
    sessions::ROUTES,
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// In wasi:sockets' list of errors.
const ACCESS_DENIED: u8 = 1;
const NOT_READY: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                         message:Network plugin returns error: cni plugin not initialized";

/// A network of a bridge, as files on this machine. Each test has one of its own.
struct Network {
    /// Tells it from others: the third part of its addresses, where nothing else on this machine is.
    number: u8,
    conf: PathBuf,
    leases: PathBuf,
    plugins: PathBuf,
}

impl Network {
    async fn new(number: u8) -> Self {
        let folder = suite().await.home.folder(&format!("cni-{number}")).unwrap();
        let plugins = programs::build("tools/cni-plugins/build.sh").await.unwrap();
        let network = Self { number, conf: folder.join("net.d"), leases: folder.join("leases"), plugins };
        fs::create_dir_all(&network.conf).unwrap();
        network.configure();
        network
    }

    fn bridge(&self) -> String {
        format!("kwe2ecni{}", self.number)
    }

    /// How all of its addresses begin.
    fn prefix(&self) -> String {
        format!("10.213.{}.", self.number)
    }

    fn name(&self) -> String {
        format!("e2e-{}", self.number)
    }

    fn configure(&self) {
        let bridge = json!({
            "type": "bridge", "bridge": self.bridge(), "isGateway": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": self.leases,
                "ranges": [[{ "subnet": format!("{}0/24", self.prefix()) }]], "routes": [{ "dst": "0.0.0.0/0" }],
            },
        });
        let portmap =
            json!({ "type": "portmap", "backend": "nftables", "capabilities": { "portMappings": true } });
        let list = json!({ "cniVersion": "1.0.0", "name": self.name(), "plugins": [bridge, portmap] });
        fs::write(self.conf.join("10-e2e.conflist"), list.to_string()).unwrap();
    }

    /// There is no network any more, for pods that come.
    fn remove(&self) {
        fs::remove_file(self.conf.join("10-e2e.conflist")).unwrap();
    }

    fn options(&self) -> Options {
        Options::default()
            .flag("--network=cni")
            .flag(format!("--cni-conf-dir={}", self.conf.display()))
            .flag(format!("--cni-bin-dir={}", self.plugins.display()))
    }

    /// The addresses that are given out.
    fn leases(&self) -> HashSet<IpAddr> {
        let entries = fs::read_dir(self.leases.join(self.name())).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}

/// A pod that serves TCP on port 8080, and is ready when it answers.
fn server(node: &Node, image: &str, port: Value) -> Value {
    json!({
        "nodeSelector": { "kubernetes.io/hostname": node.name() },
        "restartPolicy": "Always",
        "containers": [{
            "name": "main",
            "image": image,
            "args": ["tcp-serve", "0.0.0.0:8080"],
            "ports": [port],
            "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 },
        }],
    })
}

fn address(pod: &Pod) -> IpAddr {
    pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap().parse().unwrap()
}

/// What a server says of who connects to it.
async fn ask(ip: IpAddr, port: u16) -> std::io::Result<String> {
    let mut client = TcpStream::connect(SocketAddr::new(ip, port)).await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Each pod has a namespace, a worker and addresses that the plugins have given it. The agent may die, and so may workers;
/// what is deleted gives its address back.
#[tokio::test]
async fn pods_get_the_network_of_the_clusters_own_plugins() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let content = Content::program("sockets", guests::guest("sockets-0.2.c").await.unwrap());
        let image = suite().await.registry.push("sockets:cni", &content).await.unwrap().tagged;
        let network = Network::new(79).await;
        let mut node = own_node("cni-node", &network.options().flag("--deny-network=node")).await;
        let port = ports::free().unwrap();
        let ready = |pod: &Pod| is(pod, "Ready");
        pods.create("one", server(&node, &image, json!({ "containerPort": 8080, "hostPort": port }))).await;
        pods.create("other", server(&node, &image, json!({ "containerPort": 8080 }))).await;
        let one = pods.until("one", "ready", ready).await;
        let other = pods.until("other", "ready", ready).await;
        assert_eq!(network.leases(), HashSet::from([address(&one), address(&other)]));
        for pod in [&one, &other] {
            let ip = address(pod);
            assert!(ip.to_string().starts_with(&network.prefix()), "{ip}");
            assert!(ask(ip, 8080).await.unwrap().starts_with(&format!("{ip}:8080 from ")));
        }
        let host: IpAddr = one.status.as_ref().unwrap().host_ip.as_ref().unwrap().parse().unwrap();
        let by_port = ask(host, port).await.unwrap();
        assert!(by_port.starts_with(&format!("{}:8080 from ", address(&one))), "{by_port}");
        let workers = node.workers();
        assert_eq!(workers.keys().filter(|group| group.starts_with("cni-")).count(), 2, "{workers:?}");

        loopback(&pods, &node, &image).await;
        denied(&pods, &node, &image, SocketAddr::new(host, port)).await;
        host_network(&pods, &node, host).await;
        forwarded(&pods, &node, &image, ns).await;

        node.kill().unwrap();
        assert!(ask(address(&one), 8080).await.is_ok(), "it goes on without an agent");
        node.start_again().await.unwrap();
        pods.create("later", server(&node, &image, json!({ "containerPort": 8080 }))).await;
        let later = pods.until("later", "ready", ready).await;
        let after = pods.api().get("one").await.unwrap();
        assert_eq!((address(&after), restarts(&after)), (address(&one), 0));
        assert_eq!(container(&after).unwrap().container_id, container(&one).unwrap().container_id);
        assert!(![address(&one), address(&other)].contains(&address(&later)));

        node.kill_workers().await.unwrap();
        let again = pods.until("one", "a restart", |pod| restarts(pod) == 1 && ready(pod)).await;
        assert_eq!(address(&again), address(&one));
        assert!(ask(address(&one), 8080).await.is_ok());

        // As after a start of the machine, and with an agent that sees nothing of it.
        let mut lost = HashSet::from([&one, &other, &later].map(address));
        for is_seen in [false, true] {
            if !is_seen {
                node.kill().unwrap();
            }
            lose_namespaces(&node).await;
            if !is_seen {
                node.start_again().await.unwrap();
            }
            for name in ["one", "other", "later"] {
                let anew = |pod: &Pod| ready(pod) && !lost.contains(&address(pod));
                let again = pods.until(name, "ready at another address", anew).await;
                assert!(ask(address(&again), 8080).await.is_ok());
                lost.insert(address(&again));
            }
            let changed = |event: &Event| event.reason.as_deref() == Some("SandboxChanged");
            pods.event("one", "SandboxChanged", changed).await;
        }

        for name in ["one", "other", "later"] {
            end(&pods, name).await;
        }
        assert_eq!(network.leases(), HashSet::new(), "{lost:?}");
        assert_eq!(files(&node.root().join("cni")), 0);
        forget(&client, node, &network).await;
    })
    .await;
}

/// No namespace is mounted any more, and nothing runs.
async fn lose_namespaces(node: &Node) {
    for record in fs::read_dir(node.root().join("cni")).unwrap() {
        let record: Value = serde_json::from_slice(&fs::read(record.unwrap().path()).unwrap()).unwrap();
        let namespace = record["namespace"].as_str().unwrap();
        umount2(namespace, MntFlags::MNT_DETACH).unwrap();
        fs::remove_file(namespace).unwrap();
    }
    node.kill_workers().await.unwrap();
}

/// Containers of a pod find each other on its loopback, and nobody else there.
async fn loopback(pods: &Pods, node: &Node, image: &str) {
    let ask = json!({ "name": "main", "image": image, "args": ["tcp-ask", "127.0.0.1:8080"] });
    let selector = json!({ "kubernetes.io/hostname": node.name() });
    pods.create("alone", json!({ "nodeSelector": selector, "containers": [ask] })).await;
    let serve = json!({
        "name": "server", "image": image, "args": ["tcp-serve", "127.0.0.1:8080"], "restartPolicy": "Always",
        "startupProbe": { "exec": { "command": ["sockets", "tcp-ask", "127.0.0.1:8080"] }, "periodSeconds": 1 },
    });
    let pair = json!({ "nodeSelector": selector, "initContainers": [serve], "containers": [ask] });
    pods.create("pair", pair).await;
    for (name, expected) in [("alone", "refused"), ("pair", "there 127.0.0.1:8080 from 127.0.0.1:")] {
        pods.phase(name, "Succeeded").await;
        let printed = pods.logs_once_known(name).await;
        assert!(printed.contains(expected), "{name}: {printed}");
        end(pods, name).await;
    }
}

/// What is denied to all pods is denied in a namespace of their own, too.
async fn denied(pods: &Pods, node: &Node, image: &str, address: SocketAddr) {
    let ask = json!({ "name": "main", "image": image, "args": ["tcp-ask", address.to_string()] });
    let selector = json!({ "kubernetes.io/hostname": node.name() });
    pods.create("denied", json!({ "nodeSelector": selector, "containers": [ask] })).await;
    pods.phase("denied", "Succeeded").await;
    let printed = pods.logs_once_known("denied").await;
    assert!(printed.contains(&format!("refused {ACCESS_DENIED}")), "{printed}");
    end(pods, "denied").await;
}

/// A guest that listens at the pod's address alone is where `kubectl port-forward` leads.
async fn forwarded(pods: &Pods, node: &Node, image: &str, ns: &str) {
    let echo = json!({
        "nodeSelector": { "kubernetes.io/hostname": node.name() },
        "containers": [{
            "name": "main", "image": image, "args": ["tcp-echo", "$(POD_IP):8080"],
            "env": [{ "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }],
            "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
        }],
    });
    pods.create("bound", echo).await;
    pods.until("bound", "ready", |pod| is(pod, "Ready")).await;
    for route in ROUTES {
        let forward = Forward::start(route, ns, "bound", 8080).await;
        assert_eq!(forward.exchange(b"at the address").await, b"at the address", "{route:?}");
    }
    end(pods, "bound").await;
}

/// Pods of the node's own network have nothing to do with plugins.
async fn host_network(pods: &Pods, node: &Node, host: IpAddr) {
    let sleeper = json!({
        "nodeSelector": { "kubernetes.io/hostname": node.name() },
        "hostNetwork": true,
        "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"] }],
    });
    pods.create("host", sleeper).await;
    assert_eq!(address(&pods.until("host", "running", running).await), host);
    end(pods, "host").await;
}

/// While there is no network, the node is not ready, and pods wait and say why.
#[tokio::test]
async fn pods_wait_for_a_network() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let network = Network::new(80).await;
        let node = own_node("cni-waiting-node", &network.options()).await;
        network.remove();
        let nodes: Api<NodeObject> = Api::all(client.clone());
        let says_why = |object: Option<&NodeObject>| {
            let conditions = object.and_then(|node| node.status.as_ref()?.conditions.as_ref());
            conditions.into_iter().flatten().any(|condition| {
                condition.type_ == "Ready"
                    && condition.status == "False"
                    && condition.message.as_deref() == Some(NOT_READY)
            })
        };
        wait::object(nodes, node.name(), "not Ready", SOON, says_why).await.unwrap();
        let sleeper = json!({
            // The scheduler would wait for the node.
            "nodeName": node.name(),
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"] }],
        });
        pods.create("sleeper", sleeper).await;
        let why = format!("network is not ready: {NOT_READY}");
        pods.event("sleeper", "NetworkNotReady", |event| {
            event.reason.as_deref() == Some("NetworkNotReady") && event.message.as_deref() == Some(&why)
        })
        .await;
        assert_eq!(network.leases(), HashSet::new());
        network.configure();
        let sleeper = pods.until("sleeper", "running", running).await;
        assert!(address(&sleeper).to_string().starts_with(&network.prefix()));
        end(&pods, "sleeper").await;
        assert_eq!(network.leases(), HashSet::new());
        forget(&client, node, &network).await;
    })
    .await;
}

async fn end(pods: &Pods, name: &str) {
    pods.api().delete(name, &DeleteParams::default().grace_period(1)).await.unwrap();
    pods.gone(name).await;
}

/// Takes away what the plugins leave for the next pod.
async fn forget(client: &Client, node: Node, network: &Network) {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let name = node.name().to_owned();
    drop(node);
    nodes.delete(&name, &DeleteParams::default()).await.unwrap();
    let _ = Command::new("ip").args(["link", "del", &network.bridge()]).output().await;
}
