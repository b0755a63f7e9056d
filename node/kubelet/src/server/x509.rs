//! Callers who show a certificate: common name and organizations, if an authority of ours signed it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    RootCertStore,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use x509_parser::prelude::FromDer as _;

use super::{ServerError, user::User};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The authorities that client certificates may come from, read again when their file changes.
#[derive(Debug)]
pub(super) struct ClientCa {
    path: PathBuf,
    state: Mutex<LoadedAuthorities>,
}

#[derive(Debug)]
struct LoadedAuthorities {
    verifier: Arc<dyn ClientCertVerifier>,
    modified: Option<SystemTime>,
    looked: Instant,
}

impl ClientCa {
    /// Reads the bundle.
    pub(super) fn load(path: PathBuf) -> Result<Self, ServerError> {
        let modified = modified(&path);
        let verifier =
            read(&path).map_err(|message| ServerError::ClientCa { path: path.clone(), message })?;
        Ok(Self { path, state: Mutex::new(LoadedAuthorities { verifier, modified, looked: Instant::now() }) })
    }

    /// Who a certificate says its holder is.
    ///
    /// The error says why it is not believed.
    pub(super) fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<User, String> {
        let (leaf, intermediates) = chain.split_first().ok_or("no certificate")?;
        self.verifier()
            .verify_client_cert(leaf, intermediates, UnixTime::now())
            .map_err(|err| err.to_string())?;
        subject(leaf)
    }

    /// The present bundle. One that cannot be read leaves the last good one in place.
    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            let present = modified(&self.path);
            if present != state.modified {
                match read(&self.path) {
                    Ok(verifier) => {
                        tracing::info!("read the client authorities again from {}", self.path.display());
                        state.verifier = verifier;
                        state.modified = present;
                    }
                    Err(message) => {
                        tracing::warn!(
                            "{}: {message}; the authorities read before stay",
                            self.path.display()
                        );
                    }
                }
            }
        }
        Arc::clone(&state.verifier)
    }

    #[cfg(test)]
    pub(super) fn look_now(&self) {
        let mut state = self.state.lock().unwrap();
        state.looked = Instant::now().checked_sub(LOOK).unwrap();
        state.modified = None;
    }
}

fn modified(path: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn read(path: &std::path::Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|err| err.to_string())?;
    for certificate in certificates {
        let certificate = certificate.map_err(|err| err.to_string())?;
        roots.add(certificate).map_err(|err| err.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|err| err.to_string())
}

fn subject(leaf: &CertificateDer<'_>) -> Result<User, String> {
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|_| "the certificate is malformed")?;
    let text =
        |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name = certificate
        .subject()
        .iter_common_name()
        .next()
        .and_then(text)
        .filter(|name| !name.is_empty())
        .ok_or("the certificate has no common name")?;
    let groups = certificate.subject().iter_organization().filter_map(text).collect();
    Ok(User { name, groups, ..User::default() })
}
