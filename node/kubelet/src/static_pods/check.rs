//! What the API server would have checked of a pod, as far as the node counts on it.
//!
//! Names become parts of paths on the node's disk, so none may lead out of its folder. What is refused by
//! the API server beyond this keeps the pod from having a mirror, and does the node no harm.

use std::{collections::HashSet, path::Path};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::{config::labels::is_dns_subdomain, quantity};

/// Validates the pod. The message names the first invalid field, its value, and what the value must be.
pub(super) fn check(pod: &Pod) -> Result<(), String> {
    let meta = &pod.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (name, namespace, uid) = (text(&meta.name), text(&meta.namespace), text(&meta.uid));
    require(
        is_dns_subdomain(&name),
        "metadata.name, with the node's name",
        &name,
        "lowercase letters, digits, '-' and '.'",
    )?;
    require(is_dns_label(&namespace), "metadata.namespace", &namespace, LABEL)?;
    let is_uid = (1..=64).contains(&uid.len()) && uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    require(is_uid, "metadata.uid", &uid, "up to 64 letters, digits and '-'; leave it out to have one made")?;
    let Some(spec) = &pod.spec else { return Err("the Pod has no spec".to_owned()) };
    check_spec(spec)
}

const LABEL: &str = "up to 63 lowercase letters, digits and '-', beginning and ending with a letter or digit";

fn check_spec(spec: &PodSpec) -> Result<(), String> {
    if spec.containers.is_empty() {
        return Err("spec.containers: there must be at least one container".to_owned());
    }
    if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err("spec.ephemeralContainers: a static pod cannot have any".to_owned());
    }
    let policy = spec.restart_policy.as_deref().unwrap_or_default();
    let policies = ["Always", "OnFailure", "Never"];
    require(policies.contains(&policy), "spec.restartPolicy", policy, "Always, OnFailure or Never")?;
    let grace = spec.termination_grace_period_seconds.unwrap_or(0);
    require(grace >= 0, "spec.terminationGracePeriodSeconds", &grace.to_string(), "0 or more")?;
    let deadline = spec.active_deadline_seconds.unwrap_or(1);
    require(deadline >= 1, "spec.activeDeadlineSeconds", &deadline.to_string(), "1 or more")?;

    let mut volumes = HashSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let field = format!("spec.volumes[{index}].name");
        require(is_dns_label(&volume.name), &field, &volume.name, LABEL)?;
        require(volumes.insert(volume.name.as_str()), &field, &volume.name, "unique in the pod")?;
    }
    let mut names = HashSet::new();
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(index, container)| (format!("spec.initContainers[{index}]"), container));
    let regular = spec.containers.iter().enumerate();
    let regular = regular.map(|(index, container)| (format!("spec.containers[{index}]"), container));
    for (field, container) in init.chain(regular) {
        check_container(&field, container, &volumes)?;
        let unique = names.insert(container.name.as_str());
        require(unique, &format!("{field}.name"), &container.name, "unique in the pod")?;
    }
    Ok(())
}

fn check_container(field: &str, container: &Container, volumes: &HashSet<&str>) -> Result<(), String> {
    require(is_dns_label(&container.name), &format!("{field}.name"), &container.name, LABEL)?;
    let image = container.image.as_deref().unwrap_or_default();
    let trimmed = !image.is_empty() && image.trim() == image;
    require(trimmed, &format!("{field}.image"), image, "the reference of an image")?;
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let field = format!("{field}.volumeMounts[{index}]");
        let known = volumes.contains(mount.name.as_str());
        require(known, &format!("{field}.name"), &mount.name, "the name of one of spec.volumes")?;
        require(!mount.mount_path.is_empty(), &format!("{field}.mountPath"), "", "a path")?;
        for path in [&mount.sub_path, &mount.sub_path_expr].into_iter().flatten() {
            require(stays_below(path), &format!("{field}.subPath"), path, "a relative path without '..'")?;
        }
    }
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let numbers = [Some(port.container_port), port.host_port.filter(|port| *port != 0)];
        for number in numbers.into_iter().flatten() {
            let field = format!("{field}.ports[{index}]");
            require((1..=65_535).contains(&number), &field, &number.to_string(), "from 1 to 65535")?;
        }
    }
    let resources = container.resources.as_ref();
    let lists = [resources.and_then(|r| r.limits.as_ref()), resources.and_then(|r| r.requests.as_ref())];
    for (name, amount) in lists.into_iter().flatten().flatten() {
        if let Err(error) = quantity::millis(&amount.0) {
            return Err(format!("{field}.resources: {name}: {error}"));
        }
    }
    Ok(())
}

