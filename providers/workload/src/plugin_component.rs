//! Plugins that are components themselves.
//!
//! A plugin has an instance for each workload that it is bound to, with memory, volumes and a network of nobody's: what one workload
//! does with it is not seen by another. The instance stays for as long as the workload, or until it fails, and its calls come one
//! after the other. It has a store of its own, so that a caller that traps takes nothing of it along; and it imports nothing of
//! workloads, so that it never waits for a caller of its own.

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use kubewasm_host::{
    Account, ComponentUse, CpuShare, GuestExtension, GuestLimits, GuestState, InstanceMaker, Loaded, Output,
    Setup,
};
use wasmtime::component::Linker;

use crate::{
    call::{CallSettings, Callee, Slot},
    engine::Engine,
    error::{CompileError, LinkError, LinkedItem, UnservedImport, WorkloadError},
    host_interface::{
        BoundInterface, ComponentBinding, HostInterface, InterfaceError, LinkedImport, WorkloadIdentity,
    },
    instance::{InstanceState, InstanceTemplate},
    link::{CalleeSource, ExportedTypes, Unit, define},
    wit::{WitInterface, WitWorld},
};

/// For a call of a plugin, if nothing else is said.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of an instance, if nothing else is said.
const MEMORY: u64 = 64 << 20;

/// A host interface that is a component: what it exports, others import.
pub struct ComponentPlugin {
    id: &'static str,
    engine: Engine,
    unit: Unit,
    loaded: Arc<Loaded>,
    types: ExportedTypes,
    env: Vec<(String, String)>,
    memory: u64,
    deadline: Duration,
    /// By the identity of the workload.
    callees: Mutex<HashMap<String, Arc<Callee>>>,
}

impl fmt::Debug for ComponentPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComponentPlugin").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What an instance of a workload has of such a plugin.
struct PluginGuest {
    id: &'static str,
    callee: Arc<Callee>,
}

#[derive(Debug)]
struct BoundPlugin {
    id: &'static str,
    callee: Arc<Callee>,
}

impl BoundInterface for BoundPlugin {
    fn guest_state(&self) -> Box<dyn Any + Send> {
        Box::new(PluginGuest { id: self.id, callee: Arc::clone(&self.callee) })
    }
}

/// The instance of a plugin that is there for the workload of a guest.
pub(crate) fn callee_of(guest: &mut GuestState, id: &'static str) -> wasmtime::Result<Arc<Callee>> {
    let state = guest.extension_mut::<InstanceState>();
    let mut plugins = state.into_iter().flat_map(|state| state.interfaces.all_mut::<PluginGuest>());
    let plugin = plugins.find(|plugin| plugin.id == id);
    plugin
        .map(|plugin| Arc::clone(&plugin.callee))
        .ok_or_else(|| wasmtime::format_err!("the component is not bound to plugin `{id}`"))
}

impl ComponentPlugin {
    /// Compiles a component for an engine, which must be the host's, and links it with what this has for any component.
    ///
    /// # Errors
    /// [`WorkloadError::Compile`], and [`WorkloadError::Link`] where it imports something else.
    pub async fn new(engine: &Engine, id: &'static str, bytes: &Bytes) -> Result<Self, WorkloadError> {
        let load = async { engine.load(&engine.compile(bytes, None).await?, true).await };
        let failed = |source: CompileError| WorkloadError::Compile { component: id.to_owned(), source };
        let unit = Unit::new(id.into(), load.await.map_err(failed)?);
        let linker = unit.loaded.linker();
        let missing = unit.loaded.missing(&linker).into_iter().map(|import| UnservedImport {
            import: import.trim_matches('`').to_owned(),
            component: Some(id.to_owned()),
        });
        let missing: Vec<_> = missing.collect();
        if !missing.is_empty() {
            return Err(LinkError::Unserved(missing).into());
        }
        let loaded = unit
            .loaded
            .link(&linker, ComponentUse::Called)
            .map_err(|error| LinkError::Other { component: id.to_owned(), reason: error.to_string() })?;
        let types = ExportedTypes::of(&unit, &Slot::new(id.into()));
        Ok(Self {
            id,
            engine: engine.clone(),
            unit,
            loaded,
            types,
            env: Vec::new(),
            memory: MEMORY,
            deadline: DEADLINE,
            callees: Mutex::default(),
        })
    }

