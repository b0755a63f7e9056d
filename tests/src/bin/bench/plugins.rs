//! What a kubectl plugin takes, from the command line to its end: `kubectl decoder secret` against `kubectl get secret`, both as whole
//! processes against one API server, and the same plugin when its module has to be compiled first.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use kubewasm_tests::{cluster::Cluster, guests::rust, node, progress::say};
use serde::Serialize;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    quantiles::Quantiles,
    table::{Table, number},
};

/// How often each is run; they take turns.
const ROUNDS: usize = 50;
/// How often the module is compiled.
const COLD_ROUNDS: usize = 5;
const SECRET: &str = "bench-plugin";

/// Times of whole processes, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Plugins {
    /// `kubectl decoder secret`.
    plugin: Quantiles,
    /// The same without kubectl in front of it.
    alone: Quantiles,
    /// `kubectl get secret`.
    kubectl: Quantiles,
    /// `kubewasm plugin run` of a module that has not been compiled.
    cold: Quantiles,
}

/// Measures. No node has a part in it.
///
/// # Errors
/// When something cannot be built or started, or one of the commands fails.
pub(crate) async fn measure(cluster: &Cluster) -> Result<Plugins> {
    let secrets: Api<Secret> = Api::default_namespaced(cluster.client().await?);
    let secret = json!({
        "metadata": { "name": SECRET },
        "stringData": { "user": "somebody", "password": "of no importance" },
    });
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    let user = User::new(cluster)?;
    fs::write(user.module(), rust::plugin("decoder").await?).context("cannot write the plugin")?;
    let kubewasm = node::program()?;
    let module = user.module().display().to_string();
    user.time(&kubewasm, &["plugin", "pull", "--yes", &module]).await?;

    let (kubectl, link) =
        (cluster.kubectl_path(), user.folder.path().join("data/kubewasm/bin/kubectl-decoder"));
    let commands: [(&Path, &[&str]); 3] = [
        (&kubectl, &["decoder", "secret", SECRET]),
        (&link, &["secret", SECRET]),
        (&kubectl, &["get", "secret", SECRET, "--output=yaml"]),
    ];
    let mut times: [Vec<Duration>; 3] = Default::default();
    // The first of each finds caches of its own empty.
    for round in 0..=ROUNDS {
        for ((program, args), times) in commands.iter().zip(&mut times) {
            let took = user.time(program, args).await?;
            if round > 0 {
                times.push(took);
            }
        }
    }
    let mut cold = Vec::new();
    for _ in 0..COLD_ROUNDS {
        fs::remove_dir_all(user.folder.path().join("cache")).context("cannot empty the cache")?;
        cold.push(user.time(&kubewasm, &["plugin", "run", &module, "--", "secret", SECRET]).await?);
    }
    secrets.delete(SECRET, &DeleteParams::default()).await?;
    say("  kubectl plugins");
    let of = |times| Quantiles::of(times).context("nothing was measured");
    let [plugin, alone, kubectl] = times;
    Ok(Plugins { plugin: of(plugin)?, alone: of(alone)?, kubectl: of(kubectl)?, cold: of(cold)? })
}

/// Somebody with a home, who knows the cluster.
struct User {
    folder: TempDir,
    kubeconfig: PathBuf,
}

impl User {
    fn new(cluster: &Cluster) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        Ok(Self { folder, kubeconfig: cluster.admin_kubeconfig() })
    }

    fn module(&self) -> PathBuf {
        self.folder.path().join("decoder.wasm")
    }

    /// How long a command takes, which has to succeed.
    async fn time(&self, program: &Path, args: &[&str]) -> Result<Duration> {
        let home = self.folder.path();
        let path = format!("{}:/usr/bin:/bin", home.join("data/kubewasm/bin").display());
        let mut command = Command::new(program);
        command.args(args).env_clear().stdin(Stdio::null()).kill_on_drop(true);
        command.env("HOME", home).env("PATH", path).env("KUBECONFIG", &self.kubeconfig);
        command.env("XDG_DATA_HOME", home.join("data")).env("XDG_CACHE_HOME", home.join("cache"));
        let begun = Instant::now();
        let output = command.output().await.with_context(|| format!("cannot run {}", program.display()))?;
        let took = begun.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {args:?} has failed: {said}", program.display());
        Ok(took)
    }
}

/// The table of plugins.
pub(crate) fn table(plugins: &Plugins) -> Table {
    let mut table =
        Table::new(["a kubectl plugin, whole process, ms", "p50", "p99", "p50/kubectl get secret"]);
    for (name, times) in [
        ("kubectl get secret", plugins.kubectl),
        ("kubectl decoder secret", plugins.plugin),
        ("kubectl-decoder secret, without kubectl", plugins.alone),
        ("kubewasm plugin run, compiled first", plugins.cold),
    ] {
        let ratio = times.p50 / plugins.kubectl.p50;
        table.row([
            name.to_owned(),
            number(Some(times.p50), 1),
            number(Some(times.p99), 1),
            number(Some(ratio), 2),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_set_against_kubectls_own() {
        let of = |p50| Quantiles { count: 1, p50, p90: p50, p99: 2.0 * p50 };
        let plugins = Plugins { plugin: of(40.0), alone: of(10.0), kubectl: of(50.0), cold: of(500.0) };
        let table = table(&plugins).to_string();
        let rows = table.lines().filter(|line| line.contains("kubectl decoder secret"));
        let cells: Vec<Vec<&str>> = rows.map(|row| row.split('|').map(str::trim).collect()).collect();
        assert_eq!(cells, [["", "kubectl decoder secret", "40.0", "80.0", "0.80", ""]]);
    }
}
