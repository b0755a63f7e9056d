//! Services, which guests reach on a node that has no kube-proxy.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    discovery::v1::{Endpoint, EndpointSlice},
    rbac::v1::ClusterRoleBinding,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams},
};
use kubewasm_tests::{
    beside::lead_to_loopback,
    cluster::{self, bootstrap::let_follow_services},
    guests,
    node::{Node, Options},
    progress::say,
    registry::image::Content,
    wait,
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    addresses::end,
    pods::{Pods, is, phase},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// Servers behind a Service, as their clients are to find them.
struct Web<'a> {
    client: &'a Client,
    pods: &'a Pods,
    namespace: &'a str,
    node: &'a Node,
    /// Of clients, of WASI 0.2 and of 0.3, which take turns.
    images: [&'a str; 2],
    asked: AtomicUsize,
    /// The Service's address.
    address: SocketAddr,
}

impl Web<'_> {
    /// Has so many servers, and waits until the control plane says that they, and no others, answer for the Service.
    async fn scale(&self, replicas: usize) -> BTreeSet<IpAddr> {
        let deployments = Api::<Deployment>::namespaced(self.client.clone(), self.namespace);
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        deployments.patch("web", &PatchParams::default(), &patch).await.unwrap();
        only_endpoints(self.client, self.namespace, "web", replicas).await
    }

    /// What a pod of the node prints that asks at an address; before the node knows it as a Service's, perhaps nothing.
    async fn ask(&self, name: &str, args: &[&str]) -> Vec<String> {
        let image = self.images[self.asked.fetch_add(1, Ordering::Relaxed) % 2];
        let args: Vec<&str> = std::iter::once("tcp-ask").chain(args.iter().copied()).collect();
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": self.node.name() },
            "activeDeadlineSeconds": 10,
            "containers": [{ "name": "main", "image": image, "args": args }],
        });
        self.pods.create(name, spec).await;
        self.pods.until(name, "its end", |pod| ["Succeeded", "Failed"].contains(&phase(pod))).await;
        let lines = self.pods.logs(name).await.lines().map(str::to_owned).collect();
        self.pods.api().delete(name, &DeleteParams::default().grace_period(1)).await.unwrap();
        lines
    }

    /// Asks until what is printed is as it should be: what the control plane knows is with the node a moment later.
    async fn ask_until(
        &self,
        name: &str,
        args: &[&str],
        is_right: impl Fn(&[String]) -> bool,
    ) -> Vec<String> {
        let mut seen = Vec::new();
        for n in 0..30 {
            seen = self.ask(&format!("{name}-{n}"), args).await;
            if is_right(&seen) {
                return seen;
            }
        }
        panic!("{name}: {seen:?}");
    }

    /// What the server itself prints when it asks the Service, in one more container of its pod.
    async fn ask_itself(&self, pod: &str, n: usize) -> Vec<String> {
        let name = format!("self-{n}");
        let args = ["tcp-ask".to_owned(), self.address.to_string()];
        let container = json!({ "name": name, "image": self.images[0], "args": args });
        let patch = Patch::Strategic(json!({ "spec": { "ephemeralContainers": [container] } }));
        self.pods.api().patch_ephemeral_containers(pod, &PatchParams::default(), &patch).await.unwrap();
        let has_ended = |pod: &Pod| {
            let statuses = pod.status.iter().flat_map(|s| s.ephemeral_container_statuses.iter().flatten());
            let mut own = statuses.filter(|status| status.name == name);
            own.any(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some()))
        };
        self.pods.until(pod, "its answer", has_ended).await;
        let log = LogParams { container: Some(name.clone()), ..LogParams::default() };
        self.pods.api().logs(pod, &log).await.unwrap().lines().map(str::to_owned).collect()
    }
}

/// Waits until a Service has so many endpoints, all of which are ready.
async fn only_endpoints(client: &Client, namespace: &str, service: &str, count: usize) -> BTreeSet<IpAddr> {
    endpoints(client, namespace, service, |ready, others| ready.len() == count && others == 0).await
}

/// Waits until the endpoints of a Service are as they should be: those that are ready, and how many are not.
pub(crate) async fn endpoints(
    client: &Client,
    namespace: &str,
    service: &str,
    are_right: impl Fn(&BTreeSet<IpAddr>, usize) -> bool,
) -> BTreeSet<IpAddr> {
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    wait::until(&format!("the endpoints of {service}"), SOON, async || {
        let slices = slices.list(&of_service).await.map_err(|error| error.to_string())?.items;
        let all: Vec<_> = slices.into_iter().flat_map(|slice| slice.endpoints.unwrap_or_default()).collect();
        let is_ready = |e: &&Endpoint| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true));
        let ready: BTreeSet<IpAddr> =
            all.iter().filter(is_ready).map(|e| e.addresses[0].parse().unwrap()).collect();
        let others = all.iter().filter(|endpoint| !is_ready(endpoint)).count();
        if are_right(&ready, others) { Ok(ready) } else { Err(format!("{all:?}")) }
    })
    .await
    .unwrap()
}

