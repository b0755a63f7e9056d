//! The certificate of the HTTPS server, from one of three places:
//!
//! 1. `tlsCertFile` and `tlsPrivateKeyFile`, read again when they change;
//! 2. with `serverTLSBootstrap`, the cluster's signer `kubernetes.io/kubelet-serving`, renewed in time.
//!    No controller approves these requests by itself; until somebody does, handshakes fail;
//! 3. otherwise self-signed, made once and kept, which an API server without
//!    `--kubelet-certificate-authority` accepts.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kube::Client;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;

use super::{
    CertificateRequestError, Connection, IdentityError,
    csr::{self, Purpose},
    pair::Pair,
    rotation::{self, renew_at, sleep_until},
};
use crate::{
    config::{Config, is_set},
    retry,
};

/// The pair that the cluster signed, within the certificate directory.
const REQUESTED_PAIR: &str = "kubelet-server-current.pem";
/// The self-signed pair.
const SELF_SIGNED_CERTIFICATE: &str = "kubelet.crt";
const SELF_SIGNED_KEY: &str = "kubelet.key";
/// How often files are looked at.
const RELOAD: Duration = Duration::from_secs(10);

/// The certificate that handshakes are answered with at present. It may be none yet: then they fail.
#[derive(Debug, Default)]
pub struct Serving {
    current: RwLock<Option<Arc<CertifiedKey>>>,
}

impl Serving {
    fn set(&self, pair: &Pair) -> Result<(), super::PairError> {
        let certified = pair.certified()?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(certified);
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        if current.is_none() {
            tracing::warn!(
                "no serving certificate yet: approve the node's request (kubectl get csr; kubectl certificate approve NAME)"
            );
        }
        current
    }
}

/// Keeps a [`Serving`] fresh; to be run beside the server.
#[derive(Debug)]
pub struct Upkeep {
    serving: Arc<Serving>,
    source: CertificateSource,
}

#[derive(Debug)]
enum CertificateSource {
    Files {
        certificate: PathBuf,
        key: PathBuf,
    },
    Requested {
        file: PathBuf,
        node_name: String,
        names: Vec<String>,
        connection: Connection,
        current: Option<Pair>,
    },
    SelfSigned,
}

/// Finds or makes the certificate for `names`: the node's host name and addresses. `connection` leads to
/// whom to ask with `serverTLSBootstrap`.
///
/// # Errors
/// [`IdentityError::Io`] and [`IdentityError::Pair`] when files cannot be used, and what making a key may
/// meet.
pub fn prepare(
    config: &Config,
    names: &[String],
    connection: &Connection,
) -> Result<(Arc<Serving>, Upkeep), IdentityError> {
    let serving = Arc::new(Serving::default());
    let set = |pair: &Pair, path: &Path| {
        serving.set(pair).map_err(|source| IdentityError::Pair { path: path.to_path_buf(), source })
    };
    let (certificate, key) = (&config.kubelet.tls_cert_file, &config.kubelet.tls_private_key_file);
    let source = if is_set(certificate) {
        set(&Pair::read(certificate, key)?, certificate)?;
        CertificateSource::Files { certificate: certificate.clone(), key: key.clone() }
    } else if config.kubelet.server_tls_bootstrap {
        let file = config.cert_dir.join(REQUESTED_PAIR);
        let current = Pair::read(&file, &file)
            .ok()
            .filter(|pair| pair.is_valid(Timestamp::now()) && pair.covers(names));
        if let Some(pair) = &current {
            set(pair, &file)?;
        }
        CertificateSource::Requested {
            file,
            node_name: config.node_name.clone(),
            names: names.to_vec(),
            connection: connection.clone(),
            current,
        }
    } else {
        let (certificate, key) =
            (config.cert_dir.join(SELF_SIGNED_CERTIFICATE), config.cert_dir.join(SELF_SIGNED_KEY));
        set(&self_signed(&certificate, &key, &config.node_name, names)?, &certificate)?;
        CertificateSource::SelfSigned
    };
    let upkeep = Upkeep { serving: Arc::clone(&serving), source };
    Ok((serving, upkeep))
}

impl Upkeep {
    /// Reloads or renews until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let serving = self.serving;
        match self.source {
            CertificateSource::SelfSigned => {}
            CertificateSource::Files { certificate, key } => {
                reload(&serving, &certificate, &key, &cancel).await
            }
            CertificateSource::Requested { file, node_name, names, connection, current } => {
                let client = connection.client();
                let request = Request { file, node_name, purpose: Purpose::Serving(names), client };
                request.renew(&serving, current, &cancel).await;
            }
        }
    }
}

