//! The host: engines with everything that guests import, and the turns of the guests that run.
//!
//! What a guest sees: argv and environment exactly as given; a stdin that is at its end, or ends when the guest
//! should; stdout and stderr that say they are terminals if so told;
//! the files that it was given; clocks and randomness of the host; sockets by [`crate::network`] (those of WASI 0.1 are
//! there from the start, [`crate::listen`]); and what [`Plugin`](crate::Plugin)s add.

mod error;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

pub use error::HostError;
use rustix::process::Resource;
use wasmtime::{Engine, Linker, component};
use wasmtime_wasi::{WasiCtxBuilder, WasiView, p2};

use crate::{
    account::{Account, BelowUse, GuestLimits, HeldMemory},
    bounds::Bounds,
    cache::{self, LoadError, Loaded},
    common::{Common, CommonFiles},
    cpu::{self, InstantiationStats},
    engine, errno, file_streams,
    guest::Guest,
    kind::{Generation, ModuleKind},
    listen::{self, OpenListener},
    lookup::{self, Lookups, Resolver},
    memory::MemoryGuard,
    network::{
        Network, NetworkTables,
        egress::NameGrants,
        guard::{Guard, SocketGuard},
    },
    outcome::Overflow,
    outgoing::{GuestHttp, OutgoingHost},
    p3,
    plugin::{AnyPlugin, States},
    pool::Allocation,
    preview1::{self, files::CoreWasi, sockets::CoreSockets},
    setup::{Input, PrepareError, Setup},
    sockets::{self, GuestSockets, NodeSockets, Pod},
    stack::Stack,
    state::GuestState,
    stdin, stdio,
};

/// Memory that a guest without a limit of its own may use, in bytes: 1 GiB.
pub const DEFAULT_MEMORY_LIMIT: u64 = 1 << 30;

/// Runs guests. One per process; clones are not needed, it is shared behind an `Arc`.
pub struct Host {
    /// For commands of WASI 0.1 and 0.2 that ask for no more stack than the default.
    blocking: Arc<Linked>,
    /// For the others, made when the first of them comes.
    others: Mutex<HashMap<(Generation, Stack, Allocation), Arc<Linked>>>,
    cache: cache::Cache,
    scheduler: Arc<cpu::Scheduler>,
    lookups: Lookups,
    outgoing: OutgoingHost,
    /// What is known of the network that guests with addresses of their own are in.
    tables: Arc<NetworkTables>,
    open_files: u64,
    options: HostOptions,
}

/// An engine, and what its guests import.
pub(crate) struct Linked {
    pub(crate) stack: Stack,
    pub(crate) engine: Engine,
    pub(crate) core: Linker<GuestState>,
    pub(crate) component: component::Linker<GuestState>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("options", &self.options).finish_non_exhaustive()
    }
}

/// How a [`Host`] runs guests.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Bytes; for guests without a limit of their own.
    pub default_memory_limit: u64,
    /// An empty directory, which is `/` for guests without files. Nobody can write to it through WASI.
    pub empty_root: PathBuf,
    /// What a guest is told whose stack was too small: how to ask for more of it.
    pub stack_advice: &'static str,
    /// How guests' names become addresses.
    pub resolver: Resolver,
    /// Host interfaces besides WASI.
    pub plugins: Vec<Arc<dyn AnyPlugin>>,
}

impl HostOptions {
    /// The defaults, with this directory, which is made if need be.
    pub fn new(empty_root: impl Into<PathBuf>) -> Self {
        Self {
            default_memory_limit: DEFAULT_MEMORY_LIMIT,
            empty_root: empty_root.into(),
            stack_advice: "",
            resolver: Resolver::default(),
            plugins: Vec::new(),
        }
    }
}

