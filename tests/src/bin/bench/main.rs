//! `make bench`: how fast pods start on a kubewasm node, and what they cost in memory, on a real control
//! plane on this machine; the same starts on kwok, a node that fakes its pods, as the measure of what the
//! control plane alone takes. docs/benchmarks.md tells how to read the figures.
//!
//! ```text
//!  starts  ── pods, one by one and many at once ──► kubewasm node, kwok ┐
//!  churn   ── pods that come and go ─────────────► (the same two)       ├─► report ──► table, JSON
//!             ▲ observer: when its own watch showed what                │
//!  memory  ── 0, 100, 1000 idle pods ──► a fresh kubewasm node ─ /proc ─┤
//!  isolation ─ 50 idle pods ────────────► one for each mode ──── /proc ─┘
//! ```
//!
//! And `files`: a guest that reads and writes, on `kubewasm run` and on `wasmtime run`; `images`: what it takes to bring
//! a module to a node; `network`: connections, Services and addresses; `logs`: what it takes to follow guests
//! that talk; `exec`: what commands in containers and forwarded ports take; `plugins`: what a kubectl plugin takes;
//! `policies`: what a server of admission policies takes; and `extensions`: what a server of Envoy extensions takes.
//!
//! Nothing is asserted about time. A pod that does not come up ends the run with an error.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod calm;
mod churn;
mod cpu;
mod exec;
mod extensions;
mod files;
mod guest;
mod http;
mod images;
mod isolation;
mod logs;
mod machine;
mod memory;
mod network;
mod observer;
mod peer;
mod plugins;
mod pods;
mod policies;
mod processes;
mod procfs;
mod quantiles;
mod report;
mod starts;
mod table;
mod view;
mod wasmtime;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client};
use kubewasm_tests::{
    cluster::Cluster,
    guests,
    home::Home,
    node::{Node, Options},
    progress::{Step, say},
    registry::{Registry, image::Content},
    wait,
};
use serde_json::json;

use self::{
    churn::{Churn, Subject},
    exec::Exec,
    extensions::Extensions,
    http::Http,
    images::{Images, Site},
    isolation::Isolated,
    logs::Logs,
    machine::Machine,
    memory::Memory,
    network::Network,
    peer::Peer,
    plugins::Plugins,
    pods::Pods,
    report::{Peers, Report, Versions},
    starts::{Sizes, Starts},
};

/// Time for a Node object to say Ready.
const READY: Duration = Duration::from_secs(60);

/// Room that the node has for pods beyond those that are measured.
const SPARE_PODS: usize = 100;

/// Node on which starts are measured.
const NODE: &str = "bench-node";

/// Node on which memory is measured: one without a past, whose allocator has nothing to give back.
const FRESH_NODE: &str = "bench-memory";

/// Node on which the first starts of modules are measured.
const IMAGES_NODE: &str = "bench-images";

/// Node on which serving HTTP is measured.
const HTTP_NODE: &str = "bench-http";

/// Node on which following logs is measured.
const LOGS_NODE: &str = "bench-logs";

/// Node on which streams to containers are measured.
const EXEC_NODE: &str = "bench-exec";

/// Node on which the network is measured: one whose pods have addresses of their own.
const NETWORK_NODE: &str = "bench-network";

#[derive(Debug, Parser)]
#[command(name = "kubewasm-bench", about = "What a pod costs on a kubewasm node of this machine")]
struct Args {
    /// Print the report as JSON instead of a table.
    #[arg(long)]
    json: bool,

    /// Where the report is written as JSON, besides [default: target/bench.json in the repository].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// How many pods to start one after the other.
    #[arg(long, value_name = "PODS", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    single: u16,

    /// How many pods to start at once.
    #[arg(long, value_name = "PODS", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    burst: u16,

    /// How often to start many at once; the median counts.
    #[arg(long, value_name = "TIMES", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// How many pods are in flight at a time when pods come and go.
    #[arg(long, value_name = "PODS", value_delimiter = ',', default_values_t = [10, 100],
          value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: Vec<u16>,

