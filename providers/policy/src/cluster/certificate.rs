//! The server's certificate, and the authority that has signed it.
//!
//! An authority signs one certificate, and its key is forgotten: there is nothing to steal by which others could pass for the server.
//! A new certificate has a new authority, which API servers are told of before the certificate is shown ([`super::rotation`]).

#[cfg(test)]
mod tests;

use std::{
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use kubewasm_control::tls::{self, ClientCertificates, TlsFailure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

/// Clocks differ: a certificate is good from so long before it is made.
const SKEW: Duration = Duration::from_secs(300);

/// A certificate with its key and its authority, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ServingPair {
    authority: String,
    certificate: String,
    key: String,
}

impl fmt::Debug for ServingPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingPair").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// A certificate that cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A text is not PEM of what it should be.
    #[error("{0} cannot be read")]
    Unreadable(&'static str),
    /// It cannot be shown.
    #[error(transparent)]
    Tls(#[from] TlsFailure),
}

impl ServingPair {
    /// Makes a certificate for these names and addresses.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn make(hosts: &[String], now: SystemTime, life: Duration) -> Result<Self, CertificateError> {
        let authority_key = KeyPair::generate()?;
        // No two authorities have one name: whoever has several of them finds the right one at once.
        let number =
            hex(ring::digest::digest(&ring::digest::SHA256, authority_key.public_key_raw()).as_ref());
        let number = number.get(..16).unwrap_or_default();
        let mut params =
            params(Vec::new(), &format!("kubewasm policy server authority {number}"), now, life)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, authority_key)?;

        let key = KeyPair::generate()?;
        let mut params = params_of_server(hosts, now, life)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &authority)?;
        Ok(Self { authority: authority.pem(), certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Reads one: the authority, the certificate and its key.
    ///
    /// # Errors
    /// [`CertificateError::Unreadable`] and [`CertificateError::Tls`].
    pub fn read(authority: &str, certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let pair = Self {
            authority: authority.to_owned(),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        if blocks(authority).is_empty() {
            return Err(CertificateError::Unreadable("the authority"));
        }
        pair.validity()?;
        pair.server_config()?;
        Ok(pair)
    }

    /// The authority, in PEM.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The certificate, in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, in PEM.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Names the certificate, to whoever has several: the SHA-256 of its PEM.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(ring::digest::digest(&ring::digest::SHA256, self.certificate.as_bytes()).as_ref())
    }

    /// TLS that shows it.
    ///
    /// # Errors
    /// [`CertificateError::Tls`].
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        Ok(tls::server_config(self.certificate.as_bytes(), self.key.as_bytes(), ClientCertificates::Unasked)?)
    }

    /// From when to when the certificate is good.
    ///
    /// # Errors
    /// [`CertificateError::Unreadable`].
    pub fn validity(&self) -> Result<Range<SystemTime>, CertificateError> {
        let leaf = self.leaf()?;
        let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|_| UNREADABLE)?;
        let time = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).map_err(|_| UNREADABLE)?;
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(UNREADABLE)
        };
        Ok(time(parsed.validity().not_before)?..time(parsed.validity().not_after)?)
    }

    /// When it was made.
    ///
    /// # Errors
    /// [`CertificateError::Unreadable`].
    pub fn made(&self) -> Result<SystemTime, CertificateError> {
        self.validity()?.start.checked_add(SKEW).ok_or(UNREADABLE)
    }

    /// When the next certificate is to be made: after two thirds of this one's life.
    ///
    /// # Errors
    /// [`CertificateError::Unreadable`].
    pub fn renewal(&self) -> Result<SystemTime, CertificateError> {
        let end = self.validity()?.end;
        let life = end.duration_since(self.made()?).unwrap_or_default();
        end.checked_sub(life / 3).ok_or(UNREADABLE)
    }

    /// Whether the certificate is made out to all of these.
    #[must_use]
    pub fn covers(&self, hosts: &[String]) -> bool {
        let Ok(leaf) = self.leaf() else { return false };
        let Ok((_, parsed)) = X509Certificate::from_der(&leaf) else { return false };
        let Ok(Some(extension)) = parsed.subject_alternative_name() else { return false };
        let names = extension.value.general_names.iter();
        let names: Vec<String> = names.filter_map(host).collect();
        hosts.iter().all(|host| names.contains(host))
    }

    fn leaf(&self) -> Result<CertificateDer<'static>, CertificateError> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|_| UNREADABLE)
    }
}

const UNREADABLE: CertificateError = CertificateError::Unreadable("the certificate");

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
            let v6 = <[u8; 16]>::try_from(*bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string());
            v4.or(v6).ok()
        }
        _ => None,
    }
}

fn params_of_server(
    hosts: &[String],
    now: SystemTime,
    life: Duration,
) -> Result<CertificateParams, CertificateError> {
    // A common name has at most 64 characters, and nobody looks at it.
    params(hosts.to_vec(), "kubewasm policy server", now, life)
}

fn params(
    hosts: Vec<String>,
    name: &str,
    now: SystemTime,
    life: Duration,
) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.not_before = now.checked_sub(SKEW).unwrap_or(now).into();
    params.not_after = now.checked_add(life).unwrap_or(now).into();
    Ok(params)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificates of a text in PEM, each once, in their order. What is between them is left out.
#[must_use]
pub fn blocks(pem: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = pem;
    while let Some((_, begun)) = rest.split_once(BEGIN) {
        let Some((body, after)) = begun.split_once(END) else { break };
        // What was split is put together again: the two markers and what is between them.
        let start = pem.len() - begun.len() - BEGIN.len();
        if let Some(block) = pem.get(start..start + BEGIN.len() + body.len() + END.len())
            && !found.contains(&block)
        {
            found.push(block);
        }
        rest = after;
    }
    found
}

/// Authorities as one text, each once.
#[must_use]
pub fn bundle<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut found: Vec<&str> = Vec::new();
    for block in parts.into_iter().flat_map(blocks) {
        if !found.contains(&block) {
            found.push(block);
        }
    }
    found.iter().map(|block| format!("{block}\n")).collect()
}

/// Whether all authorities of `part` are in `whole`.
#[must_use]
pub fn contains(whole: &str, part: &str) -> bool {
    let whole = blocks(whole);
    blocks(part).iter().all(|block| whole.contains(block))
}
