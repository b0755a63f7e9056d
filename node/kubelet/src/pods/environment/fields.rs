//! `fieldRef` and `resourceFieldRef`: what a pod is told about itself.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{Container, DownwardAPIVolumeFile, Pod, ResourceFieldSelector, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::EnvironmentError;
use crate::quantity;

/// What a pod may learn of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Name of the node as a host; pods that share its network have it.
    pub hostname: String,
    /// DNS domain of the cluster; empty where there is none.
    pub cluster_domain: String,
    /// Addresses of the node, the primary first.
    pub host_ips: Vec<IpAddr>,
    /// Allocatable CPU of the node, in thousandths of a core.
    pub cpu_millis: u64,
    /// Allocatable memory of the node, in bytes.
    pub memory_bytes: u64,
    /// Allocatable ephemeral storage of the node, in bytes.
    pub storage_bytes: u64,
}

/// The value of a `fieldRef` as an environment variable; `addresses` are the pod's.
///
/// # Errors
/// [`EnvironmentError`] for a path that environment variables cannot have.
pub(super) fn field(
    pod: &Pod,
    path: &str,
    node: &NodeFacts,
    addresses: &[IpAddr],
) -> Result<String, EnvironmentError> {
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
        "status.podIP" => first(addresses),
        "status.podIPs" => all(addresses),
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

/// The text of a file of a `downwardAPI` volume. Such a file may hold all labels or annotations, one
/// `key="value"` to a line, and none of what is only known once a pod runs.
///
/// # Errors
/// [`EnvironmentError`] for a field that volumes cannot have, or a resource that is none.
pub fn volume_field(
    pod: &Pod,
    file: &DownwardAPIVolumeFile,
    node: &NodeFacts,
) -> Result<String, EnvironmentError> {
    if let Some(reference) = &file.field_ref {
        let path = reference.field_path.as_str();
        return match path {
            "metadata.labels" => Ok(lines(pod.metadata.labels.as_ref())),
            "metadata.annotations" => Ok(lines(pod.metadata.annotations.as_ref())),
            _ if path.starts_with("metadata.") => field(pod, path, node, &[]),
            _ => Err(EnvironmentError(format!("unsupported fieldPath: {path}"))),
        };
    }
    match &file.resource_field_ref {
        // The API server sees to it that a container is named.
        Some(reference) => resource(pod, &Container::default(), reference, node),
        None => Ok(String::new()),
    }
}

/// Sorted `key="value"` lines, as upstream's `FormatMap` writes them.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A text in quotes, with the escapes of Go's `strconv.Quote`.
fn go_quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::from("\"");
    for character in text.chars() {
        // Writing to a String does not fail.
        let _ = match character {
            '"' | '\\' => write!(out, "\\{character}"),
            '\u{7}' => write!(out, "\\a"),
            '\u{8}' => write!(out, "\\b"),
            '\u{c}' => write!(out, "\\f"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            '\u{b}' => write!(out, "\\v"),
            c if c.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(c)),
            c if !is_printable(c) && u32::from(c) > 0xffff => write!(out, "\\U{:08x}", u32::from(c)),
            c if !is_printable(c) => write!(out, "\\u{:04x}", u32::from(c)),
            c => write!(out, "{c}"),
        };
    }
    out.push('"');
    out
}

