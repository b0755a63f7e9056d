//! What streams to containers take: a command that does nothing from the request to its status, its output to kubectl, and requests
//! through a forwarded port. Beside the first two stands what the API server takes by itself: the same of [`stand_in`], a node
//! that answers at once and sends what it has.

mod stand_in;

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{AttachParams, DeleteParams, PostParams},
};
use kubewasm_tests::{
    cluster::Cluster,
    guests,
    node::Node,
    ports,
    progress::say,
    registry::{Registry, image::Content},
    wait,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use self::stand_in::StandIn;
use crate::{
    http::load,
    quantiles::Quantiles,
    table::{Table, number},
};

/// How many commands are run, one after the other.
const ROUNDS: usize = 200;
/// Megabytes (of 2^20 bytes) that are written by one command.
const MEGABYTES: u64 = 512;
/// How often they are; the best counts.
const TIMES: usize = 3;
/// Who asks through a forwarded port at the same time.
const CONNECTIONS: [usize; 2] = [1, 8];
/// How long they ask.
const WINDOW: Duration = Duration::from_secs(5);
/// Time for a pod to run, and to go.
const SOON: Duration = Duration::from_secs(120);

/// Figures of streams.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Exec {
    /// A command from the request to its status, in milliseconds.
    round_trip_ms: Quantiles,
    /// The same of the stand-in.
    stand_in_ms: Quantiles,
    /// Megabytes per second of `kubectl exec`, by WebSocket all the way.
    websocket: f64,
    /// The same by SPDY.
    spdy: f64,
    /// What the stand-in sends, by WebSocket.
    stand_in: f64,
    /// Requests per second by the number of connections: through `kubectl port-forward`, and without it.
    requests: Vec<(usize, f64, f64)>,
}

/// Measures.
///
/// # Errors
/// When a pod does not come up, or a command does not end well.
pub(crate) async fn measure(cluster: &Cluster, registry: &Registry, node: &Node) -> Result<Exec> {
    let site = Site { cluster, pods: Api::default_namespaced(cluster.client().await?) };
    let tools = Content::MultiCall {
        name: "toolbox".to_owned(),
        module: guests::guest("toolbox.c").await?,
        links: ["sh", "cat", "give"].map(str::to_owned).to_vec(),
    };
    let image = registry.push("toolbox:bench", &tools).await?.tagged;
    let main = json!({ "name": "main", "image": image, "args": ["sh"], "stdin": true });
    site.start("exec", node.name(), json!({ "containers": [main] })).await?;
    let stand_in = StandIn::start(cluster).await?;
    let main = json!({ "name": "main", "image": "none" });
    site.create("stand-in", stand_in.node(), json!({ "containers": [main] })).await?;

    let round_trip_ms = site.round_trips("exec", &["cat"]).await?;
    let stand_in_ms = site.round_trips("stand-in", &["0"]).await?;
    say("  commands that do nothing");
    let megabytes = MEGABYTES.to_string();
    let websocket = site.output("exec", &["give", &megabytes], "true").await?;
    let spdy = site.output("exec", &["give", &megabytes], "false").await?;
    let stand_in = site.output("stand-in", &[&megabytes], "true").await?;
    say("  output of a command");
    site.remove("exec").await?;
    site.pods.delete("stand-in", &DeleteParams::default().grace_period(0)).await?;
    let requests = site.forward(registry, node).await?;
    say("  requests through a forwarded port");
    Ok(Exec { round_trip_ms, stand_in_ms, websocket, spdy, stand_in, requests })
}

struct Site<'a> {
    cluster: &'a Cluster,
    pods: Api<Pod>,
}

