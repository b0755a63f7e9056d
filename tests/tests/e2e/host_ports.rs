//! Pods that share the node's network, and the ports of it that are theirs.

use std::net::{SocketAddr, TcpListener};

use kubewasm_tests::{ports, wait};
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use crate::{
    addresses::ask_at,
    endpoint::sockets,
    pods::{Pods, is, phase},
    status::says,
    suite::{NODE, SOON, suite, with_temp_ns},
};

/// A pod whose guest does that with sockets, with `more` in its container.
async fn guest(args: &[&str], more: Value) -> Value {
    let mut container = json!({ "name": "main", "image": sockets().await, "args": args });
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "containers": [container] })
}

/// A readiness probe that is run every second.
fn ready_by(handler: Value) -> Value {
    let mut probe = json!({ "periodSeconds": 1, "failureThreshold": 1 });
    probe.as_object_mut().unwrap().extend(handler.as_object().unwrap().clone());
    probe
}

/// A guest listens on the port of its container, is reached by a client at the node's, and is asked there by its probe. The
/// pod's address is the node's. Nobody else gets that port.
#[tokio::test]
async fn a_guest_serves_a_port_of_the_node() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let (port, node) = (ports::free().unwrap(), suite().await.cluster.node_address());
        let exposed = json!([{ "containerPort": 8080, "hostPort": port, "name": "web" }]);
        let probe = ready_by(json!({ "httpGet": { "path": "/", "port": "web" } }));
        let more = json!({ "ports": exposed, "readinessProbe": probe });
        pods.create("server", guest(&["http-serve", "0.0.0.0:8080"], more).await).await;
        let pod = pods.until("server", "Ready", |pod| is(pod, "Ready")).await;
        let status = pod.status.unwrap();
        assert_eq!((status.pod_ip, status.host_ip), (Some(node.to_string()), Some(node.to_string())));

        let (own, mut bound) = (ports::free().unwrap(), json!({ "nodeName": NODE }));
        for (name, port, refused) in [("rival", port, true), ("neighbour", own, false)] {
            let more =
                json!({ "ports": [{ "containerPort": 9090, "hostPort": port, "hostIP": "127.0.0.1" }] });
            let spec = guest(&["tcp-serve", "0.0.0.0:9090"], more).await;
            bound.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            pods.create(name, bound.clone()).await;
            let expected = if refused { "Failed" } else { "Running" };
            let pod = pods.until(name, expected, |pod| phase(pod) == expected).await;
            let reason = pod.status.unwrap().reason;
            assert_eq!(reason.as_deref(), refused.then_some("NodePorts"), "{name}");
        }
        wait::until("the neighbour's port", SOON, async || {
            let answer = ask_at(SocketAddr::new([127, 0, 0, 1].into(), own)).await;
            answer.map_err(|error| error.to_string())
        })
        .await
        .unwrap();
        assert!(ask_at(SocketAddr::new(node, own)).await.is_err() || node.is_loopback());
    })
    .await;
}

#[tokio::test]
async fn a_guest_answers_datagrams_at_a_port_of_the_node() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let (port, node) = (ports::free().unwrap(), suite().await.cluster.node_address());
        let more = json!({ "ports": [{ "containerPort": 53, "hostPort": port, "protocol": "UDP" }] });
        pods.create("names", guest(&["udp-serve", "0.0.0.0:53"], more).await).await;
        let client = UdpSocket::bind((node, 0)).await.unwrap();
        let own = client.local_addr().unwrap();
        let answer = wait::until("an answer", SOON, async || {
            client.send_to(b"?", (node, port)).await.map_err(|error| error.to_string())?;
            let mut answer = [0; 100];
            let received = tokio::time::timeout(std::time::Duration::from_secs(1), client.recv(&mut answer));
            let size = received.await.map_err(|_| "there is none".to_owned())?.map_err(|e| e.to_string())?;
            Ok(String::from_utf8_lossy(&answer[..size]).trim_end().to_owned())
        });
        assert_eq!(answer.await.unwrap(), format!("from {own}"));
    })
    .await;
}

/// `access-denied`, for what is not exposed.
#[tokio::test]
async fn a_guest_listens_nowhere_else() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let port = ports::free().unwrap();
        let more =
            json!({ "ports": [{ "containerPort": 8080, "hostPort": port }, { "containerPort": 9090 }] });
        for (name, address) in [("closed", "0.0.0.0:9090"), ("near", "127.0.0.1:8080")] {
            pods.create(name, guest(&["tcp-bind", address], more.clone()).await).await;
            pods.phase(name, "Succeeded").await;
            assert_eq!(pods.logs(name).await, "refused 1\n", "{name}");
            pods.api().delete(name, &kube::api::DeleteParams::default().grace_period(0)).await.unwrap();
            pods.gone(name).await;
        }
    })
    .await;
}

/// Another process listens at that port, which is not asked: not in the name of a pod to which it is not exposed, and not
/// where a pod might listen and does not.
#[tokio::test]
async fn a_probe_does_not_succeed_by_another_process() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let foreign = TcpListener::bind((suite().await.cluster.node_address(), 0)).unwrap();
        foreign.set_nonblocking(true).unwrap();
        let port = foreign.local_addr().unwrap().port();
        let probe = json!({ "readinessProbe": ready_by(json!({ "tcpSocket": { "port": port } })) });
        let free = ports::free().unwrap().to_string();
        let serves = format!("0.0.0.0:{free}");
        pods.create("closed", guest(&["udp-ask", "192.0.2.1:9"], probe.clone()).await).await;
        let mut shared = guest(&["tcp-serve", &serves], probe).await;
        shared["hostNetwork"] = json!(true);
        pods.create("shared", shared).await;
        let exposed = format!("port {port} of the pod is not exposed");
        let why =
            |event: &_| says(event, "Unhealthy", &exposed) && says(event, "Unhealthy", "set `hostPort`");
        pods.event("closed", "what is missing", why).await;
        let other = |event: &_| says(event, "Unhealthy", "no container of this pod listens there");
        pods.event("shared", "that it is another's", other).await;
        for name in ["closed", "shared"] {
            assert!(!is(&pods.api().get(name).await.unwrap(), "Ready"), "{name}");
        }
        let asked = foreign.accept();
        assert!(asked.is_err(), "the other process was asked: {asked:?}");
    })
    .await;
}
