//! Asking the cluster to sign a certificate.
//!
//! The request's name is made from what is asked for, so that a node which is restarted finds the request that it made
//! before. One of that name which is not the same, or which nothing will come of, stands in nobody's way: then the API
//! server chooses a name. The certificate that comes is checked against the key before anyone uses it. See
//! [Certificate signing requests](https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/).

use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::PostParams,
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

use super::pair::{Pair, PairError};
use crate::{
    explain::explain,
    retry::{self, Backoff},
};

/// How often the log says what is waited for.
const REMINDER: Duration = Duration::from_mins(1);

/// Why the cluster gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateRequestError {
    /// A person or a program said no.
    #[error(
        "certificate request {name} was denied: {message}. Ask an administrator of the cluster why, and start the node \
         again for a new request"
    )]
    Denied {
        /// Name of the CertificateSigningRequest.
        name: String,
        /// What was said.
        message: String,
    },
    /// The signer could not sign it.
    #[error("certificate request {name} failed: {message}")]
    Failed {
        /// Name of the CertificateSigningRequest.
        name: String,
        /// What was said.
        message: String,
    },
    /// Nobody approved it in time, or it was removed.
    #[error(
        "certificate request {name} was not answered within {} minutes. Approve the next one with: kubectl certificate \
         approve NAME", waited.as_secs() / 60
    )]
    Unanswered {
        /// Name of the CertificateSigningRequest.
        name: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The API server does not let us ask.
    #[error(
        "the API server refuses a certificate request: {}. The credentials must be allowed to create \
         certificatesigningrequests, as the ClusterRole system:node-bootstrapper allows",
        explain(.0)
    )]
    Refused(#[source] kube::Error),
    /// What came is not a certificate for our key.
    #[error("the certificate that request {name} was answered with cannot be used: {source}")]
    Wrong {
        /// Name of the CertificateSigningRequest.
        name: String,
        /// What is wrong with it.
        source: PairError,
    },
    /// The request could not be written.
    #[error("cannot make a certificate request: {0}")]
    Make(#[source] rcgen::Error),
    /// The node is told to stop.
    #[error("stopped while waiting for a certificate")]
    Cancelled,
}

/// For what a certificate is wanted.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// To be the node, to the API server.
    Client,
    /// To be these names and addresses, to callers of the node.
    Serving(Vec<String>),
}

impl Purpose {
    fn signer(&self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving(_) => "kubernetes.io/kubelet-serving",
        }
    }

    fn usages(&self) -> Vec<String> {
        let purpose = match self {
            Self::Client => "client auth",
            Self::Serving(_) => "server auth",
        };
        vec!["digital signature".to_owned(), purpose.to_owned()]
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Client => Vec::new(),
            Self::Serving(names) => names.clone(),
        }
    }
}

/// Asks for a certificate for `key` and waits until it is there, at most for `wait`.
pub(super) async fn obtain(
    client: &Client,
    node_name: &str,
    purpose: &Purpose,
    key: &KeyPair,
    wait: Duration,
    cancel: &CancellationToken,
) -> Result<Pair, CertificateRequestError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let request = request(node_name, purpose, key).map_err(CertificateRequestError::Make)?;
    let name = create(&api, &request, key, cancel).await?;
    tracing::info!(
        "asked for a {} certificate; waiting for the approval of certificate request {name} (kubectl certificate approve \
         {name})",
        if matches!(purpose, Purpose::Client) { "client" } else { "serving" },
    );
    let answered = tokio::time::timeout(wait, remind(&name, answer(&api, &name)));
    match cancel.run_until_cancelled(answered).await {
        None => Err(CertificateRequestError::Cancelled),
        Some(Err(_)) | Some(Ok(Ok(None))) => Err(CertificateRequestError::Unanswered { name, waited: wait }),
        Some(Ok(Err(refusal))) => Err(refusal),
        Some(Ok(Ok(Some(certificate)))) => {
            let pair = Pair::from_pem(&certificate, key.serialize_pem().as_bytes())
                .map_err(|source| CertificateRequestError::Wrong { name: name.clone(), source })?;
            tracing::info!("certificate request {name} was approved and signed");
            Ok(pair)
        }
    }
}

