//! [TLS bootstrapping](https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/):
//! from a token that may only ask, to a certificate of the node's own.

use std::{path::Path, time::Duration};

use rcgen::KeyPair;
use tokio_util::sync::CancellationToken;

use super::{
    CLIENT_PAIR, Connection, IdentityError, csr,
    csr::{CertificateRequestError, Purpose},
    kubeconfig,
    pair::write_private,
};

/// How long a person has to approve the first request.
const WAIT: Duration = Duration::from_hours(1);
/// The key of the request that is under way. It is on disk before the request is made, so that a restart
/// asks for the same key, and it is removed when the pair is stored.
const PENDING_KEY: &str = "kubelet-client.key.tmp";

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

    let pending = cert_dir.join(PENDING_KEY);
    let key = pending_key(&pending)?;
    let pair = csr::obtain(&client, node_name, &Purpose::Client, &key, WAIT, cancel).await?;

    let pair_file = cert_dir.join(CLIENT_PAIR);
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| IdentityError::Io { path, source }
    };
    pair.store(&pair_file).map_err(failed(&pair_file))?;
    kubeconfig::write(bootstrap, target, &pair_file).await?;
    std::fs::remove_file(&pending).map_err(failed(&pending))?;
    tracing::info!("stored the client certificate in {} and wrote {}", pair_file.display(), target.display());
    Ok(())
}

/// The key of an earlier start that did not come to its end, or a new one. A file that is no key is
/// replaced.
fn pending_key(path: &Path) -> Result<KeyPair, IdentityError> {
    if let Ok(text) = std::fs::read_to_string(path)
        && let Ok(key) = KeyPair::from_pem(&text)
    {
        return Ok(key);
    }
    let key = KeyPair::generate().map_err(CertificateRequestError::Make)?;
    write_private(path, key.serialize_pem().as_bytes())
        .map_err(|source| IdentityError::Io { path: path.to_path_buf(), source })?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_asks_with_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pki").join(PENDING_KEY);
        let first = pending_key(&path).unwrap();
        assert_eq!(pending_key(&path).unwrap().serialize_pem(), first.serialize_pem());
        std::fs::write(&path, "half a k").unwrap();
        assert_ne!(pending_key(&path).unwrap().serialize_pem(), first.serialize_pem());
    }
}
