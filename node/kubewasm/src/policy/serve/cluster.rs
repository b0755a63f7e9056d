//! `kubewasm policy serve --cluster`: the policies of a cluster.

use std::{path::PathBuf, sync::Arc};

use anyhow::ensure;
use kube::{Client, Config};
use kubewasm_policy::{
    cluster::{
        address::{ServerAddress, WebhookUrl},
        rotation::RotationTimes,
        run::{ClusterOptions, ClusterReplica},
    },
    server::{PolicyServer, PolicyServerOptions, observer::EvaluationObserver, registry::PolicyRegistry},
};
use tokio_util::sync::CancellationToken;

use super::seconds;
use crate::{replica, signals};

/// Arguments of `kubewasm policy serve` for a cluster.
#[derive(Debug, clap::Args)]
pub(super) struct ClusterArgs {
    /// Serve the policies of a cluster (policies.kubewarden.io), and look after their webhooks, certificates and statuses.
    /// Several replicas can: one of them is the leader.
    #[arg(long, requires = "namespace")]
    cluster: bool,

    /// Credentials for the API server: that of the cluster, or the one that policies of a file ask for objects
    /// [default: those of the pod that this runs in].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Name of this policy server: policies of others are left alone.
    #[arg(long, value_name = "NAME", default_value = "default", requires = "cluster")]
    policy_server: String,

    /// The namespace that this policy server is in, and what it needs for itself.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    namespace: Option<String>,

    /// The Service by which API servers reach this policy server, on port 443.
    #[arg(long, value_name = "NAME", default_value = "kubewasm-policy", requires = "cluster")]
    service: String,

    /// The URL by which API servers reach this policy server, where it is not in the cluster.
    #[arg(long, value_name = "URL", conflicts_with = "service", requires = "cluster")]
    webhook_url: Option<WebhookUrl>,

    /// Name of this replica [default: the name of the host, and something random].
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    replica: Option<String>,

    /// How long a certificate of the server is good, in seconds. There is a new one after two thirds of it.
    #[arg(long, value_name = "SECONDS", default_value_t = 7_776_000.0, requires = "cluster")]
    certificate_lifetime: f64,

    /// How long API servers may need to see a changed webhook configuration, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, requires = "cluster")]
    webhook_settle_time: f64,

    /// How long a leader is waited for that is not heard of, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, requires = "cluster")]
    leader_elect_lease_duration: u16,

    /// How often replicas look who the leader is, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, requires = "cluster")]
    leader_elect_retry_period: u16,
}

impl ClusterArgs {
    /// The cluster that policies ask, and whose they are. Policies of a file may do without.
    pub(super) async fn client(&self, is_needed: bool) -> anyhow::Result<Option<Client>> {
        if !is_needed && self.kubeconfig.is_none() && Config::incluster().is_err() {
            return Ok(None);
        }
        replica::client(self.kubeconfig.as_deref()).await.map(Some)
    }

    /// How the replica is run; none where the policies are those of a file.
    pub(super) fn replica(&self) -> anyhow::Result<Option<ClusterOptions>> {
        let Some(namespace) = self.namespace.clone().filter(|_| self.cluster) else { return Ok(None) };
        let identity = self.replica.clone().unwrap_or_else(replica::random_identity);
        for (flag, name, longest) in [
            ("--policy-server", &self.policy_server, 63),
            ("--namespace", &namespace, 63),
            ("--service", &self.service, 63),
            ("--replica", &identity, 128),
        ] {
            ensure!(
                replica::is_name(name, longest),
                "{flag} is a name of lower-case letters, digits and dashes, not {name:?}"
            );
        }
        let address = match &self.webhook_url {
            Some(url) => ServerAddress::Url(url.clone()),
            None => ServerAddress::Service { namespace: namespace.clone(), name: self.service.clone() },
        };
        let rotation = RotationTimes {
            life: seconds("--certificate-lifetime", self.certificate_lifetime)?,
            settle: seconds("--webhook-settle-time", self.webhook_settle_time)?,
        };
        ensure!(
            rotation.life / 3 > rotation.settle.saturating_mul(2),
            "--certificate-lifetime is more than six times --webhook-settle-time: a new certificate takes that long"
        );
        let election = replica::election(self.leader_elect_lease_duration, self.leader_elect_retry_period)?;
        Ok(Some(ClusterOptions {
            secret: format!("kubewasm-policy-{}", self.policy_server),
            server: self.policy_server.clone(),
            namespace,
            address,
            identity,
            rotation,
            election,
        }))
    }
}

/// Serves the policies of the cluster until it is told to stop.
pub(super) async fn run(
    server: PolicyServerOptions,
    registry: Arc<PolicyRegistry>,
    observer: Option<Arc<dyn EvaluationObserver>>,
    client: Client,
    options: ClusterOptions,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let sink = Arc::<PolicyRegistry>::clone(&registry);
    let replica = ClusterReplica::new(client, sink, options)?;
    let server = PolicyServer::bind(server, registry, observer, replica.tls.clone(), replica.ready.clone())?;
    tracing::info!(address = %server.address(), readiness = %server.health_address(), "listening");
    signals::stop(&cancel)?;
    // Of both, so that a replica that stops is none to wait for.
    tokio::join!(replica.run(cancel.clone()), server.run(cancel));
    Ok(())
}
