//! Components that serve HTTP, on a node whose pods have addresses of their own.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use kubewasm_tests::{guests, node::Options, progress::say, registry::image::Content};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    addresses::{address, end},
    pods::{Pods, is},
    suite::{own_node, suite, with_temp_ns},
};

/// What is answered to a path; nothing where nobody listens. What is accepted is answered.
async fn get(ip: IpAddr, path: &str) -> Option<String> {
    let mut client = TcpStream::connect(SocketAddr::new(ip, 8080)).await.ok()?;
    client.write_all(format!("GET {path} HTTP/1.0\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    Some(answer)
}

/// It is Ready by its probe, answers while no agent is there, and when its pod is deleted, it finishes what it has begun.
#[tokio::test]
async fn a_component_is_served_until_its_last_request_is_answered() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let content = Content::program("http", guests::guest("http-0.2.c").await.unwrap());
        let image = suite().await.registry.push("http:v1", &content).await.unwrap().tagged;
        let range = "10.213.86.0/29";
        let options = Options::default().flag("--network=pod").config("podCIDR", json!(range));
        let mut node = own_node("http-node", &options).await;
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "terminationGracePeriodSeconds": 60,
            "containers": [{
                "name": "main",
                "image": image,
                "ports": [{ "containerPort": 8080, "name": "http" }],
                "readinessProbe": { "httpGet": { "port": "http", "path": "/" }, "periodSeconds": 1 },
            }],
        });
        pods.create("server", spec).await;
        let server = pods.until("server", "ready", |pod: &Pod| is(pod, "Ready")).await;
        let ip = address(&server);
        assert!(get(ip, "/").await.unwrap().ends_with("hello\n"));
        node.kill().unwrap();
        assert!(get(ip, "/").await.unwrap().ends_with("hello\n"));
        node.start_again().await.unwrap();
        let slow = tokio::spawn(get(ip, "/sleep?8000"));
        let load = tokio::spawn(async move {
            let mut answered = 0;
            // Until nobody listens any more, every request is answered.
            while let Some(answer) = get(ip, "/").await {
                assert!(answer.ends_with("hello\n"), "{answer}");
                answered += 1;
            }
            answered
        });
        pods.api().delete("server", &DeleteParams::default()).await.unwrap();
        assert!(slow.await.unwrap().unwrap().ends_with("slept\n"));
        assert!(load.await.unwrap() > 0);
        pods.gone("server").await;
        end(&client, &pods, node, &[]).await;
    })
    .await;
}
