//! A certificate with its key, as a PEM file on disk and as rustls takes it.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use rcgen::PublicKeyData as _;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

/// Why a certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// It is not PEM, or not all of it.
    #[error("not PEM: {0}")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// There is no certificate in it.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// The certificate is not X.509.
    #[error("the certificate is malformed")]
    Malformed,
    /// The key is of a kind that is not supported, or belongs to another certificate.
    #[error("the private key does not go with the certificate: {0}")]
    Key(#[source] rustls::Error),
}

/// A certificate chain, leaf first, and the key of the leaf. Its `Debug` shows neither.
pub(super) struct Pair {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    certificate_pem: String,
    key_pem: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Pair {
    /// Reads a chain and a key, and checks that they belong together. Both may be the same text.
    pub(super) fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PairError> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(certificate).collect::<Result<_, _>>().map_err(PairError::Pem)?;
        if chain.is_empty() {
            return Err(PairError::NoCertificate);
        }
        let parsed_key = PrivateKeyDer::from_pem_slice(key).map_err(PairError::Pem)?;
        let certificate_pem = chain.iter().map(|der| to_pem("CERTIFICATE", der)).collect();
        let key_pem = match &parsed_key {
            PrivateKeyDer::Pkcs1(der) => to_pem("RSA PRIVATE KEY", der.secret_pkcs1_der()),
            PrivateKeyDer::Sec1(der) => to_pem("EC PRIVATE KEY", der.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(der) => to_pem("PRIVATE KEY", der.secret_pkcs8_der()),
            _ => String::new(),
        };
        let pair = Self { chain, key: parsed_key, certificate_pem, key_pem };
        pair.validity()?;
        pair.certified()?;
        Ok(pair)
    }

    /// Reads a file, or two.
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, super::IdentityError> {
        let read = |path: &Path| {
            fs::read(path).map_err(|source| super::IdentityError::Io { path: path.to_path_buf(), source })
        };
        Self::from_pem(&read(certificate)?, &read(key)?)
            .map_err(|source| super::IdentityError::Pair { path: certificate.to_path_buf(), source })
    }

    pub(super) fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub(super) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// As rustls takes it; fails when the key is not the certificate's.
    pub(super) fn certified(&self) -> Result<Arc<CertifiedKey>, PairError> {
        let provider = rustls::crypto::ring::default_provider();
        CertifiedKey::from_der(self.chain.clone(), self.key.clone_key(), &provider)
            .map(Arc::new)
            .map_err(PairError::Key)
    }

    /// From when to when the certificate is good.
    pub(super) fn validity(&self) -> Result<(Timestamp, Timestamp), PairError> {
        let leaf = self.chain.first().ok_or(PairError::NoCertificate)?;
        let (_, parsed) =
            x509_parser::certificate::X509Certificate::from_der(leaf).map_err(|_| PairError::Malformed)?;
        let time = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|_| PairError::Malformed)
        };
        Ok((time(parsed.validity().not_before)?, time(parsed.validity().not_after)?))
    }

    /// Whether the certificate is good now.
    pub(super) fn is_valid(&self, now: Timestamp) -> bool {
        self.validity().is_ok_and(|(from, to)| (from..to).contains(&now))
    }

    /// Whether the certificate is made out to all of these host names and addresses.
    pub(super) fn covers(&self, names: &[String]) -> bool {
        let Some(leaf) = self.chain.first() else { return false };
        let Ok((_, parsed)) = x509_parser::certificate::X509Certificate::from_der(leaf) else { return false };
        let Ok(Some(extension)) = parsed.subject_alternative_name() else { return names.is_empty() };
        let covered: Vec<String> = extension
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match bytes.len() {
                    4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
                    _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
                },
                _ => None,
            })
            .collect();
        names.iter().all(|name| covered.contains(name))
    }

    /// Whether the certificate is for this key.
    pub(super) fn is_of(&self, key: &rcgen::KeyPair) -> bool {
        let Some(leaf) = self.chain.first() else { return false };
        let parsed = x509_parser::certificate::X509Certificate::from_der(leaf);
        parsed.is_ok_and(|(_, parsed)| parsed.public_key().raw == key.subject_public_key_info())
    }

    /// Writes both into one file, certificate first, for this user alone. A reader sees the old pair or the
    /// new one, never half of each.
    pub(super) fn store(&self, path: &Path) -> io::Result<()> {
        write_private(path, format!("{}{}", self.certificate_pem, self.key_pem).as_bytes())
    }
}

/// Until when a certificate is good.
pub(super) fn expiry(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

/// Writes a file for this user alone, atomically, and makes its directory when it is missing.
pub(super) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary: PathBuf = path.with_file_name(name);
    match fs::remove_file(&temporary) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

fn to_pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A self-signed pair that is good from `from` to `to` days from now.
    pub(crate) fn self_signed(names: &[&str], days: std::ops::Range<i64>) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        let day = |n: i64| {
            let seconds = Timestamp::now().as_second() + n * 86_400;
            x509_parser::time::ASN1Time::from_timestamp(seconds).unwrap().to_datetime()
        };
        (params.not_before, params.not_after) = (day(days.start), day(days.end));
        let certificate = params.self_signed(&key).unwrap();
        Pair::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    #[test]
    fn a_pair_is_stored_for_its_user_alone_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pki/pair.pem");
        let pair = self_signed(&["node", "10.0.0.1"], -1..1);
        pair.store(&path).unwrap();
        pair.store(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left behind");

        let read = Pair::read(&path, &path).unwrap();
        assert_eq!(read.chain, pair.chain);
        assert_eq!(read.key, pair.key);
        assert!(read.covers(&["node".into(), "10.0.0.1".into()]));
        assert!(!read.covers(&["other".into()]));
    }

    #[test]
    fn validity_has_two_ends() {
        let now = Timestamp::now();
        for (days, valid) in [(-2..-1, false), (-1..1, true), (1..2, false)] {
            assert_eq!(self_signed(&["x"], days.clone()).is_valid(now), valid, "{days:?}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, other) = (self_signed(&["x"], -1..1), self_signed(&["x"], -1..1));
        let mixed = Pair::from_pem(one.certificate_pem().as_bytes(), other.key_pem().as_bytes());
        assert!(matches!(mixed, Err(PairError::Key(_))), "{mixed:?}");
        let empty = Pair::from_pem(b"", one.key_pem().as_bytes());
        assert!(matches!(empty, Err(PairError::NoCertificate)), "{empty:?}");
    }

    #[test]
    fn debug_shows_no_key() {
        let pair = self_signed(&["x"], -1..1);
        assert_eq!(format!("{pair:?}"), "Pair { certificates: 1, .. }");
    }
}
