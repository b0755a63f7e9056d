//! Containers that serve HTTP: their certificates, and what has failed of their requests.

use kubewasm_host::http::{CertificateOutcome, FailureCount, ServerCertificate};
use kubewasm_kubelet::runtime::FailedRequests;
use tonic::Status;

use super::{Supervisor, SupervisorError, call, error::GroupError, of_status};
use crate::protocol::{
    Versions,
    wire::{self, SetCertificateOutcome},
};

/// How often in a row another session may begin.
const TURNS: usize = 4;

impl Supervisor {
    /// Gives an instance that serves HTTP over TLS a certificate, for handshakes from now on. It may have it already, serve
    /// without TLS, or have ended.
    ///
    /// # Errors
    /// [`SupervisorError`] when its worker cannot be reached; try again.
    pub async fn set_certificate(
        &self,
        id: &str,
        certificate: &ServerCertificate,
    ) -> Result<(), SupervisorError> {
        let Some(group) = self.view().running_in(id) else { return self.must_be_known(id) };
        let mut client = match self.group(&group).await.client().await {
            Ok(client) => client,
            Err(GroupError::NoWorker { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if client.version < Versions::CERTIFICATES {
            return Ok(());
        }
        for _ in 0..TURNS {
            let session = client.session().await;
            let request = wire::SetCertificateRequest {
                session: session.clone(),
                id: id.to_owned(),
                certificate: Some(certificate.into()),
            };
            let outcome = match call(client.worker.set_certificate(request)).await {
                Ok(answer) => answer.outcome(),
                Err(error) => {
                    // What was sent may be read later, and must not come after a newer one.
                    if let Err(status) = client.renew(&session).await {
                        tracing::debug!(group, error = status.message(), "a session could not be ended");
                    }
                    return Err(error);
                }
            };
            match outcome {
                SetCertificateOutcome::Applied => {
                    tracing::info!(container = id, "a container serves with another certificate");
                    return Ok(());
                }
                SetCertificateOutcome::Unchanged => return Ok(()),
                SetCertificateOutcome::NotServed => {
                    tracing::debug!(
                        container = id,
                        "a container takes no certificate before it is started again"
                    );
                    return Ok(());
                }
                SetCertificateOutcome::Stale => {}
                SetCertificateOutcome::Unspecified => {
                    return Err(of_status(Status::data_loss(
                        "it does not say what has come of a certificate",
                    )));
                }
            }
        }
        Err(of_status(Status::aborted("its sessions do not last")))
    }

    /// Waits until the kernel has killed a worker because the machine had no memory left; returns its process id.
    pub async fn system_oom(&self) -> u32 {
        self.common.kills.system().take().await
    }

    /// Waits until workers tell of requests that have failed, and takes what they have told of.
    pub async fn failed_requests(&self) -> Vec<FailedRequests> {
        let taken = self.view().failures.take().await.into_iter();
        let of_claimed = taken.filter_map(|(id, FailureCount { count, last })| {
            let pod_uid = self.view().claim_on(&id)?.pod_uid;
            Some(FailedRequests { id, pod_uid, count, last })
        });
        of_claimed.collect()
    }
}

/// What has come of a certificate, as it is told.
impl From<CertificateOutcome> for SetCertificateOutcome {
    fn from(outcome: CertificateOutcome) -> Self {
        match outcome {
            CertificateOutcome::Applied => Self::Applied,
            CertificateOutcome::Unchanged => Self::Unchanged,
            CertificateOutcome::NotServed => Self::NotServed,
        }
    }
}
