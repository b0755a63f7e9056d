//! The pod provider: the kubelet's [`Runtime`] on top of a module store and a supervisor of workers.
//!
//! ```text
//!   image, pull, images ─► module store
//!   start ─► store: which module? ─► store: precompiled? ─► compiling child, which also says what the module is
//!        ├─► judge: may it run?
//!        └─► supervisor ─► worker of the pod's group
//!   stop, remove, exec ─► supervisor;   observe, containers, wakeups ◄─ its view
//! ```
//!
//! The unpacked file system of an image is shared by all containers of the image and never written to; the
//! worker shows it to each of them as the lower part of a root of its own ([`crate::files`]).

pub(crate) mod annotations;
mod compiler;
mod convert;
mod judge;
mod metrics;
mod network;
mod preparing;
mod sandbox;
mod serving;
mod streams;
mod tls;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ipnet::IpNet;
use jiff::Timestamp;
use kubewasm_cni::{SandboxOptions, Sandboxes};
use kubewasm_host::{
    DEFAULT_MEMORY_LIMIT, DeniedNetworks, Generation, HttpProxy, Network,
    compile::{ChildCompiler, CompileError},
    engine::{self, EngineError},
    program::Program,
};
use kubewasm_kubelet::{
    node_health::unwritable,
    runtime::{
        CallerStreams, ContainerLimits, ContainerList, ContainerRef, ContainerSpec, ContainerStats,
        Credential, Duplex, ExecEnd, ExecError, ExecIo, FailedRequests, HostPort, HttpContainerStats, Image,
        ImageError, ImageUse, NetworkRefusals, NetworkRules, ObjectNames, ObjectUpdate, PodSandbox,
        PortForwardError, Presence, PulledImage, ResizeError, Runtime, RuntimeError, SandboxAddresses,
        SandboxError, ServiceTable, StartError, SystemOom, UpdateError,
    },
};
use kubewasm_modules::{Digest, Fetched, Hold, ImageName, Precompiled, Store, StoreError};
use kubewasm_network::Loopback;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use crate::{
    cgroup,
    confine::Confinement,
    isolation::{self, Age, Isolation},
    logs::LogOptions,
    protocol::Versions,
    spec::InstanceSpec,
    supervisor::{CgroupOptions, Claim, InstancePlace, Supervisor, SupervisorError, SupervisorOptions},
};
use annotations::Wishes;
pub use compiler::StoreCompiler;
pub use judge::{ModuleJudge, ModuleQuestion, ModuleVerdict};
use metrics::{MeasuredCompiler, ProviderMetrics};
use preparing::Preparing;

