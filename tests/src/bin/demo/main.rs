//! `make demo` and `make demo-stop`: a cluster with a Wasm node on this machine, by the same code that the
//! end-to-end tests use. What it starts stays when this program ends; `down` ends it.

mod extensions;
mod http;
mod policies;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use kubewasm_tests::{
    cluster::Cluster,
    guests,
    home::Home,
    node::{self, Node, Options},
    progress::{Step, say},
    registry::{Pushed, Registry, image::Content},
    wait,
};

/// Image name that the demo's manifest holds in the repository.
const MANIFEST_IMAGE: &str = "127.0.0.1:5000/hello-wasm:v1";

/// The node, whose folder in that of the demo has the same name.
const NODE: &str = "wasm-node";

/// Time for the Deployment to become available, as kubectl writes it.
const ROLLOUT: &str = "--timeout=120s";

/// What the guest prints when it has said everything but that it is still there.
const LAST_OF_FIRST_WORDS: &str = "Waiting 10 seconds (1)...";

#[derive(Debug, Parser)]
#[command(name = "kubewasm-demo", about = "A cluster with a WebAssembly node on this machine")]
enum Command {
    /// Start everything, and run demos/hello-wasm, demos/http-hello, demos/policies and demos/extensions on it. Starts afresh when it
    /// runs already.
    Up,
    /// Stop everything and remove its files. Fine when nothing runs.
    Down,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Command::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: &Command) -> Result<()> {
    let cache = guests::cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make the folder {}", cache.display()))?;
    // Two of these commands at once would end each other's processes.
    let lock = cache.join("demo.lock");
    let lock = File::create(&lock).with_context(|| format!("cannot open {}", lock.display()))?;
    lock.lock().context("cannot wait for another demo command to end")?;
    let folder = cache.join("demo");
    match command {
        Command::Up => up(&folder).await,
        Command::Down => down(&folder).await,
    }
}

async fn down(folder: &Path) -> Result<()> {
    let there = folder.exists();
    Home::remove(folder).await?;
    uninstall(folder).await?;
    say(if there { "The demo is stopped, and its files are removed." } else { "No demo runs." });
    Ok(())
}

/// Removes what the node has made of networks, which outlives its processes.
async fn uninstall(folder: &Path) -> Result<()> {
    match http::is_possible() {
        true => node::uninstall_network(&folder.join(NODE)).await,
        false => Ok(()),
    }
}

async fn up(folder: &Path) -> Result<()> {
    if folder.exists() {
        say("A demo runs already; it is stopped first.");
        Home::remove(folder).await?;
        uninstall(folder).await?;
    }
    let home = Home::persistent(folder)?;
    let started = start(&home).await;
    if started.is_err() {
        say(&format!(
            "The demo did not start. Logs are in {}; `make demo-stop` cleans up.",
            home.logs().display()
        ));
    }
    started
}

async fn start(home: &Home) -> Result<()> {
    let cluster = Cluster::start(home).await?;

    let step = Step::begin("pushing hello-wasm to a registry");
    let mut registry = Registry::open(home, "registry")?;
    registry.start().await?;
    let module = guests::build("demos/hello-wasm/hello-wasm.c").await?;
    let image = registry.push("hello-wasm:v1", &Content::program("hello-wasm", module)).await?;
    step.done();

    let step = Step::begin("starting the node");
    let options = match http::is_possible() {
        true => Options::default().flag("--network=pod"),
        false => Options::default(),
    };
    let node = Node::start(home, &cluster, NODE, &options).await?;
    cluster.kubectl(&["wait", "--for=create", "node/wasm-node", ROLLOUT]).await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "node/wasm-node", ROLLOUT]).await?;
    node.leave();
    step.done();

    let step = Step::begin("deploying hello-wasm");
    let classes = guests::repository().join("manifests/cluster/runtimeclass.yaml");
    let deployment = deployment(home, &image)?;
    cluster.kubectl(&["apply", "-f", text(&classes)?, "-f", text(&deployment)?]).await?;
    cluster.kubectl(&["rollout", "status", "deployment/hello-wasm", ROLLOUT]).await?;
    step.done();

    show(&cluster).await?;
    match http::is_possible() {
        true => http::run(home, &cluster, &registry).await?,
        false => say("http-hello is left out: pods with addresses of their own take the rights of root."),
    }
    policies::run(home, &cluster, &registry, &image).await?;
    extensions::run(home, &cluster, &registry).await?;
    say_how_to_go_on(&cluster);
    Ok(())
}

/// Writes the demo's manifest with the image's real name, and returns where.
fn deployment(home: &Home, image: &Pushed) -> Result<PathBuf> {
    let source = guests::repository().join("demos/hello-wasm/deployment.yaml");
    let text = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let path = home.path().join("deployment.yaml");
    fs::write(&path, text.replace(MANIFEST_IMAGE, &image.tagged))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

async fn show(cluster: &Cluster) -> Result<()> {
    for line in ["get nodes -o wide", "get pods -o wide"] {
        let arguments: Vec<&str> = line.split(' ').collect();
        println!("\n$ kubectl {line}\n{}", cluster.kubectl(&arguments).await?.trim_end());
    }
    println!("\n$ kubectl logs deployment/hello-wasm");
    println!("{}", first_words(cluster).await?.trim_end());
    Ok(())
}

/// What a guest has printed, once it has come to its loop.
async fn first_words(cluster: &Cluster) -> Result<String> {
    wait::until("the guest's first lines", Duration::from_secs(30), async || {
        let logs = cluster
            .kubectl(&["logs", "deployment/hello-wasm"])
            .await
            .map_err(|error| format!("{error:#}"))?;
        if logs.contains(LAST_OF_FIRST_WORDS) { Ok(logs) } else { Err(format!("the log says {logs:?}")) }
    })
    .await
}

fn say_how_to_go_on(cluster: &Cluster) {
    let kubectl = cluster.kubectl_path();
    let folder = kubectl.parent().unwrap_or(Path::new("/")).display();
    println!(
        "
The cluster goes on running. To use it from this terminal:

    export KUBECONFIG={}
    export PATH={folder}:$PATH
    kubectl logs -f deployment/hello-wasm

`make demo-stop` stops it and removes its files.",
        cluster.admin_kubeconfig().display()
    );
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
