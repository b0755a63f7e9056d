//! A node with guests, and a machine beside it that has a kube-proxy and no guests.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Request;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use kubewasm_tests::{
    beside::{BESIDE, Beside},
    cluster::bootstrap::let_follow_services,
    guests,
    node::Options,
    progress::say,
    registry::image::Content,
    wait,
};
use serde_json::{Value, json};

use crate::{
    addresses::{address, all_of, end},
    pods::{Pods, restarts},
    services::endpoints,
    suite::{SOON, own_node, suite, with_temp_ns},
};

const WAIT: Duration = Duration::from_secs(10);
const FAMILIES: usize = 2;

/// Who asks from the machine beside the node.
struct Client(Beside);

impl Client {
    /// What is answered to a request from here.
    async fn ask(&self, to: SocketAddr, path: &str) -> io::Result<String> {
        let path = path.to_owned();
        self.0.run(move || ask(to, &path)).await
    }

    /// Asks until every one of these servers has answered that are of the address' family.
    async fn sees_all(&self, to: SocketAddr, servers: &BTreeSet<IpAddr>) {
        let servers: BTreeSet<IpAddr> =
            servers.iter().filter(|server| server.is_ipv4() == to.is_ipv4()).copied().collect();
        let mut seen = BTreeSet::new();
        wait::until(&format!("answers from all of {servers:?} at {to}"), SOON, async || {
            for _ in 0..10 {
                seen.insert(server(&self.ask(to, "/").await.map_err(|error| error.to_string())?));
            }
            if seen == servers { Ok(()) } else { Err(format!("{seen:?}")) }
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
    view.split(" from ").next().unwrap().parse::<SocketAddr>().unwrap().ip()
}

/// Somebody who asks at one address, one request after the other, and counts.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(client: &Client, to: SocketAddr) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let namespace = Arc::clone(client.0.namespace());
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
        Self { stop, asked, thread: Some(thread) }
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
    fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Servers that answer at both of their addresses, by a container for each family.
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
                    "containers": [
                        {
                            "name": "main", "image": image, "args": ["http-serve", "0.0.0.0:8080"],
                            "ports": [{ "name": "http", "containerPort": 8080 }],
                            "readinessProbe": {
                                "httpGet": { "port": "http", "path": "/ready" },
                                // One that says that it is ill is; one that is slow on a busy machine is not.
                                "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 10,
                            },
                            // Until kube-proxies know that it goes.
                            "lifecycle": { "preStop": { "sleep": { "seconds": 4 } } },
                        },
                        {
                            "name": "v6", "image": image, "args": ["http-serve", "[0:0:0:0:0:0:0:0]:8080"],
                            "lifecycle": { "preStop": { "sleep": { "seconds": 4 } } },
                        },
                    ],
                },
            },
        },
    })
}

