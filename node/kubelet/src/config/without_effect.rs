//! The fields of [`KubeletConfiguration`](https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/) that
//! mean nothing on a Wasm node.
//!
//! They are read as strictly as the others, because a value that upstream refuses is a mistake in the file, and `/configz`
//! shows them with upstream's defaults, because tools look for them there. Nothing in this program reads them.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::duration;

/// The names of all fields of [`WithoutEffect`].
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    "cgroupDriver",
    "cgroupRoot",
    "cgroupsPerQOS",
    "configMapAndSecretChangeDetectionStrategy",
    "containerRuntimeEndpoint",
    "contentType",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "cpuManagerPolicy",
    "cpuManagerPolicyOptions",
    "cpuManagerReconcilePeriod",
    "enableContentionProfiling",
    "enableControllerAttachDetach",
    "enableDebugFlagsHandler",
    "enableProfilingHandler",
    "failCgroupV1",
    "failSwapOn",
    "featureGates",
    "hairpinMode",
    "imageServiceEndpoint",
    "iptablesDropBit",
    "iptablesMasqueradeBit",
    "kernelMemcgNotification",
    "kubeReservedCgroup",
    "kubeletCgroups",
    "localStorageCapacityIsolation",
    "logging",
    "makeIPTablesUtilChains",
    "maxOpenFiles",
    "maxParallelImagePulls",
    "memoryManagerPolicy",
    "memoryReservationPolicy",
    "memorySwap",
    "memoryThrottlingFactor",
    "oomScoreAdj",
    "podPidsLimit",
    "protectKernelDefaults",
    "qosReserved",
    "readOnlyPort",
    "reservedMemory",
    "reservedSystemCPUs",
    "runOnce",
    "runtimeRequestTimeout",
    "seccompDefault",
    "serializeImagePulls",
    "showHiddenMetricsForVersion",
    "singleProcessOOMKill",
    "systemCgroups",
    "systemReservedCgroup",
    "tlsCurvePreferences",
    "topologyManagerPolicy",
    "topologyManagerPolicyOptions",
    "topologyManagerScope",
    "userNamespaces",
    "volumePluginDir",
];

/// What a configuration says that means nothing here, with upstream's defaults for what it does not say.
///
/// See the upstream page for what the fields mean elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "upstream documents what nothing here reads")]
pub struct WithoutEffect {
    pub cgroup_driver: String,
    pub cgroup_root: String,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    pub config_map_and_secret_change_detection_strategy: String,
    pub container_runtime_endpoint: String,
    pub content_type: String,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod", with = "duration")]
    pub cpu_cfs_quota_period: Duration,
    pub cpu_manager_policy: String,
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    #[serde(with = "duration")]
    pub cpu_manager_reconcile_period: Duration,
    pub enable_contention_profiling: bool,
    pub enable_controller_attach_detach: bool,
    pub enable_debug_flags_handler: bool,
    pub enable_profiling_handler: bool,
    pub fail_cgroup_v1: bool,
    pub fail_swap_on: bool,
    pub feature_gates: BTreeMap<String, bool>,
    pub hairpin_mode: String,
    pub image_service_endpoint: String,
    pub iptables_drop_bit: u32,
    pub iptables_masquerade_bit: u32,
    pub kernel_memcg_notification: bool,
    pub kube_reserved_cgroup: String,
    pub kubelet_cgroups: String,
    pub local_storage_capacity_isolation: bool,
    pub logging: Logging,
    #[serde(rename = "makeIPTablesUtilChains")]
    pub make_iptables_util_chains: bool,
    pub max_open_files: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel_image_pulls: Option<u32>,
    pub memory_manager_policy: String,
    pub memory_reservation_policy: String,
    pub memory_swap: MemorySwap,
    pub memory_throttling_factor: f64,
    pub oom_score_adj: i32,
    pub pod_pids_limit: i64,
    pub protect_kernel_defaults: bool,
    pub qos_reserved: BTreeMap<String, String>,
    pub read_only_port: u16,
    pub reserved_memory: Vec<ReservedMemory>,
    #[serde(rename = "reservedSystemCPUs")]
    pub reserved_system_cpus: String,
    pub run_once: bool,
    #[serde(with = "duration")]
    pub runtime_request_timeout: Duration,
    pub seccomp_default: bool,
    pub serialize_image_pulls: bool,
    pub show_hidden_metrics_for_version: String,
    #[serde(rename = "singleProcessOOMKill", skip_serializing_if = "Option::is_none")]
    pub single_process_oom_kill: Option<bool>,
    pub system_cgroups: String,
    pub system_reserved_cgroup: String,
    pub tls_curve_preferences: Vec<i32>,
    pub topology_manager_policy: String,
    pub topology_manager_policy_options: BTreeMap<String, String>,
    pub topology_manager_scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_namespaces: Option<UserNamespaces>,
    pub volume_plugin_dir: String,
}

