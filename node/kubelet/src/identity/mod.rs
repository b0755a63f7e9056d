//! Who the node is to the API server, and to those who call the node.
//!
//! ```text
//! --kubeconfig, bootstrap, or service account ─ establish ─► Connection ─► kube clients (one pool each)
//!                                                               ▲
//!                              Rotation: new certificate ───────┘  (before the old one ends, no restart)
//!
//! tls files, CSR, or self-signed ─ serving::Serving ─► the certificate of the HTTPS server
//! ```
//!
//! Keys are made here and never leave the disk of the node; on disk they are readable by its user alone.
//! A certificate is only ever stored together with the key that it was checked against.

mod bootstrap;
mod connection;
mod csr;
mod deadline;
mod kubeconfig;
mod pair;
mod pending;
mod renewal_metrics;
mod request_metrics;
mod rotation;
pub mod serving;

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

pub use self::{
    connection::Connection, csr::CertificateRequestError, kubeconfig::read_kubeconfig, pair::PairError,
    rotation::Rotation,
};
use crate::{
    config::{self, is_set},
    explain::explain,
    traces::Tracer,
};

/// File name of the client certificate and its key, within the certificate directory.
pub const CLIENT_PAIR: &str = "kubelet-client-current.pem";
/// The key of the request for it that is under way; upstream's name, too.
const PENDING_CLIENT_KEY: &str = "kubelet-client.key.tmp";

/// Why the node has no identity. The program cannot go on; every message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Neither a kubeconfig nor a service account.
    #[error(
        "no credentials for an API server: give --kubeconfig FILE, or --bootstrap-kubeconfig FILE together with the \
         --kubeconfig FILE to write, or run in a pod with a service account"
    )]
    NoCredentials,
    /// A kubeconfig that cannot be used.
    #[error("kubeconfig {}: {message}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, without any secret of it.
        message: String,
    },
    /// The pod's service account cannot be used.
    #[error("the service account of this pod cannot be used: {0}")]
    InCluster(#[source] kube::config::InClusterError),
    /// The client could not be made.
    #[error("cannot prepare connections to the API server: {}", explain(.0))]
    Client(#[source] kube::Error),
    /// A certificate or key on disk cannot be used.
    #[error("{}: {source}", path.display())]
    Pair {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PairError,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The cluster did not give a certificate.
    #[error(transparent)]
    Request(#[from] CertificateRequestError),
}

/// Finds the node's credentials, asking the cluster for them where they are to be asked for, and builds
/// the connection. The [`Rotation`] keeps the certificate fresh; `None` where there is nothing to renew.
///
/// A kubeconfig with a valid certificate wins; then comes the bootstrap; then, when no kubeconfig is
/// configured at all, the service account of the pod. The bootstrap waits for the approval of its request,
/// up to an hour.
///
/// # Errors
/// [`IdentityError`]; each message is meant for the user as it is.
pub async fn establish(
    config: &config::Config,
    tracer: &Tracer,
    cancel: &CancellationToken,
) -> Result<(Connection, Option<Rotation>), IdentityError> {
    // Another part of the program may have chosen already; both choices are fine.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let Some(path) = config.kubeconfig.as_deref().filter(|path| is_set(path)) else {
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
            return Err(IdentityError::NoCredentials);
        }
        let access = kube::Config::incluster().map_err(IdentityError::InCluster)?;
        return Ok((settled(Connection::new(access)?, config, tracer), None));
    };

    if let Some(bootstrap) = config.bootstrap_kubeconfig.as_deref().filter(|path| is_set(path))
        && !kubeconfig::is_usable(path)
    {
        bootstrap::run(bootstrap, path, &config.cert_dir, &config.node_name, cancel).await?;
    }
    let loaded = kubeconfig::load(path).await?;
    let connection = settled(Connection::new(loaded.access)?, config, tracer);
    let rotation = rotation_of(config, loaded.pair_file.as_deref(), &connection)?;
    Ok((connection, rotation))
}

/// client-go's own limits, which hold where the configuration says 0.
const CLIENT_QPS: u32 = 5;

/// The connection with what the configuration says of its clients.
fn settled(connection: Connection, config: &config::Config, tracer: &Tracer) -> Connection {
    let kubelet = &config.kubelet;
    let per_second = kubelet.kube_api_qps.map_or(0, |qps| if qps == 0 { CLIENT_QPS } else { qps });
    connection.limited(per_second, kubelet.kube_api_burst).traced(tracer.clone())
}

fn rotation_of(
    config: &config::Config,
    pair_file: Option<&Path>,
    connection: &Connection,
) -> Result<Option<Rotation>, IdentityError> {
    if !config.kubelet.rotate_certificates {
        return Ok(None);
    }
    let ours = config.cert_dir.join(CLIENT_PAIR);
    if pair_file != Some(ours.as_path()) {
        tracing::warn!(
            "rotateCertificates has no effect: the kubeconfig does not name {}, which is where this node keeps what it \
             renews",
            ours.display()
        );
        return Ok(None);
    }
    let bootstrap = config.bootstrap_kubeconfig.clone().filter(|path| is_set(path));
    Rotation::of_client(ours, &config.node_name, connection.clone(), bootstrap).map(Some)
}
