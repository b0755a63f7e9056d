//! What a volume of a pod is made of, and which volumes a node mounts.

use std::{borrow::Cow, collections::BTreeSet};

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, EmptyDirVolumeSource, HostPathVolumeSource,
    ImageVolumeSource, PersistentVolumeClaimVolumeSource, Pod, SecretProjection, Volume, VolumeProjection,
};

use super::host_path::AllowedHostPaths;

/// Mode of projected files where the volume names none.
const DEFAULT_MODE: i32 = 0o644;

/// The source of a volume.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum VolumeSource {
    /// A folder of the pod's own.
    EmptyDir(EmptyDirVolumeSource),
    /// Files made from objects and from the pod: `configMap`, `secret`, `downwardAPI` and `projected`.
    Projected(Projected),
    /// A path of the node.
    HostPath(HostPathVolumeSource),
    /// What a claim is bound to.
    Claim(PersistentVolumeClaimVolumeSource),
    /// The files of an image.
    Image(ImageVolumeSource),
    /// The field of a kind that this node does not mount.
    Unsupported(String),
}

/// Files made from objects and from the pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Projected {
    /// Name of the folder that upstream's plugin for it uses.
    pub(super) plugin: &'static str,
    /// Where the files come from; of two for one path, the later wins.
    pub(super) sources: Vec<VolumeProjection>,
    /// Permissions where an item names none.
    pub(super) default_mode: u32,
    /// It may hold something secret.
    pub(super) secret: bool,
}

impl VolumeSource {
    /// The source of `volume`.
    pub(super) fn of(volume: &Volume) -> Self {
        let mode = |mode: Option<i32>| u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o7777;
        let projected = |plugin, default_mode: Option<i32>, secret, sources| {
            Self::Projected(Projected { plugin, sources, default_mode: mode(default_mode), secret })
        };
        if let Some(source) = &volume.empty_dir {
            return Self::EmptyDir(source.clone());
        }
        if let Some(source) = &volume.config_map {
            let config_map = ConfigMapProjection {
                name: source.name.clone(),
                items: source.items.clone(),
                optional: source.optional,
            };
            let config_map = VolumeProjection { config_map: Some(config_map), ..VolumeProjection::default() };
            return projected("configmap", source.default_mode, false, vec![config_map]);
        }
        if let Some(source) = &volume.secret {
            let secret = SecretProjection {
                name: source.secret_name.clone().unwrap_or_default(),
                items: source.items.clone(),
                optional: source.optional,
            };
            let secret = VolumeProjection { secret: Some(secret), ..VolumeProjection::default() };
            return projected("secret", source.default_mode, true, vec![secret]);
        }
        if let Some(source) = &volume.downward_api {
            let downward_api = DownwardAPIProjection { items: source.items.clone() };
            let downward_api =
                VolumeProjection { downward_api: Some(downward_api), ..VolumeProjection::default() };
            return projected("downward-api", source.default_mode, false, vec![downward_api]);
        }
        if let Some(source) = &volume.projected {
            let sources = source.sources.clone().unwrap_or_default();
            return projected("projected", source.default_mode, true, sources);
        }
        if let Some(source) = &volume.host_path {
            return Self::HostPath(source.clone());
        }
        if let Some(source) = &volume.persistent_volume_claim {
            return Self::Claim(source.clone());
        }
        if let Some(source) = &volume.image {
            return Self::Image(source.clone());
        }
        Self::Unsupported(kind(volume).into_owned())
    }

    /// What is wrong with this volume on this node, whatever may change in the cluster.
    pub(super) fn refusal(&self, allowed: &AllowedHostPaths, has_cluster: bool) -> Option<String> {
        match self {
            Self::EmptyDir(source) => match source.medium.as_deref() {
                None | Some("" | "Memory") => None,
                Some(medium) => Some(format!(
                    "a guest cannot use the medium {medium}; use \"Memory\", or leave the medium out"
                )),
            },
            Self::HostPath(source) => allowed.refusal(source),
            Self::Unsupported(kind) => Some(format!(
                "this node does not mount volumes of type {kind}; use one that docs/compatibility.md lists, or schedule \
                 the pod elsewhere"
            )),
            Self::Projected(projected) => projected.refusal(has_cluster),
            Self::Claim(_) if !has_cluster => Some(without_cluster("a PersistentVolumeClaim")),
            Self::Claim(_) | Self::Image(_) => None,
        }
    }
}

impl Projected {
    fn refusal(&self, has_cluster: bool) -> Option<String> {
        if self.sources.iter().any(|source| source.pod_certificate.is_some()) {
            return Some("this node does not request certificates for pods (podCertificate)".to_owned());
        }
        let needs = |source: &VolumeProjection| {
            let kinds = [
                (source.service_account_token.is_some(), "a token of a ServiceAccount"),
                (source.cluster_trust_bundle.is_some(), "a ClusterTrustBundle"),
            ];
            kinds.into_iter().find(|(needed, _)| *needed).map(|(_, kind)| kind)
        };
        if has_cluster { None } else { self.sources.iter().find_map(needs).map(without_cluster) }
    }
}

fn without_cluster(what: &str) -> String {
    format!("it takes {what}, and there is no cluster here to take one from; run the pod on a node")
}

/// The name of the field by which a volume says what it is.
fn kind(volume: &Volume) -> Cow<'static, str> {
    let value = serde_json::to_value(volume).unwrap_or_default();
    let field = value.as_object().and_then(|fields| fields.keys().find(|key| *key != "name").cloned());
    field.map_or(Cow::Borrowed("unknown"), Cow::Owned)
}

/// The init and regular containers of a pod.
pub(in crate::pods) fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
    let regular = spec.map(|s| s.containers.as_slice()).unwrap_or_default();
    init.iter().chain(regular)
}

