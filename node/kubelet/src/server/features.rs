//! `kubernetes_feature_enabled`: which features of a kubelet this node has.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};

/// Features of a kubelet of Kubernetes 1.36 by the names of its gates, with their stage there (nothing once they are stable),
/// and whether this node has them. `featureGates` of a configuration changes none of it.
const FEATURES: [(&str, &str, bool); 37] = [
    ("ClusterTrustBundleProjection", "BETA", true),
    ("ComponentFlagz", "BETA", true),
    ("ComponentStatusz", "BETA", true),
    ("ContainerCheckpoint", "BETA", false),
    ("ContainerRestartRules", "BETA", true),
    ("ContainerStopSignals", "ALPHA", false),
    ("EnvFiles", "BETA", true),
    ("ExtendWebSocketsToKubelet", "BETA", true),
    ("GracefulNodeShutdown", "BETA", true),
    ("GracefulNodeShutdownBasedOnPodPriority", "BETA", true),
    ("HostnameOverride", "BETA", true),
    ("ImageMaximumGCAge", "", true),
    ("ImageVolume", "", true),
    ("InPlacePodLevelResourcesVerticalScaling", "BETA", true),
    ("InPlacePodVerticalScaling", "", true),
    ("InPlacePodVerticalScalingInitContainers", "BETA", true),
    ("KubeletCrashLoopBackOffMax", "BETA", true),
    ("KubeletEnsureSecretPulledImages", "BETA", true),
    ("KubeletFineGrainedAuthz", "", true),
    ("LocalStorageCapacityIsolationFSQuotaMonitoring", "BETA", false),
    ("MemoryQoS", "ALPHA", false),
    ("NodeDeclaredFeatures", "BETA", true),
    ("NodeLogQuery", "", true),
    ("NodeSwap", "", false),
    ("PodCertificateRequest", "BETA", false),
    ("PodLevelResources", "BETA", true),
    ("PodLifecycleSleepAction", "", true),
    ("PodLogsQuerySplitStreams", "ALPHA", false),
    ("PodObservedGenerationTracking", "", true),
    ("PodReadyToStartContainersCondition", "BETA", true),
    ("RecursiveReadOnlyMounts", "", false),
    ("ReduceDefaultCrashLoopBackOffDecay", "ALPHA", false),
    ("RestartAllContainersOnContainerExits", "BETA", true),
    ("RotateKubeletServerCertificate", "BETA", true),
    ("SidecarContainers", "", true),
    ("UserNamespacesSupport", "", false),
    ("DynamicResourceAllocation", "", false),
];

/// Shows them.
#[derive(Debug)]
pub(super) struct Features;

impl Collector for Features {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let help = "This metric records the data about the stage and enablement of a k8s feature";
        let mut family =
            encoder.encode_descriptor("kubernetes_feature_enabled", help, None, MetricType::Gauge)?;
        for (name, stage, is_enabled) in FEATURES {
            let value = ConstGauge::new(i64::from(is_enabled));
            value.encode(family.encode_family(&[("name", name), ("stage", stage)])?)?;
        }
        Ok(())
    }
}
