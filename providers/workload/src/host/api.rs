//! What can be asked of a host.

use std::sync::Arc;

use crate::{
    error::{HostError, WorkloadError},
    workload::{
        HostHeartbeat, WorkloadStartRequest, WorkloadStartResponse, WorkloadStatusRequest,
        WorkloadStatusResponse, WorkloadStopRequest, WorkloadStopResponse, WorkloadUpdateRequest,
        WorkloadUpdateResponse,
    },
};

/// What can be asked of a host.
pub trait HostApi: Send + Sync {
    /// What it says of itself and of its machine.
    ///
    /// # Errors
    /// [`HostError::Machine`].
    fn heartbeat(&self) -> impl Future<Output = Result<HostHeartbeat, HostError>> + Send;

    /// Starts a workload; returns when it can be called. Dropping the future gives the workload up.
    ///
    /// # Errors
    /// [`WorkloadError`]; there is then no such workload.
    fn workload_start(
        &self,
        request: WorkloadStartRequest,
    ) -> impl Future<Output = Result<WorkloadStartResponse, WorkloadError>> + Send;

    /// How a workload is. One that there is not is [`WorkloadState::NotFound`](crate::workload::WorkloadState::NotFound).
    ///
    /// # Errors
    /// None now.
    fn workload_status(
        &self,
        request: WorkloadStatusRequest,
    ) -> impl Future<Output = Result<WorkloadStatusResponse, WorkloadError>> + Send;

    /// Has another version of a workload take over. Requests and calls that are under way end in the old one, and no request is
    /// lost; a service is started again only if it has changed. Dropping the future does not give it up: the version takes over,
    /// or fails, all the same.
    ///
    /// # Errors
    /// [`WorkloadError`]; the old version goes on.
    fn workload_update(
        &self,
        request: WorkloadUpdateRequest,
    ) -> impl Future<Output = Result<WorkloadUpdateResponse, WorkloadError>> + Send;

    /// Stops a workload; returns when nothing of it runs. Requests that are under way have ten seconds.
    ///
    /// # Errors
    /// [`WorkloadError::NotFound`].
    fn workload_stop(
        &self,
        request: WorkloadStopRequest,
    ) -> impl Future<Output = Result<WorkloadStopResponse, WorkloadError>> + Send;
}

impl<T: HostApi> HostApi for Arc<T> {
    fn heartbeat(&self) -> impl Future<Output = Result<HostHeartbeat, HostError>> + Send {
        T::heartbeat(self)
    }

    fn workload_start(
        &self,
        request: WorkloadStartRequest,
    ) -> impl Future<Output = Result<WorkloadStartResponse, WorkloadError>> + Send {
        T::workload_start(self, request)
    }

    fn workload_status(
        &self,
        request: WorkloadStatusRequest,
    ) -> impl Future<Output = Result<WorkloadStatusResponse, WorkloadError>> + Send {
        T::workload_status(self, request)
    }

    fn workload_update(
        &self,
        request: WorkloadUpdateRequest,
    ) -> impl Future<Output = Result<WorkloadUpdateResponse, WorkloadError>> + Send {
        T::workload_update(self, request)
    }

    fn workload_stop(
        &self,
        request: WorkloadStopRequest,
    ) -> impl Future<Output = Result<WorkloadStopResponse, WorkloadError>> + Send {
        T::workload_stop(self, request)
    }
}