/// The volumes of a pod that some container has use for; the others are not set up, as upstream does.
pub(super) fn used(pod: &Pod) -> Vec<(String, VolumeSource)> {
    let spec = pod.spec.as_ref();
    let ephemeral = spec.and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default();
    let uses = containers(pod)
        .map(|container| (&container.volume_mounts, &container.env))
        .chain(ephemeral.iter().map(|container| (&container.volume_mounts, &container.env)));
    let mut names = BTreeSet::new();
    for (mounts, variables) in uses {
        names.extend(mounts.iter().flatten().map(|mount| mount.name.as_str()));
        let sources = variables.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
        names.extend(sources.filter_map(|from| Some(from.file_key_ref.as_ref()?.volume_name.as_str())));
    }
    let volumes = spec.and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let used = volumes.iter().filter(|volume| names.contains(volume.name.as_str()));
    used.map(|volume| (volume.name.clone(), VolumeSource::of(volume))).collect()
}

/// Why a container cannot have a volume that it mounts on this node; `None` when it can. The message names
/// the volume.
pub(in crate::pods) fn refusal(
    pod: &Pod,
    container: &Container,
    allowed: &AllowedHostPaths,
    has_cluster: bool,
) -> Option<String> {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    container.volume_mounts.iter().flatten().find_map(|mount| {
        let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
        let why = VolumeSource::of(volume).refusal(allowed, has_cluster)?;
        Some(format!("volume \"{}\" cannot be mounted at {}: {why}", mount.name, mount.mount_path))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::protected::ProtectedPaths, *};

    fn volume(mut source: Value) -> Volume {
        source["name"] = json!("v");
        serde_json::from_value(source).unwrap()
    }

    #[test]
    fn kinds_that_are_projections_and_kinds_that_are_not_there() {
        let table = [
            (json!({"configMap": {"name": "c"}}), Some(("configmap", 0o644, false))),
            (json!({"configMap": {"name": "c", "defaultMode": 256}}), Some(("configmap", 0o400, false))),
            (json!({"secret": {"secretName": "s"}}), Some(("secret", 0o644, true))),
            (json!({"downwardAPI": {"items": []}}), Some(("downward-api", 0o644, false))),
            (json!({"projected": {"sources": [], "defaultMode": 288}}), Some(("projected", 0o440, true))),
            (json!({"emptyDir": {}}), None),
        ];
        for (source, expected) in table {
            let found = match VolumeSource::of(&volume(source.clone())) {
                VolumeSource::Projected(p) => Some((p.plugin, p.default_mode, p.secret)),
                _ => None,
            };
            assert_eq!(found, expected, "{source}");
        }
        assert_eq!(
            VolumeSource::of(&volume(json!({"nfs": {"server": "s", "path": "/"}}))),
            VolumeSource::Unsupported("nfs".into())
        );
        assert_eq!(VolumeSource::of(&volume(json!({}))), VolumeSource::Unsupported("unknown".into()));
    }

    #[test]
    fn a_volume_that_cannot_be_had_is_named() {
        let allowed = AllowedHostPaths::new(vec!["/srv".into()], ProtectedPaths::default()).unwrap();
        let token = json!({"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}});
        let certificate = json!({"projected": {"sources": [{"podCertificate": {"signerName": "x", "keyType": "ED25519"}}]}});
        let table = [
            (json!({"emptyDir": {}}), true, None),
            (json!({"emptyDir": {"medium": "Memory"}}), false, None),
            (json!({"emptyDir": {"medium": "HugePages"}}), true, Some("HugePages")),
            (json!({"csi": {"driver": "d"}}), true, Some("csi")),
            (json!({"nfs": {"server": "s", "path": "/"}}), true, Some("nfs")),
            (json!({"hostPath": {"path": "/srv/data"}}), true, None),
            (json!({"hostPath": {"path": "/etc"}}), true, Some("--allow-host-path")),
            (token.clone(), true, None),
            (token, false, Some("ServiceAccount")),
            (json!({"configMap": {"name": "c"}}), false, None),
            (json!({"persistentVolumeClaim": {"claimName": "c"}}), false, Some("PersistentVolumeClaim")),
            (json!({"persistentVolumeClaim": {"claimName": "c"}}), true, None),
            (certificate, true, Some("podCertificate")),
        ];
        for (source, has_cluster, expected) in table {
            let pod: Pod = serde_json::from_value(
                json!({"spec": {"containers": [], "volumes": [volume(source.clone())]}}),
            )
            .unwrap();
            let container: Container = serde_json::from_value(
                json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/data"}]}),
            )
            .unwrap();
            let message = refusal(&pod, &container, &allowed, has_cluster);
            match expected {
                None => assert_eq!(message, None, "{source}"),
                Some(word) => {
                    let message = message.unwrap();
                    assert!(
                        message.starts_with("volume \"v\" cannot be mounted at /data: ")
                            && message.contains(word),
                        "{message}"
                    );
                }
            }
        }
    }

    #[test]
    fn only_volumes_that_somebody_mounts_are_used() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "i", "volumeMounts": [{"name": "a", "mountPath": "/a"}]}],
            "containers": [{"name": "c", "env": [
                {"name": "X", "valueFrom": {"fileKeyRef": {"volumeName": "b", "path": "p", "key": "k"}}},
            ]}],
            "ephemeralContainers": [{"name": "e", "volumeMounts": [{"name": "c", "mountPath": "/c"}]}],
            "volumes": [
                {"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}, {"name": "c", "emptyDir": {}},
                {"name": "idle", "nfs": {"server": "s", "path": "/"}},
            ],
        }}))
        .unwrap();
        let names: Vec<_> = used(&pod).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
