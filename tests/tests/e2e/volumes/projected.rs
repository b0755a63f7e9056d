//! Files that are made from objects and from the pod: contents, modes, and what becomes of them.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use k8s_openapi::api::{
    certificates::v1beta1::ClusterTrustBundle,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{create_config_map, create_secret, folder, folders, has_gone, holds, holds_text};
use crate::{
    pods::{Pods, running, terminated},
    suite::{suite, with_temp_ns},
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o7777
}

/// Every source of files: what a guest reads, and which modes the files have on the node, where modes mean
/// something.
#[tokio::test]
async fn files_of_every_source_and_their_modes() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let config_map = json!({
            "metadata": { "name": "settings" },
            "data": { "text": "one" },
            // 0, 1, 2, 255: no text.
            "binaryData": { "binary": "AAEC/w==" },
        });
        let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
        config_maps
            .create(&PostParams::default(), &serde_json::from_value(config_map).unwrap())
            .await
            .unwrap();
        create_secret(&client, ns, "keys", json!({ "user": "anna", "pass": "geheim" })).await;
        let bundles: Api<ClusterTrustBundle> = Api::all(client.clone());
        let authority = fs::read_to_string(suite().await.cluster.ca_certificate()).unwrap();
        let bundle = json!({ "metadata": { "name": ns }, "spec": { "trustBundle": authority } });
        bundles.create(&PostParams::default(), &serde_json::from_value(bundle).unwrap()).await.unwrap();

        // Modes as numbers of ten: 0400 is 256, 0440 288, 0600 384, 0640 416.
        let volumes = json!([
            { "name": "cm", "configMap": { "name": "settings", "defaultMode": 416, "items": [
                { "key": "text", "path": "deep/text" },
                { "key": "binary", "path": "binary", "mode": 256 },
            ] } },
            { "name": "plain", "configMap": { "name": "settings" } },
            { "name": "secret", "secret": { "secretName": "keys", "defaultMode": 256, "items": [
                { "key": "pass", "path": "pass" },
                { "key": "user", "path": "user", "mode": 288 },
            ] } },
            { "name": "pod", "downwardAPI": { "defaultMode": 288, "items": [
                { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
                { "path": "name", "fieldRef": { "fieldPath": "metadata.name" }, "mode": 256 },
                { "path": "memory", "resourceFieldRef": {
                    "containerName": "main", "resource": "limits.memory", "divisor": "1Mi",
                } },
            ] } },
            { "name": "all", "projected": { "defaultMode": 288, "sources": [
                { "configMap": { "name": "settings", "items": [{ "key": "text", "path": "cm/text" }] } },
                { "secret": { "name": "keys", "items": [{ "key": "pass", "path": "pass", "mode": 384 }] } },
                { "downwardAPI": { "items": [
                    { "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } },
                ] } },
                { "serviceAccountToken": { "path": "token", "audience": "vault", "expirationSeconds": 600 } },
                { "clusterTrustBundle": { "name": ns, "path": "anchors.pem" } },
            ] } },
        ]);
        let names = ["cm", "plain", "secret", "pod", "all"];
        let mounts = names.map(|name| json!({ "name": name, "mountPath": format!("/{name}") }));
        let expected = [
            ("/cm/deep/text", "one"),
            ("/plain/text", "one"),
            ("/secret/pass", "geheim"),
            ("/secret/user", "anna"),
            ("/pod/name", "every"),
            ("/pod/memory", "64"),
            ("/all/cm/text", "one"),
            ("/all/pass", "geheim"),
            ("/all/namespace", ns),
        ];
        let mut args: Vec<&str> = expected.iter().flat_map(|(path, text)| ["same", path, text]).collect();
        args.extend(["drain", "/plain/binary", "drain", "/cm/binary"]);
        let main = json!({
            "name": "main", "image": suite().await.actor.tagged, "args": args, "volumeMounts": mounts,
            "resources": { "limits": { "memory": "64Mi" } },
        });
        pods.create("every", json!({ "volumes": volumes, "containers": [main, holds().await] })).await;
        let pod = pods.until("every", "the end of its reader", |pod| terminated(pod).is_some()).await;
        let log = super::logs_of(&pods, "every", "main").await;
        assert_eq!(terminated(&pod).unwrap().exit_code, 0, "{log}");
        assert_eq!(log, "4 bytes\n4 bytes\n");

        let at = async |plugin: &str, name: &str| folder(&pod, plugin, name).await;
        let (cm, plain, secret) =
            (at("configmap", "cm").await, at("configmap", "plain").await, at("secret", "secret").await);
        let (own, all) = (at("downward-api", "pod").await, at("projected", "all").await);
        for (path, expected) in [
            (cm.join("deep/text"), 0o640),
            (cm.join("binary"), 0o400),
            (cm.join("deep"), 0o755),
            (plain.join("text"), 0o644),
            (plain.join("binary"), 0o644),
            (secret.join("pass"), 0o400),
            (secret.join("user"), 0o440),
            (own.join("labels"), 0o440),
            (own.join("name"), 0o400),
            (all.join("cm/text"), 0o440),
            (all.join("pass"), 0o600),
            (all.join("namespace"), 0o440),
            (all.join("token"), 0o440),
            (all.join("anchors.pem"), 0o440),
        ] {
            assert_eq!(mode(&path), expected, "{}", path.display());
        }
        assert_eq!(fs::read(plain.join("binary")).unwrap(), [0, 1, 2, 255]);
        assert!(
            fs::read_to_string(all.join("anchors.pem")).unwrap().starts_with("-----BEGIN CERTIFICATE-----\n")
        );
        // What may be secret is in memory, where the node may mount something there.
        let in_memory = &folders(&pod).await[1];
        if in_memory.exists() {
            assert!(secret.starts_with(in_memory) && all.starts_with(in_memory), "{}", secret.display());
        }

        // Labels follow the pod, and the token is good for its audience and no other.
        let patch = Patch::Merge(json!({ "metadata": { "labels": { "tier": "back" } } }));
        pods.api().patch("every", &PatchParams::default(), &patch).await.unwrap();
        holds_text(&own.join("labels"), "tier=\"back\"").await;
        let token = fs::read_to_string(all.join("token")).unwrap();
        for (audience, expected) in [("vault", true), ("elsewhere", false)] {
            let review = super::tokens::review(&client, &token, audience).await;
            assert_eq!(review.authenticated.unwrap_or_default(), expected, "{audience}: {review:?}");
        }
        bundles.delete(ns, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

/// Optional objects and keys are not waited for; they come and go in the files of a pod that runs.
#[tokio::test]
async fn optional_objects_come_and_go() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let key = |key: &str| json!([{ "key": key, "path": key }]);
        let volumes = json!([
            { "name": "secret", "secret": { "secretName": "late-secret", "optional": true } },
            { "name": "all", "projected": { "sources": [
                { "configMap": { "name": "late", "optional": true, "items": key("k") } },
                { "secret": { "name": "late-secret", "optional": true, "items": key("s") } },
                { "downwardAPI": { "items": [{ "path": "name", "fieldRef": { "fieldPath": "metadata.name" } }] } },
            ] } },
        ]);
        let mut container = holds().await;
        container["volumeMounts"] = ["secret", "all"]
            .map(|name| json!({ "name": name, "mountPath": format!("/{name}") }))
            .into_iter()
            .collect();
        pods.create("takes", json!({ "volumes": volumes, "containers": [container] })).await;
        let pod = pods.until("takes", "running", running).await;
        let (secret, all) = (folder(&pod, "secret", "secret").await, folder(&pod, "projected", "all").await);
        assert!(!secret.join("s").exists() && !all.join("k").exists());
        assert_eq!(fs::read_to_string(all.join("name")).unwrap(), "takes");

        create_config_map(&client, ns, "late", json!({ "other": "x" })).await;
        create_secret(&client, ns, "late-secret", json!({ "s": "geheim" })).await;
        holds_text(&secret.join("s"), "geheim").await;
        holds_text(&all.join("s"), "geheim").await;
        assert!(!all.join("k").exists(), "the object is there, and the key is not");
        super::change_config_map(&client, ns, "late", json!({ "k": "now" })).await;
        holds_text(&all.join("k"), "now").await;

        let secrets: Api<Secret> = Api::namespaced(client.clone(), ns);
        secrets.delete("late-secret", &DeleteParams::default()).await.unwrap();
        has_gone(&secret.join("s")).await;
        has_gone(&all.join("s")).await;
        assert_eq!(fs::read_to_string(all.join("k")).unwrap(), "now");
    })
    .await;
}
