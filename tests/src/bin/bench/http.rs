//! What it costs to serve HTTP: the same component on a node and under `wasmtime serve`, at several numbers of connections, with a
//! fresh instance for each request and with instances that are kept; what idle pods cost that serve HTTP, and how they start; a
//! heavy guest; and a pod beside hostile ones.

mod heavy;
mod hostile;
pub(crate) mod load;
mod starts;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use kube::Client;
use kubewasm_tests::{
    guests,
    home::Home,
    node::Node,
    ports,
    process::Process,
    progress::{Step, say},
    registry::{Registry, image::Content},
    wait,
};
use rustix::process::Pid;
use serde::Serialize;
use serde_json::json;

pub(crate) use self::{heavy::Heavy, hostile::Beside, starts::HttpStarts};
use crate::{
    guest::{Guest, Site},
    memory::{self, Memory},
    pods::Pods,
    processes::Processes,
    procfs,
    quantiles::Quantiles,
};

/// Connections that each side is asked on.
pub(crate) const CONNECTIONS: [usize; 3] = [1, 8, 64];
/// How often each side is measured; they take turns, and the run with most requests counts.
const ROUNDS: usize = 3;
/// For how long it is asked.
const WINDOW: Duration = Duration::from_secs(4);
/// Time for a server to listen, or to be gone.
const SOON: Duration = Duration::from_secs(60);
/// Requests that an instance answers which is kept.
const REUSE: usize = 1_000;

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Http {
    /// A fresh instance for each request.
    pub(crate) fresh: Sides,
    /// Instances that are kept.
    pub(crate) kept: Sides,
    /// Idle pods.
    pub(crate) idle: Vec<Memory>,
    /// A guest in Python.
    pub(crate) heavy: Heavy,
    /// A pod beside nothing, and beside others that want it all.
    pub(crate) beside: Vec<Beside>,
    /// As many pods at once as there were idle ones.
    pub(crate) starts: HttpStarts,
}

/// Both sides, by the number of connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sides {
    /// On kubewasm.
    pub(crate) kubewasm: Vec<Served>,
    /// Under `wasmtime serve`, where it took part.
    pub(crate) wasmtime: Option<Vec<Served>>,
}

/// How one side served.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Served {
    /// On so many connections, each with a request at a time.
    pub(crate) connections: usize,
    /// In all.
    pub(crate) requests_per_s: f64,
    /// From a request's first byte to its answer's last.
    pub(crate) ms: Quantiles,
    /// Resident memory of the server's process at the end.
    pub(crate) rss_kib: u64,
}

/// Measures all of it; idle pods are so many.
///
/// # Errors
/// When a server does not come up, or does not answer.
pub(crate) async fn measure(
    home: &Home,
    client: &Client,
    registry: &Registry,
    node: &Node,
    wasmtime: Option<&Path>,
    idle: &[usize],
) -> Result<Http> {
    let component = guests::rust::component("demos/http-hello").await?;
    let image =
        registry.push("http-hello:bench", &Content::program("http-hello", component.clone())).await?.tagged;
    let file = home.folder("http")?.join("http-hello.wasm");
    std::fs::write(&file, component).context("cannot write the component")?;
    let site = Site { client, node, image: &image };
    let pods = Pods::new(client, &image);
    let many = idle.last().copied().unwrap_or(1);
    let (idle, watched) = memory::measure(&pods, node, idle).await?;
    let fresh = sides(site, home, &file, wasmtime, 1).await?;
    let kept = sides(site, home, &file, wasmtime, REUSE).await?;
    let (python, bytes) = heavy::push(registry).await?;
    let heavy = heavy::measure(Site { image: &python, ..site }, bytes).await?;
    let beside = hostile::measure(site, registry, &python).await?;
    // The node has no room for as many again.
    pods.remove(node.name(), watched).await?;
    let starts = starts::measure(site, &pods, many).await?;
    Ok(Http { fresh, kept, idle, heavy, beside, starts })
}

async fn sides(
    site: Site<'_>,
    home: &Home,
    file: &Path,
    wasmtime: Option<&Path>,
    reuse: usize,
) -> Result<Sides> {
    let step = Step::begin(&format!("HTTP, {reuse} requests for each instance"));
    let [ours, theirs] = [ports::free()?, ports::free()?].map(loopback);
    let pod = start_pod(site, ours.port(), reuse).await?;
    let server = match wasmtime {
        Some(wasmtime) => Some(start(home, wasmtime, file, theirs, reuse)?),
        None => None,
    };
    let worker = worker(site, ours.port())?;
    let mut kubewasm: Vec<Served> = Vec::new();
    let mut beside: Vec<Served> = Vec::new();
    for connections in CONNECTIONS {
        let (mut best, mut other) = (None, None);
        for _ in 0..ROUNDS {
            better(&mut best, look(ours, worker, connections).await?);
            if let Some(server) = &server {
                better(&mut other, look(theirs, pid(server)?, connections).await?);
            }
        }
        kubewasm.extend(best);
        beside.extend(other);
    }
    pod.end().await?;
    let wasmtime = match server {
        Some(mut server) => {
            server.stop(SOON).await?;
            Some(beside)
        }
        None => None,
    };
    step.done();
    Ok(Sides { kubewasm, wasmtime })
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The worker that serves a pod of the node's network.
fn worker(site: Site<'_>, port: u16) -> Result<Pid> {
    Processes::of(site.node)?.serving(port)
}

fn pid(server: &Process) -> Result<Pid> {
    Pid::from_raw(i32::try_from(server.id())?).context("a process has no number")
}

fn better(best: &mut Option<Served>, one: Served) {
    if best.is_none_or(|best| best.requests_per_s < one.requests_per_s) {
        *best = Some(one);
    }
}

async fn start_pod(site: Site<'_>, port: u16, reuse: usize) -> Result<Guest> {
    let settings = format!("max-requests={reuse},keep-alive-requests=1000000000");
    let container = json!({ "ports": [{ "containerPort": port }] });
    let annotations = json!({ "http.kubewasm.dev/main": settings });
    Guest::start_with(site, &format!("http-{reuse}"), true, container, annotations).await
}

fn start(home: &Home, wasmtime: &Path, file: &Path, at: SocketAddr, reuse: usize) -> Result<Process> {
    let mut command = Command::new(wasmtime);
    command
        .args(["serve", "-S", "cli", "--addr", &at.to_string()])
        .args(["--max-instance-reuse-count", &reuse.to_string()])
        .arg(file);
    Process::start("wasmtime", &mut command, &home.log(&format!("wasmtime-serve-{reuse}")))
}

async fn look(to: SocketAddr, server: Pid, connections: usize) -> Result<Served> {
    wait::until(&format!("an answer at {to}"), SOON, async || {
        load::one(to).await.map_err(|error| error.to_string())
    })
    .await?;
    let (sample, time) = load::ask(to, connections, WINDOW).await.context("a server fails under load")?;
    let requests_per_s = sample.len() as f64 / time.as_secs_f64();
    let ms = Quantiles::of(sample).context("nothing was answered")?;
    say(&format!("  {to} on {connections} connections: {requests_per_s:.0} requests/s"));
    Ok(Served { connections, requests_per_s, ms, rss_kib: procfs::footprint(server)?.rss_kib })
}
