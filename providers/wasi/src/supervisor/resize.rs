//! Limits of instances that run.

use tonic::{Code, Status};

use super::{Supervisor, SupervisorError, connect::Client, error::GroupError, of_status};
use crate::{
    isolation,
    protocol::{
        Versions,
        wire::{self, ResizeOutcome},
    },
    spec::InstanceLimits,
};

/// How often in a row another session may begin.
const TURNS: usize = 4;

/// Why an instance has the limits that it had.
#[derive(Debug, thiserror::Error)]
pub enum ResizeFailure {
    /// Its worker was started by a kubewasm that could not do it.
    #[error(
        "its worker is of a kubewasm that cannot change limits of what runs; they hold when the container is started again"
    )]
    Old,
    /// More memory is used, by the instance or by its pod.
    #[error("{used} bytes of memory are used, and the limit would be {limit}")]
    BelowUse {
        /// It is the pod that has too much.
        of_pod: bool,
        /// Bytes.
        limit: u64,
        /// Bytes.
        used: u64,
    },
    /// Its worker cannot be reached; try again.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

impl Supervisor {
    /// Gives an instance that runs other limits. Those of one that has ended do not matter.
    ///
    /// # Errors
    /// [`ResizeFailure`]; it has the limits that it had.
    pub async fn resize(&self, id: &str, limits: InstanceLimits) -> Result<(), ResizeFailure> {
        let Some(name) = self.view().running_in(id) else { return Ok(self.must_be_known(id)?) };
        let group = self.group(&name).await;
        let client = match group.client().await {
            Ok(client) => client,
            Err(GroupError::NoWorker { .. }) => return Ok(()),
            Err(error) => return Err(SupervisorError::from(error).into()),
        };
        if client.version < Versions::RESIZE {
            return Err(ResizeFailure::Old);
        }
        let resize = ask(client, id, limits);
        if !isolation::is_of_one_pod(&name) {
            return resize.await;
        }
        let pod = Some(limits.pod_memory_limit_bytes).filter(|bytes| *bytes > 0);
        group.around_resize(pod, resize).await
    }
}

/// Tells the worker, until it is known what has come of it.
async fn ask(mut client: Client, id: &str, limits: InstanceLimits) -> Result<(), ResizeFailure> {
    for _ in 0..TURNS {
        let session = client.session().await;
        let request = wire::ResizeRequest::of(&session, id, limits);
        let answer = tokio::time::timeout(super::CALL, client.worker.resize(request)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) if status.code() == Code::Unimplemented => return Err(ResizeFailure::Old),
            failed => {
                // What was sent may be read later, and must not come after newer limits.
                if let Err(status) = client.renew(&session).await {
                    tracing::debug!(id, error = status.message(), "a session could not be ended");
                }
                return Err(match failed {
                    Ok(Err(status)) => of_status(status),
                    _ => super::WorkerFailure::NoAnswer.into(),
                }
                .into());
            }
        };
        let (limit, used) = (answer.limit_bytes, answer.used_bytes);
        match answer.outcome() {
            ResizeOutcome::Applied | ResizeOutcome::NotRunning => return Ok(()),
            ResizeOutcome::BelowUse => return Err(ResizeFailure::BelowUse { of_pod: false, limit, used }),
            ResizeOutcome::PodBelowUse => return Err(ResizeFailure::BelowUse { of_pod: true, limit, used }),
            ResizeOutcome::Stale => {}
            ResizeOutcome::Unspecified => {
                return Err(
                    of_status(Status::data_loss("it does not say what has come of new limits")).into()
                );
            }
        }
    }
    Err(of_status(Status::aborted("its sessions do not last")).into())
}