/// Takes connections at the address that the control plane gives as the API server's to it, which listens on the loopback
/// only. `None`: it gives none.
async fn lead_to_api_server() -> Option<tokio::task::JoinHandle<()>> {
    let suite = suite().await;
    let address = Some(suite.cluster.node_address()).filter(|address| !address.is_loopback())?;
    let config = cluster::config_of(&suite.cluster.admin_kubeconfig()).await.unwrap();
    let port = config.cluster_url.port_u16().unwrap();
    let listener = TcpListener::bind((address, port)).await.unwrap();
    Some(lead_to_loopback(listener, port))
}

/// A node says what it lacks for Services, and has them once it is allowed. Its guests reach every server behind one, the API
/// server, and themselves; no longer those that are gone, and where there are none they are refused.
#[tokio::test]
async fn guests_reach_services() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let suite = suite().await;
        let pods = Pods::new(&client, ns);
        let content = Content::program("sockets", guests::guest("sockets-0.2.c").await.unwrap());
        let image = suite.registry.push("sockets:services", &content).await.unwrap().tagged;
        let content = Content::program("sockets", guests::guest("sockets-0.3.c").await.unwrap());
        let of_0_3 = suite.registry.push("sockets:services-0.3", &content).await.unwrap().tagged;
        let node = own_node("services-node", &Options::default().flag("--network=pod")).await;
        let log = suite.home.log(node.name());
        wait::until("the node to say what it lacks", SOON, async || {
            let log = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
            let said =
                log.lines().filter(|line| line.contains("this node may not read EndpointSlices")).count();
            if said == 1 { Ok(()) } else { Err(format!("it has said so {said} times")) }
        })
        .await
        .unwrap();
        let binding = let_follow_services(&client, node.name()).await.unwrap();

        let template = json!({
            "metadata": { "labels": { "app": "web" } },
            "spec": {
                "runtimeClassName": "wasm",
                "nodeSelector": { "kubernetes.io/hostname": node.name() },
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "main", "image": image, "args": ["tcp-serve", "0.0.0.0:8080"],
                    "ports": [{ "name": "http", "containerPort": 8080 }],
                    "readinessProbe": { "tcpSocket": { "port": "http" }, "periodSeconds": 1 },
                }],
            },
        });
        let deployment = json!({
            "metadata": { "name": "web" },
            "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "web" } }, "template": template },
        });
        let deployments = Api::<Deployment>::namespaced(client.clone(), ns);
        deployments
            .create(&PostParams::default(), &serde_json::from_value(deployment).unwrap())
            .await
            .unwrap();
        let service = json!({
            "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] },
        });
        let services = Api::<Service>::namespaced(client.clone(), ns);
        let service: Service = serde_json::from_value(service).unwrap();
        let service = services.create(&PostParams::default(), &service).await.unwrap();
        let address: IpAddr = service.spec.unwrap().cluster_ip.unwrap().parse().unwrap();
        let address = SocketAddr::new(address, 80);
        let (images, asked) = ([image.as_str(), &of_0_3], AtomicUsize::new(0));
        let web = Web { client: &client, pods: &pods, namespace: ns, node: &node, images, asked, address };
        let at = address.to_string();

        let servers = web.scale(2).await;
        let mut seen = BTreeSet::new();
        for n in 0..30 {
            let is_answer = |lines: &[String]| lines.len() == 2;
            let lines = web.ask_until(&format!("ask-{n}"), &[&at], is_answer).await;
            assert!(lines[0].ends_with(&format!(" from {at}")), "{lines:?}");
            let server = lines[1].strip_prefix("there ").unwrap().split(':').next().unwrap();
            seen.insert(server.parse::<IpAddr>().unwrap());
            if seen.len() == 2 {
                break;
            }
        }
        assert_eq!(seen, servers);

        if let Some(led) = lead_to_api_server().await {
            let api = ["$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)", "GET / HTTP/1.0\r\n\r\n"];
            // It speaks TLS, and says so.
            let is_answer = |lines: &[String]| {
                lines.get(1).is_some_and(|line| line.starts_with("there HTTP/1.0 400 Bad Request"))
            };
            web.ask_until("api", &api, is_answer).await;
            led.abort();
        }

        let only = *web.scale(1).await.first().unwrap();
        let all = pods.api().list(&ListParams::default().labels("app=web")).await.unwrap().items;
        let has_address =
            |pod: &&Pod| pod.status.as_ref().is_some_and(|s| s.pod_ip == Some(only.to_string()));
        let server = all.iter().find(has_address).unwrap();
        assert!(is(server, "Ready"));
        let name = server.metadata.name.as_deref().unwrap();
        let own = format!("there {only}:8080 from {only}:");
        let mut n = 0;
        loop {
            let lines = web.ask_itself(name, n).await;
            if lines.get(1).is_some_and(|line| line.starts_with(&own)) {
                break;
            }
            n += 1;
            assert!(n < 30, "{lines:?}");
        }

        web.scale(0).await;
        web.ask_until("refused", &[&at], |lines| lines == ["refused 14"]).await;
        pods.all_gone("app=web").await;
        let bindings = Api::<ClusterRoleBinding>::all(client.clone());
        bindings.delete(&binding, &DeleteParams::default()).await.unwrap();
        end(&client, &pods, node, &[]).await;
    })
    .await;
}