impl Site<'_> {
    async fn create(&self, name: &str, node: &str, spec: Value) -> Result<()> {
        let mut whole = json!({
            "nodeName": node, "terminationGracePeriodSeconds": 0, "tolerations": [{ "operator": "Exists" }],
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            whole[field] = value.clone();
        }
        let pod = json!({ "metadata": { "name": name }, "spec": whole });
        self.pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        Ok(())
    }

    /// Creates a pod, and waits until it is ready.
    async fn start(&self, name: &str, node: &str, spec: Value) -> Result<()> {
        self.create(name, node, spec).await?;
        wait::object(self.pods.clone(), name, "ready", SOON, |pod| pod.is_some_and(is_ready)).await?;
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.pods.delete(name, &DeleteParams::default()).await?;
        wait::object(self.pods.clone(), name, "deletion", SOON, |pod| pod.is_none()).await?;
        Ok(())
    }

    /// Runs a command that has nothing to do, one after the other.
    async fn round_trips(&self, pod: &str, argv: &[&str]) -> Result<Quantiles> {
        let params = AttachParams::default();
        let mut sample = Vec::with_capacity(ROUNDS);
        // The first one finds its program not compiled, and connections not made.
        for round in 0..=ROUNDS {
            let begun = Instant::now();
            let mut process = self.pods.exec(pod, argv.iter().copied(), &params).await?;
            let status = process.take_status().context("a status is taken once")?.await;
            let took = begun.elapsed();
            let status = status.and_then(|status| status.status);
            ensure!(status.as_deref() == Some("Success"), "a command of {pod} ended with {status:?}");
            if round > 0 {
                sample.push(took);
            }
        }
        Quantiles::of(sample).context("nothing was run")
    }

    fn kubectl(&self, arguments: &[&str], websockets: &str) -> Command {
        let mut command = Command::new(self.cluster.kubectl_path());
        command.arg("--kubeconfig").arg(self.cluster.admin_kubeconfig()).args(arguments);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Megabytes per second that a command writes and kubectl reads.
    async fn output(&self, pod: &str, argv: &[&str], websockets: &str) -> Result<f64> {
        let arguments = [&["exec", pod, "--"][..], argv].concat();
        let mut best = Duration::MAX;
        for _ in 0..TIMES {
            let begun = Instant::now();
            let status = self.kubectl(&arguments, websockets).stdout(Stdio::null()).status().await?;
            best = best.min(begun.elapsed());
            ensure!(status.success(), "kubectl exec of {pod} has failed");
        }
        #[expect(clippy::cast_precision_loss, reason = "there are not that many")]
        Ok((MEGABYTES << 20) as f64 / 1e6 / best.as_secs_f64())
    }

    /// Requests of a guest that serves HTTP, by the number of connections.
    async fn forward(&self, registry: &Registry, node: &Node) -> Result<Vec<(usize, f64, f64)>> {
        let content = Content::program("http", guests::rust::component("demos/http-hello").await?);
        let image = registry.push("http:exec", &content).await?.tagged;
        let port = ports::free()?;
        let main = json!({
            "name": "main", "image": image, "ports": [{ "containerPort": port }],
            "readinessProbe": { "httpGet": { "port": port }, "periodSeconds": 1 },
        });
        let spec = json!({ "hostNetwork": true, "containers": [main] });
        self.start("forward", node.name(), spec).await?;
        let (_kubectl, forwarded) = self.port_forward("forward", port).await?;
        let direct = SocketAddr::from(([127, 0, 0, 1], port));
        let mut requests = Vec::new();
        for connections in CONNECTIONS {
            let mut rates = [0.0, 0.0];
            for (rate, to) in rates.iter_mut().zip([forwarded, direct]) {
                let (sample, took) = load::ask(to, connections, WINDOW).await?;
                #[expect(clippy::cast_precision_loss, reason = "there are not that many")]
                let per_s = sample.len() as f64 / took.as_secs_f64();
                *rate = per_s;
            }
            requests.push((connections, rates[0], rates[1]));
        }
        self.remove("forward").await?;
        Ok(requests)
    }

    /// A kubectl that forwards, and where it listens.
    async fn port_forward(&self, pod: &str, port: u16) -> Result<(Child, SocketAddr)> {
        let ports = format!(":{port}");
        let arguments = ["port-forward", "--address=127.0.0.1", pod, &ports];
        let mut kubectl = self.kubectl(&arguments, "true").stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(kubectl.stdout.take().context("it is a pipe")?).lines();
        let line = lines.next_line().await?.context("kubectl port-forward has ended")?;
        let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split_once(' '));
        let address = address.with_context(|| format!("kubectl says {line:?}"))?.0.parse()?;
        // It says a line for each connection, which somebody has to read.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok((kubectl, address))
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The table of streams.
pub(crate) fn table(exec: &Exec) -> Table {
    let mut table = Table::new(["exec and port-forward", "kubewasm", "without", "kubewasm/without"]);
    let mut row = |name: String, own: f64, other: Option<f64>, digits| {
        let ratio = other.map(|other| own / other);
        table.row([name, number(Some(own), digits), number(other, digits), number(ratio, 2)]);
    };
    let of_stand_in = &exec.stand_in_ms;
    row("a command, p50, ms".to_owned(), exec.round_trip_ms.p50, Some(of_stand_in.p50), 1);
    row("a command, p99, ms".to_owned(), exec.round_trip_ms.p99, Some(of_stand_in.p99), 1);
    row("output, by WebSocket, MB/s".to_owned(), exec.websocket, Some(exec.stand_in), 0);
    row("output, by SPDY, MB/s".to_owned(), exec.spdy, None, 0);
    for (connections, forwarded, direct) in &exec.requests {
        let s = if *connections == 1 { "" } else { "s" };
        let name = format!("requests/s through port-forward, {connections} connection{s}");
        row(name, *forwarded, Some(*direct), 0);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_set_against_what_there_is_without() {
        let quantiles = |p50, p99| Quantiles { count: 1, p50, p90: p50, p99 };
        let exec = Exec {
            round_trip_ms: quantiles(6.0, 12.0),
            stand_in_ms: quantiles(4.0, 10.0),
            websocket: 90.0,
            spdy: 80.0,
            stand_in: 180.0,
            requests: vec![(1, 500.0, 1000.0), (8, 900.0, 3000.0)],
        };
        let table = table(&exec).to_string();
        for (name, cells) in [
            ("a command, p50, ms", ["6.0", "4.0", "1.50"]),
            ("output, by WebSocket, MB/s", ["90", "180", "0.50"]),
            ("output, by SPDY, MB/s", ["80", "-", "-"]),
            ("requests/s through port-forward, 8 connections", ["900", "3000", "0.30"]),
        ] {
            let row = table.lines().find(|line| line.starts_with(&format!("| {name}"))).unwrap();
            let found: Vec<&str> = row.split('|').map(str::trim).skip(2).take(3).collect();
            assert_eq!(found, cells, "{name}");
        }
    }
}
