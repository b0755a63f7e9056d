//! The honoured part of
//! [`KubeletConfiguration`](https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/) with
//! the defaults of upstream.
//!
//! A field is here when something in this program reads it. What upstream has beyond that is in
//! [`WithoutEffect`]: such a field is accepted, and the user is told once that it does nothing here.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{headers::SecretHeaders, without_effect::WithoutEffect};
use crate::{
    duration, pods::image_access::verification::ImagePullCredentialsVerificationPolicy,
    shutdown::plan::ShutdownGracePeriodByPodPriority,
};

/// What a `--config` file may say, with upstream's defaults for what it does not.
///
/// The same object, with the flags folded in, is what `/configz` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct KubeletConfiguration {
    /// `kubelet.config.k8s.io/v1beta1`, or absent.
    pub api_version: String,
    /// `KubeletConfiguration`, or absent.
    pub kind: String,

    /// Serve the HTTPS API (logs, metrics).
    pub enable_server: bool,
    /// Serve logs and the other endpoints that upstream counts as debugging; 405 otherwise.
    pub enable_debugging_handlers: bool,
    /// Serve what is in `/var/log` to those who may read logs of the node.
    pub enable_system_log_handler: bool,
    /// Answer queries for the logs of services of the machine there.
    pub enable_system_log_query: bool,
    /// Address that the HTTPS API listens on.
    pub address: IpAddr,
    /// Port of the HTTPS API; 0 takes any free one. The Node says which.
    pub port: u16,
    /// Address of the plain `/healthz`.
    pub healthz_bind_address: IpAddr,
    /// Port of the plain `/healthz`; 0 serves none.
    pub healthz_port: u16,
    /// Serving certificate, PEM, with its chain. Empty: see [`Self::server_tls_bootstrap`].
    pub tls_cert_file: PathBuf,
    /// Key of the serving certificate, PEM.
    pub tls_private_key_file: PathBuf,
    /// `VersionTLS12` or `VersionTLS13`; empty is 1.2.
    pub tls_min_version: String,
    /// Cipher suites of TLS 1.2 by their names in Go, in no order; empty is all that are here.
    pub tls_cipher_suites: Vec<String>,
    /// Ask the cluster for the serving certificate instead of signing it ourselves.
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
    /// Renew the client certificate before it expires.
    pub rotate_certificates: bool,
    /// Who may be who on the HTTPS API.
    pub authentication: Authentication,
    /// Who may do what on the HTTPS API.
    pub authorization: Authorization,

    /// Kernel parameters, or beginnings of them and `*`, that pods may ask for beyond the safe ones.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Networks that pods have addresses of, one or one of each family, separated by a comma; empty leaves it to the
    /// Node's `spec.podCIDRs`.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    /// Pods per node; in a file, 0 is as many as there is room for.
    pub max_pods: u32,
    /// Pods per core, where that is fewer; 0 is no such limit.
    pub pods_per_core: u32,
    /// Resources kept from pods for the node's own daemons: `cpu`, `memory`, `ephemeral-storage`.
    pub kube_reserved: BTreeMap<String, String>,
    /// Resources kept from pods for the operating system.
    pub system_reserved: BTreeMap<String, String>,
    /// Who is held to what is allocatable: `pods`, which has evictions go by what pods take together, too, or `none`. The
    /// words for the system's own cgroups mean nothing here.
    pub enforce_node_allocatable: Vec<String>,
    /// What must be left, by signal: less of it is pressure, and costs pods their place at once. Those of memory
    /// and of the root directory are subtracted from what pods may have.
    pub eviction_hard: BTreeMap<String, String>,
    /// Signals that [`Self::eviction_hard`] does not name keep their defaults.
    pub merge_default_eviction_settings: bool,
    /// The same for pressure that has to last as long as [`Self::eviction_soft_grace_period`] says.
    pub eviction_soft: BTreeMap<String, String>,
    /// How long, by signal, as durations.
    pub eviction_soft_grace_period: BTreeMap<String, String>,
    /// How much more than its threshold must be free before reclaiming ends, by signal.
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    /// How long pressure is told of after it was last seen.
    #[serde(with = "duration")]
    pub eviction_pressure_transition_period: Duration,
    /// Seconds of grace that a soft threshold leaves a pod at the most.
    pub eviction_max_pod_grace_period: u32,
    /// Percent of the images' file system in use above which images are removed; 100 never removes any for that.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u32,
    /// Percent in use at which removing images ends.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u32,
    /// How long an image has been here at the least before it is removed.
    #[serde(rename = "imageMinimumGCAge", with = "duration")]
    pub image_minimum_gc_age: Duration,
    /// How long an image that nobody uses stays at the most; zero is for ever.
    #[serde(rename = "imageMaximumGCAge", with = "duration")]
    pub image_maximum_gc_age: Duration,
    /// Register the Node object, or count on an administrator to.
    pub register_node: bool,
    /// Taints of a Node that registers for the first time. Absent: the two of this node's architecture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub register_with_taints: Option<Vec<Taint>>,
    /// Cloud provider's name of the machine, for `spec.providerID`.
    #[serde(rename = "providerID")]
    pub provider_id: String,

    /// How often the node's status is computed.
    #[serde(with = "duration")]
    pub node_status_update_frequency: Duration,
    /// How often an unchanged status is sent all the same.
    #[serde(with = "duration")]
    pub node_status_report_frequency: Duration,
    /// Images that the Node lists, the largest first; -1 is all of them.
    pub node_status_max_images: i32,
    /// How long the node's lease holds, in seconds; it is renewed four times in that time.
    pub node_lease_duration_seconds: u32,
    /// Requests to the API server per second, heartbeats and Events apart. Absent, there is no limit; 0 is client-go's.
    #[serde(rename = "kubeAPIQPS", skip_serializing_if = "Option::is_none")]
    pub kube_api_qps: Option<u32>,
    /// Requests to the API server at once, where there is a limit.
    #[serde(rename = "kubeAPIBurst")]
    pub kube_api_burst: u32,
    /// Events per second that may be sent; 0 is no limit.
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: u32,
    /// Events that may be sent at once.
    pub event_burst: u32,

    /// Pulls per second for which a registry is asked. Absent or 0, there is no limit.
    #[serde(rename = "registryPullQPS", skip_serializing_if = "Option::is_none")]
    pub registry_pull_qps: Option<u32>,
    /// Pulls at once, where there is a limit.
    pub registry_burst: u32,
    /// Which images that are here a pod has to show credentials for.
    pub image_pull_credentials_verification_policy: ImagePullCredentialsVerificationPolicy,
    /// Images that it need not show any for, where the policy is the one that has a list.
    pub preloaded_images_verification_allowlist: Vec<String>,

    /// How long a shutdown of the machine is delayed for its pods to end; zero is not at all.
    #[serde(with = "duration")]
    pub shutdown_grace_period: Duration,
    /// The part of it that is kept for critical pods, which end last.
    #[serde(with = "duration")]
    pub shutdown_grace_period_critical_pods: Duration,
    /// The same by priority, in the place of both.
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownGracePeriodByPodPriority>,

    /// Where traces are sent. Absent, nobody records any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingConfiguration>,

    /// How long a measurement of what pods have written is good for; below zero, nothing is measured.
    pub volume_stats_agg_period: String,
    /// How long exec, attach and port-forward may do nothing before they are ended.
    #[serde(with = "duration")]
    pub streaming_connection_idle_timeout: Duration,
    /// How often every pod is looked at without a reason.
    #[serde(with = "duration")]
    pub sync_frequency: Duration,
    /// File or directory of static pods. Empty: none.
    pub static_pod_path: PathBuf,
    /// How often [`Self::static_pod_path`] is read again.
    #[serde(with = "duration")]
    pub file_check_frequency: Duration,
    /// URL of a Pod or a PodList that are this node's static pods, too. Empty: none.
    #[serde(rename = "staticPodURL")]
    pub static_pod_url: String,
    /// Headers of the requests to it.
    #[serde(rename = "staticPodURLHeader", skip_serializing_if = "SecretHeaders::is_empty")]
    pub static_pod_url_header: SecretHeaders,
    /// How often it is asked.
    #[serde(with = "duration")]
    pub http_check_frequency: Duration,
    /// DNS domain of the cluster, for pods' resolv.conf.
    pub cluster_domain: String,
    /// DNS servers of the cluster, for pods' resolv.conf.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<IpAddr>,
    /// The resolv.conf that pods of `dnsPolicy: Default` get.
    pub resolv_conf: PathBuf,
    /// How long a crashing container waits at most.
    pub crash_loop_back_off: CrashLoopBackOff,

    /// Directory of containers' log files.
    pub pod_logs_dir: PathBuf,
    /// Size at which a log file is rotated, a quantity.
    pub container_log_max_size: String,
    /// Log files kept per container, the current one included.
    pub container_log_max_files: u32,
    /// Containers whose log files are compressed and removed at once.
    pub container_log_max_workers: u32,
    /// How often rotated log files are looked for.
    #[serde(with = "duration")]
    pub container_log_monitor_interval: Duration,

    /// What else was said.
    #[serde(skip)]
    pub without_effect: WithoutEffect,
}

