//! Components that serve HTTP, on a node whose pods have addresses of their own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, PostParams};
use kubewasm_tests::{guests, node::Options, ports, progress::say, registry::image::Content, wait};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    access,
    addresses::{address, end},
    pods::{Pods, is, phase, restarts},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// What is answered to a path; nothing where nobody listens. What is accepted is answered.
async fn get(ip: IpAddr, path: &str) -> Option<String> {
    let mut client = TcpStream::connect(SocketAddr::new(ip, 8080)).await.ok()?;
    client.write_all(format!("GET {path} HTTP/1.0\r\nhost: test\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    Some(answer)
}

/// A pod of this name that serves HTTP on the node's address, at the port that is returned.
pub(crate) async fn serve_http(pods: &Pods, name: &str) -> u16 {
    let content = Content::program("http", guests::guest("http-0.2.c").await.unwrap());
    let image = suite().await.registry.push(&format!("http:{name}"), &content).await.unwrap().tagged;
    let port = ports::free().unwrap();
    let spec = json!({
        "hostNetwork": true,
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": "main",
            "image": image,
            "ports": [{ "containerPort": port }],
            "readinessProbe": { "httpGet": { "port": port, "path": "/" }, "periodSeconds": 1 },
        }],
    });
    pods.create(name, spec).await;
    pods.until(name, "ready", |pod: &Pod| is(pod, "Ready")).await;
    port
}

/// A request whose guest traps is an answer, a metric and an Event: the pod goes on, and so do its other requests.
#[tokio::test]
async fn a_guest_that_traps_is_an_event_and_its_pod_goes_on() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let port = serve_http(&pods, "traps").await;
        let asked = async |path: &str| {
            let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            client.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        assert!(asked("/trap?hunter2").await.starts_with("HTTP/1.0 500 "));
        assert!(asked("/").await.ends_with("hello\n"));
        let is_told = |event: &Event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("RequestFailed")
                && event.type_.as_deref() == Some("Warning")
                && event.involved_object.field_path.as_deref() == Some("spec.containers{main}")
                && message == "a request to container main failed: wasm trap: wasm `unreachable` instruction executed"
        };
        pods.event("traps", "the trap", is_told).await;
        let failures =
            format!("kubewasm_http_failures_total{{namespace=\"{ns}\",pod=\"traps\",container=\"main\"}} 1");
        wait::until("the metric", SOON, async || {
            let metrics = access::metrics().await;
            if metrics.lines().any(|line| line == failures) { Ok(()) } else { Err(metrics) }
        })
        .await
        .unwrap();
        let pod = pods.api().get("traps").await.unwrap();
        assert_eq!((phase(&pod), is(&pod, "Ready"), restarts(&pod)), ("Running", true, 0));
    })
    .await;
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

/// As many are in one instance at a time as the annotation says, where the component is one of WASI 0.3.
#[tokio::test]
async fn several_requests_are_in_one_instance_where_the_pod_asks_for_it() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let range = "10.213.88.0/29";
        let options = Options::default().flag("--network=pod").config("podCIDR", json!(range));
        let node = own_node("requests-node", &options).await;
        for (name, guest) in [("of-0-3", "concurrent-0.3.c"), ("of-0-2", "http-0.2.c")] {
            let content = Content::program("http", guests::guest(guest).await.unwrap());
            let image = suite().await.registry.push(&format!("http:{name}"), &content).await.unwrap().tagged;
            let settings = "max-requests=1000,max-instances=1,instance-concurrency=10";
            let pod = json!({
                "metadata": { "name": name, "annotations": { "http.kubewasm.dev/main": settings } },
                "spec": {
                    "runtimeClassName": "wasm",
                    "nodeSelector": { "kubernetes.io/hostname": node.name() },
                    "containers": [{ "name": "main", "image": image }],
                },
            });
            pods.api().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        }
        let refused = pods.waiting("of-0-2", &["CreateContainerConfigError"]).await.message.unwrap();
        assert!(refused.contains("instance-concurrency=10") && refused.contains("handler@0.3"), "{refused}");
        let server = pods.until("of-0-3", "ready", |pod: &Pod| is(pod, "Ready")).await;
        let ip = address(&server);
        let meet = (0..10).map(|_| get(ip, "/meet?10"));
        for answer in futures::future::join_all(meet).await {
            assert!(answer.unwrap().ends_with("met\n"));
        }
        end(&client, &pods, node, &["of-0-2", "of-0-3"]).await;
    })
    .await;
}
