//! The Node as it should be: a pure function of what is known.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        DaemonEndpoint, Node, NodeCondition, NodeDaemonEndpoints, NodeRuntimeHandler,
        NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSwapStatus, NodeSystemInfo,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{address, conditions, conditions::Problems, images, machine::Machine, resources};
use crate::{
    config::{ARCHITECTURE, Config},
    eviction::Pressure,
    runtime::Image,
};

/// What `status.nodeInfo.kubeletVersion` says: the Kubernetes version whose kubelet this follows, and ours
/// as build metadata, as distributions mark theirs. Version-skew checks read the first part.
pub const KUBELET_VERSION: &str = concat!("v1.36.3+kubewasm.", env!("CARGO_PKG_VERSION"));

/// Tells the attach/detach controller that volumes of this node are its business.
pub(super) const ATTACH_DETACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// Tells a cloud controller which of the machine's addresses the node was given.
const PROVIDED_NODE_IP: &str = "alpha.kubernetes.io/provided-node-ip";

/// What this node can do that not every kubelet can. The scheduler keeps pods that need it from nodes that
/// do not say that they have it; sorted, as the API wants it. See
/// <https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/>.
const FEATURES: [&str; 4] = [
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// Labels that the node corrects on an object that is there already, when it has a value for them.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
];

/// What does not change while the node runs.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    pub(super) config: Config,
    pub(super) addresses: Vec<IpAddr>,
    /// The port that the HTTPS server really listens on.
    pub(super) port: u16,
    pub(super) runtime_version: String,
    /// Handlers of RuntimeClasses.
    pub(super) runtime_handlers: Vec<String>,
}

/// What is looked at each time.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) machine: Machine,
    pub(super) images: Vec<Image>,
    pub(super) problems: Problems,
    pub(super) pressure: Pressure,
    pub(super) now: Timestamp,
}

/// The whole object, for registration.
pub(super) fn node(fixed: &Fixed, observed: &Observed) -> Node {
    let config = &fixed.config;
    let provider_id = &config.kubelet.provider_id;
    let taints = config.taints();
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config)),
            annotations: Some(annotations(config)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: (!provider_id.is_empty()).then(|| provider_id.clone()),
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: Some(status(fixed, observed, &[])),
    }
}

fn annotations(config: &Config) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([(ATTACH_DETACH.to_owned(), "true".to_owned())]);
    if config.has_cloud_controller && !config.node_ip.is_empty() {
        let addresses: Vec<_> = config.node_ip.iter().map(ToString::to_string).collect();
        annotations.insert(PROVIDED_NODE_IP.to_owned(), addresses.join(","));
    }
    annotations
}

/// Takes the addresses out of what is wanted of `current`, where a cloud controller has set those that it has.
pub(super) fn leave_addresses_of_cloud(wanted: &mut NodeStatus, fixed: &Fixed, current: &Node) {
    let has_some =
        current.status.as_ref().and_then(|status| status.addresses.as_ref()).is_some_and(|a| !a.is_empty());
    if fixed.config.has_cloud_controller && has_some {
        wanted.addresses = None;
    }
}

/// The status; `before` are the conditions as the API server has them.
pub(super) fn status(fixed: &Fixed, observed: &Observed, before: &[NodeCondition]) -> NodeStatus {
    let Observed { machine, images, problems, pressure, now } = observed;
    let config = &fixed.config.kubelet;
    NodeStatus {
        addresses: Some(address::list(&fixed.addresses, &fixed.config.hostname)),
        capacity: Some(resources::capacity(machine, config)),
        allocatable: Some(resources::allocatable(machine, config)),
        conditions: Some(conditions::of(*pressure, problems, before, *now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(fixed.port) }),
        }),
        declared_features: Some(FEATURES.map(str::to_owned).to_vec()),
        images: Some(images::list(images.clone(), config.node_status_max_images)),
        node_info: Some(NodeSystemInfo {
            architecture: ARCHITECTURE.to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: fixed.runtime_version.clone(),
            kernel_version: machine.kernel_version.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: fixed.config.node_os.clone(),
            os_image: machine.os_image.clone(),
            // A machine without swap has no swap status: the API server takes no capacity of 0.
            swap: i64::try_from(machine.swap)
                .ok()
                .filter(|bytes| *bytes > 0)
                .map(|bytes| NodeSwapStatus { capacity: Some(bytes) }),
            system_uuid: machine.system_uuid.clone(),
        }),
        runtime_handlers: Some(runtime_handlers(&fixed.runtime_handlers)),
        ..NodeStatus::default()
    }
}

/// What the node can run. None of the features is about WebAssembly.
fn runtime_handlers(names: &[String]) -> Vec<NodeRuntimeHandler> {
    let features =
        NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(false), user_namespaces: Some(false) };
    let handler = |name: &String| NodeRuntimeHandler {
        name: Some(name.clone()).filter(|name| !name.is_empty()),
        features: Some(features.clone()),
    };
    names.iter().map(handler).collect()
}

/// All labels of a Node that registers. What `--node-labels` says wins.
fn labels(config: &Config) -> BTreeMap<String, String> {
    let own = [
        ("kubernetes.io/arch", ARCHITECTURE),
        ("kubernetes.io/hostname", config.hostname.as_str()),
        ("kubernetes.io/os", config.node_os.as_str()),
    ];
    let mut labels: BTreeMap<String, String> =
        own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    labels.extend(config.node_labels.clone());
    for key in ["arch", "os"] {
        if let Some(value) = labels.get(&format!("kubernetes.io/{key}")).cloned() {
            labels.entry(format!("beta.kubernetes.io/{key}")).or_insert(value);
        }
    }
    labels
}

