//! demos/policies: a policy of Go that refuses pods, and one of Rust that changes them.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use kubewasm_tests::{
    cluster::Cluster,
    guests,
    home::Home,
    node, ports,
    process::{self, Process},
    progress::Step,
    registry::{Pushed, Registry},
    wait,
};

use crate::{ROLLOUT, text};

/// Image names that the demo's manifests hold in the repository begin with that.
const MANIFEST_REGISTRY: &str = "127.0.0.1:5000";
const FOLDER: &str = "demos/policies";
/// The server's own, in which no policy of the cluster holds.
const NAMESPACE: &str = "kubewasm-system";
/// Time for the API server to know of a policy.
const SOON: Duration = Duration::from_secs(30);

/// Serves both policies, and shows what they do to pods of `hello`.
pub(crate) async fn run(home: &Home, cluster: &Cluster, registry: &Registry, hello: &Pushed) -> Result<()> {
    let step = Step::begin("pushing two policies to the registry");
    let refusing = guests::build("demos/policies/tagged-images/main.go").await?;
    push(home, registry, "tagged-images", &refusing).await?;
    let changing = guests::rust::module("demos/policies/team-label").await?;
    push(home, registry, "team-label", &changing).await?;
    step.done();

    let step = Step::begin("putting the policies to work");
    let definitions = guests::repository().join("manifests/policy/crds.yaml");
    cluster.kubectl(&["apply", "-f", text(&definitions)?]).await?;
    cluster.kubectl(&["wait", "--for=condition=Established", "crd", "--all", ROLLOUT]).await?;
    cluster.kubectl(&["create", "namespace", NAMESPACE]).await?;
    let server = serve(home, cluster)?;
    let policies = manifest(home, registry, "policies.yaml")?;
    cluster.kubectl(&["apply", "-f", text(&policies)?]).await?;
    let reachable = "--for=condition=PolicyUniquelyReachable";
    let waited = cluster.kubectl(&["wait", reachable, "clusteradmissionpolicies", "--all", ROLLOUT]).await;
    waited.with_context(|| server.log_tail())?;
    let untagged = format!("--image={}", hello.tagged.trim_end_matches(":v1"));
    let run = ["run", "refused", "--labels=policies=demo", &untagged];
    // The API server reads what was written to it a moment later.
    wait::until("a policy that holds", SOON, async || {
        match cluster.kubectl(&[&run[..], &["--dry-run=server"]].concat()).await {
            Ok(_) => Err("the pod is let through".to_owned()),
            Err(_) => Ok(()),
        }
    })
    .await?;
    step.done();

    println!("\n$ kubectl {}", run.join(" "));
    match cluster.kubectl(&run).await {
        Ok(_) => bail!("the pod without a tag was let through"),
        // What kubectl itself has said stands below a line about the command.
        Err(refusal) => refusal.to_string().lines().skip(1).for_each(|line| println!("{line}")),
    }
    let pod = manifest(home, registry, "pod.yaml")?;
    println!("\n$ kubectl apply -f {FOLDER}/pod.yaml");
    println!("{}", cluster.kubectl(&["apply", "-f", text(&pod)?]).await?.trim_end());
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/hello-policies", ROLLOUT]).await?;
    println!("\n$ kubectl get pod hello-policies -L team");
    let shown = cluster.kubectl(&["get", "pod", "hello-policies", "-L", "team"]).await?;
    println!("{}", shown.trim_end());
    ensure!(shown.contains("nobody"), "team-label gives a pod its label");
    Ok(())
}

/// Writes into a module what the policy says of itself, and pushes it, as its author would.
async fn push(home: &Home, registry: &Registry, name: &str, module: &[u8]) -> Result<()> {
    let (plain, annotated) = (file(home, name, "wasm")?, file(home, name, "annotated.wasm")?);
    fs::write(&plain, module).with_context(|| format!("cannot write {}", plain.display()))?;
    let metadata = guests::repository().join(FOLDER).join(name).join("metadata.yml");
    kubewasm(home, &["annotate", "-m", text(&metadata)?, "-o", text(&annotated)?, text(&plain)?]).await?;
    kubewasm(home, &["push", text(&annotated)?, &registry.name(&format!("policies/{name}:v1"))]).await
}

async fn kubewasm(home: &Home, args: &[&str]) -> Result<()> {
    let mut command = tokio::process::Command::new(node::program()?);
    command.arg("policy").arg("--root-dir").arg(home.folder("policies")?).args(args);
    process::run_command(command).await?;
    Ok(())
}

fn file(home: &Home, name: &str, extension: &str) -> Result<PathBuf> {
    Ok(home.folder("policies")?.join(format!("{name}.{extension}")))
}

/// A manifest of the demo, with the real name of the registry.
fn manifest(home: &Home, registry: &Registry, name: &str) -> Result<PathBuf> {
    let source = guests::repository().join(FOLDER).join(name);
    let text = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let path = home.folder("policies")?.join(name);
    fs::write(&path, text.replace(MANIFEST_REGISTRY, &registry.host()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Starts a server of the cluster's policies beside the cluster, where its API server can reach it.
fn serve(home: &Home, cluster: &Cluster) -> Result<Process> {
    let (port, health) = (ports::free()?, ports::free()?);
    let mut command = Command::new(node::program()?);
    command.arg("policy").arg("--root-dir").arg(home.folder("policies")?);
    command.args([
        "serve",
        "--cluster",
        "--namespace",
        NAMESPACE,
        "--addr=127.0.0.1",
        "--webhook-settle-time=1",
    ]);
    command.arg("--kubeconfig").arg(cluster.admin_kubeconfig());
    command.arg(format!("--port={port}")).arg(format!("--readiness-probe-port={health}"));
    command.arg(format!("--webhook-url=https://127.0.0.1:{port}"));
    Process::start("the policy server", &mut command, &home.log("policies"))
}
