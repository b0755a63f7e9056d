//! [TLS bootstrapping](https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/):
//! from a token that may only ask, to a certificate of the node's own.

use std::{path::Path, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    CLIENT_PAIR, Connection, IdentityError, PENDING_CLIENT_KEY,
    csr::{self, Purpose},
    kubeconfig,
    pending::PendingKey,
};

/// How long a person has to approve the first request.
const WAIT: Duration = Duration::from_hours(1);

/// Gets a certificate with the credentials in `bootstrap`, stores it with its key in `cert_dir`, and writes
/// the kubeconfig `target` that names it.
pub(super) async fn run(
    bootstrap: &Path,
    target: &Path,
    cert_dir: &Path,
    node_name: &str,
    cancel: &CancellationToken,
) -> Result<(), IdentityError> {
    tracing::info!(
        "no valid credentials in {}; asking with those in {}",
        target.display(),
        bootstrap.display()
    );
    let loaded = kubeconfig::load(bootstrap).await?;
    let client = Connection::new(loaded.access)?.client();

    let (pair_file, key_file) = (cert_dir.join(CLIENT_PAIR), cert_dir.join(PENDING_CLIENT_KEY));
    let pending = PendingKey::open(key_file.clone(), None)?;
    let answer = csr::obtain(&client, node_name, &Purpose::Client, pending.key(), WAIT, cancel).await;
    pending.settle(answer, &pair_file)?;
    kubeconfig::write(bootstrap, target, &pair_file).await?;
    PendingKey::remove(&key_file)?;
    tracing::info!("stored the client certificate in {} and wrote {}", pair_file.display(), target.display());
    Ok(())
}
