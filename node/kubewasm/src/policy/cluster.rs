//! The cluster that a policy asks, as its user has it.

use std::path::Path;

use anyhow::Context as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// A client of the cluster of this kubeconfig, or else of the user's own: $KUBECONFIG, ~/.kube/config, or the cluster that this
/// runs in. Nothing is asked yet.
pub(super) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            // What is wrong in it may be next to its secrets, and is not told.
            let read = Kubeconfig::read_from(path)
                .map_err(|_| anyhow::anyhow!("{} is no kubeconfig that can be read", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use {}", path.display()))?
        }
        None => Config::infer().await.context(
            "there is no cluster to ask: name a kubeconfig with --kubeconfig or KUBECONFIG, or leave --allow-context-aware out",
        )?,
    };
    Client::try_from(config).context("cannot make a client of the cluster")
}
