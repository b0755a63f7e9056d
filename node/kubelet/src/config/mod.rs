//! What the node was told: the `--config` file, the flags, and the machine's name, made into one value.
//!
//! ```text
//! --config file, --config-dir ─ layers (strict) ─► KubeletConfiguration ─┐
//! command line ───────────────────────────────────► Flags ───────────────┼─ Config::resolve ─► Config + warnings
//! uname ──────────────────────────────────────────► hostname ────────────┘
//! ```
//!
//! Flags win over drop-ins, and drop-ins over the file, as in the kubelet. The binary owns the command line and fills in [`Flags`];
//! nothing else in the crate reads arguments or environment. [`Config`] does not change while the node
//! runs; what may change under it (certificates, the CA bundle) is read again from the files it names.

mod decode;
mod file;
pub mod flags;
mod headers;
pub mod labels;
mod layers;
mod secrets;
pub(crate) mod thresholds;
mod without_effect;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;

use self::{
    flags::GivenFlag,
    layers::{ConfigFile, Layered},
};

pub use self::file::{
    AnonymousAuthentication, Authentication, Authorization, AuthorizationMode, CrashLoopBackOff,
    KubeletConfiguration, TracingConfiguration, WebhookAuthentication, WebhookAuthorization,
    X509Authentication,
};
pub use self::headers::{MASKED, SecretHeaders};
pub use self::secrets::{HOME_REGISTRY_CONFIG, IMAGE_ACCESS, REGISTRY_CONFIG, secret_files};
pub use self::without_effect::{Logging, MemorySwap, ReservedMemory, UserNamespaces, WithoutEffect};

use crate::{
    duration, pod_ranges,
    pods::{
        admission::sysctls::SysctlAllowlist,
        image_access::verification::ImageVerification,
        log_files::LogUpkeep,
        volumes::{AllowedHostPaths, ProtectedPaths},
    },
    quantity,
    registry_auth::CredentialProviders,
    server::cipher_suites,
    services::ServicesMode,
    shutdown::{self, plan::ShutdownPeriod},
    static_pods,
    traces::TraceEndpoint,
};

/// Where the node keeps everything when it is not told otherwise.
pub const DEFAULT_ROOT_DIR: &str = "/var/lib/kubewasm";

/// Value of the label and the taints `kubernetes.io/arch` by which Wasm nodes are known.
pub const ARCHITECTURE: &str = "wasm32-wasi";

/// Taint of a node that a cloud controller has not looked at yet; it takes it off.
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";

/// Why there is no configuration. The program cannot start; every message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The `--config` file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The `--config` file says something that is not understood.
    #[error("{}: {message}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Line, field and what is wrong.
        message: String,
    },
    /// A value is not possible.
    #[error("{0}")]
    Invalid(String),
}

/// What the command line said. `None` leaves the word to the file, or to the default.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--config-dir`
    pub config_dir: Option<PathBuf>,
    /// `--cloud-provider`: nothing, or `external`.
    pub cloud_provider: Option<String>,
    /// The kubelet's flags that are aliases of fields, and those that do nothing here.
    pub kubelet: Vec<GivenFlag>,
    /// `--kubeconfig`
    pub kubeconfig: Option<PathBuf>,
    /// `--bootstrap-kubeconfig`
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// `--hostname-override`
    pub hostname_override: Option<String>,
    /// `--node-ip`, up to two of different families.
    pub node_ip: Vec<IpAddr>,
    /// `--node-labels`, as given.
    pub node_labels: Option<String>,
    /// `--node-os`: value of the label `kubernetes.io/os`.
    pub node_os: Option<String>,
    /// `--register-with-taints`, as given; the empty text is no taints.
    pub register_with_taints: Option<String>,
    /// `--root-dir`
    pub root_dir: Option<PathBuf>,
    /// `--cert-dir`
    pub cert_dir: Option<PathBuf>,
    /// `--pod-logs-dir`
    pub pod_logs_dir: Option<PathBuf>,
    /// `--container-logs-dir`; empty is none.
    pub container_logs_dir: Option<PathBuf>,
    /// `--address`
    pub address: Option<IpAddr>,
    /// `--port`
    pub port: Option<u16>,
    /// `--healthz-port`
    pub healthz_port: Option<u16>,
    /// `--max-pods`
    pub max_pods: Option<u32>,
    /// `--image-credential-provider-config`
    pub image_credential_provider_config: Option<PathBuf>,
    /// `--image-credential-provider-bin-dir`
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// Home directory of the user that the node runs as, whose `.docker/config.json` counts when the root directory has
    /// no `config.json`.
    pub home_dir: Option<PathBuf>,
    /// `--allow-host-path`, each of them.
    pub allow_host_path: Vec<PathBuf>,
    /// Pods have addresses of their own, or none: `--network=pod`.
    pub requires_pod_network: bool,
    /// `--services`
    pub services: ServicesMode,
    /// NetworkPolicies are nobody's business here: `--network-policies=off`.
    pub ignores_network_policies: bool,
    /// Pods that the provider has room for on this machine: what `maxPods` is when nobody says. `None` is
    /// upstream's 110.
    pub room_for_pods: Option<u32>,
    /// All flags with their values, defaults among them, for people to look at.
    pub shown: BTreeMap<String, String>,
}