/// Servers of a node are reached from a machine with a kube-proxy over IPv4 and IPv6: by their addresses, by their Service and its
/// NodePort, and by the API server. One that is not ready is left out. Scaling, and an agent that dies, cost nobody an answer; a
/// worker that dies costs those it was giving, and is reached as before.
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
        let binding = let_follow_services(&client, node.name()).await.unwrap();
        let deployments = Api::<Deployment>::namespaced(client.clone(), ns);
        let web = serde_json::from_value(deployment(node.name(), &image)).unwrap();
        deployments.create(&PostParams::default(), &web).await.unwrap();
        let services = Api::<Service>::namespaced(client.clone(), ns);
        let service = json!({
            "metadata": { "name": "web" },
            "spec": {
                "type": "NodePort",
                "ipFamilyPolicy": "RequireDualStack",
                "selector": { "app": "web" },
                "ports": [{ "port": 80, "targetPort": "http" }],
            },
        });
        let service = serde_json::from_value(service).unwrap();
        let spec = services.create(&PostParams::default(), &service).await.unwrap().spec.unwrap();
        let by_service: Vec<SocketAddr> = spec
            .cluster_ips
            .unwrap()
            .iter()
            .map(|address| SocketAddr::new(address.parse().unwrap(), 80))
            .collect();
        assert_eq!(by_service.len(), FAMILIES);
        let node_port = u16::try_from(spec.ports.unwrap()[0].node_port.unwrap()).unwrap();
        let by_node_port = BESIDE.map(|address| SocketAddr::new(address, node_port));
        let beside = Client(Beside::start(&suite.home, &suite.cluster).await.unwrap());
        let servers = endpoints(&client, ns, "web", |ready, _| ready.len() == 3 * FAMILIES).await;

        for ip in &servers {
            let answer = beside.ask(SocketAddr::new(*ip, 8080), "/").await.unwrap();
            assert_eq!(server(&answer), *ip);
            let from: SocketAddr = answer.trim_end().rsplit(" from ").next().unwrap().parse().unwrap();
            assert!(BESIDE.contains(&from.ip()), "{answer}");
        }
        for pod in pods.api().list(&ListParams::default().labels("app=web")).await.unwrap() {
            let own = all_of(&pod);
            assert_eq!(own.len(), FAMILIES, "{own:?}");
            assert!(own.is_subset(&servers), "{own:?}");
            let name = pod.metadata.name.as_ref().unwrap();
            let path = format!("/api/v1/namespaces/{ns}/pods/{name}:8080/proxy/");
            let answer = client.request_text(Request::get(path).body(Vec::new()).unwrap()).await.unwrap();
            assert_eq!(server(&answer), address(&pod));
        }
        for to in by_service.iter().chain(&by_node_port) {
            beside.sees_all(*to, &servers).await;
        }

        let ill = *servers.iter().find(|server| server.is_ipv4()).unwrap();
        beside.ask(SocketAddr::new(ill, 8080), "/fail").await.unwrap();
        endpoints(&client, ns, "web", |ready, others| (ready.len(), others) == (2 * FAMILIES, FAMILIES))
            .await;
        beside.sees_no_more(by_service[0], ill).await;
        beside.ask(SocketAddr::new(ill, 8080), "/heal").await.unwrap();
        endpoints(&client, ns, "web", |ready, _| *ready == servers).await;
        beside.sees_all(by_service[0], &servers).await;

        let loads: Vec<Load> = by_service.iter().map(|to| Load::start(&beside, *to)).collect();
        go_on(&loads).await;
        node.kill().unwrap();
        go_on(&loads).await;
        node.start_again().await.unwrap();
        go_on(&loads).await;
        for replicas in [2, 4] {
            let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
            deployments.patch("web", &PatchParams::default(), &patch).await.unwrap();
            let all = replicas * FAMILIES;
            endpoints(&client, ns, "web", |ready, others| ready.len() == all && others == 0).await;
            go_on(&loads).await;
        }
        for (to, load) in by_service.iter().zip(loads) {
            assert_eq!(load.end(), Vec::<String>::new(), "no answer of {to} need be lost");
        }

        let servers = endpoints(&client, ns, "web", |ready, _| ready.len() == 4 * FAMILIES).await;
        node.kill_workers().await.unwrap();
        let names = pods.api().list(&ListParams::default().labels("app=web")).await.unwrap().items;
        for name in names.into_iter().filter_map(|pod| pod.metadata.name) {
            pods.until(&name, "a restart", |pod| restarts(pod) > 0).await;
        }
        let again = endpoints(&client, ns, "web", |ready, _| ready.len() == 4 * FAMILIES).await;
        assert_eq!(again, servers);
        for to in by_service {
            beside.sees_all(to, &servers).await;
        }

        deployments.delete("web", &DeleteParams::default()).await.unwrap();
        pods.all_gone("app=web").await;
        beside.0.end().await.unwrap();
        let bindings = Api::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>::all(client.clone());
        bindings.delete(&binding, &DeleteParams::default()).await.unwrap();
        end(&client, &pods, node, &[]).await;
    })
    .await;
}

async fn go_on(loads: &[Load]) {
    for load in loads {
        load.goes_on().await;
    }
}