fn request(
    node_name: &str,
    purpose: &Purpose,
    key: &KeyPair,
) -> Result<CertificateSigningRequest, rcgen::Error> {
    let mut params = CertificateParams::new(purpose.names())?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, "system:nodes");
    subject.push(DnType::CommonName, format!("system:node:{node_name}"));
    params.distinguished_name = subject;
    let pem = params.serialize_request(key)?.pem()?;
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(name_of(node_name, purpose, key)), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: purpose.signer().to_owned(),
            usages: Some(purpose.usages()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

const NAME_PREFIX: &str = "node-csr-";

/// The name of a request: the same for the same key, names and purpose.
fn name_of(node_name: &str, purpose: &Purpose, key: &KeyPair) -> String {
    let mut hash = Sha256::new();
    hash.update(key.subject_public_key_info());
    // None of these holds a NUL, so that they cannot run into each other.
    for part in [node_name, purpose.signer()].into_iter().chain(purpose.names().iter().map(String::as_str)) {
        hash.update([0]);
        hash.update(part.as_bytes());
    }
    let digest: String = hash.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect();
    format!("{NAME_PREFIX}{digest}")
}

/// Creates the request, or finds the one that was created before, as often as the API server does not answer, and
/// returns its name.
async fn create(
    api: &Api<CertificateSigningRequest>,
    request: &CertificateSigningRequest,
    key: &KeyPair,
    cancel: &CancellationToken,
) -> Result<String, CertificateRequestError> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let mut request = request.clone();
    loop {
        match create_or_find(api, &mut request, key).await {
            Ok(Some(name)) => return Ok(name),
            // Under another name.
            Ok(None) => continue,
            Err(err @ kube::Error::Api(_)) if !is_passing(&err) => {
                return Err(CertificateRequestError::Refused(err));
            }
            Err(err) => {
                tracing::warn!(error = explain(&err), "cannot ask for a certificate yet; trying again")
            }
        }
        if !retry::sleep(backoff.next(), cancel).await {
            return Err(CertificateRequestError::Cancelled);
        }
    }
}

/// Creates the request. Where one of its name is there that is the same, it is that one; where another is, the request
/// loses its name, and `None` asks for another try.
async fn create_or_find(
    api: &Api<CertificateSigningRequest>,
    request: &mut CertificateSigningRequest,
    key: &KeyPair,
) -> Result<Option<String>, kube::Error> {
    let error = match api.create(&PostParams::default(), request).await {
        Ok(created) => return Ok(Some(created.name_any())),
        Err(error) => error,
    };
    let taken =
        request.metadata.name.clone().filter(|_| matches!(&error, kube::Error::Api(s) if s.code == 409));
    let Some(name) = taken else { return Err(error) };
    if let Some(present) = api.get_opt(&name).await?
        && is_same(&present, request, key, Timestamp::now())
    {
        tracing::info!("certificate request {name} has been made before");
        return Ok(Some(name));
    }
    request.metadata.name = None;
    request.metadata.generate_name = Some(NAME_PREFIX.to_owned());
    Ok(None)
}

/// Whether something can come of a request that is there, and it is what would be asked for.
fn is_same(
    present: &CertificateSigningRequest,
    wanted: &CertificateSigningRequest,
    key: &KeyPair,
    now: Timestamp,
) -> bool {
    let is_alike = present.spec.signer_name == wanted.spec.signer_name
        && present.spec.usages == wanted.spec.usages
        && public_key(&present.spec.request.0).as_deref() == Some(&key.subject_public_key_info()[..]);
    let is_fresh = |certificate: &[u8]| {
        Pair::from_pem(certificate, key.serialize_pem().as_bytes()).is_ok_and(|pair| pair.is_valid(now))
    };
    is_alike
        && match decided("", present) {
            Ok(None) => true,
            Ok(Some(certificate)) => is_fresh(&certificate),
            Err(_) => false,
        }
}

/// The public key that a request in PEM is about.
fn public_key(request: &[u8]) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(request).ok()?;
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    Some(parsed.certification_request_info.subject_pki.raw.to_vec())
}

/// Says again and again what is waited for.
async fn remind<T>(name: &str, answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    loop {
        match tokio::time::timeout(REMINDER, answer.as_mut()).await {
            Ok(answer) => return answer,
            Err(_) => tracing::info!("still waiting for the approval of certificate request {name}"),
        }
    }
}

fn is_passing(err: &kube::Error) -> bool {
    match err {
        kube::Error::Api(status) => status.code >= 500 || status.code == 429,
        _ => true,
    }
}

/// Watches the request until it is decided. `None`: it was removed.
async fn answer(
    api: &Api<CertificateSigningRequest>,
    name: &str,
) -> Result<Option<Vec<u8>>, CertificateRequestError> {
    let mut seen = Box::pin(watch_object(api.clone(), name).default_backoff());
    while let Some(update) = seen.next().await {
        match update {
            Err(err) => tracing::warn!(error = %err, "cannot watch certificate request {name}; trying again"),
            Ok(None) => return Ok(None),
            Ok(Some(request)) => {
                if let Some(certificate) = decided(name, &request)? {
                    return Ok(Some(certificate));
                }
            }
        }
    }
    Ok(None)
}

/// The certificate, once it is there. A denial counts even where a certificate came before it.
fn decided(
    name: &str,
    request: &CertificateSigningRequest,
) -> Result<Option<Vec<u8>>, CertificateRequestError> {
    let Some(status) = &request.status else { return Ok(None) };
    for condition in status.conditions.iter().flatten() {
        let message = || {
            let parts = [condition.reason.as_deref(), condition.message.as_deref()];
            let told: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
            if told.is_empty() { "no reason given".to_owned() } else { told.join(": ") }
        };
        match condition.type_.as_str() {
            "Denied" => {
                return Err(CertificateRequestError::Denied { name: name.to_owned(), message: message() });
            }
            "Failed" => {
                return Err(CertificateRequestError::Failed { name: name.to_owned(), message: message() });
            }
            _ => {}
        }
    }
    Ok(status.certificate.as_ref().map(|bytes| bytes.0.clone()).filter(|bytes| !bytes.is_empty()))
}

#[cfg(test)]
mod tests;