async fn reload(serving: &Serving, certificate: &Path, key: &Path, cancel: &CancellationToken) {
    let changed = |path: &Path| -> Option<SystemTime> { std::fs::metadata(path).ok()?.modified().ok() };
    let mut loaded = (changed(certificate), changed(key));
    while retry::sleep(RELOAD, cancel).await {
        let present = (changed(certificate), changed(key));
        if present == loaded {
            continue;
        }
        // The two files change one after the other; until they go together, the old pair serves.
        match Pair::read(certificate, key).map(|pair| serving.set(&pair)) {
            Ok(Ok(())) => {
                tracing::info!("read the serving certificate again from {}", certificate.display());
                loaded = present;
            }
            Ok(Err(err)) => {
                tracing::warn!(error = %err, "cannot use the new serving certificate; the old one stays")
            }
            Err(err) => {
                tracing::warn!(error = %err, "cannot read the new serving certificate; the old one stays")
            }
        }
    }
}

/// A certificate that the cluster signs.
struct Request {
    file: PathBuf,
    node_name: String,
    purpose: Purpose,
    client: Client,
}

impl Request {
    async fn renew(&self, serving: &Serving, mut current: Option<Pair>, cancel: &CancellationToken) {
        let mut backoff = rotation::backoff();
        loop {
            let validity = current.as_ref().and_then(|pair| pair.validity().ok());
            if let Some(validity) = validity
                && !sleep_until(renew_at(validity, rand::random()), cancel).await
            {
                return;
            }
            match self.obtain(serving, cancel).await {
                Ok(pair) => {
                    backoff.reset();
                    current = Some(pair);
                }
                Err(IdentityError::Request(CertificateRequestError::Cancelled)) => return,
                Err(err) => {
                    tracing::warn!(error = %err, "no serving certificate from the cluster; trying again");
                    if !retry::sleep(backoff.next(), cancel).await {
                        return;
                    }
                }
            }
        }
    }

    async fn obtain(&self, serving: &Serving, cancel: &CancellationToken) -> Result<Pair, IdentityError> {
        let key = KeyPair::generate().map_err(CertificateRequestError::Make)?;
        let pair =
            csr::obtain(&self.client, &self.node_name, &self.purpose, &key, rotation::WAIT, cancel).await?;
        pair.store(&self.file).map_err(|source| IdentityError::Io { path: self.file.clone(), source })?;
        serving.set(&pair).map_err(|source| IdentityError::Pair { path: self.file.clone(), source })?;
        Ok(pair)
    }
}

/// The pair on disk, when it is good for the names; a new one otherwise.
fn self_signed(
    certificate: &Path,
    key: &Path,
    node_name: &str,
    names: &[String],
) -> Result<Pair, IdentityError> {
    if let Ok(pair) = Pair::read(certificate, key)
        && pair.is_valid(Timestamp::now())
        && pair.covers(names)
    {
        return Ok(pair);
    }
    let new_key = KeyPair::generate().map_err(CertificateRequestError::Make)?;
    // Its life is rcgen's, which is longer than any node's: nobody would renew it.
    let mut params = CertificateParams::new(names.to_vec()).map_err(CertificateRequestError::Make)?;
    let name = format!("{node_name}@{}", Timestamp::now().as_second());
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let signed = params.self_signed(&new_key).map_err(CertificateRequestError::Make)?;
    let pair = Pair::from_pem(signed.pem().as_bytes(), new_key.serialize_pem().as_bytes())
        .map_err(|source| IdentityError::Pair { path: certificate.to_path_buf(), source })?;
    for (path, text) in [(key, pair.key_pem()), (certificate, pair.certificate_pem())] {
        super::pair::write_private(path, text.as_bytes())
            .map_err(|source| IdentityError::Io { path: path.to_path_buf(), source })?;
    }
    tracing::info!("made a self-signed serving certificate in {}", certificate.display());
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_signed_pair_is_made_once_for_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("pki/kubelet.crt"), dir.path().join("pki/kubelet.key"));
        let names = vec!["edge".to_owned(), "10.0.0.1".to_owned()];
        let first = self_signed(&certificate, &key, "edge", &names).unwrap();
        assert!(first.covers(&names) && first.is_valid(Timestamp::now()));
        assert_eq!(self_signed(&certificate, &key, "edge", &names).unwrap().chain, first.chain);
        let moved = vec!["edge".to_owned(), "10.0.0.2".to_owned()];
        let second = self_signed(&certificate, &key, "edge", &moved).unwrap();
        assert_ne!(second.chain, first.chain, "another address needs another certificate");
    }
}
