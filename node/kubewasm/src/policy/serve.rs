//! `kubewasm policy serve`
//!
//! ```text
//!   policies.yml ─[policy_file]─► PolicyRegistry ─┐
//!   certificates ─[tls_files]─► TLS ───────────┴─► PolicyServer
//!        ▲ looked at every two seconds, and at SIGHUP
//! ```
//!
//! With `--cluster`, both come from a cluster: see the `cluster` module.

mod cluster;
mod policy_file;
mod traces;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use kubewasm_control::tls_files::{CertificateFiles, TlsFiles};
use kubewasm_policy::{
    capabilities::Pattern,
    evaluator::{Bounds, Evaluator},
    host::ComposedHost,
    server::{
        PolicyServer, PolicyServerOptions,
        observer::EvaluationObserver,
        registry::{PolicyRegistry, RegistryOptions},
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use self::{cluster::ClusterArgs, policy_file::PolicyFile, traces::TraceArgs};
use super::{modules::StoreModules, source::UserCredentials};
use crate::{module::ModuleSession, signals};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long a request waits for a policy of the cluster that this server has not heard of.
const WAIT: Duration = Duration::from_secs(5);
/// How long requests that are under way may go on after the stop: no API server waits for longer.
const GOODBYE: Duration = Duration::from_secs(30);

/// Arguments of `kubewasm policy serve`.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// Which policies there are. Read again when it changes, and at SIGHUP.
    #[arg(long, value_name = "FILE", default_value = "policies.yml", conflicts_with = "cluster")]
    policies: PathBuf,

    #[command(flatten)]
    cluster: ClusterArgs,

    /// The address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    addr: IpAddr,

    /// The port of requests.
    #[arg(long, value_name = "PORT", default_value_t = 3000)]
    port: u16,

    /// The port of /readiness and /metrics, by plain HTTP.
    #[arg(long, value_name = "PORT", default_value_t = 8081)]
    readiness_probe_port: u16,

    /// The certificate and what leads from it to an authority, in PEM. Read again when it changes
    /// [default: one that has signed itself, for localhost].
    #[arg(long, value_name = "FILE", requires = "key_file", conflicts_with = "cluster")]
    cert_file: Option<PathBuf>,

    /// The certificate's key, in PEM.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,

    /// Authorities in PEM: nobody is served without a certificate of one of them. Read again when it changes.
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    client_ca_file: Option<PathBuf>,

    /// How long a call of a policy may take that does not say so itself, in seconds.
    #[arg(long, alias = "timeout", value_name = "SECONDS", default_value_t = 2.0)]
    policy_timeout: f64,

    /// Refuse what policies would judge that cannot be loaded, in place of not serving at all.
    #[arg(long, conflicts_with = "cluster")]
    continue_on_errors: bool,

    /// What policies may ask their host for, such as net/v1/dns_lookup_host, oci/* or *. May be repeated, or several with
    /// commas between them.
    #[arg(long, value_name = "CAPABILITY", value_delimiter = ',')]
    allowed_host_capabilities: Vec<Pattern>,

    #[command(flatten)]
    traces: TraceArgs,

    /// How long requests are still taken in after SIGTERM, in seconds: until everybody has heard that this server is not ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    shutdown_delay: f64,
}

pub(super) async fn run(session: ModuleSession, args: ServeArgs) -> anyhow::Result<()> {
    let cluster = args.cluster.replica()?;
    let timeout = seconds("--policy-timeout", args.policy_timeout)?;
    if timeout.is_zero() {
        bail!("--policy-timeout is a number of seconds above 0");
    }
    let server = PolicyServerOptions {
        address: SocketAddr::new(args.addr, args.port),
        health_address: SocketAddr::new(args.addr, args.readiness_probe_port),
        // A file is all that there is.
        wait: if cluster.is_some() { WAIT } else { Duration::ZERO },
        lame_duck: seconds("--shutdown-delay", args.shutdown_delay)?,
        goodbye: GOODBYE,
    };
    let empty = tempfile::tempdir().context("cannot make an empty directory")?;
    let client = args.cluster.client(cluster.is_some()).await?;
    let mut host = ComposedHost::default().with_images(session.store.clone(), Arc::new(UserCredentials));
    if let Some(client) = &client {
        host = host.with_cluster(client.clone());
    }
    let evaluator = Arc::new(Evaluator::new(empty.path(), Arc::new(host))?);
    let granted = args.allowed_host_capabilities.into_iter().collect();
    let bounds = Bounds { timeout, ..Bounds::default() };
    let modules = Arc::new(StoreModules::new(session)?);
    let registry = Arc::new(PolicyRegistry::new(evaluator, modules, RegistryOptions { granted, bounds }));
    let cancel = CancellationToken::new();
    let (observer, exporter) = args.traces.open()?;
    // The last spans are those of requests that were answered after the stop.
    let exported = CancellationToken::new();
    let exporting = exporter.map(|exporter| tokio::spawn(exporter.run(exported.clone())));
    let outcome = match cluster.zip(client) {
        Some((options, client)) => cluster::run(server, registry, observer, client, options, cancel).await,
        None => {
            let files = CertificateFiles {
                pair: args.cert_file.zip(args.key_file),
                client_authorities: args.client_ca_file.into_iter().collect(),
                is_client_optional: false,
            };
            let policies = PolicyFile::new(args.policies, args.continue_on_errors);
            run_file(server, registry, observer, files, policies, cancel).await
        }
    };
    exported.cancel();
    if let Some(exporting) = exporting {
        // One that was lost has told nobody anything, and there is nothing to be done about it at the end.
        let _ = exporting.await;
    }
    outcome
}

/// Serves the policies of a file until it is told to stop.
async fn run_file(
    server: PolicyServerOptions,
    registry: Arc<PolicyRegistry>,
    observer: Option<Arc<dyn EvaluationObserver>>,
    files: CertificateFiles,
    mut policies: PolicyFile,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let (certificates, tls) = TlsFiles::open(files)?;
    let specs = policies.read().await?;

    let (ready, is_ready) = watch::channel(false);
    let server = PolicyServer::bind(server, Arc::clone(&registry), observer, tls, is_ready)?;
    tracing::info!(address = %server.address(), readiness = %server.health_address(), "listening");

    signals::stop(&cancel)?;
    let serving = tokio::spawn(server.run(cancel.clone()));
    let kept = async {
        policies.load(&registry, specs).await?;
        ready.send_replace(true);
        tracing::info!(policies = registry.ids().len(), "all policies are loaded");
        keep(&registry, policies, certificates).await
    };
    let outcome = cancel.run_until_cancelled(kept).await.unwrap_or(Ok(()));
    // Where policies cannot be loaded at all, nobody has been told to come.
    if outcome.is_err() {
        serving.abort();
        return outcome;
    }
    tracing::info!("stopping: no requests are taken in any more after --shutdown-delay");
    serving.await.context("the server failed")
}

/// Follows the files for ever.
async fn keep(
    registry: &PolicyRegistry,
    mut policies: PolicyFile,
    mut certificates: TlsFiles,
) -> anyhow::Result<()> {
    let mut asked = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_asked = tokio::select! {
            _ = looks.tick() => false,
            _ = asked.recv() => true,
        };
        certificates.look();
        policies.look(registry, is_asked).await;
    }
}

fn seconds(flag: &str, seconds: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .with_context(|| format!("{flag} is a number of seconds, not {seconds}"))
}