impl Linked {
    fn new(
        generation: Generation,
        stack: Stack,
        allocation: Allocation,
        crowd: Arc<cpu::Crowd>,
        plugins: &[Arc<dyn AnyPlugin>],
    ) -> Result<Self, HostError> {
        let engine = engine::ticking(generation, stack, allocation, crowd)?;
        let link_error = |error: wasmtime::Error| HostError::Link(format!("{error:#}"));
        let mut core = preview1::linker(&engine).map_err(link_error)?;
        let mut component = component::Linker::new(&engine);
        p2::add_to_linker_async(&mut component).map_err(link_error)?;
        component.allow_shadowing(true);
        errno::wrap_component(&mut component).map_err(link_error)?;
        file_streams::wrap(&mut component).map_err(link_error)?;
        lookup::link(&mut component).map_err(link_error)?;
        sockets::link(&mut component).map_err(link_error)?;
        component.allow_shadowing(false);
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut component).map_err(link_error)?;
        match generation {
            Generation::Blocking => {}
            Generation::Concurrent => {
                p3::link(&mut component).map_err(link_error)?;
                wasmtime_wasi_http::p3::add_to_linker(&mut component).map_err(link_error)?;
            }
        }
        for (index, plugin) in plugins.iter().enumerate() {
            let linked =
                plugin.link_as(index, &mut component).and_then(|()| plugin.link_core_as(index, &mut core));
            linked.map_err(|error| HostError::Plugin {
                plugin: format!("{plugin:?}"),
                reason: format!("{error:#}"),
            })?;
        }
        Ok(Self { stack, engine, core, component })
    }
}

