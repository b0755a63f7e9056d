//! Networks of pods that CNI plugins make: what the kubelet and the plugins' runtime say to each other.

use std::path::PathBuf;

use kubewasm_cni::{Bandwidth, PodDns, PodName, PortMapping, SandboxRequest, Sandboxes};
use kubewasm_kubelet::runtime::{ContainerSpec, PodSandbox, SandboxError, SandboxPort, StartError};

/// What plugins are to make.
pub(super) fn request(sandbox: &PodSandbox) -> SandboxRequest {
    let PodSandbox { ingress_bandwidth: ingress, egress_bandwidth: egress, .. } = *sandbox;
    let PodSandbox { pod_uid, pod_namespace, pod_name, .. } = sandbox;
    let mapping = |port: &SandboxPort| PortMapping {
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: port.protocol.clone(),
        host_ip: port.host_ip.clone(),
    };
    SandboxRequest {
        pod: PodName { namespace: pod_namespace.clone(), name: pod_name.clone(), uid: pod_uid.clone() },
        port_mappings: sandbox.host_ports.iter().map(mapping).collect(),
        bandwidth: (ingress > 0 || egress > 0).then_some(Bandwidth { ingress, egress }),
        dns: PodDns {
            servers: sandbox.dns_servers.clone(),
            searches: sandbox.dns_searches.clone(),
            options: sandbox.dns_options.clone(),
        },
        annotations: sandbox.annotations.clone(),
    }
}

/// Why there is none.
pub(super) fn error(error: kubewasm_cni::SandboxError) -> SandboxError {
    match error {
        kubewasm_cni::SandboxError::NotReady(_) => SandboxError::NotReady(error.into()),
        _ => SandboxError::Failed(error.into()),
    }
}

/// Where the network namespace of a container's pod is mounted, if plugins make one for the pod.
///
/// # Errors
/// The pod has none: it must not get into another one, the node's least of all.
pub(super) fn namespace(
    sandboxes: Option<&Sandboxes>,
    spec: &ContainerSpec,
) -> Result<Option<PathBuf>, StartError> {
    let Some(sandboxes) = sandboxes.filter(|_| !spec.host_network) else { return Ok(None) };
    let missing = || StartError::Run("the pod has no network namespace yet".into());
    sandboxes.namespace_of(&spec.pod_uid).map(Some).ok_or_else(missing)
}
