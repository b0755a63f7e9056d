//! The kubelet's flags that set a field of the configuration, and those that set nothing here.
//!
//! Upstream has had a flag for most fields, calls them deprecated, and has not removed them: they are in unit files,
//! cloud images and kubeadm's `kubeadm-flags.env`. Each is an alias of a field, and goes before what files say about it.
//! Names and shapes are those of `cmd/kubelet/app/options/options.go` of Kubernetes 1.36. Flags that mean something beyond
//! a field (`--kubeconfig`, `--node-ip`, …) are in [`super::Flags`].

use serde_json::{Map, Value};

/// How the text of a flag is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagShape {
    /// As it is; the last one counts.
    Text,
    /// `true` or `false`; without a value, `true`.
    Bool,
    /// A whole number; the last one counts.
    Number,
    /// Texts with commas between them; all count.
    List,
    /// `key=value,…`; all count.
    Pairs,
    /// `signal<value,…`; all count.
    Thresholds,
    /// `Gate=true,…`, each of which goes before the same gate in a file.
    Gates,
    /// `Name:value,…`, of which a name may have several.
    Headers,
}

/// A flag that is an alias of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldFlag {
    /// Without the dashes.
    pub name: &'static str,
    /// The field, with the fields that it is in.
    pub field: &'static str,
    /// How it is read.
    pub shape: FlagShape,
}

const fn flag(name: &'static str, field: &'static str, shape: FlagShape) -> FieldFlag {
    FieldFlag { name, field, shape }
}

use self::FlagShape::{Bool, Gates, Headers, List, Number, Pairs, Text, Thresholds};

