//! `kubewasm node`.

use std::{collections::BTreeMap, ffi::OsString, net::IpAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Args as _;
use ipnet::IpNet;
use kubewasm_cni::SandboxOptions;
use kubewasm_host::{DeniedNetwork, DeniedNetworks, capacity};
#[cfg(feature = "policy")]
use kubewasm_kubelet::registry_auth::NodeCredentials;
use kubewasm_kubelet::{
    agent::{self, Agent},
    config::{Config, Flags, MASKED, flags::SECRET_FLAGS, secret_files},
    node::{Machine, allocatable_memory},
    quantity,
    services::ServicesMode,
};
use kubewasm_wasi::{confine::Confinement, isolation::Isolation, logs::LogOptions};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "policy")]
use crate::admission::{AdmissionArgs, AdmissionParts, NodeModules, PATIENCE};
use crate::{
    kubelet_flags::KubeletFlagArgs,
    network_mode::{NetworkMode, NetworkPolicyMode},
    outgoing_proxy::ProxyArgs,
    resolvers::Resolvers,
    runtime::{self, ImageSettings},
    signals,
};

/// Arguments of `kubewasm node`. Where the kubelet has a flag, this is the same flag.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// Credentials for the API server. Written by the bootstrap when it does not exist.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Credentials with which to ask for a client certificate.
    #[arg(long, value_name = "FILE")]
    bootstrap_kubeconfig: Option<PathBuf>,

    /// A KubeletConfiguration (kubelet.config.k8s.io/v1beta1). Flags go before it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// A folder whose *.conf files are laid over --config, in the order of their names: maps merge, lists replace.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,

    /// `external` where a cloud controller looks after nodes: the Node waits for it, and has the addresses that it sets.
    #[arg(long, value_name = "external")]
    cloud_provider: Option<String>,

    /// Name of the node [default: the host's name].
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,

    /// Address of the node, or two of different families [default: that of the default route].
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,

    /// Labels to register with: key=value,…
    #[arg(long, value_name = "LABELS")]
    node_labels: Option<String>,

    /// Value of the label kubernetes.io/os [default: linux].
    #[arg(long, value_name = "OS")]
    node_os: Option<String>,

    /// Taints to register with: key=value:Effect,… An empty text registers without any
    /// [default: kubernetes.io/arch=wasm32-wasi, NoSchedule and NoExecute].
    #[arg(long, value_name = "TAINTS")]
    register_with_taints: Option<String>,

    /// Where everything is kept [default: /var/lib/kubewasm].
    #[arg(long, value_name = "DIR")]
    root_dir: Option<PathBuf>,

    /// Where certificates and keys are kept [default: pki in the root directory].
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,

    /// Where the logs of containers are written [default: /var/log/pods].
    #[arg(long, value_name = "DIR")]
    pod_logs_dir: Option<PathBuf>,

    /// Where the links to the logs of containers are made that log collectors go by; an empty text makes none
    /// [default: containers, beside the directory of the logs].
    #[arg(long, value_name = "DIR")]
    container_logs_dir: Option<PathBuf>,

    /// Address to serve the HTTPS API on [default: 0.0.0.0].
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,

    /// Port to serve the HTTPS API on; 0 takes a free one [default: 10250].
    #[arg(long)]
    port: Option<u16>,

    /// Port of the local /healthz; 0 serves none [default: 10248].
    #[arg(long, value_name = "PORT")]
    healthz_port: Option<u16>,

    /// Most pods that the node takes [default: what the machine has room for].
    #[arg(long, value_name = "COUNT")]
    max_pods: Option<u32>,

    /// Memory that a container without a limit of its own may have.
    #[arg(long, value_name = "QUANTITY", default_value = "1Gi", value_parser = memory)]
    default_memory_limit: u64,

    /// Who shares a worker process: the pods of a namespace, all pods of the node, or nobody. Pods of the
    /// RuntimeClass handler wasm-isolated share with nobody.
    #[arg(long, value_name = "namespace|node|pod", default_value_t)]
    isolation: Isolation,

    /// What becomes of the node where the host does not allow all that workers are confined with: it says what is
    /// missing and goes on, or it does not start.
    #[arg(long, value_name = "best-effort|required", default_value_t)]
    confinement: Confinement,

    /// A folder of this machine that pods may mount by hostPath volumes, with all below it; with :ro behind it,
    /// for reading alone. May be repeated [default: none].
    #[arg(long, value_name = "DIR[:ro]")]
    allow_host_path: Vec<PathBuf>,

    /// What pods without hostNetwork do not reach: a network, an address, or `node` for all addresses of this
    /// machine. May be repeated [default: none].
    #[arg(long, value_name = "CIDR|node")]
    deny_network: Vec<DeniedNetwork>,

    #[command(flatten)]
    proxy: ProxyArgs,

    /// Whose addresses pods have: `pod`, their own, from the Node's podCIDR; `host`, the node's; `auto`, their own where this
    /// process has the rights for it and the Node is given a podCIDR; `cni`, those that the CNI plugins of --cni-conf-dir
    /// give them.
    #[arg(long, value_name = "auto|pod|cni|host", default_value_t)]
    pub(crate) network: NetworkMode,

    /// Where the configuration of CNI plugins is, for --network=cni: the first .conflist, .conf or .json by name.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,

    /// Where CNI plugins are, for --network=cni. May be repeated, or several with colons between them; the first that has
    /// a plugin counts.
    #[arg(long, value_name = "DIR", value_delimiter = ':', default_values = ["/opt/cni/bin"])]
    cni_bin_dir: Vec<PathBuf>,

    /// Whether NetworkPolicies hold for pods with addresses of their own: `auto`, if the node may read them; `off`, they are
    /// somebody else's business.
    #[arg(long, value_name = "auto|off", default_value_t)]
    network_policies: NetworkPolicyMode,

    /// A network that knows the way to pods with addresses of their own, such as those of the cluster's pods and machines:
    /// what they send elsewhere comes from the node's address. May be repeated.
    #[arg(long, value_name = "CIDR", default_values = ["10.0.0.0/8", "fd00::/8"])]
    cluster_network: Vec<IpNet>,

    /// Whether pods with addresses of their own reach Services without a kube-proxy on this machine: `auto`, if this node may
    /// read EndpointSlices (ClusterRole system:node-proxier); `off`, not.
    #[arg(long, value_name = "auto|off", default_value_t)]
    services: ServicesMode,

    /// A CredentialProviderConfig (kubelet.config.k8s.io/v1), or a directory of such files: programs that have
    /// credentials for registries.
    #[arg(long, value_name = "PATH", requires = "image_credential_provider_bin_dir")]
    image_credential_provider_config: Option<PathBuf>,

    /// Where the programs of --image-credential-provider-config are.
    #[arg(long, value_name = "DIR", requires = "image_credential_provider_config")]
    image_credential_provider_bin_dir: Option<PathBuf>,

    /// A registry, or a host of http:// images, that is spoken to without TLS, besides those on this machine. May be
    /// repeated.
    #[arg(long, value_name = "HOST[:PORT]")]
    insecure_registry: Vec<String>,

    /// A folder with a folder for each registry, in which a hosts.toml names its mirrors, as containerd's config_path.
    /// May be repeated, or several with colons between them; the first that has a registry's folder counts.
    #[arg(long, value_name = "DIR", value_delimiter = ':')]
    registry_config_dir: Vec<PathBuf>,

    /// A folder of this machine whose modules pods may name as file:// images, with all below it. May be repeated
    /// [default: none].
    #[arg(long, value_name = "DIR")]
    allow_image_dir: Vec<PathBuf>,

    /// Which images must be signed, and by whom: a file in YAML or JSON, described in docs/configuration.md
    /// [default: none must].
    #[arg(long, value_name = "FILE")]
    image_signature_policy: Option<PathBuf>,

    #[cfg(feature = "policy")]
    #[command(flatten)]
    admission: AdmissionArgs,

    #[command(flatten)]
    kubelet: KubeletFlagArgs,
}

