//! Whose certificates servers may have.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use wasmtime_wasi_http::Error;

/// Certificates of authorities that one guest has.
const MOST_AUTHORITIES: usize = 64;
/// Sessions that a guest's pod can take up again, of each set of authorities.
const SESSIONS: usize = 32;
/// Sets of authorities that a pod is ready for: its containers' and, when these have changed, earlier ones.
const MOST_CONFIGS: usize = 8;
/// What is offered to servers, the better first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Certificates of authorities that a guest trusts besides those that this machine trusts.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateAuthorities {
    certificates: Vec<CertificateDer<'static>>,
    id: AuthoritiesId,
}

/// Tells sets of authorities apart. The default is no set at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct AuthoritiesId([u8; 32]);

/// A text without the certificates that it should have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthorities {
    /// There is none.
    #[error("it has no certificate: PEM blocks that begin with -----BEGIN CERTIFICATE----- are expected")]
    Empty,
    /// One cannot be read.
    #[error("certificate {number} cannot be read: {reason}")]
    Certificate {
        /// Its place, from 1 on.
        number: usize,
        /// Why not.
        reason: String,
    },
    /// There are too many.
    #[error("it has more than {MOST_AUTHORITIES} certificates")]
    TooMany,
}

impl fmt::Debug for PrivateAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateAuthorities").field("certificates", &self.certificates.len()).finish()
    }
}

impl PrivateAuthorities {
    /// Reads a bundle of certificates, PEM. What stands between them is left aside.
    ///
    /// # Errors
    /// [`InvalidAuthorities`].
    pub fn from_pem(text: &str) -> Result<Self, InvalidAuthorities> {
        let certificates = CertificateDer::pem_slice_iter(text.as_bytes()).take(MOST_AUTHORITIES + 1);
        let certificates = certificates.enumerate().map(|(index, certificate)| {
            let reason = |error: rustls_pki_types::pem::Error| error.to_string();
            certificate
                .map_err(|error| InvalidAuthorities::Certificate { number: index + 1, reason: reason(error) })
        });
        Self::new(certificates.collect::<Result<_, _>>()?)
    }

    /// Takes certificates, DER.
    ///
    /// # Errors
    /// [`InvalidAuthorities`].
    pub fn from_der(certificates: impl IntoIterator<Item = Vec<u8>>) -> Result<Self, InvalidAuthorities> {
        Self::new(certificates.into_iter().take(MOST_AUTHORITIES + 1).map(CertificateDer::from).collect())
    }

    fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, InvalidAuthorities> {
        match certificates.len() {
            0 => return Err(InvalidAuthorities::Empty),
            1..=MOST_AUTHORITIES => {}
            _ => return Err(InvalidAuthorities::TooMany),
        }
        let mut digest = Sha256::new();
        let mut roots = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            roots.add(certificate.clone()).map_err(|error| InvalidAuthorities::Certificate {
                number: index + 1,
                reason: error.to_string(),
            })?;
            digest.update((certificate.len() as u64).to_be_bytes());
            digest.update(certificate);
        }
        Ok(Self { certificates, id: AuthoritiesId(digest.finalize().into()) })
    }

    /// The certificates, DER.
    pub fn der(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(AsRef::as_ref)
    }
}

/// The authorities that this machine trusts, which are read when the first guest asks for them.
#[derive(Debug, Default)]
pub(crate) struct SystemAuthorities(OnceCell<Verifier>);

/// Who checks certificates; `None` where nothing is trusted. What it goes by is kept for those who add to it.
#[derive(Clone, Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl SystemAuthorities {
    async fn get(&self) -> Verifier {
        let read = || async {
            let roots = tokio::task::spawn_blocking(read_roots).await.unwrap_or_else(|error| {
                tracing::error!(%error, "the authorities of this machine were not read");
                RootCertStore::empty()
            });
            Verifier::new(roots)
        };
        self.0.get_or_init(read).await.clone()
    }
}