    /// How many pods come and go in all.
    #[arg(long, value_name = "PODS", default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..))]
    churn: u16,

    /// At how many idle pods to measure memory, beside none.
    #[arg(long, value_name = "PODS", value_delimiter = ',', default_values_t = [100, 1000])]
    idle: Vec<u16>,

    /// How many idle pods to measure memory with by who shares a worker.
    #[arg(long, value_name = "PODS", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    isolated: u16,

    /// Measure kubewasm alone, without kwok and wasmtime beside it.
    #[arg(long)]
    no_peer: bool,

    /// Measure files alone, for which there is no need of a cluster.
    #[arg(long)]
    only_files: bool,

    /// Measure computing alone, for which there is no need of a cluster.
    #[arg(long)]
    only_cpu: bool,

    /// Measure images alone.
    #[arg(long)]
    only_images: bool,

    /// Measure HTTP alone.
    #[arg(long)]
    only_http: bool,

    /// Measure the network alone.
    #[arg(long)]
    only_network: bool,

    /// Measure logs alone.
    #[arg(long)]
    only_logs: bool,

    /// Measure commands in containers and forwarded ports alone.
    #[arg(long)]
    only_exec: bool,

    /// Measure kubectl plugins alone.
    #[arg(long)]
    only_plugins: bool,

    /// Measure the server of admission policies alone.
    #[arg(long)]
    only_policies: bool,

    /// Measure the server of Envoy extensions alone.
    #[arg(long)]
    only_extensions: bool,