/// All aliases, by name.
pub const FIELD_FLAGS: [FieldFlag; 94] = [
    flag("allowed-unsafe-sysctls", "allowedUnsafeSysctls", List),
    flag("anonymous-auth", "authentication.anonymous.enabled", Bool),
    flag("authentication-token-webhook", "authentication.webhook.enabled", Bool),
    flag("authentication-token-webhook-cache-ttl", "authentication.webhook.cacheTTL", Text),
    flag("authorization-mode", "authorization.mode", Text),
    flag("authorization-webhook-cache-authorized-ttl", "authorization.webhook.cacheAuthorizedTTL", Text),
    flag("authorization-webhook-cache-unauthorized-ttl", "authorization.webhook.cacheUnauthorizedTTL", Text),
    flag("cgroup-driver", "cgroupDriver", Text),
    flag("cgroup-root", "cgroupRoot", Text),
    flag("cgroups-per-qos", "cgroupsPerQOS", Bool),
    flag("client-ca-file", "authentication.x509.clientCAFile", Text),
    flag("cluster-dns", "clusterDNS", List),
    flag("cluster-domain", "clusterDomain", Text),
    flag("container-log-max-files", "containerLogMaxFiles", Number),
    flag("container-log-max-size", "containerLogMaxSize", Text),
    flag("container-runtime-endpoint", "containerRuntimeEndpoint", Text),
    flag("contention-profiling", "enableContentionProfiling", Bool),
    flag("cpu-cfs-quota", "cpuCFSQuota", Bool),
    flag("cpu-cfs-quota-period", "cpuCFSQuotaPeriod", Text),
    flag("cpu-manager-policy", "cpuManagerPolicy", Text),
    flag("cpu-manager-policy-options", "cpuManagerPolicyOptions", Pairs),
    flag("cpu-manager-reconcile-period", "cpuManagerReconcilePeriod", Text),
    flag("enable-controller-attach-detach", "enableControllerAttachDetach", Bool),
    flag("enable-debugging-handlers", "enableDebuggingHandlers", Bool),
    flag("enable-server", "enableServer", Bool),
    flag("enforce-node-allocatable", "enforceNodeAllocatable", List),
    flag("event-burst", "eventBurst", Number),
    flag("event-qps", "eventRecordQPS", Number),
    flag("eviction-hard", "evictionHard", Thresholds),
    flag("eviction-max-pod-grace-period", "evictionMaxPodGracePeriod", Number),
    flag("eviction-minimum-reclaim", "evictionMinimumReclaim", Pairs),
    flag("eviction-pressure-transition-period", "evictionPressureTransitionPeriod", Text),
    flag("eviction-soft", "evictionSoft", Thresholds),
    flag("eviction-soft-grace-period", "evictionSoftGracePeriod", Pairs),
    flag("fail-cgroupv1", "failCgroupV1", Bool),
    flag("fail-swap-on", "failSwapOn", Bool),
    flag("feature-gates", "featureGates", Gates),
    flag("file-check-frequency", "fileCheckFrequency", Text),
    flag("hairpin-mode", "hairpinMode", Text),
    flag("healthz-bind-address", "healthzBindAddress", Text),
    flag("http-check-frequency", "httpCheckFrequency", Text),
    flag("image-gc-high-threshold", "imageGCHighThresholdPercent", Number),
    flag("image-gc-low-threshold", "imageGCLowThresholdPercent", Number),
    flag("image-service-endpoint", "imageServiceEndpoint", Text),
    flag("kernel-memcg-notification", "kernelMemcgNotification", Bool),
    flag("kube-api-burst", "kubeAPIBurst", Number),
    flag("kube-api-content-type", "contentType", Text),
    flag("kube-api-qps", "kubeAPIQPS", Number),
    flag("kube-reserved", "kubeReserved", Pairs),
    flag("kube-reserved-cgroup", "kubeReservedCgroup", Text),
    flag("kubelet-cgroups", "kubeletCgroups", Text),
    flag("local-storage-capacity-isolation", "localStorageCapacityIsolation", Bool),
    flag("make-iptables-util-chains", "makeIPTablesUtilChains", Bool),
    flag("manifest-url", "staticPodURL", Text),
    flag("manifest-url-header", "staticPodURLHeader", Headers),
    flag("max-open-files", "maxOpenFiles", Number),
    flag("memory-manager-policy", "memoryManagerPolicy", Text),
    flag("minimum-image-ttl-duration", "imageMinimumGCAge", Text),
    flag("node-status-max-images", "nodeStatusMaxImages", Number),
    flag("node-status-update-frequency", "nodeStatusUpdateFrequency", Text),
    flag("oom-score-adj", "oomScoreAdj", Number),
    flag("pod-cidr", "podCIDR", Text),
    flag("pod-manifest-path", "staticPodPath", Text),
    flag("pod-max-pids", "podPidsLimit", Number),
    flag("pods-per-core", "podsPerCore", Number),
    flag("protect-kernel-defaults", "protectKernelDefaults", Bool),
    flag("provider-id", "providerID", Text),
    flag("qos-reserved", "qosReserved", Pairs),
    flag("read-only-port", "readOnlyPort", Number),
    flag("register-node", "registerNode", Bool),
    flag("registry-burst", "registryBurst", Number),
    flag("registry-qps", "registryPullQPS", Number),
    flag("reserved-cpus", "reservedSystemCPUs", Text),
    flag("resolv-conf", "resolvConf", Text),
    flag("rotate-certificates", "rotateCertificates", Bool),
    flag("rotate-server-certificates", "serverTLSBootstrap", Bool),
    flag("runonce", "runOnce", Bool),
    flag("runtime-request-timeout", "runtimeRequestTimeout", Text),
    flag("seccomp-default", "seccompDefault", Bool),
    flag("serialize-image-pulls", "serializeImagePulls", Bool),
    flag("streaming-connection-idle-timeout", "streamingConnectionIdleTimeout", Text),
    flag("sync-frequency", "syncFrequency", Text),
    flag("system-cgroups", "systemCgroups", Text),
    flag("system-reserved", "systemReserved", Pairs),
    flag("system-reserved-cgroup", "systemReservedCgroup", Text),
    flag("tls-cert-file", "tlsCertFile", Text),
    flag("tls-cipher-suites", "tlsCipherSuites", List),
    flag("tls-min-version", "tlsMinVersion", Text),
    flag("tls-private-key-file", "tlsPrivateKeyFile", Text),
    flag("topology-manager-policy", "topologyManagerPolicy", Text),
    flag("topology-manager-policy-options", "topologyManagerPolicyOptions", Pairs),
    flag("topology-manager-scope", "topologyManagerScope", Text),
    flag("volume-plugin-dir", "volumePluginDir", Text),
    flag("volume-stats-agg-period", "volumeStatsAggPeriod", Text),
];