fn require(holds: bool, field: &str, value: &str, must_be: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{field} is {value:?}; it must be {must_be}")) }
}

fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && is_dns_subdomain(text)
}

fn stays_below(path: &str) -> bool {
    use std::path::Component;
    Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "p-edge", "namespace": "default", "uid": "u-1"},
            "spec": {
                "restartPolicy": "Always",
                "containers": [{
                    "name": "c", "image": "i",
                    "volumeMounts": [{"name": "v", "mountPath": "/d", "subPath": "a/b"}],
                    "ports": [{"containerPort": 80, "hostPort": 0}],
                    "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
                }],
                "initContainers": [{"name": "i", "image": "i"}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
        })
    }

    #[test]
    fn an_ordinary_pod_passes() {
        assert_eq!(check(&serde_json::from_value(pod()).unwrap()), Ok(()));
    }

    #[test]
    fn each_field_is_checked() {
        for (path, value, expected) in [
            (
                "/metadata/name",
                json!("../p"),
                "metadata.name, with the node's name is \"../p\"; it must be lowercase",
            ),
            ("/metadata/name", json!("x".repeat(254)), "metadata.name"),
            ("/metadata/namespace", json!("a.b"), "metadata.namespace is \"a.b\""),
            ("/metadata/namespace", json!(".."), "metadata.namespace"),
            ("/metadata/uid", json!("../u"), "metadata.uid is \"../u\""),
            ("/metadata/uid", json!(""), "metadata.uid"),
            ("/spec/restartPolicy", json!("Sometimes"), "Always, OnFailure or Never"),
            (
                "/spec/terminationGracePeriodSeconds",
                json!(-1),
                "spec.terminationGracePeriodSeconds is \"-1\"",
            ),
            ("/spec/activeDeadlineSeconds", json!(0), "spec.activeDeadlineSeconds"),
            ("/spec/containers", json!([]), "at least one container"),
            ("/spec/ephemeralContainers", json!([{"name": "e"}]), "spec.ephemeralContainers"),
            ("/spec/containers/0/name", json!("a/b"), "spec.containers[0].name is \"a/b\""),
            ("/spec/containers/0/name", json!("i"), "spec.containers[0].name is \"i\"; it must be unique"),
            ("/spec/initContainers/0/image", json!(""), "spec.initContainers[0].image"),
            ("/spec/volumes/0/name", json!(".."), "spec.volumes[0].name is \"..\""),
            ("/spec/volumes/1", json!({"name": "v"}), "spec.volumes[1].name is \"v\"; it must be unique"),
            ("/spec/containers/0/volumeMounts/0/name", json!("w"), "volumeMounts[0].name is \"w\""),
            ("/spec/containers/0/volumeMounts/0/mountPath", json!(""), "mountPath"),
            ("/spec/containers/0/volumeMounts/0/subPath", json!("a/../../b"), "subPath is \"a/../../b\""),
            ("/spec/containers/0/volumeMounts/0/subPath", json!("/etc"), "subPath is \"/etc\""),
            ("/spec/containers/0/ports/0/containerPort", json!(0), "spec.containers[0].ports[0] is \"0\""),
            ("/spec/containers/0/ports/0/hostPort", json!(70_000), "from 1 to 65535"),
            ("/spec/containers/0/resources/limits/cpu", json!("lots"), "spec.containers[0].resources: cpu: "),
        ] {
            let mut pod = pod();
            let (parent, key) = path.rsplit_once('/').unwrap();
            match pod.pointer_mut(parent).unwrap() {
                Value::Array(items) if key == "1" => items.push(value),
                Value::Array(items) => items[0] = value,
                parent => parent[key] = value,
            }
            let message = check(&serde_json::from_value(pod).unwrap()).expect_err(path);
            assert!(message.contains(expected), "{path}: {message:?}");
        }
    }
}
