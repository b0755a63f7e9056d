//! What a host knows of one of its workloads.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    ground::Ground,
    resolved::ResolvedWorkload,
    volumes::Volumes,
    workload::{Workload, WorkloadState, WorkloadStatus},
};

/// A workload, as its host has it.
pub(crate) struct WorkloadRecord {
    pub(crate) id: String,
    status: watch::Sender<WorkloadStatus>,
    /// Held by whoever starts, changes or ends it.
    pub(crate) running: tokio::sync::Mutex<Option<RunningWorkload>>,
    components: Mutex<u64>,
}

/// A workload that has been started.
pub(crate) struct RunningWorkload {
    pub(crate) ground: Arc<Ground>,
    pub(crate) workload: Workload,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) assembly: ResolvedWorkload,
    pub(crate) service: Option<RunningService>,
    /// Plugins that it is bound to, by their places.
    pub(crate) bound: Vec<usize>,
}

/// A service that runs, or has.
pub(crate) struct RunningService {
    pub(crate) ends: CancellationToken,
    pub(crate) task: AbortOnDropHandle<()>,
}

impl WorkloadRecord {
    pub(crate) fn new(id: String) -> Arc<Self> {
        let status = WorkloadStatus {
            workload_id: id.clone(),
            workload_state: WorkloadState::Starting,
            message: String::new(),
        };
        let (status, running) = (watch::Sender::new(status), tokio::sync::Mutex::default());
        Arc::new(Self { id, status, running, components: Mutex::default() })
    }

    pub(crate) fn status(&self) -> WorkloadStatus {
        self.status.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<WorkloadStatus> {
        self.status.subscribe()
    }

    /// What has once begun to stop does nothing else any more.
    pub(crate) fn set(&self, state: WorkloadState, message: &str) {
        self.status.send_if_modified(|status| {
            let is_stopping = status.workload_state == WorkloadState::Stopping;
            if is_stopping && state != WorkloadState::Stopping {
                return false;
            }
            status.workload_state = state;
            message.clone_into(&mut status.message);
            true
        });
    }

    /// Its service runs, unless that is over already.
    pub(crate) fn set_running_unless_over(&self) {
        self.status.send_if_modified(|status| {
            let is_starting = status.workload_state == WorkloadState::Starting;
            if is_starting {
                status.workload_state = WorkloadState::Running;
            }
            is_starting
        });
    }

    pub(crate) fn has_components(&self, count: usize) {
        *self.components.lock().unwrap_or_else(PoisonError::into_inner) = count as u64;
    }

    pub(crate) fn components(&self) -> u64 {
        *self.components.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningWorkload {
    /// Components that it has, with its service.
    pub(crate) fn components(&self) -> usize {
        self.workload.components.len() + usize::from(self.workload.service.is_some())
    }
}

impl RunningService {
    /// Ends it, and returns when it has.
    pub(crate) async fn end(self) {
        self.ends.cancel();
        // It was dropped, or has panicked: in either case it is over.
        let _ = self.task.await;
    }
}