impl KubeletConfiguration {
    /// How long a measurement of what pods have written is good for; `None` measures nothing.
    #[must_use]
    pub fn volume_stats_period(&self) -> Option<Duration> {
        let period = &self.volume_stats_agg_period;
        duration::parse(period).ok().filter(|period| !period.is_zero())
    }

    /// The whole object, as `/configz` shows it: with the defaults, and with what has no effect.
    #[must_use]
    pub fn effective(&self) -> Value {
        let mut object = encoded(&self.without_effect);
        object.extend(encoded(self));
        Value::Object(object)
    }
}

/// A struct whose fields JSON can hold.
fn encoded(fields: &impl Serialize) -> serde_json::Map<String, Value> {
    match serde_json::to_value(fields) {
        Ok(Value::Object(object)) => object,
        Ok(_) | Err(_) => serde_json::Map::new(),
    }
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            enable_server: true,
            enable_debugging_handlers: true,
            enable_system_log_handler: true,
            enable_system_log_query: false,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 10250,
            healthz_bind_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            healthz_port: 10248,
            tls_cert_file: PathBuf::new(),
            tls_private_key_file: PathBuf::new(),
            tls_min_version: String::new(),
            tls_cipher_suites: Vec::new(),
            server_tls_bootstrap: false,
            rotate_certificates: false,
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            allowed_unsafe_sysctls: Vec::new(),
            pod_cidr: String::new(),
            max_pods: 0,
            pods_per_core: 0,
            kube_reserved: BTreeMap::new(),
            system_reserved: BTreeMap::new(),
            enforce_node_allocatable: vec!["pods".to_owned()],
            eviction_hard: default_eviction_hard(),
            merge_default_eviction_settings: false,
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_minimum_reclaim: BTreeMap::new(),
            eviction_pressure_transition_period: Duration::from_mins(5),
            eviction_max_pod_grace_period: 0,
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age: Duration::from_mins(2),
            image_maximum_gc_age: Duration::ZERO,
            register_node: true,
            register_with_taints: None,
            provider_id: String::new(),
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_mins(5),
            node_status_max_images: 50,
            node_lease_duration_seconds: 40,
            kube_api_qps: None,
            kube_api_burst: 100,
            event_record_qps: 50,
            event_burst: 100,
            registry_pull_qps: None,
            registry_burst: 10,
            image_pull_credentials_verification_policy: ImagePullCredentialsVerificationPolicy::default(),
            preloaded_images_verification_allowlist: Vec::new(),
            shutdown_grace_period: Duration::ZERO,
            shutdown_grace_period_critical_pods: Duration::ZERO,
            shutdown_grace_period_by_pod_priority: Vec::new(),
            tracing: None,
            volume_stats_agg_period: "1m0s".to_owned(),
            streaming_connection_idle_timeout: Duration::from_hours(4),
            sync_frequency: Duration::from_mins(1),
            static_pod_path: PathBuf::new(),
            file_check_frequency: Duration::from_secs(20),
            static_pod_url: String::new(),
            static_pod_url_header: SecretHeaders::default(),
            http_check_frequency: Duration::from_secs(20),
            cluster_domain: String::new(),
            cluster_dns: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            crash_loop_back_off: CrashLoopBackOff::default(),
            pod_logs_dir: PathBuf::from("/var/log/pods"),
            container_log_max_size: "10Mi".to_owned(),
            container_log_max_files: 5,
            container_log_max_workers: 1,
            container_log_monitor_interval: Duration::from_secs(10),
            without_effect: WithoutEffect::default(),
        }
    }
}

