//! The host: workloads, and the plugins that they share.
//!
//! ```text
//!   HostBuilder ─build─► Host ─start─► Arc<Host>: HostApi
//!                                        │ workload_start
//!        compile ─► plan ─► bind plugins ─► link ─► resolved (plugins may call it from now on) ─► service
//!                                        │ workload_update: the same for another version, which then takes over
//!                                        │ workload_stop
//!        unbind (nobody calls it any more) ─► service ends ─► requests end ─► gone
//! ```

mod builder;
#[cfg(feature = "wasi-http")]
pub mod http;
mod machine;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use builder::HostBuilder;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    assemble::{self, AssembledService, Assembly},
    error::{HostError, WorkloadError},
    ground::{Ground, HostShare},
    host_interface::WorkloadIdentity,
    loopback::Loopbacks,
    record::{RunningService, RunningWorkload, WorkloadRecord},
    resolved::ResolvedWorkload,
    service,
    volumes::Volumes,
    workload::{
        HostHeartbeat, Workload, WorkloadStartRequest, WorkloadStartResponse, WorkloadState, WorkloadStatus,
        WorkloadStatusRequest, WorkloadStatusResponse, WorkloadStopRequest, WorkloadStopResponse,
        WorkloadUpdateRequest, WorkloadUpdateResponse,
    },
};

/// For how long requests that are under way are waited for when a workload is stopped.
const GRACE: Duration = Duration::from_secs(10);

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

    /// How a workload is. One that there is not is [`WorkloadState::NotFound`].
    ///
    /// # Errors
    /// None now.
    fn workload_status(
        &self,
        request: WorkloadStatusRequest,
    ) -> impl Future<Output = Result<WorkloadStatusResponse, WorkloadError>> + Send;

    /// Has another version of a workload take over. Requests and calls that are under way end in the old one, and no request is
    /// lost; a service is started again only if it has changed.
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

/// A host of workloads.
pub struct Host {
    id: String,
    friendly_name: String,
    labels: HashMap<String, String>,
    started_at: u64,
    share: HostShare,
    loopbacks: Arc<Loopbacks>,
    workloads: Mutex<HashMap<String, Arc<WorkloadRecord>>>,
    ends: AtomicBool,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A number for something that is to be told from others of this process.
fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Host {
    /// Settings for one.
    #[must_use]
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    /// Starts its plugins.
    ///
    /// # Errors
    /// [`HostError::Plugin`]; those that have started are stopped.
    pub async fn start(self) -> Result<Arc<Self>, HostError> {
        for (index, plugin) in self.share.plugins.iter().enumerate() {
            if let Err(source) = plugin.start().await {
                for started in self.share.plugins.iter().take(index).rev() {
                    started.stop().await;
                }
                return Err(HostError::Plugin { plugin: plugin.id(), source });
            }
        }
        Ok(Arc::new(self))
    }

    /// Stops all workloads, and then the plugins. There are no workloads any more after this.
    pub async fn stop(&self) {
        self.ends.store(true, Ordering::Release);
        let ids: Vec<_> = self.workloads().keys().cloned().collect();
        let stops =
            ids.into_iter().map(|workload_id| self.workload_stop(WorkloadStopRequest { workload_id }));
        // Somebody else may have stopped one meanwhile.
        let _ = futures::future::join_all(stops).await;
        for plugin in self.share.plugins.iter().rev() {
            plugin.stop().await;
        }
    }

    /// Its name among hosts.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name for people.
    #[must_use]
    pub fn friendly_name(&self) -> &str {
        &self.friendly_name
    }

    /// What is to be known of it.
    #[must_use]
    pub fn labels(&self) -> &HashMap<String, String> {
        &self.labels
    }

    /// How a workload is, from now on, for those who wait for something; `None` if there is none.
    #[must_use]
    pub fn watch(&self, workload_id: &str) -> Option<tokio::sync::watch::Receiver<WorkloadStatus>> {
        self.workloads().get(workload_id).map(|record| record.watch())
    }

    fn workloads(&self) -> MutexGuard<'_, HashMap<String, Arc<WorkloadRecord>>> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Arc<WorkloadRecord>, WorkloadError> {
        let found = self.workloads().get(id).map(Arc::clone);
        found.ok_or_else(|| WorkloadError::NotFound(id.to_owned()))
    }

