//! What following logs takes: `kubectl logs -f` of one talkative guest, the same of a hundred by as many watchers at once,
//! and `cat` of the same file. All are counted by the bytes of the log files, so that they can be set against each other.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{TryStreamExt as _, future::try_join_all, io::copy};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, LogParams, PostParams},
};
use kubewasm_tests::{cluster::Cluster, node::Node, progress::say, wait};
use serde::Serialize;
use serde_json::json;

use crate::table::{Table, number};

/// Guests that talk at once.
const MANY: usize = 100;
/// Lines of the one guest, and of each of the many.
const LINES: usize = 400_000;
const LINES_OF_MANY: usize = 4_000;
/// Size at which a file is rotated: none is, so that what is followed is one file.
pub(crate) const MAX_SIZE: &str = "1Gi";
/// Time for a guest to begin, and for its pod to go.
const SOON: Duration = Duration::from_secs(120);

/// Megabytes of log files per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Logs {
    /// `kubectl logs -f`, from the first line to the end of one guest that writes as fast as it can.
    pub(crate) follow: f64,
    /// `kubectl logs` of what it has written.
    pub(crate) read: f64,
    /// `cat` of the file.
    pub(crate) cat: f64,
    /// As many followers as there are guests, all together.
    pub(crate) follow_many: f64,
}

/// Measures on a node whose log files are not rotated below [`MAX_SIZE`]. `image` is the actor guest's.
///
/// # Errors
/// When a guest does not come up or a log is not what it should be.
pub(crate) async fn measure(cluster: &Cluster, node: &Node, image: &str) -> Result<Logs> {
    let client = cluster.client().await?;
    let site = Site { pods: Api::default_namespaced(client.clone()), cluster, node, image };
    let (follow, size, path) = site.follow_one().await?;
    let read = per_second(size, site.kubectl(&["logs", "talker-0"]).await?);
    let begun = Instant::now();
    let cat = tokio::process::Command::new("cat").arg(&path).stdout(Stdio::null()).status().await?;
    ensure!(cat.success(), "cat has failed");
    let cat = per_second(size, begun.elapsed());
    say("  logs, one talkative guest");
    site.remove(1).await?;
    let follow_many = site.follow_many(client).await?;
    say(&format!("  logs, {MANY} talkative guests"));
    site.remove(MANY).await?;
    Ok(Logs { follow, read, cat, follow_many })
}

struct Site<'a> {
    pods: Api<Pod>,
    cluster: &'a Cluster,
    node: &'a Node,
    image: &'a str,
}

impl Site<'_> {
    /// Creates a guest that waits a little and then talks, and returns its pod once it runs.
    async fn start(&self, index: usize, lines: usize) -> Result<Pod> {
        let name = format!("talker-{index}");
        let pod = json!({
            "metadata": { "name": name },
            "spec": {
                "nodeName": self.node.name(),
                "tolerations": [{ "operator": "Exists" }],
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "main", "image": self.image, "args": ["sleep", "5", "print", lines.to_string()],
                }],
            },
        });
        self.pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let begun = wait::object(self.pods.clone(), &name, "a start", SOON, |pod| {
            let phase = pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref());
            matches!(phase, Some("Running" | "Succeeded"))
        });
        begun.await?.context("the pod is gone")
    }

    fn log_file(&self, pod: &Pod) -> PathBuf {
        let dir = format!("default_{}_{}", pod.name_any(), pod.uid().unwrap_or_default());
        self.node.pod_logs().join(dir).join("main/0.log")
    }

    /// Time that kubectl takes to its end.
    async fn kubectl(&self, arguments: &[&str]) -> Result<Duration> {
        let begun = Instant::now();
        let status = tokio::process::Command::new(self.cluster.kubectl_path())
            .arg("--kubeconfig")
            .arg(self.cluster.admin_kubeconfig())
            .args(arguments)
            .stdout(Stdio::null())
            .status()
            .await?;
        ensure!(status.success(), "kubectl has failed");
        Ok(begun.elapsed())
    }

    /// Megabytes per second of one guest that is followed, without the pause before its first line; the size of its log
    /// file, and where that is.
    async fn follow_one(&self) -> Result<(f64, u64, PathBuf)> {
        let pod = self.start(0, LINES).await?;
        let path = self.log_file(&pod);
        let first = async {
            wait::until("a first line", SOON, async || {
                let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
                if size > 0 { Ok(()) } else { Err("nothing yet".to_owned()) }
            })
            .await
            .map(|()| Instant::now())
        };
        let follow = async {
            self.kubectl(&["logs", "--follow", "talker-0"]).await?;
            Ok(Instant::now())
        };
        let (begun, ended) = tokio::try_join!(first, follow)?;
        let size = std::fs::metadata(&path)?.len();
        Ok((per_second(size, ended.saturating_duration_since(begun)), size, path))
    }

    async fn follow_many(&self, client: Client) -> Result<f64> {
        let pods: Vec<Pod> = try_join_all((0..MANY).map(|index| self.start(index, LINES_OF_MANY))).await?;
        let begun = Instant::now();
        let params = LogParams { follow: true, ..LogParams::default() };
        let texts = pods.iter().map(|pod| {
            let (api, params) = (Api::<Pod>::default_namespaced(client.clone()), params.clone());
            async move {
                let stream = api.log_stream(&pod.name_any(), &params).await?;
                let size = copy(stream, &mut futures::io::sink()).await?;
                ensure!(size > 0, "an empty log");
                Ok(())
            }
        });
        try_join_all(texts).await?;
        let took = begun.elapsed();
        let sizes = pods.iter().map(|pod| Ok(std::fs::metadata(self.log_file(pod))?.len()));
        let size = sizes.sum::<Result<u64>>()?;
        Ok(per_second(size, took))
    }

    async fn remove(&self, count: usize) -> Result<()> {
        let names: Vec<String> = (0..count).map(|index| format!("talker-{index}")).collect();
        let removals = names.iter().map(|name| async {
            self.pods.delete(name, &DeleteParams::default()).await?;
            wait::object(self.pods.clone(), name, "deletion", SOON, |pod| pod.is_none()).await?;
            Ok::<_, anyhow::Error>(())
        });
        futures::stream::iter(removals.map(Ok)).try_for_each_concurrent(16, |removal| removal).await
    }
}

fn per_second(bytes: u64, time: Duration) -> f64 {
    bytes as f64 / 1e6 / time.as_secs_f64()
}

/// The table of logs.
pub(crate) fn table(logs: &Logs) -> Table {
    let mut table = Table::new(["logs, MB/s of log files", "kubewasm", "of cat"]);
    for (name, value) in [
        ("kubectl logs -f, one guest that writes".to_owned(), logs.follow),
        ("kubectl logs, what it wrote".to_owned(), logs.read),
        (format!("{MANY} guests that write, each followed"), logs.follow_many),
        ("cat".to_owned(), logs.cat),
    ] {
        table.row([name, number(Some(value), 1), number(Some(value / logs.cat), 3)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_set_against_cat() {
        let logs = Logs { follow: 10.0, read: 20.0, cat: 100.0, follow_many: 5.0 };
        let table = table(&logs).to_string();
        let rows = table.lines().filter(|line| line.contains("guests that write, each followed"));
        let cells: Vec<Vec<&str>> = rows.map(|row| row.split('|').map(str::trim).collect()).collect();
        assert_eq!(cells, [["", "100 guests that write, each followed", "5.0", "0.050", ""]]);
        assert!((per_second(2_000_000, Duration::from_secs(4)) - 0.5).abs() < 1e-9);
    }
}
