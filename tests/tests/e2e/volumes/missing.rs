//! What a pod refers to and is not there, and volumes that no Wasm node mounts.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{change_config_map, create_config_map, create_secret, main};
use crate::{
    pods::{Pods, phase},
    suite::{suite, with_temp_ns},
};

/// A container whose variables refer to what is not there waits and says what is missing, in a kubelet's words; it
/// goes on when that is there.
#[tokio::test]
async fn missing_variables_are_named_and_waited_for() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let run = async |name: &str, variables: Value| {
            let mut container = json!({ "name": "main", "image": image, "args": ["say", "$(X)$(KEY)"] });
            container.as_object_mut().unwrap().extend(variables.as_object().unwrap().clone());
            pods.create(name, json!({ "containers": [container] })).await;
        };
        let one = |source: Value| json!({ "env": [{ "name": "X", "valueFrom": source }] });
        run("cm", one(json!({ "configMapKeyRef": { "name": "cm", "key": "KEY" } }))).await;
        run("secret", one(json!({ "secretKeyRef": { "name": "keys", "key": "KEY" } }))).await;
        run("all-cm", json!({ "envFrom": [{ "configMapRef": { "name": "cm" } }] })).await;
        run("all-secret", json!({ "envFrom": [{ "secretRef": { "name": "keys" } }] })).await;
        let optional = json!({ "configMapKeyRef": { "name": "never", "key": "KEY", "optional": true } });
        run("optional", one(optional)).await;

        let waits = async |pod: &str, message: &str| {
            pods.until(pod, message, |pod| {
                crate::pods::waiting(pod).is_some_and(|state| {
                    state.reason.as_deref() == Some("CreateContainerConfigError")
                        && state.message.as_deref() == Some(message)
                })
            })
            .await;
            let told = format!("Error: {message}");
            pods.event(pod, &told, |event| {
                (event.reason.as_deref(), event.message.as_deref()) == (Some("Failed"), Some(&told))
            })
            .await;
        };
        for (pod, message) in [
            ("cm", "configmap \"cm\" not found"),
            ("all-cm", "configmap \"cm\" not found"),
            ("secret", "secret \"keys\" not found"),
            ("all-secret", "secret \"keys\" not found"),
        ] {
            waits(pod, message).await;
        }
        pods.phase("optional", "Succeeded").await;
        assert_eq!(pods.logs("optional").await, "$(X)$(KEY)\n");

        create_config_map(&client, ns, "cm", json!({ "OTHER": "x" })).await;
        create_secret(&client, ns, "keys", json!({ "OTHER": "x" })).await;
        waits("cm", &format!("couldn't find key KEY in ConfigMap {ns}/cm")).await;
        waits("secret", &format!("couldn't find key KEY in Secret {ns}/keys")).await;
        change_config_map(&client, ns, "cm", json!({ "KEY": "one" })).await;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), ns);
        let patch = Patch::Merge(json!({ "stringData": { "KEY": "two" } }));
        secrets.patch("keys", &PatchParams::default(), &patch).await.unwrap();
        for (pod, expected) in [("cm", "one"), ("secret", "two")] {
            pods.phase(pod, "Succeeded").await;
            assert_eq!(pods.logs(pod).await, format!("{expected}$(KEY)\n"));
        }
        // All keys of what is there are enough for these.
        for pod in ["all-cm", "all-secret"] {
            pods.phase(pod, "Succeeded").await;
        }
    })
    .await;
}