/// The labels that are corrected on an object that is there already.
pub(super) fn own_labels(config: &Config) -> BTreeMap<String, String> {
    let mut labels = labels(config);
    labels.retain(|key, _| OWN_LABELS.contains(&key.as_str()));
    labels
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Flags;

    pub(crate) fn fixed(flags: &Flags) -> Fixed {
        let (config, _) = Config::resolve("", flags, "edge").unwrap();
        Fixed {
            config,
            addresses: vec![[10, 0, 0, 1].into()],
            port: 41_000,
            runtime_version: "wasmtime://48.0.8".to_owned(),
            runtime_handlers: vec![String::new(), "wasm".to_owned()],
        }
    }

    pub(crate) fn observed() -> Observed {
        let machine = Machine { cpus: 2, memory: 1 << 30, boot_id: "b1".to_owned(), ..Machine::default() };
        Observed {
            machine,
            images: Vec::new(),
            problems: Problems::new(),
            pressure: Pressure::default(),
            now: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_node_says_what_it_is() {
        let flags = Flags {
            node_labels: Some("pool=wasm,topology.kubernetes.io/zone=a".to_owned()),
            ..Flags::default()
        };
        let node = node(&fixed(&flags), &observed());
        let value = serde_json::to_value(&node).unwrap();
        assert_eq!(
            value["metadata"]["labels"],
            json!({
                "kubernetes.io/arch": "wasm32-wasi", "beta.kubernetes.io/arch": "wasm32-wasi",
                "kubernetes.io/os": "linux", "beta.kubernetes.io/os": "linux",
                "kubernetes.io/hostname": "edge", "topology.kubernetes.io/zone": "a", "pool": "wasm",
            })
        );
        assert_eq!(
            value["spec"]["taints"],
            json!([
                { "key": "kubernetes.io/arch", "value": "wasm32-wasi", "effect": "NoSchedule" },
                { "key": "kubernetes.io/arch", "value": "wasm32-wasi", "effect": "NoExecute" },
            ])
        );
        assert_eq!(value["metadata"]["annotations"][ATTACH_DETACH], "true");
        let status = &value["status"];
        assert_eq!(status["daemonEndpoints"], json!({ "kubeletEndpoint": { "Port": 41_000 } }));
        assert_eq!(status["nodeInfo"]["containerRuntimeVersion"], "wasmtime://48.0.8");
        assert_eq!(status["nodeInfo"]["kubeletVersion"], KUBELET_VERSION);
        assert_eq!(status["conditions"][3]["type"], "Ready");
        assert_eq!(status["declaredFeatures"], json!(FEATURES));
    }

    #[test]
    fn the_operating_system_and_the_taints_can_be_chosen() {
        let flags = Flags {
            node_os: Some("wasi".to_owned()),
            register_with_taints: Some(String::new()),
            ..Flags::default()
        };
        let node = node(&fixed(&flags), &observed());
        let labels = node.metadata.labels.unwrap();
        assert_eq!(
            (labels["kubernetes.io/os"].as_str(), labels["beta.kubernetes.io/os"].as_str()),
            ("wasi", "wasi")
        );
        assert_eq!(node.spec.unwrap().taints, None);
    }

    #[test]
    fn a_cloud_controller_is_waited_for_and_keeps_its_addresses() {
        let flags = Flags {
            cloud_provider: Some("external".to_owned()),
            node_ip: vec![[10, 0, 0, 1].into()],
            register_with_taints: Some(String::new()),
            ..Flags::default()
        };
        let of_cloud = fixed(&flags);
        let node = node(&of_cloud, &observed());
        assert_eq!(
            serde_json::to_value(&node.spec.as_ref().unwrap().taints).unwrap(),
            json!([{ "key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule" }])
        );
        assert_eq!(
            node.metadata.annotations.as_ref().unwrap()["alpha.kubernetes.io/provided-node-ip"],
            "10.0.0.1"
        );

        let mut wanted = status(&of_cloud, &observed(), &[]);
        leave_addresses_of_cloud(&mut wanted, &of_cloud, &Node::default());
        assert!(wanted.addresses.is_some(), "nobody has set any yet");
        leave_addresses_of_cloud(&mut wanted, &of_cloud, &node);
        assert_eq!(wanted.addresses, None);
        let usual = fixed(&Flags::default());
        let mut ours = status(&usual, &observed(), &[]);
        leave_addresses_of_cloud(&mut ours, &usual, &node);
        assert!(ours.addresses.is_some());
    }

    #[test]
    fn the_version_is_semver_with_a_v() {
        let version = KUBELET_VERSION.strip_prefix('v').unwrap();
        let (core, build) = version.split_once('+').unwrap();
        assert_eq!(core.split('.').filter(|part| part.parse::<u32>().is_ok()).count(), 3, "{core}");
        assert!(
            build
                .split('.')
                .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
        );
    }

    #[test]
    fn other_labels_of_ours_are_not_corrected_later() {
        let flags = Flags { node_labels: Some("pool=wasm".to_owned()), ..Flags::default() };
        assert!(!own_labels(&fixed(&flags).config).contains_key("pool"));
        assert!(own_labels(&fixed(&flags).config).contains_key("kubernetes.io/arch"));
    }
}
