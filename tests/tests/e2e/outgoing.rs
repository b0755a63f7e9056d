//! HTTP requests that guests send (`wasi:http/outgoing-handler`).

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Service},
    rbac::v1::ClusterRoleBinding,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use kubewasm_tests::{
    certificates::ServerIdentity, cluster::bootstrap::let_follow_services, guests, node::Options,
    progress::say, registry::image::Content,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    addresses::end,
    pods::{Pods, is, phase},
    services::endpoints,
    suite::{own_node, suite, with_temp_ns},
};

/// A server of HTTPS, whose certificate a private authority has signed.
struct Secured {
    at: SocketAddr,
    authority: String,
    accepted: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Secured {
    async fn start() -> Self {
        let (identity, authority) = ServerIdentity::signed(&["127.0.0.1"]).unwrap();
        let acceptor = TlsAcceptor::from(identity.server(&["h2", "http/1.1"]).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, accepted) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    // Guests that do not trust it go.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::SeqCst);
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                });
            }
        });
        Self { at, authority, accepted, _task: AbortOnDropHandle::new(task) }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.at)
    }
}

/// Says what it was asked, and how.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let version = if request.version() == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1" };
    let head = format!("{} {} by {version}", request.method(), request.uri().path());
    let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
    Ok(Response::new(Full::from(format!("{head}, {body:?}"))))
}

async fn image(tag: &str) -> String {
    image_of("outgoing-0.2.c", tag).await
}

async fn image_of(guest: &str, tag: &str) -> String {
    let content = Content::program("outgoing", guests::guest(guest).await.unwrap());
    suite().await.registry.push(&format!("outgoing:{tag}"), &content).await.unwrap().tagged
}

/// A pod that sends requests, with a ConfigMap of authorities, which a volume of it names as well.
fn asking(name: &str, image: &str, args: &[String], authorities: Option<&str>) -> Value {
    let volumes = authorities.map(|name| json!([{ "name": "ca", "configMap": { "name": name } }]));
    json!({
        "metadata": {
            "name": name,
            "annotations": authorities.map(|name| json!({ "ca.kubewasm.dev/main": name })),
        },
        "spec": {
            "runtimeClassName": "wasm",
            "restartPolicy": "Never",
            "hostNetwork": true,
            "nodeSelector": { "kubernetes.io/hostname": crate::suite::NODE },
            "containers": [{ "name": "main", "image": image, "args": args }],
            "volumes": volumes.unwrap_or_default(),
        },
    })
}

/// A container trusts the authorities in the ConfigMap that its pod's annotation names, over one connection of HTTP/2; others
/// do not. What is wrong with the ConfigMap is told, and the container starts when it is right.
#[tokio::test]
async fn a_container_trusts_the_authorities_of_its_config_map() {
    let server = Secured::start().await;
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), image("tls").await);
        let maps = Api::<ConfigMap>::namespaced(client.clone(), ns);
        let create = async |name: &str, text: &str| {
            let map = json!({ "metadata": { "name": name }, "data": { "ca.crt": text } });
            maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
        };
        let start = async |pod: Value| {
            pods.api().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        };
        create("authorities", &server.authority).await;
        create("wrong", "no certificate").await;
        let (first, second) = (server.url("/first"), server.url("/second"));
        let args = [first.clone(), "+100000".to_owned(), second.clone()];
        start(asking("trusting", &image, &args, Some("authorities"))).await;
        let of_0_3 = image_of("outgoing-0.3.c", "tls-0.3").await;
        start(asking("trusting-0-3", &of_0_3, &args, Some("authorities"))).await;
        start(asking("distrusting", &image, &args[..1], None)).await;
        start(asking("early", &image, &args[..1], Some("late"))).await;
        start(asking("wrong", &image, &args[..1], Some("wrong"))).await;
        // No pod of the node has one of these in its spec.
        create("unnamed", &server.authority).await;
        let mut unnamed = asking("unnamed", &image, &args[..1], Some("unnamed"));
        unnamed["spec"]["volumes"] = json!([]);
        start(unnamed).await;

        for name in ["trusting", "trusting-0-3"] {
            pods.phase(name, "Succeeded").await;
        }
        let body = "GET /first by HTTP/2, Ok(0)";
        let of_first = format!("{first}: 200, {} bytes: {body}\n", body.len());
        let body = "POST /second by HTTP/2, Ok(100000)";
        let of_second = format!("{second}: 200, {} bytes: {body}\n", body.len());
        for name in ["trusting", "trusting-0-3"] {
            assert_eq!(pods.logs(name).await, format!("{of_first}{of_second}"), "{name}");
        }
        assert_eq!(server.accepted.load(Ordering::SeqCst), 2, "one connection for each pod");
        pods.phase("distrusting", "Succeeded").await;
        // TLS-certificate-error.
        assert_eq!(pods.logs("distrusting").await, format!("{first}: refused 13\n"));

        for (name, expected) in [
            ("early", "configmap \"late\" not found"),
            ("wrong", "the configmap \"wrong\", which the annotation ca.kubewasm.dev/main names: it has no certificate"),
            ("unnamed", "name it in one of the pod's volumes as well"),
        ] {
            let waiting = pods.waiting(name, &["CreateContainerConfigError"]).await;
            let message = waiting.message.unwrap_or_default();
            assert!(message.contains(expected), "{name}: {message}");
        }
        create("late", &server.authority).await;
        let right = Patch::Merge(json!({ "data": { "ca.crt": server.authority } }));
        maps.patch("wrong", &PatchParams::default(), &right).await.unwrap();
        for name in ["early", "wrong"] {
            pods.phase(name, "Succeeded").await;
            assert_eq!(pods.logs(name).await, of_first);
        }
        pods.api().delete("unnamed", &DeleteParams::default()).await.unwrap();
    })
    .await;
}

