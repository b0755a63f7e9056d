//! Pods with addresses of their own, on a node that has the rights for it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::{Api, Client, api::DeleteParams};
use kubewasm_tests::{
    guests,
    node::{Node, Options, uninstall_network},
    ports,
    progress::say,
    registry::image::Content,
    wait,
};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpStream, process::Command};

use crate::{
    pods::{Pods, container, is, restarts, running},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// A pod that serves TCP on one port, whatever else does, and is ready when it answers.
fn server(node: &Node, image: &str) -> Value {
    json!({
        "nodeSelector": { "kubernetes.io/hostname": node.name() },
        "restartPolicy": "Always",
        "containers": [{
            "name": "main",
            "image": image,
            "args": ["tcp-serve", "0.0.0.0:8080"],
            "ports": [{ "containerPort": 8080 }],
            "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 },
        }],
    })
}

pub(crate) fn address(pod: &Pod) -> IpAddr {
    pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap().parse().unwrap()
}

/// All addresses that a pod says it has.
pub(crate) fn all_of(pod: &Pod) -> BTreeSet<IpAddr> {
    let all = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    all.map(|pod_ip| pod_ip.ip.parse().unwrap()).collect()
}

/// What a server says of who connects to it.
pub(crate) async fn ask(ip: IpAddr) -> std::io::Result<String> {
    ask_at(SocketAddr::new(ip, 8080)).await
}

pub(crate) async fn ask_at(address: SocketAddr) -> std::io::Result<String> {
    let mut client = TcpStream::connect(address).await?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Waits until an address leads nowhere.
async fn leads_nowhere(ip: IpAddr) {
    let look = async || match ask(ip).await {
        Err(error) if error.kind() == std::io::ErrorKind::HostUnreachable => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait::until(&format!("{ip} to lead nowhere"), SOON, look).await.unwrap();
}

/// Two pods of one node, of WASI 0.2 and of 0.3, serve one port, each at an address of the Node's podCIDR, which probes find, which the agent and
/// the worker may die without, and which leads nowhere when its pod is gone.
#[tokio::test]
async fn a_pod_is_reached_at_an_address_of_its_own() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let content = Content::program("sockets", guests::guest("sockets-0.2.c").await.unwrap());
        let image = suite().await.registry.push("sockets:v1", &content).await.unwrap().tagged;
        let content = Content::program("sockets", guests::guest("sockets-0.3.c").await.unwrap());
        let of_0_3 = suite().await.registry.push("sockets:v0.3", &content).await.unwrap().tagged;
        let mut node = own_node("addressed-node", &Options::default().flag("--network=pod")).await;
        let mut with_host_port = server(&node, &image);
        let host_port = ports::free().unwrap();
        with_host_port["containers"][0]["ports"][0]["hostPort"] = json!(host_port);
        pods.create("one", with_host_port).await;
        pods.create("other", server(&node, &of_0_3)).await;
        let ready = |pod: &Pod| is(pod, "Ready");
        let one = pods.until("one", "ready", ready).await;
        let other = pods.until("other", "ready", ready).await;
        let range = range_of(&client, &node).await;
        let network = range.strip_suffix("0/24").unwrap();
        for pod in [&one, &other] {
            let ip = address(pod);
            assert!(ip.to_string().starts_with(network), "{ip} in {range}");
            assert_ne!(pod.status.as_ref().unwrap().host_ip, Some(ip.to_string()));
            assert!(ask(ip).await.unwrap().starts_with(&format!("{ip}:8080 from ")));
        }
        assert_ne!(address(&one), address(&other));
        let of_node: IpAddr = one.status.as_ref().unwrap().host_ip.as_ref().unwrap().parse().unwrap();
        let at_node = [of_node, IpAddr::from([127, 0, 0, 1])].map(|ip| SocketAddr::new(ip, host_port));
        let leads_to_one = async || {
            for at in at_node {
                let answer = ask_at(at).await.unwrap();
                assert!(answer.starts_with(&format!("{}:8080 from ", address(&one))), "{at}: {answer}");
            }
        };
        leads_to_one().await;

        node.kill().unwrap();
        assert!(ask(address(&one)).await.is_ok(), "it goes on without an agent");
        leads_to_one().await;
        node.start_again().await.unwrap();
        pods.create("later", server(&node, &image)).await;
        let later = pods.until("later", "ready", ready).await;
        let after = pods.api().get("one").await.unwrap();
        assert_eq!((address(&after), restarts(&after)), (address(&one), 0));
        assert_eq!(container(&after).unwrap().container_id, container(&one).unwrap().container_id);
        assert!(![address(&one), address(&other)].contains(&address(&later)));
        leads_to_one().await;

        node.kill_workers().await.unwrap();
        let again = pods.until("one", "a restart", |pod| restarts(pod) == 1 && ready(pod)).await;
        assert_eq!(address(&again), address(&one));
        assert!(ask(address(&one)).await.unwrap().starts_with(&format!("{}:8080", address(&one))));

        pods.api().delete("one", &DeleteParams::default().grace_period(1)).await.unwrap();
        pods.gone("one").await;
        leads_nowhere(address(&one)).await;
        let refused = ask_at(at_node[0]).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "nobody has the port");
        end(&client, &pods, node, &["other", "later"]).await;
    })
    .await;
}

/// A pod for which no address is left does not begin, and says why; it does when another one has gone.
#[tokio::test]
async fn a_pod_waits_while_no_address_is_free() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let range = "10.213.77.0/30";
        let options = Options::default().flag("--network=pod").config("podCIDR", json!(range));
        let node = own_node("crowded-node", &options).await;
        let sleeper = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"] }],
        });
        pods.create("first", sleeper.clone()).await;
        let first = pods.until("first", "running", running).await;
        assert_eq!(address(&first).to_string(), "10.213.77.2");
        pods.create("second", sleeper).await;
        let why = format!("network is not ready: no address is left in {range}");
        pods.event("second", "NetworkNotReady", |event| {
            event.reason.as_deref() == Some("NetworkNotReady") && event.message.as_deref() == Some(&why)
        })
        .await;
        pods.api().delete("first", &DeleteParams::default().grace_period(1)).await.unwrap();
        let second = pods.until("second", "running", running).await;
        assert_eq!(address(&second), address(&first));
        end(&client, &pods, node, &["second"]).await;
    })
    .await;
}

/// The range that the control plane has given a node.
pub(crate) async fn range_of(client: &Client, node: &Node) -> String {
    let object = Api::<NodeObject>::all(client.clone()).get(node.name()).await.unwrap();
    object.spec.and_then(|spec| spec.pod_cidr).unwrap()
}

/// The routes of this machine to addresses of a range.
pub(crate) async fn routes_in(range: &str) -> Vec<String> {
    let output = Command::new("ip").args(["route", "show", "root", range]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter(|line| !line.starts_with("unreachable ")).map(str::to_owned).collect()
}

/// Ends what runs, and takes away what an agent that ends leaves for the next: the node's last route, and its table of the
/// packet filter.
pub(crate) async fn end(client: &Client, pods: &Pods, node: Node, left: &[&str]) {
    for name in left {
        pods.api().delete(name, &DeleteParams::default().grace_period(1)).await.unwrap();
        pods.gone(name).await;
    }
    let (name, root) = (node.name().to_owned(), node.root().to_owned());
    drop(node);
    uninstall_network(&root).await.unwrap();
    Api::<NodeObject>::all(client.clone()).delete(&name, &DeleteParams::default()).await.unwrap();
}
