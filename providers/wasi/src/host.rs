//! Running one instance: a precompiled module and an [`InstanceSpec`] in, an [`Exit`] out.
//!
//! ```text
//!   path ──[cache]──► Loaded (code and links, shared by all instances of a module)
//!                        │
//!   InstanceSpec ────────┴─[state]─► Instance (one store: WASI, output; [memory] and [bounds])
//!   Account ─────────────────────────────┤
//!                                        │ run().await, in turns ([cpu])
//!                                        ▼
//!                               wasmtime's result ──[outcome]──► Exit
//! ```
//!
//! [`Instance::run`] is an ordinary future: a guest that waits costs no thread, a guest that computes yields
//! at every tick of the engine, and dropping the future ends the guest wherever it is. What it uses goes on
//! the [`Account`] of its container, which all instances of the container share.
//!
//! What a guest sees: argv and environment exactly as given; a stdin that is at its end, or ends when the guest
//! should; stdout and stderr that say they are terminals, because programs in C hold back their lines otherwise;
//! the files that [`crate::files`] made; clocks and randomness of the host; sockets by [`network`] (components
//! only, WASI 0.1 has none).

mod account;
mod bounds;
mod cache;
mod cause;
mod cpu;
mod errno;
mod memory;
pub mod network;
mod outcome;
mod preview1;
mod state;
mod stdin;
mod stdio;
#[cfg(test)]
mod tests;

use std::{
    io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::process::Resource;
use tokio_util::sync::CancellationToken;
use wasmtime::{Engine, Linker, component};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, WasiView, p2};

pub use account::{Account, Limits, Usage};
pub use cache::{LoadError, Loaded};
pub use cpu::CpuShare;
pub use stdio::{Capture, Output};

use crate::{
    engine::{self, EngineError},
    exit::Exit,
    inspect::Kind,
    spec::InstanceSpec,
};
use outcome::Phase;
use state::GuestState;

/// Memory that a guest without a limit of its own may use, in bytes: 1 GiB.
pub const DEFAULT_MEMORY_LIMIT: u64 = 1 << 30;

/// Bytes that are counted for each instance besides what it says and is told: its store and the pages of its
/// stack that a guest touches that does not recurse, measured.
const HELD_PER_INSTANCE: u64 = 32 << 10;
/// Ticks that a guest runs before it yields.
const TICKS_PER_TURN: u64 = 1;

/// Runs instances. One per worker; clones are not needed, it is shared behind an `Arc`.
pub struct Host {
    engine: Engine,
    core: Linker<GuestState>,
    component: component::Linker<GuestState>,
    cache: cache::Cache,
    scheduler: Arc<cpu::Scheduler>,
    open_files: u64,
    options: HostOptions,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("options", &self.options).finish_non_exhaustive()
    }
}

/// How a [`Host`] runs instances.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Bytes; for instances without a limit of their own.
    pub default_memory_limit: u64,
    /// An empty directory, which is `/` for instances without files. Nobody can write to it through WASI.
    pub empty_root: PathBuf,
}

/// The host could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// WASI could not be defined; a fault of this program.
    #[error("cannot define WASI: {0}")]
    Link(String),
    /// The empty directory could not be made.
    #[error("cannot create the empty directory {path}: {source}")]
    EmptyRoot {
        /// The directory.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// An instance could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Its root directory could not be opened.
    #[error("cannot open the root directory {path}: {reason}")]
    Root {
        /// The directory on this host.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The container has no memory left for one more instance, or too little for the first.
    #[error(
        "out of memory before its start: the limit is {limit} bytes, and with what the host holds for this instance the container would use {wanted}; raise limits.memory"
    )]
    Memory {
        /// Bytes that would be used.
        wanted: u64,
        /// Bytes that may be used.
        limit: u64,
    },
}

/// A directory that a guest is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preopen {
    /// Where it is on this host.
    pub host: PathBuf,
    /// Where the guest sees it.
    pub guest: String,
    /// Whether the host lets a write pass on to the kernel, which may have its own opinion.
    pub writable: bool,
}

/// What makes an instance of a module.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The container that it belongs to.
    pub spec: &'a InstanceSpec,
    /// The directories that the guest is given, `/` first. None for a guest without files.
    pub preopens: &'a [Preopen],
    /// Below them there may be files that neither an image nor a guest made, such as named pipes.
    pub has_volumes: bool,
    /// Arguments, `argv[0]` included; the container's own, or those of an exec.
    pub argv: &'a [String],
    /// Where its output goes.
    pub output: &'a Output,
    /// What it uses goes on this account, and its limits are this account's.
    pub account: &'a Arc<Account>,
    /// Its standard input ends when this is cancelled; without it, it is at its end from the start.
    pub notice: Option<&'a CancellationToken>,
}

