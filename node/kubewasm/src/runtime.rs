//! The provider that runs containers, set up for a node or for a single pod.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use ipnet::IpNet;
use kubewasm_cni::SandboxOptions;
use kubewasm_host::{DeniedNetworks, HttpProxy, compile::ChildCompiler, program::Program};
use kubewasm_kubelet::admitter::PodAdmitter;
use kubewasm_modules::{InvalidSignaturePolicy, SignaturePolicy, Store, StoreOptions};
use kubewasm_wasi::{
    confine::Confinement,
    isolation::Isolation,
    logs::LogOptions,
    provider::{ModuleJudge, WasiOptions, WasiRuntime},
};

/// What guests get to end in when everything is ended at once.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// What differs between a node and a single pod.
#[derive(Debug)]
pub(crate) struct ProviderSettings {
    /// Where modules are kept.
    pub(crate) store: Store,
    /// Folder of the workers' sockets.
    pub(crate) workers: PathBuf,
    /// Workers end with this process.
    pub(crate) with_parent: bool,
    /// Who shares a worker.
    pub(crate) isolation: Isolation,
    /// Files and directories that workers must not see, but for the module store.
    pub(crate) hidden: Vec<PathBuf>,
    /// Whether workers run that cannot be confined as a whole.
    pub(crate) confinement: Confinement,
    /// Images may be paths.
    pub(crate) allow_paths: bool,
    /// Who is asked whether a module may run.
    pub(crate) judge: Option<Arc<dyn ModuleJudge>>,
    /// Bytes, for containers without a limit of their own.
    pub(crate) default_memory_limit: u64,
    /// Bytes that all containers may have together, where that is limited.
    pub(crate) allocatable_memory: Option<u64>,
    /// What pods without the host's network do not reach.
    pub(crate) denied_networks: DeniedNetworks,
    /// What requests of pods for HTTP go through.
    pub(crate) http_proxy: Option<HttpProxy>,
    /// Pods have addresses of their own.
    pub(crate) pod_network: bool,
    /// Networks that know the way to them.
    pub(crate) cluster_networks: Vec<IpNet>,
    /// CNI plugins make the networks of pods.
    pub(crate) cni: Option<SandboxOptions>,
    /// When and how logs are rotated.
    pub(crate) log: LogOptions,
}

/// Who has a say in what runs here, besides the kubelet's own rules.
#[derive(Debug, Default)]
pub(crate) struct Judges {
    /// In which pods are taken.
    pub(crate) of_pods: Option<Arc<dyn PodAdmitter>>,
    /// In which modules are started.
    pub(crate) of_modules: Option<Arc<dyn ModuleJudge>>,
}

/// Where images come from: what an operator says of it.
#[derive(Debug, Default)]
pub(crate) struct ImageSettings {
    /// Hosts without TLS.
    pub(crate) insecure_registries: Vec<String>,
    /// Directories of the registries' hosts.toml.
    pub(crate) registry_config_dirs: Vec<PathBuf>,
    /// Directories for file:// images.
    pub(crate) dirs: Vec<PathBuf>,
    /// Which images must be signed, and by whom.
    pub(crate) signature_policy: SignaturePolicy,
}

/// Reads the policy for signatures, if there is a file of one.
pub(crate) fn signature_policy(file: Option<&Path>) -> Result<SignaturePolicy, InvalidSignaturePolicy> {
    file.map_or_else(|| Ok(SignaturePolicy::default()), SignaturePolicy::read)
}

/// The key of this program's compiler, where the policy trusts code of others for it. Engines have to be made for that.
pub(crate) fn compiler_key(policy: &SignaturePolicy) -> anyhow::Result<Option<String>> {
    match policy.trusts_compiled_code() {
        true => Ok(Some(ChildCompiler::new(Program::current())?.key().to_owned())),
        false => Ok(None),
    }
}

/// Opens the module store in this folder.
pub(crate) fn open_store(folder: &Path, images: ImageSettings) -> anyhow::Result<Store> {
    let options = StoreOptions {
        insecure_registries: images.insecure_registries,
        registry_config_directories: images.registry_config_dirs,
        file_directories: images.dirs,
        compiler_key: compiler_key(&images.signature_policy)?,
        signature_policy: images.signature_policy,
        ..StoreOptions::default()
    };
    Store::open(folder, options).context("cannot open the module store")
}

/// Adopts the workers that are there.
pub(crate) async fn open(settings: ProviderSettings) -> anyhow::Result<Arc<WasiRuntime>> {
    let options = WasiOptions {
        allow_paths: settings.allow_paths,
        with_parent: settings.with_parent,
        default_memory_limit: settings.default_memory_limit,
        allocatable_memory: settings.allocatable_memory,
        denied_networks: settings.denied_networks,
        http_proxy: settings.http_proxy.map(Arc::new),
        pod_network: settings.pod_network,
        cluster_networks: settings.cluster_networks,
        cni: settings.cni,
        isolation: settings.isolation,
        hidden: settings.hidden,
        shown: vec![settings.store.root().to_owned()],
        judge: settings.judge,
        confinement: settings.confinement,
        log: settings.log,
        ..WasiOptions::new(settings.store, settings.workers, Program::current())
    };
    Ok(Arc::new(WasiRuntime::new(options).await.context("cannot run containers")?))
}

/// Ends all containers and their workers.
pub(crate) async fn shut_down(runtime: &WasiRuntime) {
    runtime.shutdown(LAST_GRACE).await;
}
