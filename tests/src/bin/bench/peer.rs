//! kwok, a node that fakes its pods: it says that they run as soon as it sees them. What a pod takes there
//! is what watch, status and API server take on this machine; see <https://kwok.sigs.k8s.io>.
//!
//! `tests/cluster/kwok/build.sh` builds it, and takes along the stages that kwok ships with. It runs with
//! its defaults.

use std::process::Command;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client, api::PostParams};
use kubewasm_tests::{
    cluster::{Cluster, programs},
    home::Home,
    process::{self, Process},
    progress::Step,
};
use rustix::process::Pid;
use serde_json::json;

use crate::processes::Processes;

/// Name of its Node object.
pub(crate) const NODE: &str = "bench-kwok";

/// A running kwok with one node. It ends with its [`Home`].
#[derive(Debug)]
pub(crate) struct Peer {
    version: String,
    process: Process,
}

impl Peer {
    /// Starts kwok and makes its Node object, which is not Ready yet.
    ///
    /// # Errors
    /// When kwok cannot be built or started.
    pub(crate) async fn start(home: &Home, cluster: &Cluster, client: &Client) -> Result<Self> {
        let folder = programs::build("cluster/kwok/build.sh").await?;
        let step = Step::begin(&format!("starting the node {NODE}"));
        let program = folder.join("kwok");
        let version = process::run(&program, &["--version"]).await?.trim().to_owned();
        let mut command = Command::new(program);
        command
            .arg(format!("--kubeconfig={}", cluster.admin_kubeconfig().display()))
            .arg(format!("--config={}", folder.join("stages.yaml").display()))
            .arg(format!("--manage-single-node={NODE}"))
            .arg(format!("--node-ip={}", cluster.node_address()));
        let process = Process::start("kwok", &mut command, &home.log("kwok"))?;
        let node = serde_json::from_value(json!({ "metadata": { "name": NODE } })).context("not a node")?;
        Api::<NodeObject>::all(client.clone())
            .create(&PostParams::default(), &node)
            .await
            .context("cannot make a Node object for kwok")?;
        step.done();
        Ok(Self { version, process })
    }

    /// Its one process.
    ///
    /// # Errors
    /// When it has no id, which the kernel does not do.
    pub(crate) fn processes(&self) -> Result<Processes> {
        let id = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        Ok(Processes { agent: id.context("kwok has no process id")?, workers: Vec::new() })
    }

    /// What it says about itself.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}