    /// Removes a workload, if it is this one.
    fn remove(&self, record: &Arc<WorkloadRecord>) {
        let mut workloads = self.workloads();
        if workloads.get(&record.id).is_some_and(|known| Arc::ptr_eq(known, record)) {
            workloads.remove(&record.id);
        }
    }

    async fn begin(
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
        let mut bound = Bound { ground: Arc::clone(&ground), plugins: Vec::new(), is_kept: false };
        let volumes = self.volumes(&workload)?;
        let assembly = version(&mut bound, &workload, &volumes).await;
        let assembly = match assembly {
            Ok(assembly) => assembly,
            Err(error) => {
                bound.unbind().await;
                return Err(error);
            }
        };
        let (assembly, service) = take_over(&ground, assembly);
        let service = service.map(|service| self.spawn(service, record));
        bound.is_kept = true;
        let bound = std::mem::take(&mut bound.plugins);
        Ok(RunningWorkload { ground, workload, volumes, assembly, service, bound })
    }

    fn volumes(&self, workload: &Workload) -> Result<Arc<Volumes>, WorkloadError> {
        let root = self.share.engine.volumes();
        Volumes::make(&workload.volumes, &root, &format!("{}", number())).map(Arc::new)
    }

    fn spawn(&self, service: AssembledService, record: &Arc<WorkloadRecord>) -> RunningService {
        let ends = CancellationToken::new();
        let host = Arc::clone(self.share.engine.host());
        let run = service::run(host, service, Arc::clone(record), ends.clone());
        RunningService { ends, task: AbortOnDropHandle::new(tokio::spawn(run)) }
    }

