//! A server of extensions, its files, and the extensions of the cluster.

use std::{fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
    core::{ApiResource, DynamicObject},
};
use kubewasm_tests::{
    certificates::{Authority, ServerIdentity},
    cluster::Cluster,
    envoy::Credentials,
    guests,
    home::Home,
    node, ports,
    process::Process,
    wait, web,
};
use rustix::process::Pid;
use rustls::ClientConfig;
use serde_json::json;

use crate::procfs::{self, Footprint};

/// Bytes of each module: that of a small filter of Rust.
const MODULE: usize = 64 << 10;
const NAMESPACE: &str = "default";
/// How long the server may take to start, and an extension to be published.
const READY: Duration = Duration::from_secs(120);

/// A server that is ready.
pub(super) struct Site {
    pub(super) port: u16,
    folder: PathBuf,
    authority: Authority,
    identity: ServerIdentity,
    api: Api<DynamicObject>,
    process: Process,
}

/// The name of an extension.
fn name(number: usize) -> String {
    format!("bench-{number}")
}

/// The name of the filter that it is.
pub(super) fn filter_name(number: usize) -> String {
    format!("{NAMESPACE}/{}", name(number))
}

impl Site {
    pub(super) async fn start(home: &Home, cluster: &Cluster) -> Result<Self> {
        let definition = guests::repository().join("manifests/extension/crd.yaml");
        cluster.kubectl(&["apply", "-f", &definition.to_string_lossy()]).await?;
        let wait = ["wait", "--for=condition=Established", "crd/wasmextensions.wasmxds.tetrate.io"];
        cluster.kubectl(&wait).await?;
        let folder = home.folder("extensions")?;
        let modules = home.folder("extensions/modules")?;
        let filter = guests::guest("filter.wat").await?;
        for number in 0..super::EXTENSIONS {
            // Each is another one, so that nothing of it is shared.
            let module = guests::with_section(&filter, &padding(number));
            write(&modules.join(format!("{number}.wasm")), &module)?;
        }
        let authority = Authority::new()?;
        let server = authority.server(&["127.0.0.1", "localhost"])?;
        let identity =
            authority.client("bench", &[&format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/bench")])?;
        for (file, text) in [
            ("ca.crt", &authority.certificate),
            ("tls.crt", &server.chain),
            ("tls.key", &server.key),
            ("client.crt", &identity.chain),
            ("client.key", &identity.key),
        ] {
            write(&folder.join(file), text.as_bytes())?;
        }
        let (port, health) = (ports::free()?, ports::free()?);
        let mut command = Command::new(node::program()?);
        command.args(["extension", "serve", "--addr=127.0.0.1"]).arg(format!("--namespace={NAMESPACE}"));
        command.arg("--kubeconfig").arg(cluster.admin_kubeconfig());
        command.arg("--root-dir").arg(folder.join("root")).arg("--local-modules").arg(&modules);
        command.arg("--cert-file").arg(folder.join("tls.crt")).arg("--key-file").arg(folder.join("tls.key"));
        command.arg("--client-ca-file").arg(folder.join("ca.crt"));
        command.arg(format!("--port={port}")).arg(format!("--readiness-probe-port={health}"));
        let mut process = Process::start("the server of extensions", &mut command, &home.log("extensions"))?;
        let is_ready = async || match web::get(health, "/readyz").await {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        };
        process.await_ready(READY, is_ready).await?;
        let api = extensions(&cluster.client().await?);
        Ok(Self { port, folder, authority, identity, api, process })
    }

    pub(super) fn authority_file(&self) -> Result<PathBuf> {
        Ok(self.folder.join("ca.crt"))
    }

    pub(super) fn credentials(&self) -> Result<Credentials> {
        Ok(Credentials::Certificate(self.folder.join("client.crt"), self.folder.join("client.key")))
    }

    /// What a client of the server connects with.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>> {
        self.authority.trusting(Some(&self.identity))
    }

    pub(super) fn footprint(&self) -> Result<Footprint> {
        let id = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        procfs::footprint(id.context("the server has no process id")?)
    }

    /// Makes an extension with this configuration, or changes it.
    pub(super) async fn apply(&self, number: usize, value: &str) -> Result<()> {
        let object = json!({
            "apiVersion": "wasmxds.tetrate.io/v1alpha1", "kind": "WasmExtension", "metadata": { "name": name(number) },
            "spec": {
                "runtime": "v8", "vm_id": name(number), "root_id": "filter",
                "image": { "protocol": "local_fs", "uri": format!("{number}.wasm") },
                "plugin_configuration": { "value": value },
            },
        });
        let params = PatchParams::apply("bench").force();
        self.api.patch(&name(number), &params, &Patch::Apply(object)).await?;
        Ok(())
    }

    /// Makes so many, and waits until all of them are published.
    pub(super) async fn apply_all(&self, count: usize) -> Result<()> {
        for number in 0..count {
            self.apply(number, "0").await?;
        }
        for number in 0..count {
            let is_published = |object: Option<&DynamicObject>| {
                let conditions = object.and_then(|object| object.data["status"]["conditions"].as_array());
                let published = |condition: &serde_json::Value| {
                    condition["type"] == "Published" && condition["status"] == "True"
                };
                conditions.is_some_and(|conditions| conditions.iter().any(published))
            };
            wait::until("an extension to be published", READY, async || {
                let object = self.api.get(&name(number)).await.map_err(|error| error.to_string())?;
                if is_published(Some(&object)) { Ok(()) } else { Err(object.data["status"].to_string()) }
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn delete(&self, number: usize) -> Result<()> {
        self.api.delete(&name(number), &DeleteParams::default()).await?;
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Nothing can be reported from here.
        let _ = self.process.kill();
    }
}

/// Bytes that cannot be packed, others for each number.
fn padding(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        // The generator of Knuth's MMIX, of which the high byte is used.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..MODULE).map(|_| next()).collect()
}

fn extensions(client: &Client) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "wasmxds.tetrate.io".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "wasmxds.tetrate.io/v1alpha1".to_owned(),
        kind: "WasmExtension".to_owned(),
        plural: "wasmextensions".to_owned(),
    };
    Api::namespaced_with(client.clone(), NAMESPACE, &resource)
}

fn write(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