impl Default for WithoutEffect {
    fn default() -> Self {
        Self {
            cgroup_driver: "cgroupfs".to_owned(),
            cgroup_root: String::new(),
            cgroups_per_qos: true,
            config_map_and_secret_change_detection_strategy: "Watch".to_owned(),
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            content_type: "application/vnd.kubernetes.protobuf".to_owned(),
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            cpu_manager_policy: "none".to_owned(),
            cpu_manager_policy_options: BTreeMap::new(),
            cpu_manager_reconcile_period: Duration::from_secs(10),
            enable_contention_profiling: false,
            enable_controller_attach_detach: true,
            enable_debug_flags_handler: true,
            enable_profiling_handler: true,
            fail_cgroup_v1: true,
            fail_swap_on: true,
            feature_gates: BTreeMap::new(),
            hairpin_mode: "promiscuous-bridge".to_owned(),
            image_service_endpoint: String::new(),
            iptables_drop_bit: 15,
            iptables_masquerade_bit: 14,
            kernel_memcg_notification: false,
            kube_reserved_cgroup: String::new(),
            kubelet_cgroups: String::new(),
            local_storage_capacity_isolation: true,
            logging: Logging::default(),
            make_iptables_util_chains: true,
            max_open_files: 1_000_000,
            max_parallel_image_pulls: None,
            memory_manager_policy: "None".to_owned(),
            memory_reservation_policy: "None".to_owned(),
            memory_swap: MemorySwap::default(),
            memory_throttling_factor: 0.9,
            oom_score_adj: -999,
            pod_pids_limit: -1,
            protect_kernel_defaults: false,
            qos_reserved: BTreeMap::new(),
            read_only_port: 0,
            reserved_memory: Vec::new(),
            reserved_system_cpus: String::new(),
            run_once: false,
            runtime_request_timeout: Duration::from_mins(2),
            seccomp_default: false,
            serialize_image_pulls: true,
            show_hidden_metrics_for_version: String::new(),
            single_process_oom_kill: None,
            system_cgroups: String::new(),
            system_reserved_cgroup: String::new(),
            tls_curve_preferences: Vec::new(),
            topology_manager_policy: "none".to_owned(),
            topology_manager_policy_options: BTreeMap::new(),
            topology_manager_scope: "container".to_owned(),
            user_namespaces: None,
            volume_plugin_dir: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".to_owned(),
        }
    }
}

/// How upstream's components log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "upstream documents what nothing here reads")]
pub struct Logging {
    pub format: String,
    /// A duration, or nanoseconds.
    pub flush_frequency: Value,
    pub verbosity: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vmodule: Vec<Value>,
    pub options: BTreeMap<String, Value>,
}

impl Default for Logging {
    fn default() -> Self {
        let options = |name: &str| (name.to_owned(), json!({ "infoBufferSize": "0" }));
        Self {
            format: "text".to_owned(),
            flush_frequency: json!("5s"),
            verbosity: 0,
            vmodule: Vec::new(),
            options: [options("json"), options("text")].into(),
        }
    }
}

/// What of swap pods may use elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "upstream documents what nothing here reads")]
pub struct MemorySwap {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub swap_behavior: String,
}

/// Memory of a NUMA node that is kept from pods elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "upstream documents what nothing here reads")]
pub struct ReservedMemory {
    pub numa_node: i32,
    pub limits: BTreeMap<String, String>,
}

/// How many ids pods have in user namespaces elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "upstream documents what nothing here reads")]
pub struct UserNamespaces {
    #[serde(rename = "idsPerPod", skip_serializing_if = "Option::is_none")]
    pub ids_per_pod: Option<i64>,
}

/// What upstream would refuse, and what this node refuses: values that are one of a few words or within bounds.
///
/// # Errors
/// A sentence that begins with the field.
pub(super) fn check(fields: &WithoutEffect) -> Result<(), String> {
    if fields.run_once {
        return Err("runOnce is true, and there is no such mode: leave it out".to_owned());
    }
    let words: [(&str, &str, &[&str]); 8] = [
        ("cgroupDriver", &fields.cgroup_driver, &["cgroupfs", "systemd"]),
        (
            "configMapAndSecretChangeDetectionStrategy",
            &fields.config_map_and_secret_change_detection_strategy,
            &["Get", "Cache", "Watch"],
        ),
        ("hairpinMode", &fields.hairpin_mode, &["promiscuous-bridge", "hairpin-veth", "none"]),
        ("memoryManagerPolicy", &fields.memory_manager_policy, &["None", "Static"]),
        ("memoryReservationPolicy", &fields.memory_reservation_policy, &["None", "TieredReservation"]),
        ("memorySwap.swapBehavior", &fields.memory_swap.swap_behavior, &["", "LimitedSwap", "NoSwap"]),
        (
            "topologyManagerPolicy",
            &fields.topology_manager_policy,
            &["none", "best-effort", "restricted", "single-numa-node"],
        ),
        ("topologyManagerScope", &fields.topology_manager_scope, &["container", "pod"]),
    ];
    for (field, value, allowed) in words {
        if !allowed.contains(&value) {
            let allowed: Vec<_> = allowed.iter().filter(|word| !word.is_empty()).copied().collect();
            return Err(format!("{field} is {value:?}; it must be one of {}", allowed.join(", ")));
        }
    }
    let bounds: [(&str, i64, i64, i64); 4] = [
        ("oomScoreAdj", fields.oom_score_adj.into(), -1000, 1000),
        ("iptablesDropBit", fields.iptables_drop_bit.into(), 0, 31),
        ("iptablesMasqueradeBit", fields.iptables_masquerade_bit.into(), 0, 31),
        (
            "maxParallelImagePulls",
            fields.max_parallel_image_pulls.unwrap_or(1).into(),
            1,
            i64::from(i32::MAX),
        ),
    ];
    for (field, value, least, most) in bounds {
        if !(least..=most).contains(&value) {
            return Err(format!("{field} is {value}; it must be from {least} to {most}"));
        }
    }
    if fields.serialize_image_pulls && fields.max_parallel_image_pulls.unwrap_or(1) > 1 {
        return Err(
            "maxParallelImagePulls above 1 goes with serializeImagePulls: false alone: set that, or leave it out"
                .to_owned(),
        );
    }
    if !(fields.memory_throttling_factor > 0.0 && fields.memory_throttling_factor <= 1.0) {
        return Err(format!(
            "memoryThrottlingFactor is {}; it must be above 0, and at most 1",
            fields.memory_throttling_factor
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
