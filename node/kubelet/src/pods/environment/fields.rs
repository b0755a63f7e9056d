//! `fieldRef` and `resourceFieldRef`: what a pod is told about itself.

use std::net::IpAddr;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use super::EnvironmentError;
use crate::config::quantity;

/// What a pod may learn of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Addresses of the node, the primary first.
    pub host_ips: Vec<IpAddr>,
    /// Addresses of the pod, the primary first.
    pub pod_ips: Vec<IpAddr>,
    /// Allocatable CPU of the node, in thousandths of a core.
    pub cpu_millis: u64,
    /// Allocatable memory of the node, in bytes.
    pub memory_bytes: u64,
    /// Allocatable ephemeral storage of the node, in bytes.
    pub storage_bytes: u64,
}

/// The value of a `fieldRef` as an environment variable.
///
/// # Errors
/// [`EnvironmentError`] for a path that environment variables cannot have.
pub(super) fn field(pod: &Pod, path: &str, node: &NodeFacts) -> Result<String, EnvironmentError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let all = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let value = match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => first(&node.host_ips),
        "status.hostIPs" => all(&node.host_ips),
        "status.podIP" => first(&node.pod_ips),
        "status.podIPs" => all(&node.pod_ips),
        _ => {
            let (map, key) =
                subscript(path).ok_or_else(|| EnvironmentError(format!("unsupported fieldPath: {path}")))?;
            let values = match map {
                "metadata.labels" => meta.labels.as_ref(),
                "metadata.annotations" => meta.annotations.as_ref(),
                _ => return Err(EnvironmentError(format!("unsupported fieldPath: {path}"))),
            };
            values.and_then(|v| v.get(key)).cloned().unwrap_or_default()
        }
    };
    Ok(value)
}

/// `metadata.labels['key']` as `("metadata.labels", "key")`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// The value of a `resourceFieldRef`: whole multiples of the divisor, rounded up. A limit that is not set
/// is what the node has to give.
///
/// # Errors
/// [`EnvironmentError`] for an unknown container or resource, or a quantity that is none.
pub(super) fn resource(
    pod: &Pod,
    container: &Container,
    selector: &ResourceFieldSelector,
    node: &NodeFacts,
) -> Result<String, EnvironmentError> {
    let container = match selector.container_name.as_deref().filter(|n| !n.is_empty() && *n != container.name)
    {
        None => container,
        Some(name) => pod
            .spec
            .as_ref()
            .and_then(|s| {
                s.containers.iter().chain(s.init_containers.iter().flatten()).find(|c| c.name == name)
            })
            .ok_or_else(|| EnvironmentError(format!("container {name} not found")))?,
    };
    let unsupported = || EnvironmentError(format!("unsupported container resource : {}", selector.resource));
    let (group, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|r| r.limits.as_ref()).and_then(|l| l.get(name));
    let value = match group {
        "limits" => limit,
        "requests" => resources.and_then(|r| r.requests.as_ref()).and_then(|r| r.get(name)),
        _ => return Err(unsupported()),
    };
    let read = |quantity: &Quantity| -> Result<u64, EnvironmentError> {
        let parsed = if name == "cpu" { quantity::millis(&quantity.0) } else { quantity::units(&quantity.0) };
        parsed.map_err(|error| EnvironmentError(error.to_string()))
    };
    let amount = match (value, group, name) {
        (Some(quantity), ..) => read(quantity)?,
        (None, "limits", "cpu") => node.cpu_millis,
        (None, "limits", "memory") => node.memory_bytes,
        (None, "limits", "ephemeral-storage") => node.storage_bytes,
        (None, "requests", "cpu" | "memory" | "ephemeral-storage") => 0,
        (None, _, name) if name.starts_with("hugepages-") => 0,
        _ => return Err(unsupported()),
    };
    let unit = if name == "cpu" { 1000 } else { 1 };
    let divisor = match &selector.divisor {
        Some(divisor) => Some(read(divisor)?).filter(|d| *d > 0).unwrap_or(unit),
        None => unit,
    };
    Ok(amount.div_ceil(divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "p", "namespace": "ns", "uid": "u-1",
                "labels": {"app": "web", "a.b/c": "d"}, "annotations": {"note": "x y"},
            },
            "spec": {
                "nodeName": "n", "serviceAccountName": "sa",
                "containers": [
                    {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "100Mi"}, "requests": {"cpu": "250m"}}},
                    {"name": "bare"},
                ],
            },
        }))
        .unwrap()
    }

    fn node() -> NodeFacts {
        NodeFacts {
            host_ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            pod_ips: vec!["10.1.0.7".parse().unwrap()],
            cpu_millis: 2000,
            memory_bytes: 1 << 30,
            storage_bytes: 5000,
        }
    }

    #[test]
    fn every_field_path() {
        let table = [
            ("metadata.name", Ok("p")),
            ("metadata.namespace", Ok("ns")),
            ("metadata.uid", Ok("u-1")),
            ("metadata.labels['app']", Ok("web")),
            ("metadata.labels['a.b/c']", Ok("d")),
            ("metadata.labels['none']", Ok("")),
            ("metadata.annotations['note']", Ok("x y")),
            ("spec.nodeName", Ok("n")),
            ("spec.serviceAccountName", Ok("sa")),
            ("status.hostIP", Ok("10.0.0.1")),
            ("status.hostIPs", Ok("10.0.0.1,fd00::1")),
            ("status.podIP", Ok("10.1.0.7")),
            ("status.podIPs", Ok("10.1.0.7")),
            ("metadata.labels", Err("unsupported fieldPath: metadata.labels")),
            ("spec.hostname['x']", Err("unsupported fieldPath: spec.hostname['x']")),
            ("status.phase", Err("unsupported fieldPath: status.phase")),
        ];
        for (path, expected) in table {
            let value = field(&pod(), path, &node()).map_err(|e| e.0);
            assert_eq!(value.as_deref().map_err(String::as_str), expected, "{path}");
        }
    }

    #[test]
    fn resources_by_divisor_and_default() {
        let table = [
            ("c", "limits.cpu", None, Ok("2")),
            ("c", "limits.cpu", Some("1m"), Ok("1500")),
            ("c", "limits.cpu", Some("0"), Ok("2")),
            ("c", "limits.memory", None, Ok("104857600")),
            ("c", "limits.memory", Some("1Mi"), Ok("100")),
            ("c", "limits.memory", Some("64Mi"), Ok("2")),
            ("c", "requests.cpu", Some("1m"), Ok("250")),
            ("c", "requests.memory", None, Ok("0")),
            ("c", "limits.ephemeral-storage", None, Ok("5000")),
            ("bare", "limits.cpu", Some("1m"), Ok("2000")),
            ("bare", "limits.memory", Some("1Mi"), Ok("1024")),
            ("c", "limits.hugepages-2Mi", None, Ok("0")),
            ("c", "limits.bananas", None, Err("unsupported container resource : limits.bananas")),
            ("nobody", "limits.cpu", None, Err("container nobody not found")),
        ];
        let pod = pod();
        let container = pod.spec.as_ref().unwrap().containers.first().unwrap();
        for (of, name, divisor, expected) in table {
            let selector = ResourceFieldSelector {
                container_name: Some(of.to_owned()),
                resource: name.to_owned(),
                divisor: divisor.map(|d| Quantity(d.to_owned())),
            };
            let value = resource(&pod, container, &selector, &node()).map_err(|e| e.0);
            assert_eq!(value.as_deref().map_err(String::as_str), expected, "{of} {name} {divisor:?}");
        }
    }
}