/// Between the digests of a container's images in its label.
const LABEL_SEPARATOR: &str = ",";
/// What a worker is called, for people.
const WORKER: &str = "kubewasm";

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
    /// Directories in those that workers see nevertheless: that of the store.
    pub shown: Vec<PathBuf>,
    /// Whether workers run that cannot be confined as a whole.
    pub confinement: Confinement,
    /// Bytes; for containers without a limit of their own.
    pub default_memory_limit: u64,
    /// Bytes that all workers and compilers may have together; `None` for no limit.
    pub allocatable_memory: Option<u64>,
    /// What containers without the host's network do not reach.
    pub denied_networks: DeniedNetworks,
    /// What requests of containers for HTTP go through.
    pub http_proxy: Option<Arc<HttpProxy>>,
    /// Pods have addresses of their own, in network namespaces of their workers.
    pub pod_network: bool,
    /// Networks that know the way to pods: what these send elsewhere comes from the node's address.
    pub cluster_networks: Vec<IpNet>,
    /// CNI plugins make a network namespace for each pod, with addresses of its own.
    pub cni: Option<SandboxOptions>,
    /// Who is asked whether a module may run; `None` lets every module.
    pub judge: Option<Arc<dyn ModuleJudge>>,
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
            shown: Vec::new(),
            confinement: Confinement::default(),
            default_memory_limit: DEFAULT_MEMORY_LIMIT,
            allocatable_memory: None,
            denied_networks: DeniedNetworks::default(),
            http_proxy: None,
            pod_network: false,
            cluster_networks: Vec::new(),
            cni: None,
            judge: None,
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
    /// Modules cannot be compiled on this machine as they are to be.
    #[error(transparent)]
    Compiler(#[from] CompileError),
    /// The workers' directory cannot be used.
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    /// It cannot be found out which pods have network namespaces of CNI plugins.
    #[error(transparent)]
    Sandboxes(#[from] kubewasm_cni::SandboxError),
}

/// Runs the containers of pods as WebAssembly.
#[derive(Debug)]
pub struct WasiRuntime {
    store: Store,
    compiler: StoreCompiler,
    supervisor: Supervisor,
    judge: Option<Arc<dyn ModuleJudge>>,
    metrics: ProviderMetrics,
    allow_paths: bool,
    denied_networks: DeniedNetworks,
    http_proxy: Option<Arc<HttpProxy>>,
    cluster_networks: Vec<IpNet>,
    /// The networks of pods, where CNI plugins make them.
    sandboxes: Option<Sandboxes>,
    isolation: Isolation,
    /// Of the workers in which containers are started.
    age: Age,
    /// There may be a pod of which something is refused.
    refuses: AtomicBool,
    /// There may be a container that serves HTTP.
    serves: AtomicBool,
    /// Starts that can be called off.
    preparing: Preparing,
    /// Keeps images of containers, and those that they mount, from being removed, by container.
    holds: Mutex<HashMap<String, Vec<Hold>>>,
    /// The containers that this agent has started, for who judges other programs that are to run in them; none where nobody
    /// does.
    started: Mutex<HashMap<String, Arc<ContainerSpec>>>,
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
            shown: options.shown,
            confinement: options.confinement,
            versions: options.versions,
            network: options.pod_network.then(|| network::name_of(&options.dir)),
            cgroups: (!options.with_parent).then_some(CgroupOptions { memory: options.allocatable_memory }),
            ..SupervisorOptions::new(options.dir, options.program.clone())
        };
        let compiler = ChildCompiler::new(options.program)?;
        let compiler = match options.confinement {
            Confinement::Required => {
                let compiler = compiler.confined();
                compiler.check().await?;
                compiler
            }
            Confinement::BestEffort => compiler,
        };
        let keys: Vec<_> = Generation::ALL.into_iter().map(engine::key).collect::<Result<_, _>>()?;
        let age = Age::new(keys.iter().map(String::as_str), options.versions.max);
        let sandboxes = match options.cni {
            Some(options) => Some(Sandboxes::open(options).await?),
            None => None,
        };
        let supervisor = Supervisor::open(supervisor).await?;
        let compiler = StoreCompiler::from(match supervisor.cgroups() {
            Some(parent) => compiler.enclosed(Arc::new(cgroup::Compilers(parent.clone()))),
            None => compiler,
        });
        let claims = supervisor.claims().0;
        let [refuses, serves] = [(); 2].map(|()| AtomicBool::new(!claims.is_empty()));
        let holds = holds(&options.store, claims);
        Ok(Self {
            store: options.store,
            compiler,
            supervisor,
            judge: options.judge,
            metrics: ProviderMetrics::default(),
            allow_paths: options.allow_paths,
            denied_networks: options.denied_networks,
            http_proxy: options.http_proxy,
            cluster_networks: options.cluster_networks,
            sandboxes,
            isolation: options.isolation,
            age,
            refuses,
            serves,
            preparing: Preparing::default(),
            holds: Mutex::new(holds),
            started: Mutex::default(),
        })
    }

    /// Ends all containers and all workers, for those who do not leave them to the next agent.
    pub async fn shutdown(&self, grace: Duration) {
        self.supervisor.shutdown(grace).await;
    }

    fn name(&self, image: &str) -> Result<ImageName, ImageError> {
        let name: ImageName = image
            .parse()
            .map_err(|error: kubewasm_modules::InvalidReference| ImageError::InvalidName(error.into()))?;
        if matches!(name, ImageName::Path(_)) && !self.allow_paths {
            let error = format!(
                "couldn't parse image name \"{image}\": paths of files are for `kubewasm run` only; push the module to a registry"
            );
            return Err(ImageError::InvalidName(error.into()));
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
                    Err(ImageError::Pull(error.into()))
                }
                Err(error) => Err(ImageError::Store(error.into())),
            },
            name @ (ImageName::Reference(_) | ImageName::Url(_)) => {
                let store = self.store.clone();
                // Whoever looks it up is about to use it.
                let find = move || {
                    let found = store.get(&name)?;
                    Ok(match found {
                        Some(image) if store.touch(&image)? => Some(image),
                        Some(_) | None => None,
                    })
                };
                match tokio::task::spawn_blocking(find).await {
                    Ok(found) => found.map_err(convert::lookup_error),
                    Err(error) => Err(ImageError::Store(error.into())),
                }
            }
        }
    }

    /// Where a container runs.
    fn place(&self, spec: &ContainerSpec) -> Result<InstancePlace, StartError> {
        let isolation = self.isolation.of_handler(&spec.runtime_handler);
        let memory_limit = Some(spec.pod_memory_limit_bytes).filter(|bytes| *bytes > 0);
        let namespace = sandbox::namespace(self.sandboxes.as_ref(), spec)?;
        if namespace.is_some() {
            let group = isolation::sandbox_group(&spec.pod_uid, &self.age);
            return Ok(InstancePlace { group, alone: true, memory_limit, namespace });
        }
        let group = if network::is_own(spec) { Isolation::network_group } else { Isolation::group };
        let group = group(isolation, &spec.pod_namespace, &spec.pod_uid, &self.age);
        Ok(InstancePlace { group, alone: isolation == Isolation::Pod, memory_limit, namespace })
    }

    /// CNI plugins make the network of a container's pod.
    fn has_sandbox(&self, spec: &ContainerSpec) -> bool {
        self.sandboxes.is_some() && !spec.host_network
    }

    /// Everything about a container that does not need its worker.
    async fn instance(&self, spec: &ContainerSpec) -> Result<(InstanceSpec, Vec<Hold>), StartError> {
        let image = match self.find(&spec.image).await {
            Ok(Some(image)) => image,
            Ok(None) => {
                return Err(StartError::Create(format!("image {:?} is not on this node", spec.image).into()));
            }
            Err(error) => return Err(StartError::Create(error.into())),
        };
        let absent = |error: StoreError| StartError::Create(error.into());
        let hold = self.store.hold(&image).map_err(absent)?;
        let mut volumes = Vec::new();
        for mount in &spec.mounts {
            volumes.extend(self.store.hold_files(&mount.host_path).map_err(absent)?);
        }
        let argv0 =
            spec.argv.first().ok_or_else(|| StartError::Config("the container has no command".into()))?;
        let module = self.store.module(&image, argv0).await.map_err(convert::module_error)?;
        // Those of a namespace wait for each other.
        let compiler = MeasuredCompiler::new(&self.compiler, &self.metrics);
        let compiled =
            self.store.precompiled(Some(&image.reference), &module, &compiler, &spec.pod_namespace).await;
        self.metrics.looked_up(compiler.was_asked());
        let Precompiled { path: code, facts } = compiled.map_err(convert::compile_error)?;
        if let Some(judge) = &self.judge {
            let question = ModuleQuestion {
                container: spec,
                image: &image.digest,
                module: &module.digest,
                facts: &facts,
            };
            judge.judge(question).await.into_result()?;
        }
        let label = label(image.digest, &volumes);
        let notice = convert::stop_notice(spec)?;
        let Wishes { stack, terminal, egress, http, serve, authorities, tls } = annotations::of(spec)?;
        let kind = serving::kind(&facts, serve)?;
        let http = serving::settings(kind, http)?;
        let tls = serving::certificate(&spec.name, kind, tls)?;
        if http.is_some() {
            self.serves.store(true, Ordering::Relaxed);
        }
        if egress.is_some() {
            self.refuses.store(true, Ordering::Relaxed);
        }
        let instance = convert::instance_spec(spec, code, kind, self.store.rootfs(&image), notice);
        let terminal = terminal.unwrap_or(instance.terminal);
        let network = if self.has_sandbox(spec) { Network::Namespace } else { instance.network.clone() };
        let is_elsewhere = network == Network::Namespace || network::is_own(spec);
        let denied_networks = network::denied(&self.denied_networks, is_elsewhere).await?;
        let holds = std::iter::once(hold).chain(volumes.into_iter().map(|(_, hold)| hold)).collect();
        let instance = InstanceSpec { label, stack, terminal, network, denied_networks, egress, ..instance };
        let http_proxy = self.http_proxy.clone();
        let instance = InstanceSpec { http, tls, authorities, http_proxy, ..instance };
        Ok((serving::with_port(instance), holds))
    }
}

