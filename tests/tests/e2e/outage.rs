//! The API server goes away and comes back.

use k8s_openapi::api::core::v1::Pod;
use std::fs;

use kube::{Api, api::PostParams};
use kubewasm_tests::{
    cluster::Cluster,
    guests,
    home::Home,
    node::{Node, Options},
    registry::{Registry, image::Content},
    wait,
};
use serde_json::json;

use crate::{
    pods::{phase, running},
    suite::{SOON, await_ready},
};

/// A guest that ends while the API server is away is reported as soon as it is back, and one that runs
/// goes on undisturbed.
#[tokio::test]
async fn pods_go_on_without_the_api_server() {
    let home = Home::temporary().unwrap();
    let cluster = Cluster::start(&home).await.unwrap();
    let mut registry = Registry::open(&home, "registry").unwrap();
    registry.start().await.unwrap();
    let module = guests::guest("actor.c").await.unwrap();
    let image = registry.push("actor:v1", &Content::program("actor", module)).await.unwrap();
    let node = Node::start(&home, &cluster, "outage-node", &Options::default()).await.unwrap();
    let client = cluster.client().await.unwrap();
    await_ready(&client, node.name()).await.unwrap();

    let pods: Api<Pod> = Api::default_namespaced(client);
    for (name, args) in
        [("ends", ["sleep", "5", "say", "has ended"].as_slice()), ("stays", ["sleep", "600"].as_slice())]
    {
        let pod = json!({
            "metadata": { "name": name },
            "spec": {
                "nodeName": node.name(),
                "restartPolicy": "Never",
                "tolerations": [{ "operator": "Exists" }],
                "containers": [{ "name": "main", "image": image.tagged, "args": args }],
            },
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        wait::object(pods.clone(), name, "running", SOON, |pod| pod.is_some_and(running)).await.unwrap();
    }
    let uid = pods.get("ends").await.unwrap().metadata.uid.unwrap();
    let log = node.pod_logs().join(format!("default_ends_{uid}/main/0.log"));
    cluster.stop_apiserver().await.unwrap();
    wait::until("the end of a guest", SOON, async || {
        let log = fs::read_to_string(&log).map_err(|error| error.to_string())?;
        if log.contains("has ended") { Ok(()) } else { Err(format!("the log says {log:?}")) }
    })
    .await
    .unwrap();
    cluster.start_apiserver().await.unwrap();
    wait::object(pods.clone(), "ends", "its end", SOON, |pod| {
        pod.is_some_and(|pod| phase(pod) == "Succeeded")
    })
    .await
    .unwrap();
    let stays = pods.get("stays").await.unwrap();
    assert!(running(&stays), "{:?}", stays.status);
}
