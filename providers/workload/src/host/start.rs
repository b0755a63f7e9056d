//! How a workload, or a version of one, comes to run.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Host, number};
use crate::{
    assemble::{self, AssembledService, Assembly},
    error::WorkloadError,
    ground::{Ground, HostShare},
    host_interface::WorkloadIdentity,
    record::{RunningService, RunningWorkload, WorkloadRecord},
    resolved::ResolvedWorkload,
    service,
    volumes::Volumes,
    workload::Workload,
};

impl Host {
    pub(super) async fn begin(
        &self,
        record: &Arc<WorkloadRecord>,
        workload: Workload,
    ) -> Result<RunningWorkload, WorkloadError> {
        let loopback = self.loopbacks.take().ok_or_else(|| WorkloadError::Invalid {
            what: "the host".to_owned(),
            reason: "it has no loopback for one more workload: stop another one".to_owned(),
        })?;
        let identity = WorkloadIdentity {
            id: format!("{}.{}", record.id, number()),
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            annotations: workload.annotations.clone(),
        };
        let ground = Arc::new(Ground::new(self.share.clone(), Arc::new(identity), loopback)?);
        let mut bound = Bound { ground: Arc::clone(&ground), plugins: Vec::new(), kept: 0 };
        let volumes = volumes(&self.share, &workload)?;
        let assembly = version(&mut bound, &workload, &volumes).await;
        let assembly = match assembly {
            Ok(assembly) => assembly,
            Err(error) => {
                bound.unbind().await;
                return Err(error);
            }
        };
        let (assembly, service) = take_over(&ground, assembly);
        let service = service.map(|service| spawn(&self.share, service, record));
        let bound = std::mem::take(&mut bound.plugins);
        Ok(RunningWorkload { ground, workload, volumes, assembly, service, bound })
    }
}

pub(super) fn volumes(share: &HostShare, workload: &Workload) -> Result<Arc<Volumes>, WorkloadError> {
    Volumes::make(&workload.volumes, &share.engine.volumes(), &format!("{}", number())).map(Arc::new)
}

pub(super) fn spawn(
    share: &HostShare,
    service: AssembledService,
    record: &Arc<WorkloadRecord>,
) -> RunningService {
    let ends = CancellationToken::new();
    let host = Arc::clone(share.engine.host());
    let run = service::run(host, service, Arc::clone(record), ends.clone());
    RunningService { ends, task: AbortOnDropHandle::new(tokio::spawn(run)) }
}

/// The plugins that a workload is bound to, in case it does not come to run.
pub(super) struct Bound {
    pub(super) ground: Arc<Ground>,
    /// By their places.
    pub(super) plugins: Vec<usize>,
    /// So many of them, the first ones, stay bound whatever comes.
    pub(super) kept: usize,
}

impl Bound {
    pub(super) async fn unbind(&mut self) {
        unbind(&self.ground, &mut self.plugins, self.kept).await;
    }
}

impl Drop for Bound {
    /// Whoever wanted the workload has given it up half way.
    fn drop(&mut self) {
        if self.plugins.len() <= self.kept {
            return;
        }
        let (ground, kept) = (Arc::clone(&self.ground), self.kept);
        let mut plugins = std::mem::take(&mut self.plugins);
        if let Ok(executor) = tokio::runtime::Handle::try_current() {
            executor.spawn(async move { unbind(&ground, &mut plugins, kept).await });
        }
    }
}

/// Takes plugins off the list as they are unbound, until this many are left.
async fn unbind(ground: &Ground, plugins: &mut Vec<usize>, kept: usize) {
    while let Some(at) = plugins.get(kept..).and_then(<[usize]>::last) {
        ground.host.plugins[*at].unbind(&ground.identity).await;
        plugins.pop();
    }
}

/// Makes a version of a workload, and has its plugins know of it.
pub(super) async fn version(
    bound: &mut Bound,
    workload: &Workload,
    volumes: &Arc<Volumes>,
) -> Result<Assembly, WorkloadError> {
    let ground = Arc::clone(&bound.ground);
    let plugins = &ground.host.plugins;
    let planned = assemble::prepare(&ground, workload).await?;
    let error = |at: usize| move |source| WorkloadError::Plugin { plugin: plugins[at].id(), source };
    for at in &planned.plugins {
        if !bound.plugins.contains(at) {
            let entries = assemble::entries_of(&plugins[*at].world(), workload);
            // It may have begun to know of the workload.
            bound.plugins.push(*at);
            plugins[*at].bind(&ground.identity, &entries).await.map_err(error(*at))?;
        }
    }
    let assembly = assemble::assemble(&ground, workload, &planned, volumes).await?;
    for at in &bound.plugins {
        plugins[*at].resolved(&assembly.resolved).await.map_err(error(*at))?;
    }
    Ok(assembly)
}

/// Has a version called from now on.
pub(super) fn take_over(ground: &Ground, assembly: Assembly) -> (ResolvedWorkload, Option<AssembledService>) {
    let Assembly { resolved, service } = assembly;
    for callee in &resolved.callees {
        ground.slot(callee.name()).set(Some(Arc::clone(callee)));
    }
    for slot in ground.slots() {
        if !resolved.callees.iter().any(|callee| callee.name() == slot.name()) {
            slot.set(None);
        }
    }
    (resolved, service)
}
