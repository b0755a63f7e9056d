//! The pod provider: the kubelet's [`Runtime`] on top of a module store and a supervisor of workers.
//!
//! ```text
//!   image, pull, images ─► module store
//!   start ─► store: which module? ─► store: precompiled? ─► compiling child, which also says what the module is
//!        └─► supervisor ─► worker of the pod's group
//!   stop, remove, exec ─► supervisor;   observe, containers, wakeups ◄─ its view
//! ```
//!
//! The unpacked file system of an image is shared by all containers of the image and never written to; the
//! worker shows it to each of them as the lower part of a root of its own ([`crate::files`]).

mod compiler;
mod convert;
mod preparing;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use kubewasm_host::{
    DEFAULT_MEMORY_LIMIT, Generation, UnknownKind,
    compile::ChildCompiler,
    engine::{self, EngineError},
    program::Program,
};
use kubewasm_kubelet::runtime::{
    ContainerRef, ContainerSpec, ContainerState, ContainerStats, Credential, ExecOutput, ExecSpec, Image,
    ImageError, Runtime, RuntimeError, StartError,
};
use kubewasm_modules::{Digest, Hold, ImageName, Precompiled, Store, StoreError};
use tokio::sync::mpsc;

use crate::{
    cgroup,
    instance::Instance,
    isolation::{self, Age, Isolation},
    logs::LogOptions,
    protocol::Versions,
    spec::InstanceSpec,
    supervisor::{CgroupOptions, Place, Supervisor, SupervisorError, SupervisorOptions},
};
use compiler::StoreCompiler;
use preparing::Preparing;

/// How containers are run.
#[derive(Clone, Debug)]
pub struct WasiOptions {
    /// Where images come from.
    pub store: Store,
    /// Directory for the workers' sockets. Its path should be short: those of sockets are.
    pub dir: PathBuf,
    /// The program whose subcommands are `worker` and `compile`.
    pub program: Program,
    /// Take images that are paths (`./hello.wasm`) from this machine's files.
    pub allow_paths: bool,
    /// Workers end with this process.
    pub with_parent: bool,
    /// Who shares a worker, unless the RuntimeClass says otherwise.
    pub isolation: Isolation,
    /// Files and directories of the agent that workers must not see, as far as the host allows it.
    pub hidden: Vec<PathBuf>,
    /// Bytes; for containers without a limit of their own.
    pub default_memory_limit: u64,
    /// Bytes that all workers and compilers may have together; `None` for no limit.
    pub allocatable_memory: Option<u64>,
    /// When log files are rotated.
    pub log: LogOptions,
    /// Versions of the protocol that are spoken with workers; for tests.
    pub versions: Versions,
}

impl WasiOptions {
    /// The defaults of a node.
    pub fn new(store: Store, dir: impl Into<PathBuf>, program: Program) -> Self {
        Self {
            store,
            dir: dir.into(),
            program,
            allow_paths: false,
            with_parent: false,
            isolation: Isolation::default(),
            hidden: Vec::new(),
            default_memory_limit: DEFAULT_MEMORY_LIMIT,
            allocatable_memory: None,
            log: LogOptions::default(),
            versions: Versions::OURS,
        }
    }
}

/// Why containers cannot be run at all.
#[derive(Debug, thiserror::Error)]
pub enum WasiError {
    /// wasmtime does not work on this machine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The workers' directory cannot be used.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
}

/// Runs the containers of pods as WebAssembly.
#[derive(Debug)]
pub struct WasiRuntime {
    store: Store,
    compiler: StoreCompiler,
    supervisor: Supervisor,
    allow_paths: bool,
    isolation: Isolation,
    /// Of the workers in which containers are started.
    age: Age,
    /// Starts that can be called off.
    preparing: Preparing,
    /// Keeps images of containers from being removed, by container.
    holds: Mutex<HashMap<String, Hold>>,
}