    async fn replace(
        &self,
        record: &Arc<WorkloadRecord>,
        running: &mut RunningWorkload,
        workload: Workload,
    ) -> Result<(), WorkloadError> {
        let ground = Arc::clone(&running.ground);
        let same_volumes = running.workload.volumes == workload.volumes;
        let volumes = if same_volumes { Arc::clone(&running.volumes) } else { self.volumes(&workload)? };
        let mut bound = Bound { ground: Arc::clone(&ground), plugins: running.bound.clone(), is_kept: true };
        let assembly = version(&mut bound, &workload, &volumes).await;
        running.bound = std::mem::take(&mut bound.plugins);
        let assembly = match assembly {
            Ok(assembly) => assembly,
            Err(error) => {
                // Some plugins may know the new version already.
                for at in &running.bound {
                    let told = self.share.plugins[*at].resolved(&running.assembly).await;
                    drop(told.inspect_err(|error| tracing::warn!(%error, "a plugin has lost a workload")));
                }
                return Err(error);
            }
        };
        let keeps_service =
            same_volumes && running.workload.service == workload.service && running.service.is_some();
        let (assembly, service) = take_over(&ground, assembly);
        let old = std::mem::replace(&mut running.assembly, assembly);
        (running.workload, running.volumes) = (workload, volumes);
        if !keeps_service {
            if let Some(service) = running.service.take() {
                service.end().await;
            }
            record.set(WorkloadState::Running, "");
            running.service = service.map(|service| self.spawn(service, record));
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
}

/// The plugins that a workload is bound to, in case it does not come to run.
struct Bound {
    ground: Arc<Ground>,
    plugins: Vec<usize>,
    /// It runs.
    is_kept: bool,
}

impl Bound {
    async fn unbind(&mut self) {
        while let Some(at) = self.plugins.last() {
            self.ground.host.plugins[*at].unbind(&self.ground.identity).await;
            self.plugins.pop();
        }
    }
}

impl Drop for Bound {
    /// Whoever wanted the workload has given it up half way.
    fn drop(&mut self) {
        if self.is_kept || self.plugins.is_empty() {
            return;
        }
        let mut rest = Self {
            ground: Arc::clone(&self.ground),
            plugins: std::mem::take(&mut self.plugins),
            is_kept: true,
        };
        if let Ok(executor) = tokio::runtime::Handle::try_current() {
            executor.spawn(async move { rest.unbind().await });
        }
    }
}

/// Makes a version of a workload, and has its plugins know of it.
async fn version(
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
fn take_over(ground: &Ground, assembly: Assembly) -> (ResolvedWorkload, Option<AssembledService>) {
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

impl HostApi for Host {
    async fn heartbeat(&self) -> Result<HostHeartbeat, HostError> {
        let (component_count, workload_count) = {
            let workloads = self.workloads();
            (workloads.values().map(|record| record.components()).sum(), workloads.len() as u64)
        };
        let worlds: Vec<_> = self.share.plugins.iter().map(|plugin| plugin.world()).collect();
        let machine = tokio::task::spawn_blocking(machine::read).await;
        let machine = machine.unwrap_or_else(|error| {
            Err(HostError::Machine { what: "the state", source: std::io::Error::other(error) })
        })?;
        Ok(HostHeartbeat {
            id: self.id.clone(),
            friendly_name: self.friendly_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: self.labels.clone(),
            started_at: self.started_at,
            component_count,
            workload_count,
            imports: worlds.iter().flat_map(|world| world.imports.clone()).collect(),
            exports: worlds.into_iter().flat_map(|world| world.exports).collect(),
            ..machine
        })
    }

    async fn workload_start(
        &self,
        request: WorkloadStartRequest,
    ) -> Result<WorkloadStartResponse, WorkloadError> {
        let WorkloadStartRequest { workload_id, workload } = request;
        let id = match workload_id.as_str() {
            "" => format!("{}-{}-{}", workload.namespace, workload.name, number()),
            _ => workload_id,
        };
        let record = WorkloadRecord::new(id.clone());
        let mut running = record.running.lock().await;
        {
            let mut workloads = self.workloads();
            if self.ends.load(Ordering::Acquire) {
                return Err(WorkloadError::Ends);
            }
            if workloads.contains_key(&id) {
                return Err(WorkloadError::Exists(id));
            }
            workloads.insert(id, Arc::clone(&record));
        }
        let starting = Listed { host: self, record: &record, is_started: false };
        let begun = self.begin(&record, workload).await?;
        record.has_components(begun.components());
        if begun.service.is_none() {
            record.set(WorkloadState::Running, "");
        } else {
            record.set_running_unless_over();
        }
        *running = Some(begun);
        starting.is_done();
        drop(running);
        Ok(WorkloadStartResponse { workload_status: record.status() })
    }

    async fn workload_status(
        &self,
        request: WorkloadStatusRequest,
    ) -> Result<WorkloadStatusResponse, WorkloadError> {
        let WorkloadStatusRequest { workload_id } = request;
        let workload_status = self.find(&workload_id).map_or_else(
            |error| WorkloadStatus {
                workload_id,
                workload_state: WorkloadState::NotFound,
                message: error.to_string(),
            },
            |record| record.status(),
        );
        Ok(WorkloadStatusResponse { workload_status })
    }

    async fn workload_update(
        &self,
        request: WorkloadUpdateRequest,
    ) -> Result<WorkloadUpdateResponse, WorkloadError> {
        let WorkloadUpdateRequest { workload_id, workload } = request;
        let record = self.find(&workload_id)?;
        let mut running = record.running.lock().await;
        // It may have been stopped while this waited.
        let running = running.as_mut().ok_or(WorkloadError::NotFound(workload_id))?;
        self.replace(&record, running, workload).await?;
        Ok(WorkloadUpdateResponse { workload_status: record.status() })
    }

    async fn workload_stop(
        &self,
        request: WorkloadStopRequest,
    ) -> Result<WorkloadStopResponse, WorkloadError> {
        let record = self.find(&request.workload_id)?;
        record.set(WorkloadState::Stopping, "");
        let mut running = record.running.lock().await;
        let running = running.take().ok_or(WorkloadError::NotFound(request.workload_id))?;
        // Also if this is given up half way.
        let _gone = Listed { host: self, record: &record, is_started: false };
        let RunningWorkload { ground, volumes: _volumes, assembly, service, bound, .. } = running;
        Bound { ground: Arc::clone(&ground), plugins: bound, is_kept: false }.unbind().await;
        if let Some(service) = service {
            service.end().await;
        }
        let done = async {
            for export in assembly.http() {
                export.handler.is_done().await;
            }
        };
        if tokio::time::timeout(GRACE, done).await.is_err() {
            for export in assembly.http() {
                export.handler.kill();
                export.handler.is_done().await;
            }
        }
        for slot in ground.slots() {
            slot.set(None);
        }
        Ok(WorkloadStopResponse { workload_status: record.status() })
    }
}

/// Takes a workload off the list that does not come to run, or runs no more.
struct Listed<'a> {
    host: &'a Host,
    record: &'a Arc<WorkloadRecord>,
    is_started: bool,
}

impl Listed<'_> {
    fn is_done(mut self) {
        self.is_started = true;
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        if !self.is_started {
            self.host.remove(self.record);
        }
    }
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
