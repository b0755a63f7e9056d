//! Ephemeral containers, as containers like any other.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

/// The container of that name, whichever part it plays in the pod.
#[must_use]
pub(super) fn container(pod: &Pod, name: &str) -> Option<Container> {
    let spec = pod.spec.as_ref()?;
    let found = spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name);
    found.cloned().or_else(|| {
        let ephemeral = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name);
        ephemeral.map(plain)
    })
}

/// The container that an ephemeral one describes. What the API server lets no ephemeral container have (probes,
/// hooks, ports, resources, a restart policy) is left out, and so is the container that it is aimed at: guests
/// share no processes.
#[must_use]
pub(super) fn plain(ephemeral: &EphemeralContainer) -> Container {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        name,
        security_context,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
        lifecycle: _,
        liveness_probe: _,
        ports: _,
        readiness_probe: _,
        resize_policy: _,
        resources: _,
        restart_policy: _,
        restart_policy_rules: _,
        startup_probe: _,
        target_container_name: _,
    } = ephemeral.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        name,
        security_context,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_found_whatever_its_part() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "i", "image": "1"}],
            "containers": [{"name": "c", "image": "2"}],
            "ephemeralContainers": [{"name": "e", "image": "3", "args": ["a"], "targetContainerName": "c"}],
        }}))
        .unwrap();
        let image = |name| container(&pod, name).and_then(|c| c.image);
        assert_eq!(
            [image("i"), image("c"), image("e"), image("x")].map(Option::unwrap_or_default),
            ["1", "2", "3", ""]
        );
        assert_eq!(container(&pod, "e").unwrap().args.unwrap(), ["a"]);
    }
}