/// Where the system keeps them, or where `SSL_CERT_FILE` and `SSL_CERT_DIR` of this process say.
fn read_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "an authority of this machine cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (_, ignored) = roots.add_parsable_certificates(found.certs);
    if ignored > 0 {
        tracing::debug!(ignored, "some authorities of this machine are not understood");
    }
    if roots.is_empty() {
        tracing::warn!(
            "this machine trusts no authorities, so that no server of HTTPS is trusted but by private ones: install ca-certificates"
        );
    }
    roots
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

impl Verifier {
    fn new(roots: RootCertStore) -> Self {
        let roots = Arc::new(roots);
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider());
        Self { roots, verifier: builder.build().ok() }
    }

    fn with(&self, authorities: &PrivateAuthorities) -> Self {
        let mut roots = RootCertStore::clone(&self.roots);
        roots.add_parsable_certificates(authorities.certificates.iter().cloned());
        Self::new(roots)
    }
}

/// What one guest has of TLS.
#[derive(Clone, Debug)]
pub(crate) struct GuestTls {
    system: Arc<SystemAuthorities>,
    authorities: Option<Arc<PrivateAuthorities>>,
}

impl GuestTls {
    pub(crate) fn new(system: Arc<SystemAuthorities>, authorities: Option<Arc<PrivateAuthorities>>) -> Self {
        Self { system, authorities }
    }

    /// Whom it trusts.
    pub(super) fn id(&self) -> AuthoritiesId {
        self.authorities.as_ref().map_or_else(AuthoritiesId::default, |authorities| authorities.id)
    }
}

/// The sides of TLS that the guests of a pod have, each with sessions that can be taken up again.
#[derive(Debug, Default)]
pub(super) struct TlsConfigs(Mutex<HashMap<AuthoritiesId, Arc<ClientConfig>>>);

impl TlsConfigs {
    /// That of a guest.
    pub(super) async fn of(&self, tls: &GuestTls) -> Result<Arc<ClientConfig>, Error> {
        let id = tls.id();
        if let Some(config) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(config));
        }
        let system = tls.system.get().await;
        let Verifier { verifier, .. } = match &tls.authorities {
            Some(authorities) => system.with(authorities),
            None => system,
        };
        // Whoever trusts nobody does not need to ask.
        let verifier = verifier.ok_or(Error::TlsCertificateError)?;
        let versions = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = versions.map_err(|error| Error::InternalError(Some(error.to_string())))?;
        let mut config = builder.with_webpki_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let config = Arc::new(config);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_CONFIGS {
            known.clear();
        }
        Ok(Arc::clone(known.entry(id).or_insert(config)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> rcgen::Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec!["ca.example".to_owned()]).unwrap().self_signed(&key).unwrap()
    }

    #[test]
    fn a_bundle_is_read_with_everything_that_people_write_into_it() {
        let (first, second) = (certificate(), certificate());
        let text = format!("# ours\n{}\nthe old one:\r\n{}\n", first.pem(), second.pem());
        let read = PrivateAuthorities::from_pem(&text).unwrap();
        assert_eq!(read.der().collect::<Vec<_>>(), [&first.der()[..], &second.der()[..]]);
        let carried = PrivateAuthorities::from_der(read.der().map(<[u8]>::to_vec)).unwrap();
        assert_eq!(carried, read);
        assert_ne!(PrivateAuthorities::from_pem(&first.pem()).unwrap().id, read.id);
    }

    #[test]
    fn what_holds_no_certificate_is_told_so() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for text in ["", "hello", &key] {
            assert_eq!(PrivateAuthorities::from_pem(text), Err(InvalidAuthorities::Empty));
        }
        let good = certificate().pem();
        let broken = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let cut = good.lines().take(3).collect::<Vec<_>>().join("\n");
        for bad in [broken, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", &cut] {
            let error = PrivateAuthorities::from_pem(&format!("{good}{bad}")).unwrap_err();
            assert!(matches!(error, InvalidAuthorities::Certificate { number: 2, .. }), "{bad}: {error}");
        }
        let many = good.repeat(MOST_AUTHORITIES + 1);
        assert_eq!(PrivateAuthorities::from_pem(&many), Err(InvalidAuthorities::TooMany));
    }
}
