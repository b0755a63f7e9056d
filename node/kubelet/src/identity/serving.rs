//! The certificate of the HTTPS server, from one of three places:
//!
//! 1. `tlsCertFile` and `tlsPrivateKeyFile`, read again when they change;
//! 2. with `serverTLSBootstrap`, the cluster's signer `kubernetes.io/kubelet-serving`, renewed in time.
//!    No controller approves these requests by itself; until somebody does, handshakes fail;
//! 3. otherwise self-signed, made once and kept, which an API server without
//!    `--kubelet-certificate-authority` accepts.
//!
//! The second and third are made out to the node's names and addresses, and replaced when those change.

use std::{
    net::IpAddr,
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
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    CertificateRequestError, Connection, IdentityError,
    csr::{self, Purpose},
    pair::{self, Pair},
    pending::PendingKey,
    rotation::{self, APART, renew_at, sleep_until},
};
use crate::{
    config::{Config, is_set},
    retry,
};

/// The pair that the cluster signed, within the certificate directory.
const REQUESTED_PAIR: &str = "kubelet-server-current.pem";
/// The key of the request for it that is under way.
const PENDING_KEY: &str = "kubelet-server.key.tmp";
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

impl Serving {
    /// When the certificate of now expires; `None` where there is none.
    #[must_use]
    pub fn certificate_expiry(&self) -> Option<Timestamp> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        pair::expiry(current.cert.first()?)
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

/// What a certificate is made out to: the node's host name, and the addresses that it has.
#[derive(Clone, Debug)]
struct ServingNames {
    hostname: String,
    addresses: watch::Receiver<Vec<IpAddr>>,
}

impl ServingNames {
    /// As they are now; [`Self::changed`] tells of what comes after.
    fn now(&mut self) -> Vec<String> {
        let addresses = self.addresses.borrow_and_update();
        std::iter::once(self.hostname.clone()).chain(addresses.iter().map(IpAddr::to_string)).collect()
    }

