//! Containers that serve HTTP over TLS, with certificates in Secrets.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use kubewasm_tests::{
    certificates::{self, ServerIdentity},
    guests,
    node::Options,
    progress::say,
    registry::image::Content,
    wait,
};
use rustls::{
    ClientConfig,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    addresses::{address, end},
    pods::{Pods, is, restarts},
    suite::{SOON, own_node, suite, with_temp_ns},
};

const NAME: &str = "web.example";
const PORT: u16 = 8443;

fn secret(name: &str, kind: &str, chain: &str, key: &str) -> Secret {
    let secret = json!({
        "metadata": { "name": name },
        "type": kind,
        "stringData": { "tls.crt": chain, "tls.key": key },
    });
    serde_json::from_value(secret).unwrap()
}

async fn connect(ip: IpAddr, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(SocketAddr::new(ip, PORT)).await?;
    TlsConnector::from(Arc::clone(config)).connect(ServerName::try_from(NAME).unwrap(), stream).await
}

/// The certificate that is shown to who comes now.
async fn shown(ip: IpAddr, config: &Arc<ClientConfig>) -> Result<Vec<u8>, String> {
    let stream = connect(ip, config).await.map_err(|error| error.to_string())?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

/// Requests, one after the other, on a connection that is kept or on new ones; each must be answered.
async fn load(ip: IpAddr, config: Arc<ClientConfig>, is_kept: bool, counts: Arc<Load>) {
    let mut kept = None;
    while !counts.is_over.load(Ordering::Relaxed) {
        let mut sender = match kept.take() {
            Some(sender) => sender,
            None => {
                let stream = connect(ip, &config).await.expect("a connection");
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                sender
            }
        };
        let request = Request::get("/").header("host", NAME).body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        // The last one of a connection says so.
        let goes_on = answer.headers().get("connection").is_none_or(|value| value != "close");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello\n");
        counts.answered.fetch_add(1, Ordering::Relaxed);
        if is_kept && goes_on {
            sender.ready().await.expect("it is kept");
            kept = Some(sender);
        }
    }
}

#[derive(Debug, Default)]
struct Load {
    answered: AtomicUsize,
    is_over: AtomicBool,
}

impl Load {
    async fn more(&self, count: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        let seen = async || match self.answered.load(Ordering::Relaxed) {
            now if now >= before + count => Ok(()),
            now => Err(format!("{} of {count}", now - before)),
        };
        wait::until("more answers", SOON, seen).await.unwrap();
    }
}

/// It is Ready by a probe of HTTPS, and speaks both protocols. When its Secret changes, new connections have the new
/// certificate, and no request fails: neither then, nor when the agent is killed meanwhile, nor when what is new is wrong,
/// which is told.
#[tokio::test]
async fn a_container_serves_with_the_newest_certificate_of_its_secret() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    with_temp_ns(async |client, ns| {
        let (pods, secrets) = (Pods::new(&client, ns), Api::<Secret>::namespaced(client.clone(), ns));
        let content = Content::program("http", guests::guest("http-0.2.c").await.unwrap());
        let image = suite().await.registry.push("http:tls", &content).await.unwrap().tagged;
        let range = "10.213.87.0/28";
        let options = Options::default().flag("--network=pod").config("podCIDR", json!(range));
        let mut node = own_node("tls-node", &options).await;
        let identities: Vec<_> = (0..5).map(|_| ServerIdentity::new(&[NAME]).unwrap()).collect();
        let config = |protocols: &[&str]| {
            let trusted: Vec<_> = identities.iter().collect();
            certificates::client(&trusted, &[&TLS13, &TLS12], protocols).unwrap()
        };
        let create = async |name: &str, kind: &str, chain: &str, key: &str| {
            secrets.create(&PostParams::default(), &secret(name, kind, chain, key)).await.unwrap();
        };
        let change = async |name: &str, chain: &str, key: &str| {
            let data = Patch::Merge(json!({ "stringData": { "tls.crt": chain, "tls.key": key } }));
            secrets.patch(name, &PatchParams::default(), &data).await.unwrap();
        };
        let pod = |name: &str, secret: &str, container: &str| -> Value {
            json!({
                "metadata": {
                    "name": name,
                    "annotations": { format!("tls.kubewasm.dev/{container}"): secret },
                },
                "spec": {
                    "runtimeClassName": "wasm",
                    "nodeSelector": { "kubernetes.io/hostname": node.name() },
                    "terminationGracePeriodSeconds": 1,
                    "volumes": [{ "name": "tls", "secret": { "secretName": secret, "optional": true } }],
                    "containers": [{
                        "name": "main",
                        "image": image,
                        "ports": [{ "containerPort": PORT, "name": "https" }],
                        "readinessProbe": {
                            "httpGet": { "port": "https", "path": "/", "scheme": "HTTPS" }, "periodSeconds": 1,
                        },
                    }],
                },
            })
        };
        let start = async |pod: Value| {
            pods.api().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        };
        let (first, other) = (&identities[0], &identities[1]);
        let kind = "kubernetes.io/tls";
        create("web", kind, &first.chain, &first.key).await;
        create("opaque", "Opaque", &first.chain, &first.key).await;
        create("crossed", kind, &first.chain, &other.key).await;
        create("unnamed", kind, &first.chain, &first.key).await;
        start(pod("web", "web", "main")).await;
        for (name, secret, container) in [
            ("early", "late", "main"),
            ("opaque", "opaque", "main"),
            ("crossed", "crossed", "main"),
            ("misnamed", "web", "mian"),
        ] {
            start(pod(name, secret, container)).await;
        }
        let mut unnamed = pod("unnamed", "unnamed", "main");
        unnamed["spec"]["volumes"] = json!([]);
        start(unnamed).await;

        let web = pods.until("web", "ready", |pod: &Pod| is(pod, "Ready")).await;
        let ip = address(&web);
        let http_2 = connect(ip, &config(&["h2", "http/1.1"])).await.unwrap();
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(http_2)).await.unwrap();
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let scheme = format!("https://{NAME}/scheme");
        let answer = sender.send_request(Request::get(scheme).body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!((answer.version(), answer.status()), (Version::HTTP_2, StatusCode::OK));
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "https");
        drop(connection);

        for (name, expected) in [
            ("early", "secret \"late\" not found"),
            ("opaque", "whose type is \"Opaque\", and must be \"kubernetes.io/tls\""),
            ("crossed", "the key tls.key of the secret \"crossed\", which the annotation tls.kubewasm.dev/main names: its private key is not that of the first certificate"),
            ("misnamed", "tls.kubewasm.dev/mian names no container of the pod"),
            ("unnamed", "name it in one of the pod's volumes as well"),
        ] {
            let waiting = pods.waiting(name, &["CreateContainerConfigError"]).await;
            let message = waiting.message.unwrap_or_default();
            assert!(message.contains(expected), "{name}: {message}");
            assert!(!message.contains("PRIVATE"), "{name}: {message}");
        }
        create("late", kind, &first.chain, &first.key).await;
        pods.until("early", "ready", |pod: &Pod| is(pod, "Ready")).await;

        let (counts, http_1) = (Arc::new(Load::default()), config(&["http/1.1"]));
        let of_load = [true, true, false, false].map(|is_kept| {
            AbortOnDropHandle::new(tokio::spawn(load(ip, Arc::clone(&http_1), is_kept, Arc::clone(&counts))))
        });
        counts.more(20).await;
        let fresh = config(&[]);
        let is_shown = async |identity: &ServerIdentity| {
            let look = async || match shown(ip, &fresh).await? {
                der if der == identity.der.as_ref() => Ok(()),
                _ => Err("another certificate".to_owned()),
            };
            wait::until("the certificate", SOON, look).await.unwrap();
            counts.more(20).await;
        };
        is_shown(first).await;
        change("web", &other.chain, &other.key).await;
        is_shown(other).await;
        // What is changed while no agent is there is found by the next one.
        node.kill().unwrap();
        counts.more(20).await;
        change("web", &identities[2].chain, &identities[2].key).await;
        node.start_again().await.unwrap();
        is_shown(&identities[2]).await;
        change("web", &identities[3].chain, &identities[4].key).await;
        let is_told = |event: &k8s_openapi::api::core::v1::Event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("FailedUpdate")
                && message.contains("the key tls.key of the secret \"web\"")
                && message.ends_with("the container goes on with what it was given before")
        };
        pods.event("web", "what is wrong", is_told).await;
        is_shown(&identities[2]).await;
        change("web", &identities[3].chain, &identities[3].key).await;
        is_shown(&identities[3]).await;
        counts.is_over.store(true, Ordering::Relaxed);
        for load in of_load {
            load.await.unwrap();
        }
        let web = pods.api().get("web").await.unwrap();
        assert_eq!((restarts(&web), is(&web, "Ready")), (0, true));
        for name in ["opaque", "crossed", "misnamed", "unnamed"] {
            pods.api().delete(name, &DeleteParams::default()).await.unwrap();
        }
        end(&client, &pods, node, &["web", "early"]).await;
    })
    .await;
}