/// Close to Go's `unicode.IsPrint`: no control characters, and no spaces but the plain one.
fn is_printable(character: char) -> bool {
    character == ' '
        || !(character.is_control()
            || character.is_whitespace()
            || matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{e000}'..='\u{f8ff}' | '\u{feff}'))
}

/// `metadata.labels['key']` as `("metadata.labels", "key")`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// The value of a `resourceFieldRef`: whole multiples of the divisor, rounded up. A limit that is not set
/// is that of the pod, and if that is not set either, what the node has to give.
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
    let of = |resources: Option<&ResourceRequirements>| {
        let limits = resources.and_then(|r| r.limits.as_ref())?;
        limits.get(name).filter(|quantity| quantity::millis(&quantity.0) != Ok(0)).cloned()
    };
    let limit = of(resources).or_else(|| of(pod.spec.as_ref().and_then(|s| s.resources.as_ref())));
    let request = resources.and_then(|r| r.requests.as_ref()).and_then(|r| r.get(name)).cloned();
    let value = match group {
        "limits" => limit,
        "requests" => request,
        _ => return Err(unsupported()),
    };
    let read = |quantity: &Quantity| -> Result<u64, EnvironmentError> {
        let parsed = if name == "cpu" { quantity::millis(&quantity.0) } else { quantity::units(&quantity.0) };
        parsed.map_err(|error| EnvironmentError(error.to_string()))
    };
    let amount = match (value, group, name) {
        (Some(quantity), ..) => read(&quantity)?,
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
                    {"name": "zero", "resources": {"limits": {"cpu": "0"}}},
                ],
            },
        }))
        .unwrap()
    }

    fn node() -> NodeFacts {
        NodeFacts {
            hostname: "n".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            host_ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
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
            let addresses = ["10.1.0.7".parse().unwrap()];
            let value = field(&pod(), path, &node(), &addresses).map_err(|e| e.0);
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
            ("zero", "limits.cpu", None, Ok("2")),
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

    #[test]
    fn a_limit_of_the_pod_comes_before_the_nodes() {
        let mut pod = pod();
        let limits = serde_json::json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
        pod.spec.as_mut().unwrap().resources = Some(serde_json::from_value(limits).unwrap());
        let container = pod.spec.as_ref().unwrap().containers.first().unwrap();
        let value = |of: &str, name: &str| {
            let selector = ResourceFieldSelector {
                container_name: Some(of.to_owned()),
                resource: name.to_owned(),
                divisor: Some(Quantity(if name.ends_with("cpu") { "1m" } else { "1Mi" }.to_owned())),
            };
            resource(&pod, container, &selector, &node()).unwrap()
        };
        assert_eq!(
            (value("bare", "limits.cpu"), value("bare", "limits.memory")),
            ("500".into(), "64".into())
        );
        assert_eq!((value("c", "limits.cpu"), value("c", "limits.memory")), ("1500".into(), "100".into()));
    }

    #[test]
    fn files_of_a_volume() {
        let mut pod = pod();
        pod.metadata.annotations = Some(
            [("b", "two \"lines\"\n\tand é\\"), ("a", "x\u{1}\u{200b}")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
        );
        let file = |value: serde_json::Value| -> DownwardAPIVolumeFile {
            let mut file = value;
            file["path"] = serde_json::json!("f");
            serde_json::from_value(file).unwrap()
        };
        let field = |path: &str| file(serde_json::json!({"fieldRef": {"fieldPath": path}}));
        let limit = serde_json::json!({"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"});
        let table = [
            (field("metadata.labels"), Ok("a.b/c=\"d\"\napp=\"web\"")),
            (
                field("metadata.annotations"),
                Ok("a=\"x\\x01\\u200b\"\nb=\"two \\\"lines\\\"\\n\\tand é\\\\\""),
            ),
            (field("metadata.labels['app']"), Ok("web")),
            (field("metadata.name"), Ok("p")),
            (field("metadata.uid"), Ok("u-1")),
            (field("status.podIP"), Err("unsupported fieldPath: status.podIP")),
            (field("spec.nodeName"), Err("unsupported fieldPath: spec.nodeName")),
            (file(serde_json::json!({"resourceFieldRef": limit})), Ok("100")),
        ];
        for (file, expected) in table {
            let text = volume_field(&pod, &file, &node()).map_err(|error| error.0);
            assert_eq!(text.as_deref().map_err(String::as_str), expected, "{file:?}");
        }
        pod.metadata.labels = None;
        assert_eq!(volume_field(&pod, &field("metadata.labels"), &node()), Ok(String::new()));
    }
}