/// A pod whose volumes are made from what is not there waits and says what is missing; it goes on when that is there.
#[tokio::test]
async fn missing_objects_of_volumes_are_named_and_waited_for() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor;
        let items = json!([{ "key": "k", "path": "p" }]);
        let table = [
            ("secret", json!({ "secret": { "secretName": "keys", "items": items } })),
            ("cm", json!({ "configMap": { "name": "cm", "items": items } })),
            (
                "projected",
                json!({ "projected": { "sources": [{ "secret": { "name": "keys", "items": items } }] } }),
            ),
        ];
        for (name, source) in &table {
            let mut volume = source.clone();
            volume["name"] = json!("v");
            let spec = json!({ "volumes": [volume], "containers": [main(image, &["cat", "/v/p"])] });
            pods.create(name, spec).await;
        }
        let told = async |pod: &str, error: &str| {
            let message = format!("MountVolume.SetUp failed for volume \"v\" : {error}");
            pods.event(pod, &message, |event| {
                (event.reason.as_deref(), event.message.as_deref()) == (Some("FailedMount"), Some(&message))
            })
            .await;
            pods.until(pod, "waiting", |pod| {
                let reason = crate::pods::waiting(pod).and_then(|waiting| waiting.reason.as_deref());
                (phase(pod), reason) == ("Pending", Some("ContainerCreating"))
            })
            .await;
        };
        for (pod, error) in [
            ("secret", "secret \"keys\" not found"),
            ("projected", "secret \"keys\" not found"),
            ("cm", "configmap \"cm\" not found"),
        ] {
            told(pod, error).await;
        }
        create_config_map(&client, ns, "cm", json!({ "other": "x" })).await;
        create_secret(&client, ns, "keys", json!({ "other": "x" })).await;
        for (pod, error) in [
            ("secret", "references non-existent secret key: k"),
            ("projected", "references non-existent secret key: k"),
            ("cm", "configmap references non-existent config key: k"),
        ] {
            told(pod, error).await;
        }
        change_config_map(&client, ns, "cm", json!({ "k": "now" })).await;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), ns);
        let patch = Patch::Merge(json!({ "stringData": { "k": "now" } }));
        secrets.patch("keys", &PatchParams::default(), &patch).await.unwrap();
        for (pod, _) in &table {
            pods.phase(pod, "Succeeded").await;
            assert_eq!(pods.logs(pod).await, "now");
        }
    })
    .await;
}

/// A volume of a kind that no Wasm node mounts holds the container that mounts it, by name and kind; a container of
/// the same pod that does not, runs.
#[tokio::test]
async fn kinds_of_volumes_that_are_not_mounted_are_named() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor;
        let claim = json!({ "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "none",
            "resources": { "requests": { "storage": "1Gi" } },
        } });
        let certificate = json!({ "sources": [{ "podCertificate": {
            "signerName": "example.com/signer", "keyType": "ED25519", "credentialBundlePath": "bundle.pem",
        } }] });
        let table = [
            ("nfs", json!({ "server": "192.0.2.1", "path": "/" }), "volumes of type nfs"),
            (
                "iscsi",
                json!({ "targetPortal": "192.0.2.1", "iqn": "iqn.2001-04.com.example:x", "lun": 0 }),
                "volumes of type iscsi",
            ),
            ("csi", json!({ "driver": "disk.example.com" }), "volumes of type csi"),
            ("fc", json!({ "targetWWNs": ["500a0982991b8dc5"], "lun": 1 }), "volumes of type fc"),
            ("ephemeral", json!({ "volumeClaimTemplate": claim }), "volumes of type ephemeral"),
            ("emptyDir", json!({ "medium": "HugePages" }), "the medium HugePages"),
            ("projected", certificate, "podCertificate"),
        ];
        for (kind, source, _) in &table {
            let other = json!({ "name": "other", "image": image.tagged, "args": ["say", "runs"] });
            let spec = json!({
                // The scheduler would wait for the claim of an ephemeral volume.
                "nodeName": crate::suite::NODE,
                "volumes": [{ "name": "v", (*kind): source }],
                "containers": [main(image, &[]), other],
            });
            pods.create(&kind.to_lowercase(), spec).await;
        }
        for (kind, _, part) in &table {
            let name = kind.to_lowercase();
            let message =
                pods.waiting(&name, &["CreateContainerConfigError"]).await.message.unwrap_or_default();
            assert!(
                message.starts_with("volume \"v\" cannot be mounted at /v: ") && message.contains(part),
                "{kind}: {message}"
            );
            let pod = pods.until(&name, "the end of the other container", |pod| {
                let statuses =
                    pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
                statuses
                    .filter(|status| status.name == "other")
                    .any(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some()))
            });
            assert_eq!(phase(&pod.await), "Pending", "{kind}");
        }
    })
    .await;
}