/// The effective configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object: the host's, or the one it was given, lowercased.
    pub node_name: String,
    /// Value of the label `kubernetes.io/hostname` and of the address of type Hostname.
    pub hostname: String,
    /// Addresses that `--node-ip` asked for; empty leaves the choice to the node.
    pub node_ip: Vec<IpAddr>,
    /// Labels of `--node-labels`, checked.
    pub node_labels: BTreeMap<String, String>,
    /// Value of the label `kubernetes.io/os`.
    pub node_os: String,
    /// A cloud controller looks after the Node: `--cloud-provider=external`.
    pub has_cloud_controller: bool,
    /// Root of everything the node keeps on disk.
    pub root_dir: PathBuf,
    /// Where certificates and keys are kept.
    pub cert_dir: PathBuf,
    /// Where the links to logs of containers are, for log collectors; `None` makes none.
    pub container_logs_dir: Option<PathBuf>,
    /// What `/logs/` shows of the machine.
    pub system_logs_dir: PathBuf,
    /// What `/flagz` shows: the command line's flags with their values.
    pub shown_flags: BTreeMap<String, String>,
    /// Credentials for the API server, read, and written by the bootstrap.
    pub kubeconfig: Option<PathBuf>,
    /// Credentials with which to ask for a certificate.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Paths of this machine that pods may mount.
    pub allowed_host_paths: AllowedHostPaths,
    /// Kernel parameters that pods may ask for.
    pub allowed_sysctls: SysctlAllowlist,
    /// Which images that are here pods have to show credentials for.
    pub image_verification: ImageVerification,
    /// Pods have addresses of their own, or none; otherwise the node's, where it is given no range.
    pub requires_pod_network: bool,
    /// Whether pods with addresses of their own are taken to the endpoints of Services.
    pub services: ServicesMode,
    /// NetworkPolicies hold for pods with addresses of their own.
    pub enforces_network_policies: bool,
    /// What pods are given when the machine is shut down, ascending by priority; empty where it does not wait for them.
    pub shutdown_periods: Vec<ShutdownPeriod>,
    /// `podCIDR`, read.
    pub pod_ranges: Vec<IpNet>,
    /// `config.json` files with credentials for registries; the first one that exists counts.
    pub registry_configs: Vec<PathBuf>,
    /// The configuration of credential providers, which may hold secrets.
    pub credential_provider_config: Option<PathBuf>,
    /// Programs that have credentials for registries.
    pub credential_providers: CredentialProviders,
    /// The file's part, with the flags folded in.
    pub kubelet: KubeletConfiguration,
}

