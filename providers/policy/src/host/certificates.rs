//! Whether a certificate is trusted: `crypto/v1/is_certificate_trusted`.
//!
//! A chain names its root last, which is trusted for being named: its own dates are not looked at. Without a chain, the
//! authorities count that this machine trusts. All uses of a certificate will do.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use webpki::{EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::context_aware::read;

/// Certificates of one chain.
const LONGEST_CHAIN: usize = 32;

const EXPIRED: &str = "Certificate is being used after its expiration date";
const NOT_YET: &str = "Certificate is being used before its validity date";
const NOT_BY_CHAIN: &str = "Certificate is not trusted by the provided cert chain";

#[derive(Deserialize)]
struct Question {
    cert: Certificate,
    #[serde(default)]
    cert_chain: Option<Vec<Certificate>>,
    /// When it is used, in RFC 3339; the SDK for Go says nothing by an empty text.
    #[serde(default)]
    not_after: Option<String>,
}

#[derive(Deserialize)]
struct Certificate {
    encoding: Encoding,
    /// Each byte a number, PEM as well.
    data: Vec<u8>,
}

#[derive(Clone, Copy, Deserialize)]
enum Encoding {
    Der,
    Pem,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Trust {
    trusted: bool,
    /// Empty where it is trusted.
    reason: String,
}

/// Answers an operation of `crypto`.
pub(super) async fn call(operation: &str, payload: Bytes) -> Result<Vec<u8>, String> {
    if operation != "v1/is_certificate_trusted" {
        return Err(format!("unknown operation: {operation}"));
    }
    let question: Question = read(operation, &payload)?;
    // Signatures take a moment each, and the authorities of this machine are in files.
    let checked = tokio::task::spawn_blocking(move || check(&question));
    let trust = checked.await.map_err(|error| format!("cannot look at the certificate: {error}"))??;
    serde_json::to_vec(&trust).map_err(|error| error.to_string())
}

fn check(question: &Question) -> Result<Trust, String> {
    let der = question.cert.der()?;
    let certificate = EndEntityCert::try_from(&der)
        .map_err(|error| format!("Certificate is not a valid end-entity certificate: {error}"))?;
    let used = match question.not_after.as_deref() {
        None | Some("") => UnixTime::now(),
        Some(text) => at(text)?,
    };
    let verdict = match &question.cert_chain {
        Some(chain) if chain.len() > LONGEST_CHAIN => {
            return Err(format!("the chain has {} certificates, and may have {LONGEST_CHAIN}", chain.len()));
        }
        Some(chain) => {
            let mut chain = chain.iter().map(Certificate::der).collect::<Result<Vec<_>, _>>()?;
            let root = chain.pop();
            let roots = root.iter().map(|root| {
                webpki::anchor_from_trusted_cert(root)
                    .map_err(|error| format!("the root of the chain is no authority: {error}"))
            });
            verify(&certificate, &roots.collect::<Result<Vec<_>, _>>()?, &chain, used)
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            let roots = system.certs.iter().filter_map(|root| webpki::anchor_from_trusted_cert(root).ok());
            verify(&certificate, &roots.collect::<Vec<_>>(), &[], used)
        }
    };
    Ok(match verdict {
        Ok(()) => Trust { trusted: true, reason: String::new() },
        Err(error) => Trust { trusted: false, reason: reason(&error) },
    })
}

fn verify(
    certificate: &EndEntityCert<'_>,
    roots: &[TrustAnchor<'_>],
    intermediates: &[CertificateDer<'_>],
    used: UnixTime,
) -> Result<(), Error> {
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    certificate.verify_for_usage(algorithms, roots, intermediates, used, AnyUse, None, None).map(drop)
}

/// As Kubewarden says it.
fn reason(error: &Error) -> String {
    match error {
        Error::CertExpired { .. } => EXPIRED.to_owned(),
        Error::CertNotValidYet { .. } => NOT_YET.to_owned(),
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => NOT_BY_CHAIN.to_owned(),
        other => format!("Certificate not trusted: {other}"),
    }
}

fn at(text: &str) -> Result<UnixTime, String> {
    let time: Timestamp =
        text.parse().map_err(|_| "Timestamp not_after is not in RFC3339 format".to_owned())?;
    let seconds = u64::try_from(time.as_second())
        .map_err(|_| "Timestamp not_after is before there were certificates".to_owned())?;
    Ok(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

impl Certificate {
    fn der(&self) -> Result<CertificateDer<'_>, String> {
        match self.encoding {
            Encoding::Der => Ok(CertificateDer::from_slice(&self.data)),
            Encoding::Pem => CertificateDer::from_pem_slice(&self.data)
                .map_err(|error| format!("Certificate PEM data is not valid: {error}")),
        }
    }
}

/// A certificate may be for whatever it is for.
struct AnyUse;

impl ExtendedKeyUsageValidator for AnyUse {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
