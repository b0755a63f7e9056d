//! demos/http-hello: three replicas that answer requests, and a new version of them under load.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use http::Request;
use kube::Client;
use kubewasm_tests::{
    cluster::Cluster,
    guests,
    home::Home,
    progress::{Step, say},
    registry::{Registry, image::Content},
    wait,
};

use crate::{ROLLOUT, text};

/// Image name that the demo's manifest holds in the repository.
const MANIFEST_IMAGE: &str = "127.0.0.1:5000/http-hello:v1";
/// The Service, as the API server leads to it.
const SERVICE: &str = "/api/v1/namespaces/default/services/http-hello:http/proxy";
/// Who asks at the same time.
const ASKING: usize = 8;
/// Time for the Service to lead somewhere, and for an answer.
const SOON: Duration = Duration::from_secs(30);

/// Whether pods can have addresses of their own here, as three servers of one port on one node need.
pub(crate) fn is_possible() -> bool {
    rustix::process::geteuid().is_root()
}

/// Deploys it, asks, and brings the next version.
pub(crate) async fn run(home: &Home, cluster: &Cluster, registry: &Registry) -> Result<()> {
    let step = Step::begin("pushing http-hello to the registry");
    let component = guests::rust::component("demos/http-hello").await?;
    let image = registry.push("http-hello:v1", &Content::program("http-hello", component)).await?;
    step.done();

    let step = Step::begin("deploying http-hello");
    let source = guests::repository().join("demos/http-hello/deployment.yaml");
    let manifest =
        fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let path = home.path().join("http-hello.yaml");
    fs::write(&path, manifest.replace(MANIFEST_IMAGE, &image.tagged))
        .with_context(|| format!("cannot write {}", path.display()))?;
    cluster.kubectl(&["apply", "-f", text(&path)?]).await?;
    cluster.kubectl(&["rollout", "status", "deployment/http-hello", ROLLOUT]).await?;
    step.done();

    let client = cluster.client().await?;
    let answer = wait::until("an answer of http-hello", SOON, async || {
        ask(&client, "/hello").await.map_err(|error| format!("{error:#}"))
    })
    .await?;
    println!("\n$ kubectl get pods -l app=http-hello -o wide");
    let pods = cluster.kubectl(&["get", "pods", "-l", "app=http-hello", "-o", "wide"]).await?;
    println!("{}\n\n$ kubectl get --raw {SERVICE}/hello\n{}", pods.trim_end(), answer.trim_end());

    println!("\n$ kubectl set env deployment/http-hello VERSION=2");
    let load = Load::start(&client);
    cluster.kubectl(&["set", "env", "deployment/http-hello", "VERSION=2"]).await?;
    let rollout = cluster.kubectl(&["rollout", "status", "deployment/http-hello", ROLLOUT]).await;
    let counted = load.end().await;
    rollout?;
    println!("{}", ask(&client, "/hello").await?.trim_end());
    say(&format!(
        "During the update {} requests were answered, and {} failed.",
        counted.answered, counted.failed
    ));
    ensure!(counted.failed == 0, "an update of http-hello loses no request");
    Ok(())
}

async fn ask(client: &Client, path: &str) -> Result<String> {
    let request = Request::get(format!("{SERVICE}{path}")).body(Vec::new())?;
    Ok(client.request_text(request).await?)
}

/// Requests, one after the other, of some who ask at the same time.
struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicUsize; 2]>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

struct Counted {
    answered: usize,
    failed: usize,
}

impl Load {
    fn start(client: &Client) -> Self {
        let (stop, counts) = (Arc::<AtomicBool>::default(), Arc::<[AtomicUsize; 2]>::default());
        let tasks = (0..ASKING).map(|_| {
            let (client, stop, counts) = (client.clone(), Arc::clone(&stop), Arc::clone(&counts));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let [answered, failed] = &*counts;
                    let count = if ask(&client, "/load").await.is_ok() { answered } else { failed };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let tasks = tasks.collect();
        Self { stop, counts, tasks }
    }

    async fn end(self) -> Counted {
        self.stop.store(true, Ordering::Relaxed);
        join_all(self.tasks).await;
        let [answered, failed] = [0, 1].map(|index: usize| self.counts[index].load(Ordering::Relaxed));
        Counted { answered, failed }
    }
}
