//! Running one instance: a precompiled module and an [`InstanceSpec`] in, an [`Exit`] out.
//!
//! ```text
//!   path ──[cache]──► Loaded (code and links, shared by all instances of a module)
//!                        │
//!   InstanceSpec ────────┴─[state]─► Instance (one store: memory limit, WASI, output)
//!                                        │ run().await
//!                                        ▼
//!                               wasmtime's result ──[outcome]──► Exit
//! ```
//!
//! [`Instance::run`] is an ordinary future: a guest that waits costs no thread, a guest that computes yields
//! at every tick of the engine, and dropping the future ends the guest wherever it is.
//!
//! What a guest sees: argv and environment exactly as given; a stdin that is at its end, or ends when the guest
//! should; stdout and stderr that say they are terminals, because programs in C hold back their lines otherwise;
//! the files that [`crate::files`] made; clocks and randomness of the host; sockets by [`network`] (components
//! only, WASI 0.1 has none).

mod cache;
mod cause;
mod errno;
mod memory;
pub mod network;
mod outcome;
mod state;
mod stdin;
mod stdio;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_util::sync::CancellationToken;
use wasmtime::{Engine, Linker, component};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder, p1, p2};

pub use cache::{LoadError, Loaded};
pub use stdio::{Capture, Output};

use crate::{
    engine::{self, EngineError},
    exit::Exit,
    files::{Preopen, Root},
    inspect::Kind,
    spec::InstanceSpec,
};
use outcome::Phase;
use state::GuestState;

/// Memory that a guest without a limit of its own may use, in bytes: 1 GiB.
pub const DEFAULT_MEMORY_LIMIT: u64 = 1 << 30;

/// Ticks that a guest runs before it yields.
const TICKS_PER_TURN: u64 = 1;

/// Runs instances. One per worker; clones are not needed, it is shared behind an `Arc`.
pub struct Host {
    engine: Engine,
    core: Linker<GuestState>,
    component: component::Linker<GuestState>,
    cache: cache::Cache,
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
        let core = core_linker(&engine).map_err(link_error)?;
        let mut component = component::Linker::new(&engine);
        p2::add_to_linker_async(&mut component).map_err(link_error)?;
        component.allow_shadowing(true);
        errno::wrap_component(&mut component).map_err(link_error)?;
        component.allow_shadowing(false);
        Ok(Self { engine, core, component, cache: cache::Cache::default(), options })
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

    /// Makes an instance, which does not run yet, with the files of `root`. With a `notice`, its standard input
    /// ends when that is cancelled.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn prepare(
        &self,
        loaded: Arc<Loaded>,
        spec: &InstanceSpec,
        root: &Root,
        argv: &[String],
        output: &Output,
        notice: Option<&CancellationToken>,
    ) -> Result<Instance, PrepareError> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.args(argv).envs(&spec.env);
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
        for Preopen { host, guest, writable } in root.preopens() {
            preopen(host, guest, if *writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly })?;
        }
        if root.preopens().is_empty() {
            preopen(&self.options.empty_root, "/", FsPerms::ReadOnly)?;
        }
        let limit = match spec.memory_limit_bytes {
            0 => self.options.default_memory_limit,
            limit => limit,
        };
        let state = GuestState {
            wasi: wasi.build_p1(),
            memory: memory::MemoryGuard::new(limit),
            directories: errno::Directories::new(root.preopens().iter().map(|preopen| &*preopen.host)),
            has_volumes: root.has_volumes(),
        };
        let mut store = wasmtime::Store::new(&self.engine, state);
        store.limiter(|state| &mut state.memory);
        store.set_epoch_deadline(TICKS_PER_TURN);
        store.epoch_deadline_async_yield_and_update(TICKS_PER_TURN);
        Ok(Instance { store, loaded })
    }
}

/// WASI 0.1, with an exit that takes every code.
fn core_linker(engine: &Engine) -> wasmtime::Result<Linker<GuestState>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_async(&mut linker, |state: &mut GuestState| &mut state.wasi)?;
    // wasmtime-wasi takes codes of 126 and above for an error. They are ordinary: 127 is a shell's command
    // not found. As for any process, the lowest eight bits count.
    linker.allow_shadowing(true);
    linker.func_wrap("wasi_snapshot_preview1", "proc_exit", |code: i32| -> wasmtime::Result<()> {
        Err(I32Exit(code & 0xff).into())
    })?;
    errno::wrap_core(&mut linker)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// One instance, ready to run.
pub struct Instance {
    store: wasmtime::Store<GuestState>,
    loaded: Arc<Loaded>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("loaded", &self.loaded).finish_non_exhaustive()
    }
}

impl Instance {
    /// Runs the guest to its end. Dropping the future ends the guest.
    pub async fn run(mut self) -> Exit {
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
