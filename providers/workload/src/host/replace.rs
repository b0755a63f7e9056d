//! How another version of a workload takes over.

use std::sync::Arc;

use super::start::{Bound, spawn, take_over, version, volumes};
use crate::{
    error::WorkloadError,
    ground::HostShare,
    record::{RunningWorkload, WorkloadRecord},
    workload::{Workload, WorkloadState},
};

/// Has another version take over, whether somebody waits for it or not: plugins that were told of it by halves could neither be
/// told of another one, nor go on with the old one.
pub(super) async fn update(
    share: HostShare,
    record: Arc<WorkloadRecord>,
    workload: Workload,
) -> Result<(), WorkloadError> {
    let update = tokio::spawn(async move {
        let mut running = record.running.lock().await;
        // It may have been stopped while this waited.
        let running = running.as_mut().ok_or_else(|| WorkloadError::NotFound(record.id.clone()))?;
        replace(&share, &record, running, workload).await
    });
    match update.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(updated) => updated,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The executor ends.
        Err(Err(_)) => Err(WorkloadError::Ends),
    }
}

async fn replace(
    share: &HostShare,
    record: &Arc<WorkloadRecord>,
    running: &mut RunningWorkload,
    workload: Workload,
) -> Result<(), WorkloadError> {
    let ground = Arc::clone(&running.ground);
    let same_volumes = running.workload.volumes == workload.volumes;
    let volumes = if same_volumes { Arc::clone(&running.volumes) } else { volumes(share, &workload)? };
    let (plugins, kept) = (running.bound.clone(), running.bound.len());
    let mut bound = Bound { ground: Arc::clone(&ground), plugins, kept };
    let assembly = version(&mut bound, &workload, &volumes).await;
    let assembly = match assembly {
        Ok(assembly) => assembly,
        Err(error) => {
            bound.unbind().await;
            // The others may know the new version already.
            for at in &running.bound {
                let told = share.plugins[*at].resolved(&running.assembly).await;
                drop(told.inspect_err(|error| tracing::warn!(%error, "a plugin has lost a workload")));
            }
            return Err(error);
        }
    };
    let keeps_service =
        same_volumes && running.workload.service == workload.service && running.service.is_some();
    running.bound = std::mem::take(&mut bound.plugins);
    let (assembly, service) = take_over(&ground, assembly);
    let old = std::mem::replace(&mut running.assembly, assembly);
    (running.workload, running.volumes) = (workload, volumes);
    if !keeps_service {
        if let Some(service) = running.service.take() {
            service.end().await;
        }
        record.set(WorkloadState::Running, "");
        running.service = service.map(|service| spawn(share, service, record));
    }
    record.has_components(running.components());
    // Its requests end by their deadlines.
    tokio::spawn(async move {
        for export in old.http() {
            export.handler.is_done().await;
        }
    });
    Ok(())
}
