//! A node with guests, and a machine beside it that has a kube-proxy and no guests, in a network namespace of its own.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::TryStreamExt as _;
use http::Request;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node as NodeObject, Service},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use kubewasm_network::Namespace;
use kubewasm_tests::{
    cluster::{self, programs},
    guests,
    node::Options,
    process::Process,
    progress::say,
    registry::image::Content,
    wait,
};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    addresses::{end, range_of},
    pods::{Pods, restarts},
    services::{allow, endpoints, lead_to_loopback},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// The two ends of the link between the machines: of a range for such tests (RFC 2544).
const HERE: &str = "198.18.77.1";
const BESIDE: &str = "198.18.77.2";
const WAIT: Duration = Duration::from_secs(10);
/// The machine beside the node.
const NAME: &str = "beside-the-node";

/// The machine beside the node.
struct Beside {
    namespace: Arc<Namespace>,
    proxy: Process,
    api: tokio::task::JoinHandle<()>,
}

impl Beside {
    /// Makes the machine, and starts its kube-proxy.
    async fn start() -> Self {
        let suite = suite().await;
        let namespace = Arc::new(Namespace::create().unwrap());
        link(&namespace).await;
        // The API server listens on this machine's loopback.
        let config = cluster::config_of(&suite.cluster.admin_kubeconfig()).await.unwrap();
        let port = config.cluster_url.port_u16().unwrap();
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let here = listener.local_addr().unwrap();
        let api = lead_to_loopback(listener, port);
        let folder = suite.home.folder(NAME).unwrap();
        let text = std::fs::read_to_string(suite.cluster.admin_kubeconfig()).unwrap();
        let mut kubeconfig: Value = serde_yaml_ng::from_str(&text).unwrap();
        kubeconfig["clusters"][0]["cluster"]["server"] = json!(format!("https://{here}"));
        kubeconfig["clusters"][0]["cluster"]["tls-server-name"] = json!("127.0.0.1");
        let path = folder.join("kubeconfig");
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        // What it asks for its address and zone. Nothing may be bound to it.
        let nodes: Api<NodeObject> = Api::all(suite.cluster.client().await.unwrap());
        let taints = json!([{ "key": "no-node", "effect": "NoSchedule" }]);
        let object =
            json!({ "metadata": { "name": NAME }, "spec": { "unschedulable": true, "taints": taints } });
        nodes.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
        let status = json!({ "status": { "addresses": [{ "type": "InternalIP", "address": BESIDE }] } });
        nodes.patch_status(NAME, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();

        let program = programs::build("tools/kube-proxy/build.sh").await.unwrap().join("kube-proxy");
        let mut command = Command::new(program);
        command.arg(format!("--kubeconfig={}", path.display())).args([
            &format!("--hostname-override={NAME}"),
            "--proxy-mode=nftables",
            "--nodeport-addresses=198.18.77.0/24",
            // Settings of the machine, not of a namespace.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ]);
        let log = suite.home.log("kube-proxy");
        let start = || Process::start("kube-proxy", &mut command, &log).map_err(io::Error::other);
        let proxy = namespace.run(start).unwrap();
        Self { namespace, proxy, api }
    }

    /// What is answered to a request from here.
    async fn ask(&self, to: SocketAddr, path: &str) -> io::Result<String> {
        let (namespace, path) = (Arc::clone(&self.namespace), path.to_owned());
        tokio::task::spawn_blocking(move || namespace.run(|| ask(to, &path))).await.unwrap()
    }

    /// Asks until every one of these servers has answered.
    async fn sees_all(&self, to: SocketAddr, servers: &BTreeSet<IpAddr>) {
        let mut seen = BTreeSet::new();
        wait::until(&format!("answers from all of {servers:?} at {to}"), SOON, async || {
            for _ in 0..10 {
                seen.insert(server(&self.ask(to, "/").await.map_err(|error| error.to_string())?));
            }
            if &seen == servers { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await
        .unwrap();
    }

    /// Asks until a server does not answer any more where the others do.
    async fn sees_no_more(&self, to: SocketAddr, gone: IpAddr) {
        wait::until(&format!("no answer from {gone} at {to}"), SOON, async || {
            for _ in 0..30 {
                let seen = server(&self.ask(to, "/").await.map_err(|error| error.to_string())?);
                if seen == gone {
                    return Err(format!("{seen} answers"));
                }
            }
            Ok(())
        })
        .await
        .unwrap();
    }

    async fn end(mut self) {
        self.proxy.stop(WAIT).await.unwrap();
        self.api.abort();
        let nodes: Api<NodeObject> = Api::all(suite().await.cluster.client().await.unwrap());
        nodes.delete(NAME, &DeleteParams::default()).await.unwrap();
    }
}

/// Links a namespace to this one: each has an address, and the namespace knows no other way.
async fn link(namespace: &Namespace) {
    let (connection, here, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let runtime = tokio::runtime::Handle::current();
    let open = || {
        let _guard = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection()?;
        runtime.spawn(connection);
        Ok(handle)
    };
    let beside = namespace.run(open).unwrap();
    let name = format!("beside{}", std::process::id() % 100_000);
    let peer = rtnetlink::LinkMessageBuilder::<rtnetlink::LinkUnspec>::new()
        .name("eth0")
        .setns_by_fd(namespace.as_fd().as_raw_fd())
        .build();
    let pair =
        rtnetlink::LinkVeth::new(&name, "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
    here.link().add(pair).execute().await.unwrap();
    for (handle, name, address) in [(&here, &*name, HERE), (&beside, "eth0", BESIDE), (&beside, "lo", "")] {
        let link = handle.link().get().match_name(name).execute().try_next().await.unwrap().unwrap();
        if let Ok(address) = address.parse::<IpAddr>() {
            handle.address().add(link.header.index, address, 24).execute().await.unwrap();
        }
        let up = rtnetlink::LinkUnspec::new_with_index(link.header.index).up().build();
        handle.link().set(up).execute().await.unwrap();
    }
    let out =
        rtnetlink::RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(HERE.parse().unwrap()).build();
    beside.route().add(out).execute().await.unwrap();
}

/// What a server answers to a request. Blocks.
fn ask(to: SocketAddr, path: &str) -> io::Result<String> {
    let mut client = TcpStream::connect_timeout(&to, WAIT)?;
    client.set_read_timeout(Some(WAIT))?;
    client.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    if answer.contains(" from ") { Ok(answer) } else { Err(io::Error::other(format!("it says {answer:?}"))) }
}

/// Which server has answered: the address that it was reached at is its own.
fn server(answer: &str) -> IpAddr {
    let view = answer.rsplit("\r\n\r\n").next().unwrap();
    view.split(':').next().unwrap().parse().unwrap()
}

/// Somebody who asks at one address, one request after the other, and counts.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Load {
    fn start(beside: &Beside, to: SocketAddr) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let namespace = Arc::clone(&beside.namespace);
        let thread = std::thread::spawn({
            let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
            move || {
                let run = || {
                    let mut failed = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        failed.extend(ask(to, "/").err().map(|error| error.to_string()));
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(failed)
                };
                namespace.run(run).unwrap()
            }
        });
        Self { stop, asked, thread }
    }

    /// Waits until some more requests have been answered.
    async fn goes_on(&self) {
        let before = self.asked.load(Ordering::Relaxed);
        wait::until("more requests", SOON, async || {
            let now = self.asked.load(Ordering::Relaxed);
            if now > before + 50 { Ok(()) } else { Err(format!("{}", now - before)) }
        })
        .await
        .unwrap();
    }

    /// Ends it, and returns what has failed.
    fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn deployment(node: &str, image: &str) -> Value {
    json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 3,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": {
                    "runtimeClassName": "wasm",
                    "nodeSelector": { "kubernetes.io/hostname": node },
                    "terminationGracePeriodSeconds": 30,
                    "containers": [{
                        "name": "main", "image": image, "args": ["http-serve", "0.0.0.0:8080"],
                        "ports": [{ "name": "http", "containerPort": 8080 }],
                        "readinessProbe": {
                            "httpGet": { "port": "http", "path": "/ready" },
                            "periodSeconds": 1, "failureThreshold": 1,
                        },
                        // Until kube-proxies know that it goes.
                        "lifecycle": { "preStop": { "sleep": { "seconds": 4 } } },
                    }],
                },
            },
        },
    })
}

/// Servers of a node are reached from a machine with a kube-proxy: by their addresses, by their Service and its NodePort, and by
/// the API server. One that is not ready is left out. Scaling, and an agent that dies, cost nobody an answer; a worker that
/// dies costs those it was giving, and is reached as before.
#[tokio::test]
async fn services_of_guests_are_reached_as_any_others() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let suite = suite().await;
        let pods = Pods::new(&client, ns);
        let content = Content::program("sockets", guests::guest("sockets-0.2.c").await.unwrap());
        let image = suite.registry.push("sockets:world", &content).await.unwrap().tagged;
        let mut node = own_node("world-node", &Options::default().flag("--network=pod")).await;
        let binding = allow(&client, node.name()).await;
        let deployments = Api::<Deployment>::namespaced(client.clone(), ns);
        let web = serde_json::from_value(deployment(node.name(), &image)).unwrap();
        deployments.create(&PostParams::default(), &web).await.unwrap();
        let services = Api::<Service>::namespaced(client.clone(), ns);
        let service = json!({
            "metadata": { "name": "web" },
            "spec": {
                "type": "NodePort",
                "selector": { "app": "web" },
                "ports": [{ "port": 80, "targetPort": "http" }],
            },
        });
        let service = serde_json::from_value(service).unwrap();
        let spec = services.create(&PostParams::default(), &service).await.unwrap().spec.unwrap();
        let by_service = SocketAddr::new(spec.cluster_ip.unwrap().parse().unwrap(), 80);
        let node_port = u16::try_from(spec.ports.unwrap()[0].node_port.unwrap()).unwrap();
        let by_node_port = SocketAddr::new(BESIDE.parse().unwrap(), node_port);
        let beside = Beside::start().await;
        let servers = endpoints(&client, ns, "web", |ready, _| ready.len() == 3).await;

        for ip in &servers {
            let answer = beside.ask(SocketAddr::new(*ip, 8080), "/").await.unwrap();
            assert!(answer.contains(&format!("{ip}:8080 from {BESIDE}:")), "{answer}");
        }
        for pod in pods.api().list(&ListParams::default().labels("app=web")).await.unwrap() {
            let name = pod.metadata.name.unwrap();
            let path = format!("/api/v1/namespaces/{ns}/pods/{name}:8080/proxy/");
            let answer = client.request_text(Request::get(path).body(Vec::new()).unwrap()).await.unwrap();
            let own = format!("{}:8080 from ", pod.status.unwrap().pod_ip.unwrap());
            assert!(answer.starts_with(&own), "{answer}");
        }
        beside.sees_all(by_service, &servers).await;
        beside.sees_all(by_node_port, &servers).await;

        let ill = *servers.first().unwrap();
        beside.ask(SocketAddr::new(ill, 8080), "/fail").await.unwrap();
        endpoints(&client, ns, "web", |ready, others| ready.len() == 2 && others == 1).await;
        beside.sees_no_more(by_service, ill).await;
        beside.ask(SocketAddr::new(ill, 8080), "/heal").await.unwrap();
        endpoints(&client, ns, "web", |ready, _| *ready == servers).await;
        beside.sees_all(by_service, &servers).await;

        let load = Load::start(&beside, by_service);
        load.goes_on().await;
        node.kill().unwrap();
        load.goes_on().await;
        node.start_again().await.unwrap();
        load.goes_on().await;
        for replicas in [2, 4] {
            let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
            deployments.patch("web", &PatchParams::default(), &patch).await.unwrap();
            endpoints(&client, ns, "web", |ready, others| ready.len() == replicas && others == 0).await;
            load.goes_on().await;
        }
        assert_eq!(load.end(), Vec::<String>::new(), "no answer need be lost");

        let servers = endpoints(&client, ns, "web", |ready, _| ready.len() == 4).await;
        node.kill_workers().await.unwrap();
        let names = pods.api().list(&ListParams::default().labels("app=web")).await.unwrap().items;
        for name in names.into_iter().filter_map(|pod| pod.metadata.name) {
            pods.until(&name, "a restart", |pod| restarts(pod) > 0).await;
        }
        let again = endpoints(&client, ns, "web", |ready, _| ready.len() == 4).await;
        assert_eq!(again, servers);
        beside.sees_all(by_service, &servers).await;

        deployments.delete("web", &DeleteParams::default()).await.unwrap();
        pods.all_gone("app=web").await;
        beside.end().await;
        let bindings = Api::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>::all(client.clone());
        bindings.delete(&binding, &DeleteParams::default()).await.unwrap();
        let range = range_of(&client, &node).await;
        end(&client, &pods, node, &[], &range).await;
    })
    .await;
}
