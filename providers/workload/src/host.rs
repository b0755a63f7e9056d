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

mod api;
mod builder;
#[cfg(feature = "wasi-http")]
pub mod http;
mod machine;
mod replace;
mod start;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

pub use api::HostApi;
pub use builder::HostBuilder;
use start::Bound;

use crate::{
    error::{HostError, WorkloadError},
    ground::HostShare,
    loopback::Loopbacks,
    record::{RunningWorkload, WorkloadRecord},
    workload::{
        HostHeartbeat, WorkloadStartRequest, WorkloadStartResponse, WorkloadState, WorkloadStatus,
        WorkloadStatusRequest, WorkloadStatusResponse, WorkloadStopRequest, WorkloadStopResponse,
        WorkloadUpdateRequest, WorkloadUpdateResponse,
    },
};

/// For how long requests that are under way are waited for when a workload is stopped.
const GRACE: Duration = Duration::from_secs(10);

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
        starting.keep();
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
        replace::update(self.share.clone(), Arc::clone(&record), workload).await?;
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
        Bound { ground: Arc::clone(&ground), plugins: bound, kept: 0 }.unbind().await;
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
    fn keep(mut self) {
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
