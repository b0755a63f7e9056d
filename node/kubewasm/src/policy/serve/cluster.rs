//! `kubewasm policy serve --cluster`: the policies of a cluster.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kube::{Client, Config};
use kubewasm_kubelet::identity::read_kubeconfig;
use kubewasm_policy::{
    cluster::{
        address::{ServerAddress, WebhookUrl},
        elector::ElectionTimes,
        rotation::RotationTimes,
        run::{ClusterOptions, ClusterReplica},
    },
    server::{PolicyServer, PolicyServerOptions, observer::EvaluationObserver, registry::PolicyRegistry},
};
use tokio_util::sync::CancellationToken;

use super::seconds;
use crate::signals;

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
        // Another part of the program may have chosen already; both choices are fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = match (&self.kubeconfig, Config::incluster()) {
            (Some(file), _) => read_kubeconfig(file).await?,
            (None, Ok(config)) => config,
            (None, Err(_)) if !is_needed => return Ok(None),
            (None, Err(error)) => {
                return Err(error).context(
                    "this is no pod of a cluster with a service account; name credentials with --kubeconfig",
                );
            }
        };
        Client::try_from(config).context("cannot make a client of the API server").map(Some)
    }

    /// How the replica is run; none where the policies are those of a file.
    pub(super) fn replica(&self) -> anyhow::Result<Option<ClusterOptions>> {
        let Some(namespace) = self.namespace.clone().filter(|_| self.cluster) else { return Ok(None) };
        let identity = self.replica.clone().unwrap_or_else(random_identity);
        for (flag, name, longest) in [
            ("--policy-server", &self.policy_server, 63),
            ("--namespace", &namespace, 63),
            ("--service", &self.service, 63),
            ("--replica", &identity, 128),
        ] {
            ensure!(
                is_name(name, longest),
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
        let election = ElectionTimes {
            lease: Duration::from_secs(self.leader_elect_lease_duration.into()),
            retry: Duration::from_secs(self.leader_elect_retry_period.into()),
        };
        ensure!(
            !election.retry.is_zero() && election.lease > election.retry * 2,
            "--leader-elect-lease-duration is more than twice --leader-elect-retry-period, which is not 0"
        );
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

/// Another one for each process: a replica that comes back is not taken for the one that was.
fn random_identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let host: String =
        host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    // Each of them is seeded at random.
    let random = RandomState::new().build_hasher().finish();
    format!("{}-{random:016x}", host.trim_matches('-')).trim_matches('-').to_owned()
}

fn is_name(name: &str, longest: usize) -> bool {
    let is_sign = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty()
        && name.len() <= longest
        && name.chars().all(is_sign)
        && !name.starts_with('-')
        && !name.ends_with('-')
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_has_a_name_of_its_own() {
        let (one, other) = (random_identity(), random_identity());
        assert_ne!(one, other);
        assert!(is_name(&one, 128), "{one}");
    }

    #[test]
    fn names_are_those_of_objects() {
        for name in ["", "A", "a_b", "-a", "a-", "a.b", "ä"] {
            assert!(!is_name(name, 63), "{name}");
        }
        assert!(is_name("a-1", 63) && !is_name("abcd", 3));
    }
}