impl WasiRuntime {
    /// Makes the provider and adopts the workers that an earlier agent left. When this returns,
    /// [`Runtime::observe`] knows every container that runs.
    ///
    /// # Errors
    /// [`WasiError`].
    pub async fn new(options: WasiOptions) -> Result<Self, WasiError> {
        let supervisor = SupervisorOptions {
            with_parent: options.with_parent,
            default_memory_limit: options.default_memory_limit,
            log: options.log,
            hidden: options.hidden,
            versions: options.versions,
            cgroups: (!options.with_parent).then_some(CgroupOptions { memory: options.allocatable_memory }),
            ..SupervisorOptions::new(options.dir, options.program.clone())
        };
        let compiler = ChildCompiler::new(options.program)?;
        let keys: Vec<_> = Generation::ALL.into_iter().map(engine::key).collect::<Result<_, _>>()?;
        let age = Age::new(keys.iter().map(String::as_str), options.versions.max);
        let supervisor = Supervisor::open(supervisor).await?;
        let compiler = StoreCompiler(match supervisor.cgroups() {
            Some(parent) => compiler.enclosed(Arc::new(cgroup::Compilers(parent.clone()))),
            None => compiler,
        });
        let holds = holds(&options.store, supervisor.instances());
        Ok(Self {
            store: options.store,
            compiler,
            supervisor,
            allow_paths: options.allow_paths,
            isolation: options.isolation,
            age,
            preparing: Preparing::default(),
            holds: Mutex::new(holds),
        })
    }

    /// Ends all containers and all workers, for those who do not leave them to the next agent.
    pub async fn shutdown(&self, grace: Duration) {
        self.supervisor.shutdown(grace).await;
    }

    fn name(&self, image: &str) -> Result<ImageName, ImageError> {
        let name: ImageName = image.parse().map_err(|error: kubewasm_modules::InvalidReference| {
            ImageError::InvalidName(error.to_string())
        })?;
        if matches!(name, ImageName::Path(_)) && !self.allow_paths {
            return Err(ImageError::InvalidName(format!(
                "couldn't parse image name \"{image}\": paths of files are for `kubewasm run` only; push the module to a registry"
            )));
        }
        Ok(name)
    }

    /// The image as it is in the store. A file is taken in as it is now; one that is no module is as wrong
    /// as a bad answer from a registry.
    async fn find(&self, image: &str) -> Result<Option<kubewasm_modules::Image>, ImageError> {
        match self.name(image)? {
            ImageName::Path(path) => match self.store.import(&path).await {
                Ok(image) => Ok(Some(image)),
                Err(error @ (StoreError::Import(_) | StoreError::TooLarge { .. })) => {
                    Err(ImageError::Pull(error.to_string()))
                }
                Err(error) => Err(ImageError::Store(error.to_string())),
            },
            name @ ImageName::Reference(_) => {
                let store = self.store.clone();
                match tokio::task::spawn_blocking(move || store.get(&name)).await {
                    Ok(found) => found.map_err(|error| ImageError::Store(error.to_string())),
                    Err(error) => Err(ImageError::Store(format!("the module store failed: {error}"))),
                }
            }
        }
    }

    /// Where a container runs.
    fn place(&self, spec: &ContainerSpec) -> Place {
        let isolation = self.isolation.of_handler(&spec.runtime_handler);
        Place {
            group: isolation.group(&spec.pod_namespace, &spec.pod_uid, &self.age),
            alone: isolation == Isolation::Pod,
            memory_limit: Some(spec.pod_memory_limit_bytes).filter(|bytes| *bytes > 0),
        }
    }

    /// Everything about a container that does not need its worker.
    async fn instance(&self, spec: &ContainerSpec) -> Result<(InstanceSpec, Hold), StartError> {
        let image = match self.find(&spec.image).await {
            Ok(Some(image)) => image,
            Ok(None) => {
                return Err(StartError::Create(format!("image {:?} is not on this node", spec.image)));
            }
            Err(error) => return Err(StartError::Create(error.to_string())),
        };
        let hold = self.store.hold(&image).map_err(|error| StartError::Create(error.to_string()))?;
        let argv0 =
            spec.argv.first().ok_or_else(|| StartError::Config("the container has no command".to_owned()))?;
        let module = self.store.module(&image, argv0).await.map_err(|error| convert::module_error(&error))?;
        // Those of a namespace wait for each other.
        let compiled = self.store.precompiled(&module, &self.compiler, &spec.pod_namespace).await;
        let Precompiled { path: code, facts } = compiled.map_err(|error| convert::compile_error(&error))?;
        let kind = facts.kind.parse().map_err(|error: UnknownKind| StartError::Run(error.to_string()))?;
        let label = image.digest.to_string();
        let notice = convert::stop_notice(spec)?;
        let instance = convert::instance_spec(spec, code, kind, self.store.rootfs(&image), notice);
        Ok((InstanceSpec { label, ..instance }, hold))
    }
}

