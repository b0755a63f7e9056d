//! The cluster that a policy asks, as its user has it.

use std::path::Path;

use anyhow::Context as _;
use kube::{Client, Config};
use kubewasm_kubelet::identity::read_kubeconfig;

/// A client of the cluster of this kubeconfig, or else of the user's own: $KUBECONFIG, ~/.kube/config, or the cluster that this
/// runs in. Nothing is asked yet.
pub(super) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => read_kubeconfig(path).await?,
        None => Config::infer().await.context(
            "there is no cluster to ask: name a kubeconfig with --kubeconfig or KUBECONFIG, or leave --allow-context-aware out",
        )?,
    };
    Client::try_from(config).context("cannot make a client of the cluster")
}