impl Host {
    /// Sets up the engine and everything that guests import.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn new(options: HostOptions) -> Result<Self, HostError> {
        std::fs::create_dir_all(&options.empty_root).map_err(|source| HostError::EmptyRoot {
            path: options.empty_root.display().to_string(),
            source,
        })?;
        let engine = engine::ticking()?;
        let link_error = |error: wasmtime::Error| HostError::Link(format!("{error:#}"));
        let core = preview1::linker(&engine).map_err(link_error)?;
        let mut component = component::Linker::new(&engine);
        p2::add_to_linker_async(&mut component).map_err(link_error)?;
        component.allow_shadowing(true);
        errno::wrap_component(&mut component).map_err(link_error)?;
        component.allow_shadowing(false);
        let scheduler = Arc::new(cpu::Scheduler::new(processors()));
        let open_files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Ok(Self { engine, core, component, cache: cache::Cache::default(), scheduler, open_files, options })
    }

    /// The engine, for those who compile for this host.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Loads a precompiled module and resolves its imports. A module that some instance still uses is not
    /// loaded again, so that all of its instances share one copy of its code.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(self: &Arc<Self>, path: &Path, kind: Kind) -> Result<Arc<Loaded>, LoadError> {
        self.cache.get(self, path, kind).await
    }

    /// Opens the account of a container: for its instance, and for those that are executed in it.
    #[must_use]
    pub fn account(&self, spec: &InstanceSpec) -> Arc<Account> {
        let memory_bytes = match spec.memory_limit_bytes {
            0 => self.options.default_memory_limit,
            limit => limit,
        };
        Arc::new(Account::new(Limits { memory_bytes, cpu: spec.cpu }))
    }

    /// Makes an instance, which does not run yet.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn prepare(&self, loaded: Arc<Loaded>, setup: Setup<'_>) -> Result<Instance, PrepareError> {
        let Setup { spec, preopens, has_volumes, argv, output, account, notice } = setup;
        let held = account
            .hold(held_by_host(spec, argv, output))
            .map_err(|exceeded| PrepareError::Memory { wanted: exceeded.wanted, limit: exceeded.limit })?;
        let bounds = bounds::Bounds::new(account.limits().memory_bytes, self.open_files);
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(argv).envs(&spec.env).max_random_size(bounds.random);
        wasi.stdout(stdio::GuestStream::stdout(output)).stderr(stdio::GuestStream::stderr(output));
        if let Some(notice) = notice {
            wasi.stdin(stdin::Notice(notice.clone()));
        }
        if let Some(dir) = &spec.working_dir {
            wasi.initial_cwd(dir);
        }
        network::allow(&mut wasi, spec.network);
        let mut preopen = |host: &Path, guest: &str, perms: FsPerms| {
            let opened = wasi.preopened_dir(host, guest, perms);
            opened.map(drop).map_err(|error| PrepareError::Root {
                path: host.display().to_string(),
                reason: format!("{error:#}"),
            })
        };
        for Preopen { host, guest, writable } in preopens {
            preopen(host, guest, if *writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly })?;
        }
        if preopens.is_empty() {
            preopen(&self.options.empty_root, "/", FsPerms::ReadOnly)?;
        }
        let mut wasi = wasi.build_p1();
        wasi.ctx().table.set_max_capacity(bounds.resources);
        let state = GuestState {
            wasi,
            memory: memory::MemoryGuard::new(Arc::clone(account)),
            directories: errno::Directories::new(preopens.iter().map(|preopen| &*preopen.host)),
            bounds,
            descriptors: preview1::STANDARD_STREAMS.saturating_add(preopens.len().max(1)),
            has_volumes,
        };
        let mut store = wasmtime::Store::new(&self.engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(bounds.call);
        store.set_max_component_handles(bounds.resources);
        store.set_epoch_deadline(TICKS_PER_TURN);
        store.epoch_deadline_async_yield_and_update(TICKS_PER_TURN);
        let (account, scheduler) = (Arc::clone(account), Arc::clone(&self.scheduler));
        Ok(Instance { store, loaded, account, scheduler, _held: held })
    }
}

/// Processors that this process may use.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Bytes that the host holds for an instance from its start: its store and the pages of its stack, what it
/// is told, and room for what it says.
fn held_by_host(spec: &InstanceSpec, argv: &[String], output: &Output) -> u64 {
    let told = argv.iter().map(String::len).sum::<usize>()
        + spec.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    HELD_PER_INSTANCE.saturating_add(told as u64).saturating_add(output.held())
}

/// One instance, ready to run.
pub struct Instance {
    store: wasmtime::Store<GuestState>,
    loaded: Arc<Loaded>,
    account: Arc<Account>,
    scheduler: Arc<cpu::Scheduler>,
    _held: account::Held,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

impl Instance {
    /// Runs the guest to its end, in its turns. Dropping the future ends the guest.
    pub async fn run(self) -> Exit {
        let (scheduler, account) = (Arc::clone(&self.scheduler), Arc::clone(&self.account));
        cpu::Turns::new(self.run_alone(), scheduler, account).await
    }

    async fn run_alone(mut self) -> Exit {
        let mut phase = Phase::Instantiate;
        let result = self.enter(&mut phase).await;
        outcome::of(phase, &result, self.store.data().memory.refusal())
    }

    async fn enter(&mut self, phase: &mut Phase) -> wasmtime::Result<i32> {
        let store = &mut self.store;
        match &self.loaded.0 {
            cache::Entry::Core(pre) => {
                let instance = pre.instantiate_async(&mut *store).await?;
                let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
                *phase = Phase::Run;
                start.call_async(store, ()).await?;
                Ok(0)
            }
            cache::Entry::Component(pre) => {
                let command = pre.instantiate_async(&mut *store).await?;
                *phase = Phase::Run;
                let result = command.wasi_cli_run().call_run(store).await?;
                Ok(i32::from(result.is_err()))
            }
        }
    }
}