/// Holds the images of containers that an earlier agent started: their workers tell which those are.
fn holds(store: &Store, instances: Vec<Instance>) -> HashMap<String, Hold> {
    let hold = |instance: Instance| {
        let digest: Digest = instance.label.parse().ok()?;
        match store.hold_digest(&digest) {
            Ok(hold) => Some((instance.id, hold)),
            Err(error) => {
                tracing::warn!(container = instance.id, %error, "the image of a running container is not held");
                None
            }
        }
    };
    instances.into_iter().filter_map(hold).collect()
}

#[async_trait]
impl Runtime for WasiRuntime {
    fn version(&self) -> String {
        format!("wasmtime://{}", kubewasm_host::WASMTIME_VERSION)
    }

    fn handlers(&self) -> Vec<String> {
        ["", isolation::HANDLER, isolation::HANDLER_ISOLATED].map(str::to_owned).to_vec()
    }

    async fn image(&self, image: &str) -> Result<Option<Image>, ImageError> {
        match self.find(image).await {
            Ok(found) => Ok(found.map(convert::image)),
            // A file that cannot be taken in: it is not here, and `pull` says why.
            Err(ImageError::Pull(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn pull(&self, image: &str, credentials: &[Credential]) -> Result<Image, ImageError> {
        let reference = match self.name(image)? {
            ImageName::Reference(reference) => reference,
            ImageName::Path(_) => {
                let missing = || ImageError::Store(format!("{image} is not there"));
                return self.find(image).await?.map(convert::image).ok_or_else(missing);
            }
        };
        let credentials: Vec<_> = credentials.iter().map(convert::credential).collect();
        let pulled = self.store.pull(&reference, &credentials, None).await;
        pulled.map(convert::image).map_err(|error| convert::pull_error(&error))
    }

    async fn images(&self) -> Vec<Image> {
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.list()).await {
            Ok(Ok(images)) => images.into_iter().map(convert::image).collect(),
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot list the images of this node");
                Vec::new()
            }
            Err(error) => {
                tracing::warn!(%error, "cannot list the images of this node");
                Vec::new()
            }
        }
    }

    async fn image_files(&self, image: &str) -> Result<Option<PathBuf>, ImageError> {
        Ok(self.find(image).await?.and_then(|image| self.store.rootfs(&image)))
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<(), StartError> {
        let prepared = self.preparing.begin(&spec.id).run(self.instance(spec)).await;
        let called_off = || StartError::Run("the container was stopped before it was started".to_owned());
        let (instance, hold) = prepared.ok_or_else(called_off)??;
        let started = self.supervisor.start(self.place(spec), &instance).await;
        started.map_err(convert::start_error)?;
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.id.clone(), hold);
        Ok(())
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.preparing.call_off(id);
        self.supervisor.stop(id, grace).await.map_err(|error| RuntimeError(error.to_string()))
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.supervisor.remove(id).await.map_err(|error| RuntimeError(error.to_string()))?;
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }

    async fn exec(&self, spec: &ExecSpec) -> Result<ExecOutput, StartError> {
        let ExecSpec { container, argv, timeout, output_limit } = spec;
        let output = self.supervisor.exec(&container.id, argv, *timeout, *output_limit).await;
        output.map(convert::exec_output).map_err(convert::start_error)
    }

    fn observe(&self, id: &str) -> Option<ContainerState> {
        self.supervisor.observe(id).map(convert::container_state)
    }

    fn containers(&self) -> Vec<ContainerRef> {
        let reference = |instance: Instance| ContainerRef { id: instance.id, pod_uid: instance.pod_uid };
        self.supervisor.instances().into_iter().map(reference).collect()
    }

    async fn stats(&self) -> Vec<ContainerStats> {
        self.supervisor.stats().await.into_iter().map(convert::container_stats).collect()
    }

    fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        self.supervisor.wakeups()
    }
}