    /// Environment variables of its instances.
    #[must_use]
    pub fn with_environment(self, env: Vec<(String, String)>) -> Self {
        Self { env, ..self }
    }

    /// Bytes that an instance may use. 64 MiB without it.
    #[must_use]
    pub fn with_memory_limit(self, memory: u64) -> Self {
        Self { memory, ..self }
    }

    /// How long a call of it may take, and wait for those before. Ten seconds without it.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    fn callees(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Callee>>> {
        self.callees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, output: &Arc<dyn Output>) -> Result<Arc<Callee>, InterfaceError> {
        let host = self.engine.host();
        let limits = GuestLimits { memory_bytes: self.memory, cpu: CpuShare::default() };
        let account: Arc<Account> = host.account(limits);
        let extension: Arc<dyn GuestExtension> = Arc::new(InstanceTemplate::default());
        let argv = [self.id.to_owned()];
        let setup = Setup {
            argv: &argv,
            env: &self.env,
            extension: Some(&extension),
            ..Setup::isolated(output, &account)
        };
        let maker = InstanceMaker::new(host, Arc::clone(&self.loaded), &setup);
        let maker = maker.map_err(|error| InterfaceError::Other(error.to_string()))?;
        let settings = CallSettings {
            pool_size: 0,
            max_invocations: u64::MAX,
            max_concurrency: 1,
            deadline: self.deadline,
            has_own_turns: false,
            is_single: true,
        };
        let exports = self.unit.exports.iter().map(|export| export.interface.clone()).collect();
        let functions = self.unit.functions();
        Ok(Callee::new(Arc::clone(&self.unit.name), Arc::clone(host), maker, settings, exports, functions))
    }
}

#[async_trait]
impl HostInterface for ComponentPlugin {
    fn id(&self) -> &'static str {
        self.id
    }

    fn world(&self) -> WitWorld {
        let exports =
            self.unit.exports.iter().map(|export| WitInterface::from(export.name.as_str())).collect();
        WitWorld { imports: Vec::new(), exports }
    }

    async fn bind_component(
        &self,
        component: &ComponentBinding,
    ) -> Result<Arc<dyn BoundInterface>, InterfaceError> {
        let known = self.callees().get(&component.workload.id).map(Arc::clone);
        let callee = match known {
            Some(callee) => callee,
            // Its output is in the log of whoever is bound first.
            None => {
                let made = self.make(&component.output)?;
                Arc::clone(self.callees().entry(component.workload.id.clone()).or_insert(made))
            }
        };
        Ok(Arc::new(BoundPlugin { id: self.id, callee }))
    }

    fn link(&self, linker: &mut Linker<GuestState>, imports: &[LinkedImport]) -> wasmtime::Result<()> {
        let engine = self.unit.loaded.component().engine();
        for import in imports {
            let Some(export) = self.unit.export(&import.interface) else { continue };
            let mut instance = linker.instance(&import.import)?;
            let not_passable = |item: &str, what| {
                let item = LinkedItem {
                    component: "a component".to_owned(),
                    import: import.import.clone(),
                    item: item.to_owned(),
                    exporter: self.id.to_owned(),
                };
                LinkError::NotPassable { item: Box::new(item), what }
            };
            let failed = |error: wasmtime::Error| LinkError::Other {
                component: self.id.to_owned(),
                reason: format!("{error:#}"),
            };
            let source = CalleeSource::Plugin(self.id);
            define(&mut instance, engine, export, &self.types, &source, not_passable, failed)?;
        }
        Ok(())
    }

    async fn unbind(&self, workload: &WorkloadIdentity) {
        let gone = self.callees().remove(&workload.id);
        drop(gone);
    }
}
