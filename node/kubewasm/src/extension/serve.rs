//! `kubewasm extension serve`
//!
//! ```text
//!   the cluster ─[ClusterReplica]─► ExtensionTable ─► ExtensionServer ─► Envoys
//!                       ▲                                   │
//!                       └──────────── Subscribers ◄─────────┘
//! ```

mod discovery;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use kubewasm_extension::{
    cluster::run::{ClusterOptions, ClusterReplica},
    fetch::FetchOptions,
    server::ExtensionServer,
    subscribers::Subscribers,
    table::ExtensionTable,
};
use kubewasm_modules::StoreOptions;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use self::discovery::DiscoveryArgs;
use super::pull_secrets::KubeletPullSecrets;
use crate::{home, module::RegistryArgs, replica, signals};

/// How long a source may send nothing: nobody waits for a module of an extension for longer.
const STALL: Duration = Duration::from_secs(30);
/// How long a connection to a source may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Arguments of `kubewasm extension serve`.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// Credentials for the API server [default: those of the pod that this runs in].
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The namespace that this server is in: its Leases are there.
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    namespace: String,

    /// A namespace whose extensions are served [default: all of them]. May be repeated. Servers of different namespaces of one
    /// cluster have different --namespace.
    #[arg(long, value_name = "NAME")]
    watch_namespace: Vec<String>,

    /// Name of this replica [default: the name of the host, and something random].
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    replica: Option<String>,

    /// Where modules are kept [default: kubewasm in the user's cache folder].
    #[arg(long, value_name = "DIR")]
    root_dir: Option<PathBuf>,

    #[command(flatten)]
    registries: RegistryArgs,

    #[command(flatten)]
    discovery: DiscoveryArgs,

    /// A folder that modules of the protocol local_fs may be in, with all below it; every extension may name them. Relative paths
    /// are below the first one. May be repeated.
    #[arg(long, value_name = "DIR")]
    local_modules: Vec<PathBuf>,

    /// Bytes that a module may have.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    max_module_bytes: u64,

    /// How often sources are asked whether a module has changed whose pull policy is Always, in seconds; 0 for never.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    refresh_interval: u64,

    /// How long a leader is waited for that is not heard of, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    leader_elect_lease_duration: u16,

    /// How often replicas look who the leader is, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    leader_elect_retry_period: u16,
}

impl ServeArgs {
    fn cluster(&self) -> anyhow::Result<ClusterOptions> {
        let identity = self.replica.clone().unwrap_or_else(replica::random_identity);
        for (flag, name, longest) in [("--namespace", &self.namespace, 63), ("--replica", &identity, 128)] {
            ensure!(
                replica::is_name(name, longest),
                "{flag} is a name of lower-case letters, digits and dashes, not {name:?}"
            );
        }
        ensure!(self.max_module_bytes > 0, "--max-module-bytes is a number of bytes above 0");
        for name in &self.watch_namespace {
            ensure!(replica::is_name(name, 63), "--watch-namespace is the name of a namespace, not {name:?}");
        }
        let root = self.root_dir.clone().map_or_else(home::default_root, Ok)?;
        Ok(ClusterOptions {
            namespace: self.namespace.clone(),
            watched: self.watch_namespace.clone(),
            identity,
            election: replica::election(self.leader_elect_lease_duration, self.leader_elect_retry_period)?,
            fetch: FetchOptions {
                root: root.join("extensions"),
                store: self.store()?,
                max_bytes: self.max_module_bytes,
            },
            refresh: Duration::from_secs(self.refresh_interval),
        })
    }

    fn store(&self) -> anyhow::Result<StoreOptions> {
        let mut file_directories = Vec::new();
        for directory in &self.local_modules {
            let absolute = std::path::absolute(directory)
                .with_context(|| format!("--local-modules: cannot find {}", directory.display()))?;
            ensure!(
                absolute.is_dir(),
                "--local-modules: {} is no directory that is there",
                directory.display()
            );
            file_directories.push(absolute);
        }
        Ok(StoreOptions {
            file_directories,
            connect_timeout: CONNECT,
            stall_timeout: STALL,
            // Envoy compiles what it gets.
            compiler_key: None,
            ..self.registries.store_options()?
        })
    }
}

pub(super) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let options = args.cluster()?;
    let (files, tls) = args.discovery.tls()?.unzip();
    let client = replica::client(args.kubeconfig.as_deref()).await?;
    let server = args.discovery.options(&client, tls)?;
    let (table, subscribers) = (ExtensionTable::default(), Subscribers::default());
    let secrets = Arc::new(KubeletPullSecrets);
    let replica = ClusterReplica::new(client, options, table.clone(), subscribers.clone(), secrets);
    let server =
        ExtensionServer::bind(server, table, subscribers, Registry::default(), replica.ready.clone())?;
    tracing::info!(address = %server.address(), readiness = %server.health_address(), "listening");
    let cancel = CancellationToken::new();
    signals::stop(&cancel)?;
    let following = async {
        if let Some(files) = files {
            cancel.run_until_cancelled(files.follow()).await;
        }
    };
    // Of all, so that a replica that stops is none to wait for.
    tokio::join!(replica.run(cancel.clone()), server.run(cancel.clone()), following);
    Ok(())
}