/// Holds the images of containers that an earlier agent started, as they are labelled.
fn holds(store: &Store, claims: Vec<(String, Claim)>) -> HashMap<String, Vec<Hold>> {
    let hold = |digest: Digest, container: &str| match store.hold_digest(&digest) {
        Ok(hold) => Some(hold),
        Err(error) => {
            tracing::warn!(container, %error, "an image of a running container is not held");
            None
        }
    };
    let held = |(id, claim): (String, Claim)| {
        let holds = digests(&claim.label).filter_map(|digest| hold(digest, &id)).collect();
        (id, holds)
    };
    claims.into_iter().map(held).collect()
}

/// The label of a container: the digests of its image and of the images that it mounts.
fn label(image: Digest, volumes: &[(Digest, Hold)]) -> String {
    let volumes = volumes.iter().map(|(digest, _)| digest.to_string());
    std::iter::once(image.to_string()).chain(volumes).collect::<Vec<_>>().join(LABEL_SEPARATOR)
}

fn digests(label: &str) -> impl Iterator<Item = Digest> {
    label.split(LABEL_SEPARATOR).filter_map(|digest| digest.parse().ok())
}

#[async_trait]
impl Runtime for WasiRuntime {
    fn version(&self) -> String {
        format!("wasmtime://{}", kubewasm_host::WASMTIME_VERSION)
    }

