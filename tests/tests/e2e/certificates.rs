//! Certificates that do not live long.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client,
    api::{ListParams, LogParams},
};
use kubewasm_tests::{
    cluster::{self, Cluster, ClusterOptions},
    guests,
    home::Home,
    node::{Node, Options},
    wait,
};
use serde_json::json;

use crate::{
    pods::{Pods, running},
    suite::{await_ready, start_registry},
};

/// Certificates of each kind that a node has had in the end.
const LIVES: usize = 5;
/// Time for that: each is replaced within two minutes of its life of one, which begins five minutes before it is signed.
const LONG: Duration = Duration::from_secs(420);

/// Approves every request for a serving certificate, as an administrator's program would.
async fn approve(cluster: &Cluster, client: &Client) {
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    loop {
        let all = requests.list(&ListParams::default()).await.unwrap();
        for request in all {
            let is_undecided = request.status.as_ref().is_none_or(|status| status.conditions.is_none());
            if is_undecided && request.spec.signer_name == "kubernetes.io/kubelet-serving" {
                let name = request.metadata.name.unwrap();
                cluster.kubectl(&["certificate", "approve", &name]).await.unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The pairs that a node has had, by what is in their files.
fn look(pki: &Path, name: &str, seen: &mut BTreeSet<String>) {
    seen.extend(fs::read_to_string(pki.join(name)).ok());
}

/// A node whose certificates live for a minute, and whose API server takes no others: client and serving certificates are
/// replaced again and again, while logs are read by the API server and directly, each over a new connection, and pods come and
/// go. None of it fails. The agent is killed and started again in the middle of it, and finds its way.
#[tokio::test]
async fn short_lived_certificates_rotate_under_load() {
    let home = &Home::temporary().unwrap();
    let options = ClusterOptions::default().signing_duration("60s").verifying_nodes();
    let cluster = Cluster::start_with(home, options).await.unwrap();
    let classes = guests::repository().join("manifests/cluster/runtimeclass.yaml");
    cluster.kubectl(&["apply", "-f", &classes.to_string_lossy()]).await.unwrap();
    let (_registry, actor) = start_registry(home).await.unwrap();
    let client = cluster.client().await.unwrap();
    let name = "short-lived-node";
    let options = Options::default().config("serverTLSBootstrap", json!(true));
    let work = async {
        let mut node = Node::start(home, &cluster, name, &options).await.unwrap();
        await_ready(&client, name).await.unwrap();
        let pods = Pods::new(&client, "default");
        let spec = |args: &[&str]| {
            json!({
                "nodeSelector": { "kubernetes.io/hostname": name },
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": "main", "image": actor.tagged, "args": args }],
            })
        };
        pods.create("told", spec(&["say", "as told", "sleep", "3600"])).await;
        pods.until("told", "running", running).await;
        // The node answers once its serving certificate is there.
        wait::until("a first log", LONG, async || {
            pods.api().logs("told", &LogParams::default()).await.map_err(|error| error.to_string())
        })
        .await
        .unwrap();

        let pki = node.root().join("pki");
        for round in 0..2 {
            let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
            let going = || !stop.load(Ordering::Relaxed);
            let by_api_server = async {
                while going() {
                    assert_eq!(pods.logs("told").await, "as told\n");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            };
            let directly = async {
                let mut config = cluster::config_of(&cluster.admin_kubeconfig()).await.unwrap();
                config.cluster_url = node.url().parse().unwrap();
                while going() {
                    // A connection of its own, whose certificate is verified.
                    let client = Client::try_from(config.clone()).unwrap();
                    let request = http::Request::get("/healthz").body(Vec::new()).unwrap();
                    assert_eq!(client.request_text(request).await.unwrap(), "ok");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            };
            let coming_and_going = async {
                let mut number = 0;
                while going() {
                    let name = format!("brief-{round}-{number}");
                    pods.create(&name, spec(&["say", "here"])).await;
                    pods.phase(&name, "Succeeded").await;
                    pods.api().delete(&name, &kube::api::DeleteParams::default()).await.unwrap();
                    number += 1;
                }
                assert!(number > 0);
            };
            let watching = async {
                let (mut clients, mut servings) = (BTreeSet::new(), BTreeSet::new());
                let seen = wait::until("several lives of both certificates", LONG, async || {
                    look(&pki, "kubelet-client-current.pem", &mut clients);
                    look(&pki, "kubelet-server-current.pem", &mut servings);
                    let (clients, servings) = (clients.len(), servings.len());
                    if clients.min(servings) >= LIVES {
                        Ok(())
                    } else {
                        Err(format!("{clients} and {servings}"))
                    }
                });
                let seen = seen.await;
                stop.store(true, Ordering::Relaxed);
                seen.unwrap();
            };
            tokio::join!(by_api_server, directly, coming_and_going, watching);
            assert!(asked.into_inner() > 50);
            if round == 0 {
                node.kill().unwrap();
                node.start_again().await.unwrap();
                pods.logs_once_known("told").await;
            }
        }
        let log = fs::read_to_string(home.log(name)).unwrap();
        for trouble in ["Unauthorized", "has expired", "cannot renew"] {
            assert!(!log.contains(trouble), "{trouble}: {log}");
        }
    };
    tokio::select! {
        () = work => {}
        () = approve(&cluster, &client) => {}
    }
}