    /// Measure idle pods alone.
    #[arg(long)]
    only_idle: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<()> {
    let home = Home::temporary()?;
    if args.only_cpu {
        let registry = start_registry(&home).await?;
        println!("\n{}", report::cpu(&measure_cpu(&home, &registry, args).await?));
        return Ok(());
    }
    if args.only_files {
        let registry = start_registry(&home).await?;
        println!("\n{}", report::files(&measure_files(&home, &registry, args).await?));
        return Ok(());
    }
    if args.only_images {
        let images = with_logs(&home, measure_images_alone(&home).await)?;
        println!("\n{}", report::images(&images));
        return Ok(());
    }
    if args.only_http {
        let measured = with_logs(&home, measure_http_alone(&home, args).await)?;
        println!("\n{}", report::http(&measured));
        return Ok(());
    }
    if args.only_network {
        let measured = with_logs(&home, measure_network_alone(&home, args).await)?;
        println!("\n{}", measured.as_ref().map(report::network).unwrap_or_default());
        return Ok(());
    }
    if args.only_logs {
        let measured = with_logs(&home, measure_logs_alone(&home).await)?;
        println!("\n{}", logs::table(&measured));
        return Ok(());
    }
    if args.only_exec {
        let measured = with_logs(&home, measure_exec_alone(&home).await)?;
        println!("\n{}", exec::table(&measured));
        return Ok(());
    }
    if args.only_plugins {
        let measured = with_logs(&home, measure_plugins_alone(&home).await)?;
        println!("\n{}", plugins::table(&measured));
        return Ok(());
    }
    if args.only_policies {
        println!("\n{}", policies::table(&policies::measure().await?));
        return Ok(());
    }
    if args.only_extensions {
        let measured = with_logs(&home, measure_extensions_alone(&home).await)?;
        println!("\n{}", extensions::table(&measured));
        return Ok(());
    }
    if args.only_idle {
        let measured = with_logs(&home, measure_memory_alone(&home, args).await)?;
        println!("\n{}", report::memory(&measured));
        return Ok(());
    }
    let report = with_logs(&home, measure(&home, args).await)?;
    let json = serde_json::to_string_pretty(&report).context("cannot encode the report")?;
    let out = args.out.clone().unwrap_or_else(|| guests::repository().join("target/bench.json"));
    write(&out, &json)?;
    if args.json {
        println!("{json}");
    } else {
        println!("\n{}\nAs JSON: {}", report::text(&report), out.display());
    }
    Ok(())
}

/// Keeps the logs of what has failed.
fn with_logs<T>(home: &Home, outcome: Result<T>) -> Result<T> {
    if outcome.is_err() {
        say(&format!("The logs of this run stay in {}.", home.keep_logs()?.display()));
    }
    outcome
}

async fn measure(home: &Home, args: &Args) -> Result<Report> {
    let (cluster, registry) = start(home).await?;
    let client = cluster.client().await?;
    let image = actor(&registry).await?;
    let pods = Pods::new(&client, &image);

    let (starts, churn, versions) = measure_speed(home, &cluster, &pods, args).await?;
    let memory = measure_memory(home, &cluster, &pods, args).await?;
    let isolation = measure_isolation(home, &cluster, &pods, args).await?;
    let files = measure_files(home, &registry, args).await?;
    let cpu = measure_cpu(home, &registry, args).await?;
    let images = measure_images(home, &cluster, &registry).await?;
    let http = measure_http(home, &cluster, &registry, args).await?;
    let network = measure_network(home, &cluster, &registry, args).await?;
    let logs = measure_logs(home, &cluster, &image).await?;
    let exec = measure_exec(home, &cluster, &registry).await?;
    let plugins = plugins::measure(&cluster).await?;
    let policies = policies::measure().await?;
    let extensions = extensions::measure(home, &cluster).await?;
    Ok(Report {
        machine: Machine::look(),
        versions,
        starts,
        churn,
        memory,
        isolation,
        files,
        cpu,
        images,
        http,
        network,
        logs,
        exec,
        plugins,
        policies,
        extensions,
    })
}

/// A control plane, and a registry.
async fn start(home: &Home) -> Result<(Cluster, Registry)> {
    Ok((Cluster::start(home).await?, start_registry(home).await?))
}

async fn start_registry(home: &Home) -> Result<Registry> {
    let mut registry = Registry::open(home, "registry")?;
    registry.start().await?;
    Ok(registry)
}

/// The name of the guest that most is measured with.
async fn actor(registry: &Registry) -> Result<String> {
    let guest = Content::program("actor", guests::guest("actor.c").await?);
    Ok(registry.push("actor:v1", &guest).await?.tagged)
}

async fn measure_logs_alone(home: &Home) -> Result<Logs> {
    let (cluster, registry) = start(home).await?;
    let image = actor(&registry).await?;
    measure_logs(home, &cluster, &image).await
}

async fn measure_logs(home: &Home, cluster: &Cluster, image: &str) -> Result<Logs> {
    let options = Options::default().config("containerLogMaxSize", json!(logs::MAX_SIZE));
    let node = start_node(home, cluster, LOGS_NODE, 2 * SPARE_PODS, options).await?;
    logs::measure(cluster, &node, image).await
}

async fn measure_exec_alone(home: &Home) -> Result<Exec> {
    let (cluster, registry) = start(home).await?;
    measure_exec(home, &cluster, &registry).await
}

async fn measure_exec(home: &Home, cluster: &Cluster, registry: &Registry) -> Result<Exec> {
    let node = start_node(home, cluster, EXEC_NODE, SPARE_PODS, Options::default()).await?;
    exec::measure(cluster, registry, &node).await
}

async fn measure_plugins_alone(home: &Home) -> Result<Plugins> {
    plugins::measure(&Cluster::start(home).await?).await
}

async fn measure_extensions_alone(home: &Home) -> Result<Extensions> {
    extensions::measure(home, &Cluster::start(home).await?).await
}

async fn measure_memory_alone(home: &Home, args: &Args) -> Result<Vec<Memory>> {
    let (cluster, registry) = start(home).await?;
    let image = actor(&registry).await?;
    let pods = Pods::new(&cluster.client().await?, &image);
    measure_memory(home, &cluster, &pods, args).await
}

async fn measure_images_alone(home: &Home) -> Result<Images> {
    let (cluster, registry) = start(home).await?;
    measure_images(home, &cluster, &registry).await
}

async fn measure_images(home: &Home, cluster: &Cluster, registry: &Registry) -> Result<Images> {
    let client = cluster.client().await?;
    let most = images::shared::PODS + SPARE_PODS;
    let node = start_node(home, cluster, IMAGES_NODE, most, Options::default()).await?;
    images::measure(home, Site { client: &client, registry, node: &node }).await
}

async fn measure_http_alone(home: &Home, args: &Args) -> Result<Http> {
    let (cluster, registry) = start(home).await?;
    measure_http(home, &cluster, &registry, args).await
}

async fn measure_http(home: &Home, cluster: &Cluster, registry: &Registry, args: &Args) -> Result<Http> {
    let client = cluster.client().await?;
    let wasmtime = if args.no_peer { None } else { wasmtime::find().await };
    let (most, idle) = sizes(args);
    let options = match network::is_possible() {
        // More than the range that the control plane gives a node.
        true => Options::default().flag("--network=pod").config("podCIDR", json!("10.217.0.0/16")),
        false => Options::default(),
    };
    let node = start_node(home, cluster, HTTP_NODE, most, options).await?;
    http::measure(home, &client, registry, &node, wasmtime.as_deref(), &idle).await
}

async fn measure_network_alone(home: &Home, args: &Args) -> Result<Option<Network>> {
    let (cluster, registry) = start(home).await?;
    measure_network(home, &cluster, &registry, args).await
}

async fn measure_network(
    home: &Home,
    cluster: &Cluster,
    registry: &Registry,
    args: &Args,
) -> Result<Option<Network>> {
    if !network::is_possible() {
        say("  going on without the network: it takes the rights of root");
        return Ok(None);
    }
    let wasmtime = if args.no_peer { None } else { wasmtime::find().await };
    let options = Options::default().flag("--network=pod");
    let node = start_node(home, cluster, NETWORK_NODE, SPARE_PODS, options).await?;
    network::measure(home, cluster, registry, &node, wasmtime.as_deref()).await.map(Some)
}

async fn measure_files(home: &Home, registry: &Registry, args: &Args) -> Result<files::Sides> {
    let module = guests::guest("actor.c").await?;
    let image = registry.push("actor:files", &Content::program("actor", module.clone())).await?.tagged;
    let wasmtime = if args.no_peer { None } else { wasmtime::find().await };
    files::measure(home, &image, &module, wasmtime.as_deref()).await
}

async fn measure_cpu(home: &Home, registry: &Registry, args: &Args) -> Result<cpu::Cpu> {
    let module = guests::guest("actor.c").await?;
    let image = registry.push("actor:cpu", &Content::program("actor", module.clone())).await?.tagged;
    let wasmtime = if args.no_peer { None } else { wasmtime::find().await };
    cpu::measure(home, &image, &module, wasmtime.as_deref()).await
}

/// The starts and the churn on kubewasm and on its peer, whose starts take turns so that a disturbance meets both.
async fn measure_speed(
    home: &Home,
    cluster: &Cluster,
    pods: &Pods,
    args: &Args,
) -> Result<(Peers<Starts>, Peers<Vec<Churn>>, Versions)> {
    let client = cluster.client().await?;
    let in_flight: Vec<usize> = args.in_flight.iter().copied().map(usize::from).collect();
    let together = usize::from(args.single.max(args.burst)).max(in_flight.iter().copied().max().unwrap_or(0));
    let most = together + SPARE_PODS;
    let node = start_node(home, cluster, NODE, most, Options::default()).await?;
    let peer = match args.no_peer {
        true => None,
        false => start_peer(home, cluster, &client).await,
    };
    let versions = versions(&client, peer.as_ref()).await?;

    let names: Vec<&str> =
        [Some(node.name()), peer.as_ref().map(|_| peer::NODE)].into_iter().flatten().collect();
    let sizes = Sizes { single: args.single.into(), burst: args.burst.into(), rounds: args.rounds.into() };
    let mut measured = starts::measure(pods, &names, sizes).await?.into_iter();
    let kubewasm = measured.next().context("there is always one node")?;
    let starts = Peers { kubewasm, kwok: measured.next() };

    let count = usize::from(args.churn);
    let kubewasm = churn::measure(pods, Subject::Kubewasm(&node), &in_flight, count).await?;
    let kwok = match &peer {
        Some(peer) => Some(churn::measure(pods, Subject::Kwok(peer), &in_flight, count).await?),
        None => None,
    };
    Ok((starts, Peers { kubewasm, kwok }, versions))
}

/// How many pods a node has room for on which idle ones are measured, and how many of these at a time.
fn sizes(args: &Args) -> (usize, Vec<usize>) {
    let mut sizes: Vec<usize> = args.idle.iter().copied().map(usize::from).collect();
    sizes.sort_unstable();
    sizes.dedup();
    (sizes.last().copied().unwrap_or_default() + SPARE_PODS, sizes)
}

async fn measure_memory(home: &Home, cluster: &Cluster, pods: &Pods, args: &Args) -> Result<Vec<Memory>> {
    let (most, sizes) = sizes(args);
    let node = start_node(home, cluster, FRESH_NODE, most, Options::default()).await?;
    Ok(memory::measure(pods, &node, &sizes).await?.0)
}

async fn measure_isolation(
    home: &Home,
    cluster: &Cluster,
    pods: &Pods,
    args: &Args,
) -> Result<Vec<Isolated>> {
    let count = usize::from(args.isolated);
    let mut measured = Vec::with_capacity(isolation::MODES.len());
    for mode in isolation::MODES {
        let name = format!("{FRESH_NODE}-{mode}");
        let options = Options::default().flag(format!("--isolation={mode}"));
        let node = start_node(home, cluster, &name, count + SPARE_PODS, options).await?;
        measured.push(isolation::measure(pods, &node, mode, count).await?);
    }
    Ok(measured)
}

/// Starts a node with room for `pods`, and waits until it is Ready.
async fn start_node(
    home: &Home,
    cluster: &Cluster,
    name: &str,
    pods: usize,
    options: Options,
) -> Result<Node> {
    let step = Step::begin(&format!("starting the node {name}"));
    let node = Node::start(home, cluster, name, &options.flag(format!("--max-pods={pods}"))).await?;
    await_ready(&cluster.client().await?, name).await?;
    step.done();
    Ok(node)
}

/// Starts kwok. Where that is not possible the report goes without it, and the reason is said.
async fn start_peer(home: &Home, cluster: &Cluster, client: &Client) -> Option<Peer> {
    let started = async {
        let peer = Peer::start(home, cluster, client).await?;
        await_ready(client, peer::NODE).await?;
        Ok::<_, anyhow::Error>(peer)
    };
    match started.await {
        Ok(peer) => Some(peer),
        Err(error) => {
            say(&format!("  going on without kwok: {error:#}"));
            None
        }
    }
}

/// Waits until the Node object says Ready, and returns it.
async fn await_ready(client: &Client, name: &str) -> Result<NodeObject> {
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let node = wait::object(nodes, name, "Ready", READY, |node| node.is_some_and(is_ready)).await?;
    Ok(node.unwrap_or_default())
}

fn is_ready(node: &NodeObject) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn versions(client: &Client, peer: Option<&Peer>) -> Result<Versions> {
    let kubernetes = client.apiserver_version().await.context("cannot ask for the version of Kubernetes")?;
    let node = Api::<NodeObject>::all(client.clone()).get(NODE).await.context("the node is gone")?;
    let Some(info) = node.status.and_then(|status| status.node_info) else {
        bail!("the Node object {NODE} does not say what it runs");
    };
    Ok(Versions {
        kubernetes: kubernetes.git_version,
        kubelet: info.kubelet_version,
        runtime: info.container_runtime_version,
        program: kubewasm_tests::node::program()?,
        kwok: peer.map(|peer| peer.version().to_owned()),
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