    fn handlers(&self) -> Vec<String> {
        ["", isolation::HANDLER, isolation::HANDLER_ISOLATED].map(str::to_owned).to_vec()
    }

    async fn problem(&self) -> Option<String> {
        let modules = self.store.root().to_owned();
        let look = move || unwritable("modules", &modules);
        tokio::task::spawn_blocking(look).await.unwrap_or(None)
    }

    async fn image(&self, image: &str) -> Result<Option<Image>, ImageError> {
        let found = self.find(image).await;
        if !matches!(found, Ok(None)) {
            self.metrics.verdict(&found);
        }
        match found {
            Ok(found) => Ok(found.map(convert::image)),
            // A file that cannot be taken in: it is not here, and `pull` says why.
            Err(ImageError::Pull(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn pull(&self, image: &str, credentials: &[Credential]) -> Result<PulledImage, ImageError> {
        let name = self.name(image)?;
        if matches!(name, ImageName::Path(_)) {
            let missing = || ImageError::Store(format!("{image} is not there").into());
            return Ok(self.find(image).await?.map(convert::image).ok_or_else(missing)?.into());
        }
        let credentials: Vec<_> = credentials.iter().map(convert::credential).collect();
        let fetched = self.store.pull(&name, &credentials, None).await.map_err(convert::pull_error);
        self.metrics.verdict(&fetched);
        let Fetched { image, credential } = fetched?;
        Ok(PulledImage { image: convert::image(image), credential })
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

    async fn image_uses(&self) -> Result<Vec<ImageUse>, ImageError> {
        let store = self.store.clone();
        let uses = tokio::task::spawn_blocking(move || store.uses()).await;
        let uses = uses.map_err(|error| ImageError::Store(error.into()))?;
        let uses = uses.map_err(|error| ImageError::Store(error.into()))?;
        Ok(uses.into_iter().map(convert::image_use).collect())
    }

    async fn remove_image(&self, id: &str, unused_since: Timestamp) -> Result<bool, ImageError> {
        let digest: Option<Digest> = id.rsplit_once('@').and_then(|(_, digest)| digest.parse().ok());
        let digest = digest.ok_or_else(|| ImageError::Store(format!("{id:?} is no image's id").into()))?;
        let store = self.store.clone();
        let remove = move || store.remove_unused(&digest, unused_since.into());
        let removed =
            tokio::task::spawn_blocking(remove).await.map_err(|error| ImageError::Store(error.into()))?;
        removed.map_err(|error| ImageError::Store(error.into()))
    }

    fn image_dir(&self) -> Option<PathBuf> {
        Some(self.store.root().to_path_buf())
    }

    async fn image_files(&self, image: &str) -> Result<Option<PathBuf>, ImageError> {
        Ok(self.find(image).await?.and_then(|image| self.store.rootfs(&image)))
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        let prepared = self.preparing.begin(&spec.id).run(self.instance(spec)).await;
        let called_off = || StartError::Run("the container was stopped before it was started".into());
        let (instance, holds) = prepared.ok_or_else(called_off)??;
        let place = self.place(spec)?;
        // Before the start, which may succeed although nobody waits for it any more.
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).insert(spec.id.clone(), holds);
        if self.judge.is_some() {
            // What is secret stays where it is needed.
            let known = ContainerSpec { objects: Default::default(), ..spec.clone() };
            self.started
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(spec.id.clone(), Arc::new(known));
        }
        let started = self.supervisor.start(place, &instance).await;
        started.map_err(|error| {
            self.started.lock().unwrap_or_else(PoisonError::into_inner).remove(&spec.id);
            self.holds.lock().unwrap_or_else(PoisonError::into_inner).remove(&spec.id);
            convert::start_error(error)
        })
    }

    fn objects(&self, container: &str, annotations: &BTreeMap<String, String>) -> ObjectNames {
        let config_maps = annotations::config_map(container, annotations).cloned().into_iter().collect();
        ObjectNames { config_maps, ..self.followed_objects(container, annotations) }
    }

    fn followed_objects(&self, container: &str, annotations: &BTreeMap<String, String>) -> ObjectNames {
        let secrets = tls::secret(container, annotations).cloned().into_iter().collect();
        ObjectNames { secrets, ..ObjectNames::default() }
    }

    async fn update_objects(&self, update: &ObjectUpdate) -> Result<(), UpdateError> {
        let ObjectUpdate { id, container, annotations, objects } = update;
        let certificate = tls::certificate(container, annotations, objects).map_err(UpdateError::Invalid)?;
        let Some(certificate) = certificate else { return Ok(()) };
        let set = self.supervisor.set_certificate(id, &certificate).await;
        set.map_err(|error| UpdateError::Runtime(RuntimeError(error.into())))
    }

    async fn resize(&self, id: &str, name: &str, limits: ContainerLimits) -> Result<(), ResizeError> {
        let resized = self.supervisor.resize(id, convert::instance_limits(limits)).await;
        resized.map_err(|failure| convert::resize_error(name, failure))
    }

    fn call_off(&self, id: &str) {
        self.preparing.call_off(id);
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.preparing.call_off(id);
        self.supervisor.stop(id, grace).await.map_err(|error| RuntimeError(error.into()))
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.supervisor.remove(id).await.map_err(|error| RuntimeError(error.into()))?;
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.started.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }

    async fn exec(&self, id: &str, argv: &[String], io: ExecIo) -> Result<ExecEnd, ExecError> {
        let ExecIo::Collect { limit } = io;
        self.exec_collected(id, argv, limit).await
    }

    async fn exec_stream(&self, id: &str, argv: &[String], streams: CallerStreams) -> Result<i32, ExecError> {
        self.exec_connected(id, argv, streams).await
    }

    async fn attach(&self, id: &str, streams: CallerStreams) -> Result<(), ExecError> {
        let ended = self.supervisor.attach(id, streams).await;
        ended.map_err(|error| convert::exec_error(id, error))
    }

    async fn port_forward(&self, pod_uid: &str, port: u16) -> Result<Box<dyn Duplex>, PortForwardError> {
        let addresses = self.sandboxes.as_ref().map(|sandboxes| sandboxes.addresses_of(pod_uid));
        let addresses = addresses.unwrap_or_default();
        streams::forwarded(self.supervisor.forward(pod_uid, port, &addresses).await)
    }

    fn observe(&self, id: &str) -> Presence {
        convert::presence(self.supervisor.sighting(id))
    }

    fn containers(&self) -> ContainerList {
        let (claims, is_complete) = self.supervisor.claims();
        let reference = |(id, claim): (String, Claim)| ContainerRef { id, pod_uid: claim.pod_uid };
        ContainerList { containers: claims.into_iter().map(reference).collect(), is_complete }
    }

    fn has_sandboxes(&self) -> bool {
        self.sandboxes.is_some()
    }

    async fn sandbox_problem(&self) -> Option<String> {
        self.sandboxes.as_ref()?.problem().await
    }

    async fn set_up_sandbox(&self, sandbox: &PodSandbox) -> Result<SandboxAddresses, SandboxError> {
        let Some(sandboxes) = &self.sandboxes else {
            return Err(SandboxError::Failed("this node runs no CNI plugins".into()));
        };
        let was_lost = sandboxes.is_lost(&sandbox.pod_uid).await.map_err(sandbox::error)?;
        if was_lost {
            // Whoever is in it is out of reach.
            let ended = self.supervisor.kill_workers(&isolation::sandbox_base(&sandbox.pod_uid)).await;
            ended.map_err(|error| SandboxError::Failed(error.into()))?;
        }
        let addresses = sandboxes.set_up(sandbox::request(sandbox)).await.map_err(sandbox::error)?;
        Ok(SandboxAddresses { addresses, was_lost })
    }

    async fn tear_down_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        let Some(sandboxes) = &self.sandboxes else { return Ok(()) };
        sandboxes.tear_down(pod_uid).await.map_err(|error| RuntimeError(error.into()))
    }

    fn sandboxes(&self) -> Vec<String> {
        self.sandboxes.as_ref().map(Sandboxes::pods).unwrap_or_default()
    }

    fn has_pod_network(&self) -> bool {
        self.supervisor.network().is_some()
    }

    async fn set_pod_ranges(&self, ranges: &[IpNet], in_use: &[IpAddr]) -> Result<(), RuntimeError> {
        let Some(network) = self.supervisor.network() else { return Ok(()) };
        let set = network::set_ranges(network, ranges, &self.cluster_networks, in_use).await;
        set.map_err(|error| RuntimeError(error.into()))
    }

    async fn set_host_ports(&self, ports: &[HostPort]) -> Result<(), RuntimeError> {
        let Some(network) = self.supervisor.network() else { return Ok(()) };
        let ports: Vec<_> = ports.iter().map(convert::host_port).collect();
        network.set_host_ports(&ports).await.map_err(|error| RuntimeError(error.into()))
    }

    async fn release_network(&self, slot: u32, addresses: &[IpAddr]) -> Result<(), RuntimeError> {
        let Some(network) = self.supervisor.network() else { return Ok(()) };
        network.detach(addresses, Loopback::of(slot)).await.map_err(|error| RuntimeError(error.into()))
    }

    async fn listens(&self, pod_uid: &str, address: SocketAddr) -> Result<bool, RuntimeError> {
        self.supervisor.listens(pod_uid, address).await.map_err(|error| RuntimeError(error.into()))
    }

    async fn set_network_rules(&self, rules: &NetworkRules) -> Result<(), RuntimeError> {
        if self.supervisor.network().is_none() {
            return Ok(());
        }
        if rules.values().any(|rules| !rules.allow_everything()) {
            self.refuses.store(true, Ordering::Relaxed);
        }
        let node = kubewasm_network::node_addresses().await.map_err(|error| RuntimeError(error.into()))?;
        self.supervisor.set_rules(rules, node.into_iter().collect());
        Ok(())
    }

    async fn network_refusals(&self) -> Vec<NetworkRefusals> {
        if self.refuses.load(Ordering::Relaxed) { self.supervisor.refusals().await } else { Vec::new() }
    }

    fn set_services(&self, services: &Arc<ServiceTable>) {
        self.supervisor.set_services(services);
    }

    fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry, self.supervisor.tally());
    }

    async fn stats(&self) -> Vec<ContainerStats> {
        self.supervisor.stats().await.into_iter().map(convert::container_stats).collect()
    }

    async fn http_stats(&self) -> Vec<HttpContainerStats> {
        if !self.serves.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.supervisor.stats().await.into_iter().filter_map(convert::http_stats).collect()
    }

    async fn system_oom(&self) -> SystemOom {
        SystemOom { process: WORKER.to_owned(), pid: self.supervisor.system_oom().await }
    }

    async fn failed_requests(&self) -> Vec<FailedRequests> {
        self.supervisor.failed_requests().await
    }

    fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        self.supervisor.wakeups()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_tells_all_images_and_that_of_an_older_agent_its_one() {
        let [image, volume] = ["a", "b"].map(|text| Digest::of(text.as_bytes()));
        assert_eq!(digests(&image.to_string()).collect::<Vec<_>>(), [image]);
        let both = format!("{image}{LABEL_SEPARATOR}{volume}");
        assert_eq!(digests(&both).collect::<Vec<_>>(), [image, volume]);
        assert_eq!(digests("").count(), 0);
    }
}