/// Hard thresholds where nobody has set any.
pub(super) fn default_eviction_hard() -> BTreeMap<String, String> {
    [
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ]
    .map(|(signal, value)| (signal.to_owned(), value.to_owned()))
    .into()
}

pub(super) const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
pub(super) const KIND: &str = "KubeletConfiguration";

/// How callers of the HTTPS API are known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Authentication {
    /// By client certificate.
    pub x509: X509Authentication,
    /// By bearer token, asked of the API server.
    pub webhook: WebhookAuthentication,
    /// Not at all.
    pub anonymous: AnonymousAuthentication,
}

/// Authentication by client certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct X509Authentication {
    /// PEM bundle of the authorities that client certificates may come from. Empty: no certificate is
    /// taken. Read again when it changes.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: PathBuf,
}

/// Authentication of bearer tokens by TokenReview.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookAuthentication {
    /// Take bearer tokens.
    pub enabled: bool,
    /// How long an answer is good for.
    #[serde(rename = "cacheTTL", with = "duration")]
    pub cache_ttl: Duration,
}

impl Default for WebhookAuthentication {
    fn default() -> Self {
        Self { enabled: true, cache_ttl: Duration::from_mins(2) }
    }
}

/// Requests that nobody vouches for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AnonymousAuthentication {
    /// Take them as `system:anonymous`, instead of refusing them.
    pub enabled: bool,
}

