//! Which containers of a pod stay.

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// Whether an init container with this restart policy is a sidecar, which runs for as long as its pod does.
pub(crate) fn is_sidecar(restart_policy: Option<&str>) -> bool {
    restart_policy == Some("Always")
}

/// The containers of a pod, and its sidecars: those whose ports are the pod's.
pub(crate) fn staying(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| is_sidecar(container.restart_policy.as_deref()));
    spec.containers.iter().chain(sidecars)
}