impl Config {
    /// Reads the files that `--config` and `--config-dir` may name, and puts everything together. The texts beside
    /// the result are warnings for the user, one per matter.
    ///
    /// # Errors
    /// [`ConfigError`]; each message is meant for the user as it is.
    pub fn load(flags: &Flags) -> Result<(Self, Vec<String>), ConfigError> {
        let uname = rustix::system::uname();
        let hostname = uname.nodename().to_string_lossy();
        let main = flags.config.as_deref().map(layers::read).transpose()?;
        let drop_ins =
            flags.config_dir.as_deref().map(layers::read_drop_ins).transpose()?.unwrap_or_default();
        let (mut config, warnings) = Self::from_files(main.as_ref(), &drop_ins, flags, &hostname)?;
        if let (Some(file), Some(bin_dir)) =
            (&config.credential_provider_config, &flags.image_credential_provider_bin_dir)
        {
            config.credential_providers =
                CredentialProviders::load(file, bin_dir).map_err(ConfigError::Invalid)?;
        }
        // Workers are kept from files whose directories are there, and from no others.
        config
            .registry_configs
            .retain(|file| file.parent().is_some_and(Path::is_dir) || file.starts_with(&config.root_dir));
        let keys = secret_files(&config);
        config.allowed_host_paths =
            config.allowed_host_paths.protecting(keys).map_err(ConfigError::Invalid)?;
        Ok((config, warnings))
    }

    /// [`Config::load`] without its I/O: `file` is the text of the file, empty when there is none.
    ///
    /// # Errors
    /// [`ConfigError`], never [`ConfigError::Read`].
    pub fn resolve(file: &str, flags: &Flags, hostname: &str) -> Result<(Self, Vec<String>), ConfigError> {
        let main = ConfigFile { path: flags.config.clone().unwrap_or_default(), text: file.to_owned() };
        Self::from_files(Some(&main), &[], flags, hostname)
    }

    fn from_files(
        main: Option<&ConfigFile>,
        drop_ins: &[ConfigFile],
        flags: &Flags,
        hostname: &str,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let mut layered = layers::lay(main, drop_ins, &flags.kubelet)?;
        fold_flags(&mut layered.configuration, flags)?;
        check(&layered.configuration)
            .and_then(|()| without_effect::check(&layered.configuration.without_effect))
            .map_err(|message| layered.blame(message))?;
        let allowed_sysctls = SysctlAllowlist::new(&layered.configuration.allowed_unsafe_sysctls)
            .map_err(|message| layered.blame(format!("allowedUnsafeSysctls: {message}")))?;
        let pod_ranges = pod_ranges::read(&layered.configuration.pod_cidr)
            .map_err(|message| layered.blame(format!("podCIDR: {message}")))?;
        let Layered { configuration: mut kubelet, warnings, .. } = layered;

        // Workers have another working directory.
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let root_dir = absolute(flags.root_dir.as_deref().unwrap_or(Path::new(DEFAULT_ROOT_DIR)));
        kubelet.pod_logs_dir = absolute(&kubelet.pod_logs_dir);
        let hostname = flags.hostname_override.as_deref().unwrap_or(hostname).trim().to_lowercase();
        if !labels::is_dns_subdomain(&hostname) {
            return Err(ConfigError::Invalid(format!(
                "{hostname:?} cannot be the name of a node: it must be letters, digits, '-' and '.'; give another with \
                 --hostname-override"
            )));
        }
        let node_os = flags.node_os.clone().unwrap_or_else(|| "linux".to_owned());
        labels::check_label("kubernetes.io/os", &node_os).map_err(ConfigError::Invalid)?;
        let node_labels = labels::parse_labels(flags.node_labels.as_deref().unwrap_or_default())
            .map_err(ConfigError::Invalid)?;
        check_node_ip(&flags.node_ip)?;

        if flags.image_credential_provider_config.is_some()
            != flags.image_credential_provider_bin_dir.is_some()
        {
            return Err(ConfigError::Invalid(
                "--image-credential-provider-config and --image-credential-provider-bin-dir go together: give both, or \
                 neither"
                    .to_owned(),
            ));
        }
        let of_home = flags.home_dir.as_ref().map(|home| home.join(HOME_REGISTRY_CONFIG));
        let registry_configs = std::iter::once(root_dir.join(REGISTRY_CONFIG)).chain(of_home).collect();

        let cert_dir = absolute(flags.cert_dir.as_deref().unwrap_or(&root_dir.join("pki")));
        let protected = ProtectedPaths::with([root_dir.clone(), cert_dir.clone()]);

        let beside_logs = || Some(kubelet.pod_logs_dir.parent()?.join(CONTAINER_LOGS));
        let container_logs_dir = match &flags.container_logs_dir {
            Some(dir) => is_set(dir).then(|| absolute(dir)),
            None => beside_logs(),
        };
        let config = Self {
            container_logs_dir,
            system_logs_dir: PathBuf::from(SYSTEM_LOGS),
            shown_flags: flags.shown.clone(),
            node_name: hostname.clone(),
            hostname,
            node_ip: flags.node_ip.clone(),
            node_labels,
            node_os,
            has_cloud_controller: has_cloud_controller(flags.cloud_provider.as_deref())?,
            cert_dir,
            root_dir,
            allowed_host_paths: AllowedHostPaths::new(flags.allow_host_path.clone(), protected)
                .map_err(ConfigError::Invalid)?,
            allowed_sysctls,
            image_verification: ImageVerification::new(
                kubelet.image_pull_credentials_verification_policy,
                &kubelet.preloaded_images_verification_allowlist,
            )
            .map_err(ConfigError::Invalid)?,
            registry_configs,
            credential_provider_config: flags.image_credential_provider_config.clone(),
            credential_providers: CredentialProviders::default(),
            kubeconfig: flags.kubeconfig.clone(),
            bootstrap_kubeconfig: flags.bootstrap_kubeconfig.clone(),
            requires_pod_network: flags.requires_pod_network,
            services: flags.services,
            enforces_network_policies: !flags.ignores_network_policies,
            shutdown_periods: shutdown::plan::periods(&kubelet).map_err(ConfigError::Invalid)?,
            pod_ranges,
            kubelet,
        };
        Ok((config, warnings))
    }