/// In the pod's own network, as any of its sockets: a Service's requests go to who answers for it, from the pod's address; and
/// what is not on the container's list is not asked.
#[tokio::test]
async fn requests_reach_services_and_keep_to_the_list() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let suite = suite().await;
        let (pods, asks) = (Pods::new(&client, ns), image("services").await);
        let content = Content::program("sockets", guests::guest("sockets-0.2.c").await.unwrap());
        let serves = suite.registry.push("sockets:outgoing", &content).await.unwrap().tagged;
        let node = own_node("outgoing-node", &Options::default().flag("--network=pod")).await;
        let binding = let_follow_services(&client, node.name()).await.unwrap();
        let pod = |name: &str, image: &str, args: &[&str]| {
            json!({
                "metadata": { "name": name, "labels": { "app": name } },
                "spec": {
                    "runtimeClassName": "wasm",
                    "restartPolicy": "Never",
                    "nodeSelector": { "kubernetes.io/hostname": node.name() },
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{ "name": "main", "image": image, "args": args }],
                },
            })
        };
        let start = async |pod: Value| {
            pods.api().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        };
        start(pod("web", &serves, &["http-serve", "0.0.0.0:8080"])).await;
        let service = json!({
            "metadata": { "name": "web" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
        });
        let services = Api::<Service>::namespaced(client.clone(), ns);
        let service: Service = serde_json::from_value(service).unwrap();
        let service = services.create(&PostParams::default(), &service).await.unwrap();
        let ip = service.spec.unwrap().cluster_ip.unwrap();
        let server =
            pods.until("web", "readiness", |pod| is(pod, "Ready")).await.status.unwrap().pod_ip.unwrap();
        endpoints(&client, ns, "web", |ready, _| ready.len() == 1).await;

        let (by_service, by_address) = (format!("http://{ip}/"), format!("http://{server}:8080/"));
        // What the control plane knows is with the node a moment later.
        let mut seen = String::new();
        for n in 0..30 {
            let name = format!("asks-{n}");
            start(pod(&name, &asks, &[&by_service, &by_address])).await;
            let asked =
                pods.until(&name, "its end", |pod| ["Succeeded", "Failed"].contains(&phase(pod))).await;
            let own = asked.status.unwrap().pod_ip.unwrap();
            seen = pods.logs(&name).await;
            let answer = format!("{server}:8080 from {own}:");
            if seen.lines().filter(|line| line.contains(": 200, ") && line.contains(&answer)).count() == 2 {
                seen.clear();
                break;
            }
        }
        assert_eq!(seen, "", "no answer by the Service");

        let mut listed = pod("listed", &asks, &[&by_service, &by_address]);
        listed["metadata"]["annotations"] = json!({ "egress.kubewasm.dev/main": format!("{ip}:80") });
        start(listed).await;
        pods.phase("listed", "Succeeded").await;
        let lines = pods.logs("listed").await;
        let lines: Vec<_> = lines.lines().collect();
        assert!(lines[0].starts_with(&format!("{by_service}: 200, ")), "{lines:?}");
        // Destination-IP-prohibited.
        assert_eq!(lines[1], format!("{by_address}: refused 4"));
        let bindings = Api::<ClusterRoleBinding>::all(client.clone());
        bindings.delete(&binding, &DeleteParams::default()).await.unwrap();
        end(&client, &pods, node, &["web"]).await;
    })
    .await;
}

/// Answers what a proxy is asked for in place of whom it is for: with what that is, and who asks.
async fn proxied(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let user = request.headers().get(http::header::PROXY_AUTHORIZATION).map(|value| value.to_str().unwrap());
    Ok(Response::new(Full::from(format!("{} for {user:?}", request.uri()))))
}

/// The operator's proxy is asked, with the credentials of a file, which are in no log of the node's; what is on this machine is
/// reached past it.
#[tokio::test]
async fn requests_go_through_the_proxy_of_the_node() {
    with_temp_ns(async |client, ns| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let _proxy = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service_fn(proxied)).await;
                });
            }
        }));
        let suite = suite().await;
        let credentials = suite.home.folder("proxy").unwrap().join("credentials");
        std::fs::write(&credentials, "me:hunter2\n").unwrap();
        let options = Options::default()
            .flag(format!("--outgoing-proxy=http://{at}"))
            .flag(format!("--outgoing-proxy-credentials={}", credentials.display()))
            .flag("-v=6");
        let node = own_node("proxied-node", &options).await;
        let (pods, image) = (Pods::new(&client, ns), image("proxied").await);
        let (through, past) = ("http://192.0.2.10:8080/hello", format!("http://{at}/"));
        let mut pod = asking("asks", &image, &[through.to_owned(), past.clone()], None);
        pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node.name() });
        pods.api().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        pods.phase("asks", "Succeeded").await;
        let user = Some("Basic bWU6aHVudGVyMg==");
        let answers = [(through, format!("{through} for {user:?}")), (&past, "/ for None".to_owned())];
        let lines = answers.map(|(url, body)| format!("{url}: 200, {} bytes: {body}\n", body.len()));
        assert_eq!(pods.logs("asks").await, lines.concat());
        let log = std::fs::read_to_string(suite.home.log(node.name())).unwrap();
        assert!(!log.contains("hunter2") && !log.contains("bWU6aHVudGVyMg"), "a secret in the log");
        pods.api().delete("asks", &DeleteParams::default().grace_period(1)).await.unwrap();
        pods.gone("asks").await;
    })
    .await;
}