    /// Waits until they change; for ever, when nobody can change them any more.
    async fn changed(&mut self) {
        if self.addresses.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

#[derive(Debug)]
enum CertificateSource {
    Files { certificate: PathBuf, key: PathBuf },
    Requested(ServingRequest),
    SelfSigned(SelfSigned),
}

/// Finds or makes the certificate for the node's host name and its `addresses`. `connection` leads to whom to ask with
/// `serverTLSBootstrap`.
///
/// # Errors
/// [`IdentityError::Io`] and [`IdentityError::Pair`] when files cannot be used, and what making a key may
/// meet.
pub fn prepare(
    config: &Config,
    addresses: watch::Receiver<Vec<IpAddr>>,
    connection: &Connection,
) -> Result<(Arc<Serving>, Upkeep), IdentityError> {
    let mut names = ServingNames { hostname: config.hostname.clone(), addresses };
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
        let wanted = names.now();
        let current = Pair::read(&file, &file)
            .ok()
            .filter(|pair| pair.is_valid(Timestamp::now()) && pair.covers(&wanted));
        if let Some(pair) = &current {
            set(pair, &file)?;
        }
        CertificateSource::Requested(ServingRequest {
            key_file: config.cert_dir.join(PENDING_KEY),
            file,
            node_name: config.node_name.clone(),
            names,
            connection: connection.clone(),
            current,
        })
    } else {
        let mut own = SelfSigned {
            certificate: config.cert_dir.join(SELF_SIGNED_CERTIFICATE),
            key: config.cert_dir.join(SELF_SIGNED_KEY),
            node_name: config.node_name.clone(),
            names,
        };
        set(&own.pair()?, &own.certificate)?;
        CertificateSource::SelfSigned(own)
    };
    let upkeep = Upkeep { serving: Arc::clone(&serving), source };
    Ok((serving, upkeep))
}

impl Upkeep {
    /// Reloads or renews until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let serving = self.serving;
        match self.source {
            CertificateSource::SelfSigned(own) => own.follow(&serving, &cancel).await,
            CertificateSource::Files { certificate, key } => {
                reload(&serving, &certificate, &key, &cancel).await
            }
            CertificateSource::Requested(request) => request.renew(&serving, &cancel).await,
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
#[derive(Debug)]
struct ServingRequest {
    file: PathBuf,
    key_file: PathBuf,
    node_name: String,
    names: ServingNames,
    connection: Connection,
    current: Option<Pair>,
}

/// Why a request has ended.
enum Requested {
    Answered(Result<Pair, IdentityError>),
    /// Other names are wanted meanwhile.
    Outdated,
}

impl ServingRequest {
    async fn renew(mut self, serving: &Serving, cancel: &CancellationToken) {
        let (mut backoff, client) = (rotation::backoff(), self.connection.unlimited_client());
        loop {
            let names = self.names.now();
            let validity = self.current.as_ref().filter(|pair| pair.covers(&names));
            let validity = validity.and_then(|pair| pair.validity().ok());
            if let Some(validity) = validity {
                tokio::select! {
                    in_time = sleep_until(renew_at(validity, rand::random()), cancel) => if !in_time {
                        return;
                    },
                    () = self.names.changed() => continue,
                }
            }
            match self.obtain(&client, serving, names, cancel).await {
                Requested::Outdated => {
                    tracing::info!("the node's addresses have changed; asking for another certificate")
                }
                Requested::Answered(Ok(pair)) => {
                    backoff.reset();
                    if let Some(old) = self.current.replace(pair) {
                        self.connection.renewals().serving_replaced(&old, Timestamp::now());
                    }
                    if !retry::sleep(APART, cancel).await {
                        return;
                    }
                }
                Requested::Answered(Err(IdentityError::Request(CertificateRequestError::Cancelled))) => {
                    return;
                }
                Requested::Answered(Err(err)) => {
                    self.connection.renewals().serving_failed();
                    tracing::warn!(error = %err, "no serving certificate from the cluster; trying again");
                    if !retry::sleep(backoff.next(), cancel).await {
                        return;
                    }
                }
            }
        }
    }

    async fn obtain(
        &mut self,
        client: &Client,
        serving: &Serving,
        names: Vec<String>,
        cancel: &CancellationToken,
    ) -> Requested {
        let pending = match PendingKey::open(self.key_file.clone(), self.current.as_ref()) {
            Ok(pending) => pending,
            Err(error) => return Requested::Answered(Err(error)),
        };
        let purpose = Purpose::Serving(names);
        let answer = tokio::select! {
            answer = csr::obtain(client, &self.node_name, &purpose, pending.key(), rotation::WAIT, cancel) => answer,
            () = self.names.changed() => return Requested::Outdated,
        };
        Requested::Answered(pending.settle(answer, &self.file).and_then(|pair| {
            serving.set(&pair).map_err(|source| IdentityError::Pair { path: self.file.clone(), source })?;
            PendingKey::remove(&self.key_file)?;
            Ok(pair)
        }))
    }
}

/// A certificate that this node signs.
#[derive(Debug)]
struct SelfSigned {
    certificate: PathBuf,
    key: PathBuf,
    node_name: String,
    names: ServingNames,
}

impl SelfSigned {
    fn pair(&mut self) -> Result<Pair, IdentityError> {
        self_signed(&self.certificate, &self.key, &self.node_name, &self.names.now())
    }

    async fn follow(mut self, serving: &Serving, cancel: &CancellationToken) {
        let mut backoff = rotation::backoff();
        while cancel.run_until_cancelled(self.names.changed()).await.is_some() {
            while let Err(error) = self.pair().and_then(|pair| {
                let path = self.certificate.clone();
                serving.set(&pair).map_err(|source| IdentityError::Pair { path, source })
            }) {
                tracing::warn!(%error, "no serving certificate for the node's new addresses; trying again");
                if !retry::sleep(backoff.next(), cancel).await {
                    return;
                }
            }
            backoff.reset();
        }
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
        pair::write_private(path, text.as_bytes())
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

    /// Who connects after a change of addresses sees a certificate that names them.
    #[tokio::test]
    async fn a_change_of_addresses_changes_the_self_signed_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let flags = crate::config::Flags { root_dir: Some(dir.path().to_owned()), ..Default::default() };
        let (config, _) = Config::resolve("", &flags, "edge").unwrap();
        let connection = Connection::new(kube::Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let (addresses, present) = watch::channel(vec![IpAddr::from([10, 0, 0, 1])]);
        let (serving, upkeep) = prepare(&config, present, &connection).unwrap();
        let shown = || serving.current.read().unwrap().clone().unwrap().cert.clone();
        let before = shown();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(upkeep.run(cancel.clone()));
        addresses.send(vec![IpAddr::from([10, 0, 0, 2])]).unwrap();
        while shown() == before {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
        task.await.unwrap();
    }
}