    /// Taints of a Node that registers for the first time. When nothing was said: the pair by which Wasm
    /// nodes keep off pods that were not made for them.
    #[must_use]
    pub fn taints(&self) -> Vec<Taint> {
        let mut taints = self.kubelet.register_with_taints.clone().unwrap_or_else(|| {
            ["NoSchedule", "NoExecute"]
                .map(|effect| Taint {
                    key: "kubernetes.io/arch".to_owned(),
                    value: Some(ARCHITECTURE.to_owned()),
                    effect: effect.to_owned(),
                    time_added: None,
                })
                .into()
        });
        if self.has_cloud_controller {
            taints.push(Taint {
                key: UNINITIALIZED.to_owned(),
                value: Some("true".to_owned()),
                effect: "NoSchedule".to_owned(),
                time_added: None,
            });
        }
        taints
    }

    /// Bytes at which a container's log file is rotated.
    #[must_use]
    pub fn container_log_max_bytes(&self) -> u64 {
        quantity::units(&self.kubelet.container_log_max_size).unwrap_or(DEFAULT_LOG_BYTES)
    }

    /// How the files of logs are looked after.
    #[must_use]
    pub fn log_upkeep(&self) -> LogUpkeep {
        LogUpkeep {
            max_files: self.kubelet.container_log_max_files,
            workers: usize::try_from(self.kubelet.container_log_max_workers).unwrap_or(1),
            interval: self.kubelet.container_log_monitor_interval,
        }
    }
}

/// The directory of links to logs of containers, beside that of pods' logs: `/var/log/containers`.
const CONTAINER_LOGS: &str = "containers";
/// The kubelet's `/logs/`.
const SYSTEM_LOGS: &str = "/var/log";
const DEFAULT_LOG_BYTES: u64 = 10 << 20;
const DEFAULT_MAX_PODS: u32 = 110;

fn fold_flags(kubelet: &mut KubeletConfiguration, flags: &Flags) -> Result<(), ConfigError> {
    if let Some(address) = flags.address {
        kubelet.address = address;
    }
    if let Some(port) = flags.port {
        kubelet.port = port;
    }
    if let Some(port) = flags.healthz_port {
        kubelet.healthz_port = port;
    }
    if let Some(max_pods) = flags.max_pods {
        kubelet.max_pods = max_pods;
    } else if kubelet.max_pods == 0 {
        kubelet.max_pods = flags.room_for_pods.unwrap_or(DEFAULT_MAX_PODS);
    }
    if let Some(dir) = &flags.pod_logs_dir {
        kubelet.pod_logs_dir.clone_from(dir);
    }
    if let Some(taints) = &flags.register_with_taints {
        kubelet.register_with_taints = Some(labels::parse_taints(taints).map_err(ConfigError::Invalid)?);
    }
    Ok(())
}

