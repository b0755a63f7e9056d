//! What a Wasm node can never give a container, and says so rather than pretend.
//!
//! Fields that only narrow what a process may do (user ids, dropped capabilities, seccomp) are accepted: a
//! guest has none of what they take away. What contradicts itself is refused as a kubelet refuses it.

use k8s_openapi::api::core::v1::{Container, Pod};

/// The field of the pod or container that cannot be honoured, and why. `None`: there is none.
#[must_use]
pub(super) fn of(pod: &Pod, container: &Container) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let pod_security = spec.security_context.as_ref();
    let security = container.security_context.as_ref();
    let set = |value: Option<bool>| value == Some(true);
    let mut mounts = container.volume_mounts.iter().flatten();
    let added = security.and_then(|s| s.capabilities.as_ref()).and_then(|c| c.add.as_ref());
    let refused = [
        (set(spec.host_pid), "spec.hostPID", "a guest is not a process"),
        (set(spec.host_ipc), "spec.hostIPC", "a guest has no IPC namespace"),
        (set(spec.share_process_namespace), "spec.shareProcessNamespace", "guests are not processes"),
        (
            pod_security.is_some_and(|s| s.windows_options.is_some()),
            "spec.securityContext.windowsOptions",
            "this is not a Windows node",
        ),
        (
            pod_security.is_some_and(|s| s.sysctls.as_ref().is_some_and(|l| !l.is_empty())),
            "spec.securityContext.sysctls",
            "a guest has no kernel of its own",
        ),
        (
            spec.resource_claims.as_ref().is_some_and(|l| !l.is_empty()),
            "spec.resourceClaims",
            "a guest cannot use devices",
        ),
        (
            set(security.and_then(|s| s.privileged)),
            "securityContext.privileged",
            "a guest has no privileges to raise",
        ),
        (
            added.is_some_and(|names| !names.is_empty()),
            "securityContext.capabilities.add",
            "a guest has no Linux capabilities",
        ),
        (
            security.is_some_and(|s| s.windows_options.is_some()),
            "securityContext.windowsOptions",
            "this is not a Windows node",
        ),
        (
            container.volume_devices.as_ref().is_some_and(|l| !l.is_empty()),
            "volumeDevices",
            "a guest cannot use block devices",
        ),
        (
            mounts.any(|mount| mount.recursive_read_only.as_deref() == Some("Enabled")),
            "volumeMounts.recursiveReadOnly",
            "what is mounted inside a volume keeps its own settings",
        ),
    ];
    if let Some((_, field, why)) = refused.into_iter().find(|(refused, ..)| *refused) {
        return Some(format!(
            "{field} cannot be honoured on a Wasm node: {why}; remove it, or schedule the pod elsewhere"
        ));
    }
    root_that_must_not_be(pod, container)
}

/// `runAsNonRoot` beside `runAsUser: 0`, each of the container's own or else of its pod's. What the image says is no
/// contradiction: a guest has no user.
fn root_that_must_not_be(pod: &Pod, container: &Container) -> Option<String> {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let non_root = own.and_then(|s| s.run_as_non_root).or(of_pod.and_then(|s| s.run_as_non_root));
    let user = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user));
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let meta = &pod.metadata;
    (non_root == Some(true) && user == Some(0)).then(|| {
        format!(
            "container's runAsUser breaks non-root policy (pod: \"{}_{}({})\", container: {})",
            text(&meta.name),
            text(&meta.namespace),
            text(&meta.uid),
            container.name
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_field_is_named() {
        let table: Vec<(Value, Value, Option<&str>)> = vec![
            (json!({}), json!({}), None),
            (json!({"hostPID": false}), json!({"securityContext": {"privileged": false}}), None),
            (json!({"hostPID": true}), json!({}), Some("spec.hostPID")),
            (json!({"hostIPC": true}), json!({}), Some("spec.hostIPC")),
            (json!({"shareProcessNamespace": true}), json!({}), Some("spec.shareProcessNamespace")),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                json!({}),
                Some("spec.securityContext.windowsOptions"),
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "a", "value": "1"}]}}),
                json!({}),
                Some("spec.securityContext.sysctls"),
            ),
            (json!({"resourceClaims": [{"name": "gpu"}]}), json!({}), Some("spec.resourceClaims")),
            (json!({}), json!({"securityContext": {"privileged": true}}), Some("securityContext.privileged")),
            (
                json!({}),
                json!({"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}),
                Some("securityContext.capabilities.add"),
            ),
            (
                json!({}),
                json!({"securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsUser": 1000}}),
                None,
            ),
            (
                json!({}),
                json!({"securityContext": {"windowsOptions": {}}}),
                Some("securityContext.windowsOptions"),
            ),
            (
                json!({}),
                json!({"volumeDevices": [{"name": "d", "devicePath": "/dev/x"}]}),
                Some("volumeDevices"),
            ),
            (
                json!({}),
                json!({"volumeMounts": [
                    {"name": "v", "mountPath": "/v"},
                    {"name": "w", "mountPath": "/w", "readOnly": true, "recursiveReadOnly": "Enabled"},
                ]}),
                Some("volumeMounts.recursiveReadOnly"),
            ),
            (
                json!({}),
                json!({"volumeMounts": [
                    {"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "IfPossible"},
                    {"name": "w", "mountPath": "/w", "readOnly": true, "recursiveReadOnly": "Disabled"},
                ]}),
                None,
            ),
        ];
        for (mut spec, mut container, expected) in table {
            spec["containers"] = json!([]);
            container["name"] = json!("c");
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let container: Container = serde_json::from_value(container).unwrap();
            let message = of(&pod, &container);
            assert_eq!(
                message.as_deref().and_then(|m| m.split(' ').next()),
                expected,
                "{pod:?} {container:?}"
            );
        }
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let table = [
            (json!({"runAsNonRoot": true}), json!({}), false),
            (json!({"runAsUser": 0}), json!({}), false),
            (json!({"runAsNonRoot": true, "runAsUser": 0}), json!({}), true),
            (json!({"runAsNonRoot": true}), json!({"runAsUser": 0}), true),
            (json!({"runAsUser": 0}), json!({"runAsNonRoot": true}), true),
            (json!({"runAsNonRoot": true, "runAsUser": 0}), json!({"runAsUser": 7}), false),
            (json!({"runAsNonRoot": true, "runAsUser": 0}), json!({"runAsNonRoot": false}), false),
        ];
        for (of_pod, own, refused) in table {
            let pod = json!({
                "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
                "spec": {"containers": [], "securityContext": of_pod},
            });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let container: Container =
                serde_json::from_value(json!({"name": "c", "securityContext": own})).unwrap();
            let text = "container's runAsUser breaks non-root policy (pod: \"p_ns(u)\", container: c)";
            assert_eq!(of(&pod, &container).as_deref(), refused.then_some(text), "{pod:?} {container:?}");
        }
    }
}
