//! Guests of WASI 0.1 that listen, on a node whose pods have addresses of their own.

use k8s_openapi::api::core::v1::Pod;
use kubewasm_tests::{guests, node::Options, progress::say, registry::image::Content};
use serde_json::json;

use crate::{
    addresses::{address, ask, end},
    pods::{Pods, is, restarts},
    suite::{own_node, suite, with_temp_ns},
};

/// A C program that accepts connections is reached by its readiness probe and at its pod's address, and again after the
/// worker was killed.
#[tokio::test]
async fn a_guest_of_wasi_0_1_serves_its_container_port() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let content = Content::program("listener", guests::guest("listener.c").await.unwrap());
        let image = suite().await.registry.push("listener:v1", &content).await.unwrap().tagged;
        let range = "10.213.78.0/29";
        let options = Options::default().flag("--network=pod").config("podCIDR", json!(range));
        let node = own_node("listening-node", &options).await;
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "restartPolicy": "Always",
            "containers": [{
                "name": "main",
                "image": image,
                "args": ["greet"],
                "ports": [{ "containerPort": 8080, "name": "http" }],
                "readinessProbe": { "tcpSocket": { "port": "http" }, "periodSeconds": 1 },
            }],
        });
        pods.create("server", spec).await;
        let ready = |pod: &Pod| is(pod, "Ready");
        let server = pods.until("server", "ready", ready).await;
        assert_eq!(ask(address(&server)).await.unwrap(), "welcome\n");
        node.kill_workers().await.unwrap();
        let again = pods.until("server", "a restart", |pod| restarts(pod) == 1 && ready(pod)).await;
        assert_eq!(ask(address(&again)).await.unwrap(), "welcome\n");
        end(&client, &pods, node, &["server"]).await;
    })
    .await;
}
