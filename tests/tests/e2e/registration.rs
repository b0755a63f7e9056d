//! The Node object: what it says, how it is kept alive, how it comes back.

use std::{fs, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, NodeStatus, Taint},
};
use kube::{Api, api::DeleteParams};
use kubewasm_tests::{node::Options, wait};

use crate::suite::{NODE, SOON, await_ready, own_node, suite};

/// A new node carries the labels that name its architecture and both taints that keep other pods away.
#[tokio::test]
async fn labels_and_taints() {
    let node = shared_node().await;
    let labels = node.metadata.labels.unwrap_or_default();
    for (label, value) in [
        ("kubernetes.io/arch", "wasm32-wasi"),
        ("beta.kubernetes.io/arch", "wasm32-wasi"),
        ("kubernetes.io/hostname", NODE),
    ] {
        assert_eq!(labels.get(label).map(String::as_str), Some(value), "{label}");
    }
    assert!(labels.contains_key("kubernetes.io/os"));
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    for effect in ["NoSchedule", "NoExecute"] {
        let wanted = |taint: &Taint| {
            taint.key == "kubernetes.io/arch"
                && taint.value.as_deref() == Some("wasm32-wasi")
                && taint.effect == effect
        };
        assert!(taints.iter().any(wanted), "{effect} in {taints:?}");
    }
}

/// Capacity is the machine's, and allocatable is no more than capacity.
#[tokio::test]
async fn capacity_is_the_machines() {
    let status = status(&shared_node().await);
    let capacity = status.capacity.unwrap_or_default();
    assert_eq!(capacity["cpu"].0, std::thread::available_parallelism().unwrap().to_string());
    assert_eq!(capacity["memory"].0, format!("{}Ki", memory_total_kib()));
    let pods: u32 = capacity["pods"].0.parse().unwrap();
    assert!(pods > 1000, "{pods} pods: what one worker has room for");
    let allocatable = status.allocatable.unwrap_or_default();
    let kib = |text: &str| text.strip_suffix("Ki").map(|kib| kib.parse::<u64>().unwrap());
    assert!(kib(&allocatable["memory"].0).is_none_or(|kib| kib <= memory_total_kib()), "{allocatable:?}");
}

/// The status holds what tools read: addresses, the port, versions, and a runtime that is no container's.
#[tokio::test]
async fn status_says_where_and_what_the_node_is() {
    let suite = suite().await;
    let status = status(&shared_node().await);
    let addresses = status.addresses.unwrap_or_default();
    let address = addresses.iter().find(|address| address.type_ == "InternalIP").unwrap();
    assert_eq!(address.address, suite.cluster.node_address().to_string());
    let port = status.daemon_endpoints.and_then(|all| all.kubelet_endpoint).unwrap().port;
    assert!(suite.node.url().ends_with(&format!(":{port}")), "{port}");
    let info = status.node_info.unwrap();
    assert!(info.container_runtime_version.starts_with("wasmtime://"), "{}", info.container_runtime_version);
    assert!(info.kubelet_version.starts_with("v1."), "{}", info.kubelet_version);
}

/// The lease is held by the node, renewed before it is 40 s old, and owned by the Node object, so that it
/// goes with it; the owner is written at the first renewal after the registration at the latest.
#[tokio::test]
async fn lease_is_renewed() {
    let client = suite().await.cluster.client().await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    let renewed =
        |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref().map(|time| time.0));
    let owned =
        |lease: &Lease| lease.metadata.owner_references.as_ref().is_some_and(|owners| !owners.is_empty());
    let lease = wait::object(leases.clone(), NODE, "an owned lease", SOON, |lease| lease.is_some_and(owned));
    let lease = lease.await.unwrap().unwrap();
    let first = renewed(&lease).unwrap();
    assert!(Timestamp::now().duration_since(first).as_secs() < 40, "renewed at {first}");
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some(NODE));
    let owner = &lease.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.kind.as_str(), Some(&owner.uid)), ("Node", shared_node().await.metadata.uid.as_ref()));
    let later = |lease: Option<&Lease>| lease.and_then(renewed).is_some_and(|time| time > first);
    wait::object(leases, NODE, "a renewal", Duration::from_secs(40), later).await.unwrap();
}

/// A Node object that somebody deletes comes back, with its labels and taints, and becomes Ready.
#[tokio::test]
async fn a_deleted_node_registers_again() {
    let node = own_node("deleted-node", &Options::default()).await;
    let client = suite().await.cluster.client().await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    let old = nodes.get(node.name()).await.unwrap().metadata.uid;
    nodes.delete(node.name(), &DeleteParams::default()).await.unwrap();
    wait::object(nodes.clone(), node.name(), "a new Node object", SOON, |node| {
        node.is_some_and(|node| node.metadata.uid != old)
    })
    .await
    .unwrap();
    let new = await_ready(&client, node.name()).await.unwrap();
    assert!(new.spec.and_then(|spec| spec.taints).unwrap_or_default().len() >= 2);
    nodes.delete(node.name(), &DeleteParams::default()).await.unwrap();
}

/// Labels and taints of the command line reach the Node object; an empty taint list means none.
#[tokio::test]
async fn labels_and_taints_of_the_command_line() {
    let options =
        Options::default().flag("--node-labels=example.dev/zone=blue").flag("--register-with-taints=");
    let node = own_node("labelled-node", &options).await;
    let client = suite().await.cluster.client().await.unwrap();
    let nodes: Api<Node> = Api::all(client);
    let object = nodes.get(node.name()).await.unwrap();
    assert_eq!(object.metadata.labels.unwrap_or_default()["example.dev/zone"], "blue");
    let taints = object.spec.and_then(|spec| spec.taints).unwrap_or_default();
    assert!(taints.iter().all(|taint| taint.key != "kubernetes.io/arch"), "{taints:?}");
    nodes.delete(node.name(), &DeleteParams::default()).await.unwrap();
}

async fn shared_node() -> Node {
    let client = suite().await.cluster.client().await.unwrap();
    Api::<Node>::all(client).get(NODE).await.unwrap()
}

fn status(node: &Node) -> NodeStatus {
    node.status.clone().unwrap_or_default()
}

fn memory_total_kib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
