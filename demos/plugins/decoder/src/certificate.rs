//! What certificates say. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use kubectl_plugin::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, pem::Pem, prelude::FromDer as _, time::ASN1Time,
};

/// Of a certificate in PEM.
const LABEL: &str = "CERTIFICATE";
const DAY: i64 = 24 * 3600;

/// A certificate, or why it is none.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum CertificateDetails {
    Read(Box<CertificateFields>),
    Unreadable { error: String },
}

/// What is asked of a certificate most.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertificateFields {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    /// Names and addresses that it is for.
    pub(crate) names: Vec<String>,
    pub(crate) is_ca: bool,
    pub(crate) not_before: String,
    pub(crate) not_after: String,
    /// Whole days until it expires; less than nothing when it has.
    pub(crate) days_left: i64,
    /// It does not count yet, it does, or it does not any more.
    pub(crate) state: Validity,
    pub(crate) serial: String,
    /// SHA-256 of the certificate, as browsers and OpenSSL show it.
    pub(crate) fingerprint: String,
}

/// A time and a certificate's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Validity {
    NotYetValid,
    Valid,
    Expired,
}

/// The certificates in a text, and whether there is nothing else in it.
pub(crate) fn of_pem(text: &str, now: Timestamp) -> (Vec<CertificateDetails>, bool) {
    let mut found = Vec::new();
    let mut is_all = true;
    for block in Pem::iter_from_buffer(text.as_bytes()) {
        match block {
            Ok(block) if block.label == LABEL => found.push(match read(&block.contents, now) {
                Ok(fields) => CertificateDetails::Read(Box::new(fields)),
                Err(error) => CertificateDetails::Unreadable { error },
            }),
            Ok(_) => is_all = false,
            // Behind what is no PEM there is none.
            Err(_) => break,
        }
    }
    is_all &= !found.is_empty();
    (found, is_all)
}

fn read(der: &[u8], now: Timestamp) -> Result<CertificateFields, String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|error| format!("no certificate: {error}"))?;
    let validity = certificate.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let now = now.as_second();
    Ok(CertificateFields {
        subject: name(&certificate.subject().to_string()),
        issuer: name(&certificate.issuer().to_string()),
        names: names(&certificate),
        is_ca: certificate.is_ca(),
        not_before: time(validity.not_before),
        not_after: time(validity.not_after),
        days_left: to.saturating_sub(now).div_euclid(DAY),
        state: match now {
            now if now < from => Validity::NotYetValid,
            now if now > to => Validity::Expired,
            _ => Validity::Valid,
        },
        serial: certificate.raw_serial_as_string(),
        fingerprint: hex(&Sha256::digest(der)),
    })
}

fn name(name: &str) -> String {
    if name.is_empty() { "<none>".to_owned() } else { name.to_owned() }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().map(general_name).collect()
}

fn general_name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
            (*name).to_owned()
        }
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(address), _) => Ipv4Addr::from(address).to_string(),
            (_, Ok(address)) => Ipv6Addr::from(address).to_string(),
            _ => format!("an address of {} bytes", bytes.len()),
        },
        GeneralName::DirectoryName(name) => name.to_string(),
        other => other.to_string(),
    }
}

fn time(time: ASN1Time) -> String {
    Timestamp::from_second(time.timestamp()).map_or_else(|_| time.to_string(), |time| time.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
