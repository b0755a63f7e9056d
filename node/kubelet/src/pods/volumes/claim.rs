//! From a claim to what it is bound to, after upstream's desired-state populator.

use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
};

use crate::pods::admission::NodeView;

/// A finalizer of claims that some pod uses.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// The path of the node that a claim stands for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bound {
    /// The path, as a hostPath volume would say it.
    pub(super) path: HostPathVolumeSource,
}

/// Name of the volume that a claim is bound to.
///
/// # Errors
/// Why it is bound to none, in upstream's words.
pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> Result<&str, String> {
    let meta = &claim.metadata;
    let is_protected = meta.finalizers.iter().flatten().any(|finalizer| finalizer == PROTECTION);
    if meta.deletion_timestamp.is_some() && !is_protected {
        return Err("PVC is being deleted".to_owned());
    }
    if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".to_owned());
    }
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|name| !name.is_empty());
    name.ok_or_else(|| "PVC has empty pvc.Spec.VolumeName".to_owned())
}

/// What a bound claim stands for on this node. `node` is `None` where nobody knows the node's labels.
///
/// # Errors
/// Why a guest here cannot have it.
pub(super) fn resolve(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    node: Option<&NodeView>,
) -> Result<Bound, String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.as_ref().ok_or_else(|| format!("PV {name} has no spec"))?;
    let owner = spec.claim_ref.as_ref().and_then(|claim| claim.uid.as_deref());
    if owner.is_none() {
        return Err(format!("PV {name} spec.claimRef is not bound to a PVC"));
    }
    if owner != claim.metadata.uid.as_deref() {
        return Err(format!("PV {name} is bound to another PVC than this one"));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(format!("PV {name} is a block device, which a guest cannot use"));
    }
    let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    if let (Some(required), Some(node)) = (required, node)
        && !node.satisfies(required)
    {
        return Err(format!("PV {name} is on another node: its node affinity does not match this one"));
    }
    if let Some(local) = &spec.local {
        // Upstream checks that it is there, and makes nothing.
        let path = HostPathVolumeSource { path: local.path.clone(), type_: Some("Directory".to_owned()) };
        return Ok(Bound { path });
    }
    if let Some(path) = &spec.host_path {
        return Ok(Bound { path: path.clone() });
    }
    Err(format!(
        "PV {name} is of type {}; this node mounts claims that are bound to local and hostPath volumes only",
        kind(spec)
    ))
}

/// The name of the field by which a volume says what it is.
fn kind(spec: &PersistentVolumeSpec) -> String {
    let value = serde_json::to_value(spec).unwrap_or_default();
    let common = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let field = value.as_object().and_then(|f| f.keys().find(|key| !common.contains(&key.as_str())).cloned());
    field.unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(value: Value) -> PersistentVolumeClaim {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn claims_that_are_not_bound() {
        let table = [
            (json!({}), Err("PVC is not bound")),
            (json!({"status": {"phase": "Pending"}}), Err("PVC is not bound")),
            (json!({"status": {"phase": "Bound"}}), Err("PVC has empty pvc.Spec.VolumeName")),
            (json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}), Ok("pv")),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}),
                Err("PVC is being deleted"),
            ),
            (
                json!({
                    "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [PROTECTION]},
                    "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"},
                }),
                Ok("pv"),
            ),
        ];
        for (value, expected) in table {
            let claim = claim(value.clone());
            assert_eq!(volume_name(&claim), expected.map_err(str::to_owned), "{value}");
        }
    }

    #[test]
    fn what_a_bound_claim_stands_for() {
        let claim = claim(json!({"metadata": {"uid": "c-1"}}));
        let node = NodeView {
            name: "n".to_owned(),
            labels: [("disk".to_owned(), "here".to_owned())].into(),
            ..NodeView::default()
        };
        let on = |value: &str| {
            let term = json!({"matchExpressions": [{"key": "disk", "operator": "In", "values": [value]}]});
            json!({"required": {"nodeSelectorTerms": [term]}})
        };
        let owner = json!({"uid": "c-1"});
        type Expected = Result<(&'static str, Option<&'static str>), &'static str>;
        let table: Vec<(Value, Expected)> = vec![
            (json!({"claimRef": owner, "local": {"path": "/disks/a"}}), Ok(("/disks/a", Some("Directory")))),
            (
                json!({"claimRef": owner, "local": {"path": "/disks/a"}, "nodeAffinity": on("here")}),
                Ok(("/disks/a", Some("Directory"))),
            ),
            (
                json!({"claimRef": owner, "local": {"path": "/disks/a"}, "nodeAffinity": on("there")}),
                Err("another node"),
            ),
            (json!({"claimRef": owner, "hostPath": {"path": "/data"}}), Ok(("/data", None))),
            (
                json!({"claimRef": owner, "hostPath": {"path": "/data"}, "volumeMode": "Block"}),
                Err("block device"),
            ),
            (json!({"claimRef": {"uid": "other"}, "hostPath": {"path": "/data"}}), Err("another PVC")),
            (json!({"hostPath": {"path": "/data"}}), Err("not bound")),
            (json!({"claimRef": owner, "nfs": {"server": "s", "path": "/"}}), Err("type nfs")),
            (json!({"claimRef": owner, "csi": {"driver": "d", "volumeHandle": "h"}}), Err("type csi")),
        ];
        for (spec, expected) in table {
            let volume: PersistentVolume =
                serde_json::from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).unwrap();
            match (resolve(&claim, &volume, Some(&node)), expected) {
                (Ok(bound), Ok((path, kind))) => {
                    assert_eq!(
                        (bound.path.path.as_str(), bound.path.type_.as_deref()),
                        (path, kind),
                        "{spec}"
                    );
                }
                (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
                (found, _) => panic!("{spec}: {found:?}"),
            }
        }
    }
}