impl Host {
    /// Sets up the engines and everything that guests import.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn new(options: HostOptions) -> Result<Self, HostError> {
        std::fs::create_dir_all(&options.empty_root).map_err(|source| HostError::EmptyRoot {
            path: options.empty_root.display().to_string(),
            source,
        })?;
        let scheduler = Arc::new(cpu::Scheduler::new(processors(), Arc::default()));
        let blocking = Arc::new(Linked::new(
            Generation::Blocking,
            Stack::DEFAULT,
            Allocation::OnDemand,
            scheduler.crowd(),
            &options.plugins,
        )?);
        let open_files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Ok(Self {
            blocking,
            others: Mutex::default(),
            cache: cache::Cache::default(),
            scheduler,
            lookups: Lookups::new(options.resolver.clone()),
            outgoing: OutgoingHost::new(open_files),
            tables: Arc::default(),
            open_files,
            options,
        })
    }

    /// The engine for a generation, a stack and an allocation, and what its guests import. Blocks while one is made.
    pub(crate) fn linked(
        &self,
        generation: Generation,
        stack: Stack,
        allocation: Allocation,
    ) -> Result<Arc<Linked>, HostError> {
        let key = (generation, stack, allocation);
        if key == (Generation::Blocking, Stack::DEFAULT, Allocation::OnDemand) {
            return Ok(Arc::clone(&self.blocking));
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(linked) = others.get(&key) {
            return Ok(Arc::clone(linked));
        }
        let linked = Arc::new(Linked::new(
            generation,
            stack,
            allocation,
            self.scheduler.crowd(),
            &self.options.plugins,
        )?);
        others.insert(key, Arc::clone(&linked));
        Ok(linked)
    }

    /// The engine of a generation, for those who compile for this host.
    ///
    /// # Errors
    /// [`HostError`], where it is made now.
    pub fn engine(&self, generation: Generation) -> Result<Engine, HostError> {
        self.linked(generation, Stack::DEFAULT, Allocation::OnDemand).map(|linked| linked.engine.clone())
    }

    /// What guests with addresses of their own know of the network that they are in. Who embeds the host keeps it up to date.
    #[must_use]
    pub fn tables(&self) -> &Arc<NetworkTables> {
        &self.tables
    }

    /// Loads a precompiled module and resolves its imports. A module that some guest with such a stack still uses is not
    /// loaded again, so that all of these share one copy of its code.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(
        self: &Arc<Self>,
        path: &Path,
        kind: ModuleKind,
        stack: Stack,
    ) -> Result<Arc<Loaded>, LoadError> {
        self.cache.get(self, path, kind, stack).await
    }

    /// Opens an account, for one guest or for several that share its limits. A memory limit of 0 is the host's
    /// default.
    #[must_use]
    pub fn account(&self, limits: GuestLimits) -> Arc<Account> {
        Arc::new(Account::new(self.with_default(limits)))
    }

    /// Changes the limits of an account, whose guests go on. A memory limit of 0 is the host's default.
    ///
    /// # Errors
    /// [`BelowUse`] when more memory than that is used; the limits stay.
    pub fn resize(&self, account: &Account, limits: GuestLimits) -> Result<(), BelowUse> {
        account.resize(self.with_default(limits))
    }

    fn with_default(&self, limits: GuestLimits) -> GuestLimits {
        let memory_bytes = match limits.memory_bytes {
            0 => self.options.default_memory_limit,
            limit => limit,
        };
        GuestLimits { memory_bytes, ..limits }
    }

    /// Makes a guest, which does not run yet.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn prepare(&self, loaded: Arc<Loaded>, setup: Setup<'_>) -> Result<Guest, PrepareError> {
        let held = setup.account.hold(setup.held().saturating_add(loaded.linked.stack.charge()))?;
        let sockets = self.sockets_of(&setup);
        let ports =
            if loaded.accepts { listen::permitted(setup.listen_ports, setup.network) } else { Vec::new() };
        let listeners = {
            let (pod, node) = (sockets.pod(), sockets.node());
            listen::open(&ports, setup.network, pod.as_ref(), &node.ports, listen::BACKLOG)?
        };
        let common = self.common(&loaded, &setup, sockets)?;
        if listeners.is_empty() {
            return Ok(self.guest(loaded, setup, &common, listeners, held));
        }
        let env = listen::environment(setup.env, &ports);
        Ok(self.guest(loaded, Setup { env: &env, ..setup }, &common, listeners, held))
    }

    /// What guests of this module and setup have in common.
    pub(crate) fn common(
        &self,
        loaded: &Loaded,
        setup: &Setup<'_>,
        sockets: GuestSockets,
    ) -> Result<Common, PrepareError> {
        let guard = Arc::clone(sockets.guard());
        let lookups = self.lookups.of_guest(guard, setup.name_files, sockets.pod());
        let files = CommonFiles::open(loaded.is_core(), &self.options.empty_root, setup.preopens)?;
        Ok(Common { sockets, lookups, files })
    }

    /// Makes one more guest of a setup, which does not run yet. What is held for it is on the setup's account.
    pub(crate) fn guest(
        &self,
        loaded: Arc<Loaded>,
        setup: Setup<'_>,
        common: &Common,
        listeners: Vec<OpenListener>,
        held: HeldMemory,
    ) -> Guest {
        let Setup { argv, env, working_dir, output, terminal, account, input, notice, .. } = setup;
        let bounds = Bounds::new(account.limits().memory_bytes, self.open_files);
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(argv).envs(env).max_random_size(bounds.random);
        wasi.stdout(stdio::GuestStream::stdout(output, terminal));
        wasi.stderr(stdio::GuestStream::stderr(output, terminal));
        match (input, notice) {
            (Input::Process, _) => drop(wasi.inherit_stdin()),
            (Input::From(source), _) => drop(wasi.stdin(stdin::GuestInput::new(source))),
            (Input::Nothing, Some(notice)) => drop(wasi.stdin(stdin::Notice(notice.clone()))),
            (Input::Nothing, None) => {}
        }
        if let Some(dir) = working_dir {
            wasi.initial_cwd(dir);
        }
        let guest_sockets = common.sockets.for_another();
        let lookups = common.lookups.for_another();
        SocketGuard::new(Arc::clone(guest_sockets.guard())).guard_all(&mut wasi);
        let mut wasi = wasi.build_p1();
        let context = wasi.ctx();
        context.table.set_max_capacity(bounds.resources);
        let preopens = match &common.files {
            CommonFiles::Core(preopens) => &**preopens,
            CommonFiles::Component(files) => {
                *context.ctx.filesystem() = files.clone();
                &[]
            }
        };
        let core = CoreWasi::new(wasi, listeners.len(), preopens, bounds.files);
        let way = self.outgoing.way(&setup, lookups.clone(), &guest_sockets);
        let state = GuestState {
            core,
            memory: MemoryGuard::new(Arc::clone(account)),
            bounds,
            has_volumes: setup.has_volumes,
            lookups,
            guest_sockets,
            core_sockets: CoreSockets::new(listeners, account.traffic()),
            http: GuestHttp::new(
                setup.http_connections.map_or_else(Arc::default, Arc::clone),
                way,
                setup.http_sender.map(Arc::clone),
                setup.http_rule.map(Arc::clone),
            ),
            plugins: States::new(&self.options.plugins, &setup),
            extension: setup.extension.map(|extension| extension.state()),
        };
        let mut store = wasmtime::Store::new(&loaded.linked.engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(bounds.call);
        store.set_max_component_handles(bounds.resources);
        if let Some(table) = store.concurrent_resource_table() {
            table.set_max_capacity(bounds.concurrent);
        }
        store.set_epoch_deadline(1);
        let began = Arc::new(cpu::TurnStart::new(Arc::clone(account)));
        let of_turn = Arc::clone(&began);
        store.epoch_deadline_callback(move |_| Ok(of_turn.at_tick()));
        let (account, scheduler) = (Arc::clone(account), Arc::clone(&self.scheduler));
        let stack_advice = self.options.stack_advice;
        Guest { store, loaded, account, scheduler, began, stack_advice, _held: held }
    }

    /// How long the instances took that were made.
    #[must_use]
    pub fn instantiations(&self) -> InstantiationStats {
        self.scheduler.instantiations().stats()
    }

    pub(crate) fn scheduler(&self) -> &Arc<cpu::Scheduler> {
        &self.scheduler
    }

    /// What is said of a stack that was too small.
    pub(crate) fn overflow(&self, loaded: &Loaded) -> Overflow {
        Overflow { stack: loaded.linked.stack, advice: self.options.stack_advice }
    }

    /// Open files that one container's connections may have.
    pub(crate) fn files_for_connections(&self) -> usize {
        usize::try_from(self.open_files / 4).unwrap_or(usize::MAX).max(1)
    }

    /// What guests of this setup have of sockets.
    pub(crate) fn sockets_of(&self, setup: &Setup<'_>) -> GuestSockets {
        let (network, denied) = (setup.network, setup.denied_networks);
        let grants = setup.egress.cloned().map(NameGrants::new);
        let guard = Guard::with_rules(
            network.clone(),
            denied.clone(),
            setup.firewall.cloned(),
            grants,
            setup.socket_rules.clone(),
        );
        let ports = setup.pod_ports.map_or_else(Arc::default, Arc::clone);
        match network {
            Network::Pod(addresses) => {
                let pod = Pod {
                    addresses: Arc::new(addresses.clone()),
                    ports,
                    denied: Arc::new(denied.clone()),
                    tables: Arc::clone(&self.tables),
                    loopback_ports: setup.socket_rules.loopback_ports.as_slice().into(),
                };
                GuestSockets::of_pod(pod, guard)
            }
            Network::Exposed(exposed) => {
                let exposed = Some(Arc::new(exposed.clone()));
                GuestSockets::of_node(NodeSockets { exposed, ports }, guard)
            }
            Network::Outgoing | Network::Namespace | Network::Host => {
                GuestSockets::of_node(NodeSockets { exposed: None, ports }, guard)
            }
        }
    }
}

/// Processors that this process may use.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