/// Runs the node until SIGTERM or Ctrl-C. Containers go on.
pub(crate) fn main(args: NodeArgs) -> anyhow::Result<ExitCode> {
    let isolation = args.isolation;
    let images = ImageSettings {
        insecure_registries: args.insecure_registry.clone(),
        registry_config_dirs: args.registry_config_dir.clone(),
        dirs: args.allow_image_dir.clone(),
        signature_policy: runtime::signature_policy(args.image_signature_policy.as_deref())?,
    };
    #[cfg(feature = "policy")]
    let admission = args.admission.clone();
    let confinement = args.confinement;
    let default_memory_limit = args.default_memory_limit;
    let network = NetworkSettings {
        mode: args.network,
        denied: args.deny_network.iter().copied().collect(),
        cluster_networks: args.cluster_network.clone(),
        cni_conf_dir: args.cni_conf_dir.clone(),
        cni_bin_dirs: args.cni_bin_dir.clone(),
        proxy: args.proxy.clone(),
    };
    let (config, warnings) = Config::load(&flags(args))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    tokio.block_on(run(
        config,
        images,
        #[cfg(feature = "policy")]
        admission,
        isolation,
        confinement,
        default_memory_limit,
        network,
    ))
}

/// Connections, watches and logs that are followed take a file each, and the usual soft limit is 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Reads an amount of memory; none at all would let nothing start.
fn memory(text: &str) -> Result<u64, String> {
    match quantity::units(text) {
        Ok(0) => Err("a container without memory cannot run; give it some, such as 256Mi".to_owned()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(error.to_string()),
    }
}

/// The part of the command line that is configuration.
pub(crate) fn flags(args: NodeArgs) -> Flags {
    Flags {
        config: args.config,
        config_dir: args.config_dir,
        cloud_provider: args.cloud_provider,
        kubelet: args.kubelet.into_given(),
        kubeconfig: args.kubeconfig,
        bootstrap_kubeconfig: args.bootstrap_kubeconfig,
        hostname_override: args.hostname_override,
        node_ip: args.node_ip,
        node_labels: args.node_labels,
        node_os: args.node_os,
        register_with_taints: args.register_with_taints,
        root_dir: args.root_dir,
        cert_dir: args.cert_dir,
        pod_logs_dir: args.pod_logs_dir,
        container_logs_dir: args.container_logs_dir,
        address: args.address,
        port: args.port,
        healthz_port: args.healthz_port,
        max_pods: args.max_pods,
        image_credential_provider_config: args.image_credential_provider_config,
        image_credential_provider_bin_dir: args.image_credential_provider_bin_dir,
        home_dir: std::env::home_dir(),
        allow_host_path: args.allow_host_path,
        requires_pod_network: args.network == NetworkMode::Pod,
        services: args.services,
        ignores_network_policies: args.network_policies == NetworkPolicyMode::Off,
        room_for_pods: u32::try_from(capacity::guests()).ok(),
        shown: shown_flags(std::env::args_os()),
    }
}

/// The flags of `kubewasm node` with their values, defaults among them. None of them holds a secret: those are in files
/// that flags name.
fn shown_flags(arguments: impl Iterator<Item = OsString>) -> BTreeMap<String, String> {
    let command = NodeArgs::augment_args(clap::Command::new("node").ignore_errors(true));
    let matches = command.clone().get_matches_from(arguments.skip_while(|argument| argument != "node"));
    let shown = |argument: &clap::Arg| {
        let values = matches.get_raw(argument.get_id().as_str()).into_iter().flatten();
        let values: Vec<_> = values.map(|value| value.to_string_lossy().into_owned()).collect();
        let name = argument.get_long()?;
        let is_secret = SECRET_FLAGS.contains(&name) && !values.is_empty();
        Some((name.to_owned(), if is_secret { MASKED.to_owned() } else { values.join(",") }))
    };
    command.get_arguments().filter_map(shown).collect()
}

/// Whose addresses pods have, and what it takes.
#[derive(Debug)]
struct NetworkSettings {
    mode: NetworkMode,
    /// What pods do not reach.
    denied: DeniedNetworks,
    cluster_networks: Vec<IpNet>,
    cni_conf_dir: PathBuf,
    cni_bin_dirs: Vec<PathBuf>,
    proxy: ProxyArgs,
}

async fn run(
    mut config: Config,
    images: ImageSettings,
    #[cfg(feature = "policy")] admission: AdmissionArgs,
    isolation: Isolation,
    confinement: Confinement,
    default_memory_limit: u64,
    network: NetworkSettings,
) -> anyhow::Result<ExitCode> {
    // Another part of the program may have chosen already; both choices are fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cancel = CancellationToken::new();
    signals::stop(&cancel)?;
    agent::check_root(&config.root_dir)?;
    let resolvers = Resolvers::look(&config.kubelet.resolv_conf, &config.kubelet.cluster_dns);
    let pod_network = network.mode.has_pod_addresses(&config.root_dir, &resolvers).await?;
    let cni = SandboxOptions {
        conf_dir: network.cni_conf_dir.clone(),
        bin_dirs: network.cni_bin_dirs,
        ..SandboxOptions::new(config.root_dir.join("cni"))
    };
    let cni = network.mode.sandboxes(cni).await?;
    if pod_network || cni.is_some() {
        config.kubelet.resolv_conf = resolvers.file;
    }
    let machine = Machine::read(&config.root_dir);
    let mut hidden = secret_files(&config);
    // What workers need of the root directory is handed to them, or is in the module store.
    hidden.extend([config.root_dir.clone(), config.kubelet.pod_logs_dir.clone()]);
    // Networks keep their own keys for the API server beside their configuration.
    hidden.extend(cni.is_some().then_some(network.cni_conf_dir));
    hidden.extend(network.proxy.credentials_file().map(PathBuf::from));
    let store = runtime::open_store(&config.root_dir.join("modules"), images)?;
    #[cfg(feature = "policy")]
    let judges = {
        // Settings may be nobody else's business.
        let file = admission.admission_policies.as_deref();
        hidden.extend(file.map(|file| std::path::absolute(file).unwrap_or_else(|_| file.to_owned())));
        let parts = || {
            let files = config.registry_configs.clone();
            let credentials = NodeCredentials::new(files, config.credential_providers.clone());
            Ok(AdmissionParts {
                node: config.node_name.clone(),
                empty: config.root_dir.join("admission"),
                modules: NodeModules::new(store.clone(), credentials, confinement)?,
                patience: PATIENCE,
            })
        };
        admission.judges(parts, &cancel).await?
    };
    #[cfg(not(feature = "policy"))]
    let judges = runtime::Judges::default();
    let runtime = runtime::open(runtime::ProviderSettings {
        store,
        workers: config.root_dir.join("workers"),
        with_parent: false,
        isolation,
        hidden,
        confinement,
        allow_paths: false,
        judge: judges.of_modules,
        default_memory_limit,
        // Of a machine that could not be read, nothing is known.
        allocatable_memory: Some(allocatable_memory(&machine, &config.kubelet)).filter(|bytes| *bytes > 0),
        denied_networks: network.denied,
        http_proxy: network.proxy.read(&config.kubelet.cluster_domain, network.mode)?,
        pod_network,
        cluster_networks: network.cluster_networks,
        cni,
        log: LogOptions {
            max_size: config.container_log_max_bytes(),
            max_files: config.kubelet.container_log_max_files,
        },
    })
    .await?;
    let name = config.node_name.clone();
    let agent =
        Agent::new(config, runtime as Arc<dyn kubewasm_kubelet::runtime::Runtime>, judges.of_pods, &cancel)
            .await?;
    tracing::info!(
        node = name,
        port = agent.port(),
        version = env!("CARGO_PKG_VERSION"),
        "kubewasm is starting"
    );
    agent.run(cancel).await;
    tracing::info!(node = name, "kubewasm has stopped; its containers go on");
    Ok(ExitCode::SUCCESS)
}
