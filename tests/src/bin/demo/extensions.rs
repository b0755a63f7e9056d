//! demos/extensions: a filter of C that a stock Envoy is sent, and its next version under load.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use kubewasm_tests::{
    cluster::Cluster,
    envoy::Envoy,
    guests,
    home::Home,
    node, ports,
    process::Process,
    progress::{Step, say},
    registry::{Registry, image::Content},
    web::{self, Answer, Load},
};

use crate::{ROLLOUT, text};

/// Image names that the demo's manifests hold in the repository begin with that.
const MANIFEST_REGISTRY: &str = "127.0.0.1:5000";
const FOLDER: &str = "demos/extensions";
/// Who asks at the same time.
const ASKING: usize = 4;
/// Time for the server to be ready.
const READY: Duration = Duration::from_secs(60);

/// Serves the filter, shows what it does, and brings its next version.
pub(crate) async fn run(home: &Home, cluster: &Cluster, registry: &Registry) -> Result<()> {
    let step = Step::begin("pushing two versions of a filter to the registry");
    for (source, version) in [("greeting.c", "v1"), ("greeting-2.c", "v2")] {
        let module = guests::build(&format!("{FOLDER}/{source}")).await?;
        registry.push(&format!("extensions/greeting:{version}"), &Content::Artifact(module)).await?;
    }
    step.done();

    let step = Step::begin("starting a server of extensions, and an Envoy");
    let definition = guests::repository().join("manifests/extension/crd.yaml");
    cluster.kubectl(&["apply", "-f", text(&definition)?]).await?;
    cluster
        .kubectl(&["wait", "--for=condition=Established", "crd/wasmextensions.wasmxds.tetrate.io", ROLLOUT])
        .await?;
    let server = ports::free()?;
    serve(home, cluster, server).await?;
    let (port, admin) = (ports::free()?, ports::free()?);
    let own = [(10_000, port), (9901, admin), (8610, server)];
    let configuration = manifest(home, "envoy.yaml", |text| {
        own.iter().fold(text, |text, (from, to)| {
            text.replace(&format!("port_value: {from} "), &format!("port_value: {to} "))
        })
    })?;
    let envoy = Envoy::start_with(home, &configuration, port, admin).await?;
    step.done();

    let extension =
        manifest(home, "extension.yaml", |text| text.replace(MANIFEST_REGISTRY, &registry.host()))?;
    println!("\n$ kubectl apply -f {FOLDER}/extension.yaml");
    println!("{}", cluster.kubectl(&["apply", "-f", text(&extension)?]).await?.trim_end());
    let answer = envoy.until("the filter", |answer| is_greeted(answer, "good morning", "1")).await?;
    show(port, &answer);

    let load =
        Load::start(port, ASKING, |answer| answer.status == 200 && !answer.header("greeting").is_empty());
    load.more(ASKING).await?;
    println!();
    let uri = registry.name("extensions/greeting:v2");
    patch(cluster, "wasmextension", &format!(r#"{{"spec":{{"image":{{"uri":"{uri}"}}}}}}"#)).await?;
    patch(cluster, "configmap", r#"{"data":{"text":"good evening"}}"#).await?;
    let answer = envoy.until("the next version", |answer| is_greeted(answer, "good evening", "2")).await?;
    show(port, &answer);
    load.more(ASKING).await?;
    let answered = load.end().await?;
    say(&format!("During the changes {answered} requests were answered, and 0 failed."));
    let accepted = "--for=condition=Accepted";
    cluster.kubectl(&["wait", accepted, "wasmextension/greeting", ROLLOUT]).await?;
    println!("\n$ kubectl get wasmextensions");
    println!("{}", cluster.kubectl(&["get", "wasmextensions"]).await?.trim_end());
    envoy.leave();
    Ok(())
}

fn is_greeted(answer: &Answer, greeting: &str, version: &str) -> bool {
    answer.status == 200
        && answer.header("greeting") == greeting
        && answer.header("greeting-version") == version
}

/// What curl would show of it.
fn show(port: u16, answer: &Answer) {
    println!("\n$ curl -i http://127.0.0.1:{port}/\nHTTP/1.1 {} OK", answer.status);
    for name in ["greeting", "greeting-version"] {
        println!("{name}: {}", answer.header(name));
    }
    println!("\n{}", answer.text().trim_end());
}

async fn patch(cluster: &Cluster, kind: &str, patch: &str) -> Result<()> {
    println!("$ kubectl patch {kind} greeting --type=merge -p '{patch}'");
    cluster.kubectl(&["patch", kind, "greeting", "--type=merge", "-p", patch]).await?;
    Ok(())
}

/// Starts a server of the cluster's extensions beside the cluster, for this machine alone, and waits until it is ready.
async fn serve(home: &Home, cluster: &Cluster, port: u16) -> Result<()> {
    let health = ports::free()?;
    let mut command = Command::new(node::program()?);
    command.args(["extension", "serve", "--namespace=default", "--addr=127.0.0.1", "--insecure"]);
    command.arg("--root-dir").arg(home.folder("extensions")?);
    command.arg("--kubeconfig").arg(cluster.admin_kubeconfig());
    command.arg(format!("--port={port}")).arg(format!("--readiness-probe-port={health}"));
    let mut process = Process::start("the server of extensions", &mut command, &home.log("extensions"))?;
    let is_ready = async || match web::get(health, "/readyz").await {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    };
    process.await_ready(READY, is_ready).await
}

/// A file of the demo, with what is real on this machine.
fn manifest(home: &Home, name: &str, change: impl Fn(String) -> String) -> Result<PathBuf> {
    let source = guests::repository().join(FOLDER).join(name);
    let text = fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let changed = change(text.clone());
    ensure!(changed != text, "{} names nothing of this machine", source.display());
    let path = home.folder("extensions")?.join(name);
    fs::write(&path, changed).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