fn has_cloud_controller(provider: Option<&str>) -> Result<bool, ConfigError> {
    match provider {
        None | Some("") => Ok(false),
        Some("external") => Ok(true),
        Some(other) => Err(ConfigError::Invalid(format!(
            "--cloud-provider={other}: there are no providers inside of nodes any more; give \"external\", where a cloud \
             controller looks after nodes, or nothing"
        ))),
    }
}

/// Everything about single fields that types do not say.
fn check(kubelet: &KubeletConfiguration) -> Result<(), String> {
    let invalid = Err;
    let within = |name: &str, value: Duration, least: Duration, most: Duration| {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        let (value, least, most) = (duration::format(value), duration::format(least), duration::format(most));
        Err(format!("{name} is {value}; it must be from {least} to {most}"))
    };
    const DAY: Duration = Duration::from_hours(24);
    const SECOND: Duration = Duration::from_secs(1);

    within("nodeStatusUpdateFrequency", kubelet.node_status_update_frequency, SECOND, DAY)?;
    within("nodeStatusReportFrequency", kubelet.node_status_report_frequency, SECOND, DAY)?;
    within("syncFrequency", kubelet.sync_frequency, SECOND, DAY)?;
    let idle = kubelet.streaming_connection_idle_timeout;
    within("streamingConnectionIdleTimeout", idle, SECOND, 30 * DAY)?;
    within("fileCheckFrequency", kubelet.file_check_frequency, SECOND, DAY)?;
    within("httpCheckFrequency", kubelet.http_check_frequency, SECOND, DAY)?;
    static_pods::check_url(&kubelet.static_pod_url).map_err(|message| format!("staticPodURL {message}"))?;
    kubelet.static_pod_url_header.to_map().map_err(|message| format!("staticPodURLHeader: {message}"))?;
    within(
        "crashLoopBackOff.maxContainerRestartPeriod",
        kubelet.crash_loop_back_off.max_container_restart_period,
        SECOND,
        Duration::from_mins(5),
    )?;
    if !(4..=3600).contains(&kubelet.node_lease_duration_seconds) {
        return invalid(format!(
            "nodeLeaseDurationSeconds is {}; it must be from 4 to 3600",
            kubelet.node_lease_duration_seconds
        ));
    }
    if i32::try_from(kubelet.max_pods).is_err() {
        return invalid(format!("maxPods is {}, which is more than a node can say", kubelet.max_pods));
    }
    if kubelet.container_log_max_files < 2 {
        return invalid(format!(
            "containerLogMaxFiles is {}; it must be at least 2, or rotation would lose what was just written",
            kubelet.container_log_max_files
        ));
    }
    if kubelet.container_log_max_workers == 0 {
        return invalid("containerLogMaxWorkers is 0; it must be at least 1".to_owned());
    }
    within("containerLogMonitorInterval", kubelet.container_log_monitor_interval, 3 * SECOND, DAY)?;
    match quantity::units(&kubelet.container_log_max_size) {
        Ok(bytes) if bytes > 0 => {}
        Ok(_) => return invalid("containerLogMaxSize must be above zero".to_owned()),
        Err(err) => return invalid(format!("containerLogMaxSize: {err}")),
    }
    for (name, reserved) in
        [("kubeReserved", &kubelet.kube_reserved), ("systemReserved", &kubelet.system_reserved)]
    {
        for (resource, amount) in reserved {
            if let Err(err) = quantity::millis(amount) {
                return invalid(format!("{name}.{resource}: {err}"));
            }
        }
    }
    const ENFORCED: [&str; 6] = [
        "pods",
        "system-reserved",
        "kube-reserved",
        "system-reserved-compressible",
        "kube-reserved-compressible",
        "none",
    ];
    if let Some(word) = kubelet.enforce_node_allocatable.iter().find(|w| !ENFORCED.contains(&w.as_str())) {
        return invalid(format!(
            "enforceNodeAllocatable has {word:?}; there are {}",
            ENFORCED.map(|word| format!("{word:?}")).join(", ")
        ));
    }
    thresholds::thresholds(kubelet)?;
    let (high, low) = (kubelet.image_gc_high_threshold_percent, kubelet.image_gc_low_threshold_percent);
    if high > 100 || low >= high {
        return invalid(format!(
            "imageGCHighThresholdPercent is {high} and imageGCLowThresholdPercent is {low}; the second must be below the \
             first, and the first at most 100"
        ));
    }
    let (least, most) = (kubelet.image_minimum_gc_age, kubelet.image_maximum_gc_age);
    if !most.is_zero() && most <= least {
        return invalid(format!(
            "imageMaximumGCAge is {}; it must be 0s, or above imageMinimumGCAge, which is {}",
            duration::format(most),
            duration::format(least)
        ));
    }
    for taint in kubelet.register_with_taints.iter().flatten() {
        labels::check_taint(taint).or_else(|message| invalid(format!("registerWithTaints: {message}")))?;
    }
    if is_set(&kubelet.tls_cert_file) != is_set(&kubelet.tls_private_key_file) {
        return invalid("tlsCertFile and tlsPrivateKeyFile go together: set both, or neither".to_owned());
    }
    check_tracing(kubelet.tracing.as_ref())?;
    let period = &kubelet.volume_stats_agg_period;
    duration::parse(period.strip_prefix('-').unwrap_or(period))
        .map_err(|message| format!("volumeStatsAggPeriod: {message}"))?;
    cipher_suites::read(&kubelet.tls_cipher_suites, &kubelet.tls_min_version)
        .map_err(|message| format!("tlsCipherSuites: {message}"))?;
    if !["", "VersionTLS12", "VersionTLS13"].contains(&kubelet.tls_min_version.as_str()) {
        return invalid(format!(
            "tlsMinVersion is {:?}; it must be VersionTLS12 or VersionTLS13",
            kubelet.tls_min_version
        ));
    }
    Ok(())
}