/// How requests to the HTTPS API are authorized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Authorization {
    /// Who decides.
    pub mode: AuthorizationMode,
    /// Caching of the API server's decisions.
    pub webhook: WebhookAuthorization,
}

/// Who decides what a caller may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorizationMode {
    /// The API server, by SubjectAccessReview.
    #[default]
    Webhook,
    /// Nobody: every authenticated caller may do everything. For development.
    AlwaysAllow,
}

/// Caching of the API server's decisions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct WebhookAuthorization {
    /// How long a yes is good for.
    #[serde(rename = "cacheAuthorizedTTL", with = "duration")]
    pub cache_authorized_ttl: Duration,
    /// How long a no is good for.
    #[serde(rename = "cacheUnauthorizedTTL", with = "duration")]
    pub cache_unauthorized_ttl: Duration,
}

impl Default for WebhookAuthorization {
    fn default() -> Self {
        Self { cache_authorized_ttl: Duration::from_mins(5), cache_unauthorized_ttl: Duration::from_secs(30) }
    }
}

/// Where traces are sent, and which.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TracingConfiguration {
    /// A collector that takes in OTLP over gRPC, `localhost:4317` where nothing is said; the connection is not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Of a million traces that begin here, so many are recorded; none where nothing is said. Those of callers are as
    /// they have decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_rate_per_million: Option<u32>,
}

/// Waiting of crashing containers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CrashLoopBackOff {
    /// The longest wait between two starts, from 1 s to 5 min.
    #[serde(with = "duration")]
    pub max_container_restart_period: Duration,
}

impl Default for CrashLoopBackOff {
    fn default() -> Self {
        Self { max_container_restart_period: Duration::from_mins(5) }
    }
}
