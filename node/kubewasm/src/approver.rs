//! `kubewasm approver`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use kube::{Client, Config};
use kubewasm_approver::Scope;
use kubewasm_kubelet::identity::read_kubeconfig;
use tokio_util::sync::CancellationToken;

use crate::signals;

/// Arguments of `kubewasm approver`.
#[derive(Debug, clap::Args)]
pub(crate) struct ApproverArgs {
    /// Credentials for the API server [default: those of the pod that this runs in].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Namespace of the pods that become nodes.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    namespace: String,

    /// Service account of the pods that become nodes.
    #[arg(long, default_value = "kubewasm-node", value_name = "NAME")]
    service_account: String,

    /// What the names of nodes that run as pods begin with. No pod becomes a node of another name.
    #[arg(long, default_value = "kubewasm", value_name = "PREFIX")]
    node_prefix: String,
}

pub(crate) fn main(args: ApproverArgs) -> anyhow::Result<ExitCode> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    tokio.block_on(run(args))
}

async fn run(args: ApproverArgs) -> anyhow::Result<ExitCode> {
    // Another part of the program may have chosen already; both choices are fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cancel = CancellationToken::new();
    signals::stop(&cancel)?;
    let config = match &args.kubeconfig {
        Some(file) => read_kubeconfig(file).await?,
        None => Config::incluster().context(
            "this is no pod of a cluster with a service account; name credentials with --kubeconfig",
        )?,
    };
    let client = Client::try_from(config).context("cannot make a client of the API server")?;
    let scope = Scope {
        namespace: args.namespace,
        service_account: args.service_account,
        node_prefix: args.node_prefix,
    };
    kubewasm_approver::run(client, scope, cancel).await;
    Ok(ExitCode::SUCCESS)
}
