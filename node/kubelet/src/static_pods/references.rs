//! What a static pod may not refer to: objects that only an API server has.

use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeProjection};

/// The kind of API object that the pod refers to, in the plural, as upstream's `HasAPIObjectReference` words
/// it; `None` when it refers to none. The API server applies the same rule to mirrors.
pub(super) fn of(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| !name.is_empty());
    if named(&spec.service_account_name) || named(&spec.service_account) {
        return Some("serviceaccounts");
    }
    let containers: Vec<&Container> =
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let pull_secrets = spec.image_pull_secrets.as_ref().is_some_and(|list| !list.is_empty());
    if pull_secrets || containers.iter().any(|c| environment(c).secret) {
        return Some("secrets");
    }
    if containers.iter().any(|c| environment(c).config_map) {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|list| !list.is_empty()) {
        return Some("resourceclaims");
    }
    volumes.iter().find_map(of_volume)
}

struct EnvironmentObjects {
    secret: bool,
    config_map: bool,
}

/// What the container's environment is taken from.
fn environment(container: &Container) -> EnvironmentObjects {
    let variables = || container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref());
    let groups = || container.env_from.iter().flatten();
    EnvironmentObjects {
        secret: variables().any(|from| from.secret_key_ref.is_some())
            || groups().any(|g| g.secret_ref.is_some()),
        config_map: variables().any(|from| from.config_map_key_ref.is_some())
            || groups().any(|group| group.config_map_ref.is_some()),
    }
}

fn of_volume(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        (volume.config_map.is_some(), "configmaps (via configmap volumes)"),
        (volume.secret.is_some(), "secrets (via secret volumes)"),
        (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
        (volume.glusterfs.is_some(), "endpoints (via glusterFS volumes)"),
        (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
        (volume.ephemeral.is_some(), "persistentvolumeclaims (via ephemeral volumes)"),
        (volume.azure_file.is_some(), "secrets (via azureFile volumes)"),
        (holds_secret(volume), "secrets"),
    ];
    let kind = kinds.into_iter().find(|(found, _)| *found).map(|(_, kind)| kind);
    kind.or_else(|| volume.projected.as_ref()?.sources.iter().flatten().find_map(of_projection))
}

/// Kinds of network storage whose credentials may be in a Secret.
fn holds_secret(volume: &Volume) -> bool {
    volume.cephfs.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.cinder.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.flex_volume.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.iscsi.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.rbd.as_ref().is_some_and(|v| v.secret_ref.is_some())
        || volume.scale_io.is_some()
        || volume.storageos.as_ref().is_some_and(|v| v.secret_ref.is_some())
}

fn of_projection(source: &VolumeProjection) -> Option<&'static str> {
    [
        (source.config_map.is_some(), "configmaps (via projected volumes)"),
        (source.secret.is_some(), "secrets (via projected volumes)"),
        (source.service_account_token.is_some(), "serviceaccounts (via projected volumes)"),
        (source.cluster_trust_bundle.is_some(), "clustertrustbundles"),
        (source.pod_certificate.is_some(), "podcertificates"),
    ]
    .into_iter()
    .find(|(found, _)| *found)
    .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of_spec(spec: &Value) -> Option<&'static str> {
        let mut spec = spec.clone();
        spec.as_object_mut().unwrap().entry("containers").or_insert_with(|| json!([{"name": "c"}]));
        of(&serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    #[test]
    fn a_pod_by_itself_refers_to_nothing() {
        for spec in [
            json!({}),
            json!({"serviceAccountName": "", "imagePullSecrets": []}),
            json!({"volumes": [
                {"name": "a", "emptyDir": {}},
                {"name": "b", "hostPath": {"path": "/data"}},
                {"name": "c", "downwardAPI": {"items": []}},
                {"name": "d", "projected": {"sources": [{"downwardAPI": {"items": []}}]}},
                {"name": "e", "iscsi": {"targetPortal": "p", "iqn": "i", "lun": 0}},
            ]}),
            json!({"containers": [{"name": "c", "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ]}]}),
        ] {
            assert_eq!(of_spec(&spec), None, "{spec}");
        }
    }

    #[test]
    fn each_reference_is_named() {
        let volume = |volume: Value| {
            let mut whole = json!({"name": "v"});
            whole.as_object_mut().unwrap().extend(volume.as_object().unwrap().clone());
            json!({"volumes": [whole]})
        };
        let container = |container: Value| {
            let mut whole = json!({"name": "c"});
            whole.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
            json!({"containers": [whole]})
        };
        let projected = |source: Value| volume(json!({"projected": {"sources": [source]}}));
        let token = json!({"serviceAccountToken": {"path": "t"}});
        let certificate = json!({"podCertificate": {"signerName": "s", "keyType": "ED25519"}});
        for (spec, expected) in [
            (json!({"serviceAccountName": "x"}), "serviceaccounts"),
            (json!({"serviceAccount": "x"}), "serviceaccounts"),
            (json!({"imagePullSecrets": [{"name": "s"}]}), "secrets"),
            (container(json!({"envFrom": [{"secretRef": {"name": "s"}}]})), "secrets"),
            (
                container(
                    json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
                ),
                "secrets",
            ),
            (container(json!({"envFrom": [{"configMapRef": {"name": "s"}}]})), "configmaps"),
            (
                json!({"initContainers": [{"name": "i", "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}},
                ]}]}),
                "configmaps",
            ),
            (json!({"resourceClaims": [{"name": "r"}]}), "resourceclaims"),
            (volume(json!({"configMap": {"name": "m"}})), "configmaps (via configmap volumes)"),
            (volume(json!({"secret": {"secretName": "s"}})), "secrets (via secret volumes)"),
            (volume(json!({"csi": {"driver": "d"}})), "csidrivers (via CSI volumes)"),
            (volume(json!({"persistentVolumeClaim": {"claimName": "p"}})), "persistentvolumeclaims"),
            (volume(json!({"ephemeral": {}})), "persistentvolumeclaims (via ephemeral volumes)"),
            (volume(json!({"rbd": {"image": "i", "monitors": [], "secretRef": {"name": "s"}}})), "secrets"),
            (projected(json!({"configMap": {"name": "m"}})), "configmaps (via projected volumes)"),
            (projected(json!({"secret": {"name": "s"}})), "secrets (via projected volumes)"),
            (projected(token), "serviceaccounts (via projected volumes)"),
            (projected(json!({"clusterTrustBundle": {"path": "c"}})), "clustertrustbundles"),
            (projected(certificate), "podcertificates"),
        ] {
            assert_eq!(of_spec(&spec), Some(expected), "{spec}");
        }
    }
}