fn check_tracing(tracing: Option<&TracingConfiguration>) -> Result<(), String> {
    const MILLION: u32 = 1_000_000;
    let Some(TracingConfiguration { endpoint, sampling_rate_per_million }) = tracing else { return Ok(()) };
    if let Some(rate) = sampling_rate_per_million.filter(|rate| *rate > MILLION) {
        return Err(format!("tracing.samplingRatePerMillion is {rate}; it must be from 0 to {MILLION}"));
    }
    TraceEndpoint::parse(endpoint.as_deref())
        .map(drop)
        .map_err(|message| format!("tracing.endpoint: {message}"))
}

fn check_node_ip(addresses: &[IpAddr]) -> Result<(), ConfigError> {
    match addresses {
        [] | [_] => Ok(()),
        [one, other] if one.is_ipv4() != other.is_ipv4() => Ok(()),
        _ => Err(ConfigError::Invalid(
            "--node-ip takes one address, or one of each family separated by a comma".to_owned(),
        )),
    }
}

/// Reads a configuration for a fuzzer. A file that is taken is taken again as `/configz` shows it, and means the same.
#[cfg(any(fuzzing, test))]
pub(crate) fn read_layers(file: &str, drop_in: &str, flags: &[(&str, &str)]) {
    let layer = |text: &str| ConfigFile { path: "fuzzed".into(), text: text.to_owned() };
    let kubelet = flags
        .iter()
        .map(|(name, value)| GivenFlag { name: (*name).to_owned(), values: vec![(*value).to_owned()] });
    let flags = Flags { kubelet: kubelet.collect(), ..Flags::default() };
    let drop_ins = if drop_in.is_empty() { Vec::new() } else { vec![layer(drop_in)] };
    let Ok((config, _)) = Config::from_files(Some(&layer(file)), &drop_ins, &flags, "edge") else { return };
    if !drop_ins.is_empty() || !flags.kubelet.is_empty() {
        return;
    }
    let shown = config.kubelet.effective().to_string();
    let again = Config::resolve(&shown, &Flags::default(), "edge").map(|(config, _)| config.kubelet);
    assert_eq!(again.ok(), Some(config.kubelet), "{shown}");
}

/// Whether a path field says anything.
pub(crate) fn is_set(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests;