/// Flags of kubelets, also of earlier ones, that set nothing here.
pub const IDLE_FLAGS: [&str; 33] = [
    "application-metrics-count-limit",
    "boot-id-file",
    "container-hints",
    "container-runtime",
    "containerd",
    "containerd-namespace",
    "enable-load-reader",
    "event-storage-age-limit",
    "event-storage-event-limit",
    "exit-on-lock-contention",
    "experimental-allocatable-ignore-eviction",
    "experimental-mounter-path",
    "global-housekeeping-interval",
    "housekeeping-interval",
    "keep-terminated-pod-volumes",
    "lock-file",
    "log-cadvisor-usage",
    "log-flush-frequency",
    "machine-id-file",
    "maximum-dead-containers",
    "maximum-dead-containers-per-container",
    "minimum-container-ttl-duration",
    "pod-infra-container-image",
    "reserved-memory",
    "runtime-cgroups",
    "storage-driver-buffer-duration",
    "storage-driver-db",
    "storage-driver-host",
    "storage-driver-password",
    "storage-driver-secure",
    "storage-driver-table",
    "storage-driver-user",
    "vmodule",
];

/// Flags whose values may be secrets, and are shown to nobody.
pub const SECRET_FLAGS: [&str; 1] = ["manifest-url-header"];

/// A flag as it was given, each time that it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenFlag {
    /// Without the dashes.
    pub name: String,
    /// The texts behind it.
    pub values: Vec<String>,
}

/// The alias of that name.
#[must_use]
pub fn field_flag(name: &str) -> Option<&'static FieldFlag> {
    FIELD_FLAGS.iter().find(|flag| flag.name == name)
}

/// Puts what a flag says into a configuration.
///
/// # Errors
/// What is wrong with the text. It does not name the flag.
pub(super) fn set(
    configuration: &mut Map<String, Value>,
    flag: &FieldFlag,
    values: &[String],
) -> Result<(), String> {
    let mut value = read(flag.shape, values)?;
    let mut object = configuration;
    let mut names = flag.field.split('.').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            if let (Gates, Some(Value::Object(before)), Value::Object(gates)) =
                (flag.shape, object.get(name), &mut value)
            {
                for (gate, state) in before {
                    gates.entry(gate).or_insert_with(|| state.clone());
                }
            }
            object.insert(name.to_owned(), value);
            return Ok(());
        }
        let inner = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
        object = inner.as_object_mut().ok_or("something else is in its place")?;
    }
    Ok(())
}

fn read(shape: FlagShape, values: &[String]) -> Result<Value, String> {
    let last = values.last().map(String::as_str).unwrap_or_default();
    let parts =
        || values.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|part| !part.is_empty());
    let pairs = |between: char, form: &str| {
        parts()
            .map(|part| {
                let (key, value) =
                    part.split_once(between).ok_or_else(|| format!("{part:?} is not of the form {form}"))?;
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            })
            .collect::<Result<Vec<_>, String>>()
    };
    Ok(match shape {
        Text => Value::from(last),
        Bool => Value::from(boolean(last)?),
        Number => Value::from(last.parse::<i64>().map_err(|_| format!("{last:?} is not a whole number"))?),
        List => parts().collect(),
        Pairs => pairs('=', "key=value")?.into_iter().collect(),
        Thresholds => pairs('<', "signal<value, as in memory.available<100Mi")?.into_iter().collect(),
        Gates => {
            let mut gates = Map::new();
            for (gate, state) in pairs('=', "Gate=true")? {
                gates.insert(gate, Value::from(boolean(&state)?));
            }
            Value::Object(gates)
        }
        Headers => {
            let mut headers = Map::new();
            // What does not have the form may be a secret.
            let named =
                |part: &str| part.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
            for part in parts() {
                let (name, value) = named(part).ok_or("a header is not of the form Name:value")?;
                if let Some(values) =
                    headers.entry(name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
                {
                    values.push(Value::from(value));
                }
            }
            Value::Object(headers)
        }
    })
}

/// A truth value as Go reads them.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

#[cfg(test)]
mod tests;
