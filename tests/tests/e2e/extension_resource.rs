//! The resource of Envoy extensions, and the manifests of their server, as the API server takes them.

use std::process::Command;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
};
use kubewasm_tests::{cluster, guests};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::suite::{suite, with_temp_ns};

/// The definition of the resource, applied once.
pub(crate) async fn definition() {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    APPLIED
        .get_or_init(async || {
            let cluster = &suite().await.cluster;
            let file = guests::repository().join("manifests/extension/crd.yaml");
            let file = file.to_string_lossy();
            cluster.kubectl(&["apply", "-f", &file]).await.unwrap();
            let wait = ["wait", "--for=condition=Established", "--timeout=90s", "-f", &file];
            cluster.kubectl(&wait).await.unwrap();
        })
        .await;
}

pub(crate) fn api(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "wasmxds.tetrate.io".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "wasmxds.tetrate.io/v1alpha1".to_owned(),
        kind: "WasmExtension".to_owned(),
        plural: "wasmextensions".to_owned(),
    };
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// The definition of ReferenceGrants, as far as it matters here: the Gateway API brings it along.
pub(crate) async fn grants_definition() {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    APPLIED
        .get_or_init(|| async {
            let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
            let definition = json!({
                "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
                "metadata": {
                    "name": "referencegrants.gateway.networking.k8s.io",
                    "annotations": { "api-approved.kubernetes.io": "unapproved, a part of the definition for tests" },
                },
                "spec": {
                    "group": "gateway.networking.k8s.io", "scope": "Namespaced",
                    "names": { "kind": "ReferenceGrant", "plural": "referencegrants" },
                    "versions": [{
                        "name": "v1beta1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema },
                    }],
                },
            });
            let suite = suite().await;
            let file = suite.home.path().join("referencegrants.json");
            std::fs::write(&file, definition.to_string()).unwrap();
            suite.cluster.kubectl(&["apply", "-f", &file.to_string_lossy()]).await.unwrap();
            let wait = ["wait", "--for=condition=Established", "crd/referencegrants.gateway.networking.k8s.io"];
            suite.cluster.kubectl(&wait).await.unwrap();
        })
        .await;
}

/// Credentials of the service account of the manifests.
pub(crate) async fn kubeconfig_of(system: &str) -> Value {
    let cluster = &suite().await.cluster;
    let token = cluster.kubectl(&["create", "token", "kubewasm-extension", "-n", system]).await.unwrap();
    let url = cluster::config_of(&cluster.admin_kubeconfig()).await.unwrap().cluster_url.to_string();
    let authority = cluster.ca_certificate().to_string_lossy().into_owned();
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "extension",
        "clusters": [{
            "name": "this", "cluster": { "server": url.trim_end_matches('/'), "certificate-authority": authority },
        }],
        "users": [{ "name": "extension", "user": { "token": token.trim() } }],
        "contexts": [{ "name": "extension", "context": { "cluster": "this", "user": "extension" } }],
    })
}

/// An extension with what has to be there, and more.
pub(crate) fn object(name: &str, image: Value, more: Value) -> DynamicObject {
    let mut spec = json!({ "runtime": "v8", "vm_id": "vm", "root_id": "root", "image": image });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "wasmxds.tetrate.io/v1alpha1", "kind": "WasmExtension", "metadata": { "name": name }, "spec": spec,
    }))
    .unwrap()
}

/// What nobody could serve is refused when it is written, with the reason.
#[tokio::test]
async fn what_cannot_be_an_extension_is_refused() {
    with_temp_ns(async |client, ns| {
        definition().await;
        let api = api(&client, ns);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let image = |more: Value| {
            let mut image = json!({ "protocol": "https", "uri": "h.example/f.wasm" });
            image.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            image
        };
        let fine = image(json!({}));
        let reference = json!({ "name": "n", "namespace": "ns" });
        for (image, more, complaint) in [
            (json!({ "uri": "h/f" }), json!({}), "spec.image.protocol: Required value"),
            (json!({ "protocol": "https" }), json!({}), "spec.image.uri: Required value"),
            (image(json!({ "protocol": "ftp" })), json!({}), "spec.image.protocol: Unsupported value"),
            (image(json!({ "uri": "" })), json!({}), "spec.image.uri"),
            (image(json!({ "uri": "https://h/f" })), json!({}), "the URI has no scheme"),
            (image(json!({ "uri": "h/a f" })), json!({}), "white space"),
            (image(json!({ "uri": "u:p@h/f" })), json!({}), "no user, no query"),
            (image(json!({ "uri": "h/f?token=x" })), json!({}), "no user, no query"),
            (image(json!({ "uri": "h" })), json!({}), "HOST[:PORT]/PATH"),
            (image(json!({ "protocol": "s3", "uri": "bucket" })), json!({}), "BUCKET/KEY"),
            (image(json!({ "protocol": "local_fs", "uri": "../f" })), json!({}), "no part that is .."),
            (image(json!({ "protocol": "local_fs", "uri": "a/../f" })), json!({}), "no part that is .."),
            (image(json!({ "sha256": "abc" })), json!({}), "spec.image.sha256"),
            (image(json!({ "pull_policy": "Never" })), json!({}), "spec.image.pull_policy"),
            (image(json!({ "pull_secret": "s" })), json!({}), "pull_secret is for the protocol oci alone"),
            (
                image(json!({ "protocol": "http", "ca_bundle": "c" })),
                json!({}),
                "ca_bundle is for the protocols",
            ),
            (fine.clone(), json!({ "runtime": "null" }), "spec.runtime: Unsupported value"),
            (fine.clone(), json!({ "filter_type": "udp" }), "spec.filter_type"),
            (fine.clone(), json!({ "failure_policy": "Ignore" }), "spec.failure_policy"),
            (fine.clone(), json!({ "after_deletion": "Forget" }), "spec.after_deletion"),
            (
                fine.clone(),
                json!({ "plugin_configuration": {} }),
                "a configuration has a value or a valueFrom",
            ),
            (
                fine.clone(),
                json!({ "vm_configuration": { "valueFrom": {} } }),
                "names a configMapKeyRef or a secretKeyRef",
            ),
            (
                fine.clone(),
                json!({ "vm_configuration": { "valueFrom": { "secretKeyRef": reference } } }),
                "secretKeyRef.key: Required value",
            ),
            (fine.clone(), json!({ "selector": {} }), "spec.selector"),
            (fine.clone(), json!({ "selector": { "node_ids": [] } }), "spec.selector.node_ids"),
            (
                fine.clone(),
                json!({ "selector": { "metadata": [{ "path": [], "value": "v" }] } }),
                "metadata[0].path",
            ),
        ] {
            let refused = api.create(&dry, &object("e", image, more)).await.expect_err(complaint).to_string();
            assert!(refused.contains(complaint), "{complaint}: {refused}");
        }
        for field in ["runtime", "vm_id", "root_id", "image"] {
            let mut less = object("e", fine.clone(), json!({}));
            less.data["spec"].as_object_mut().unwrap().remove(field);
            let refused = api.create(&dry, &less).await.expect_err(field).to_string();
            assert!(refused.contains(&format!("spec.{field}: Required value")), "{refused}");
        }
    })
    .await;
}

/// What is not said gets the defaults, and all that can be said is kept.
#[tokio::test]
async fn what_is_not_said_gets_the_defaults() {
    with_temp_ns(async |client, ns| {
        definition().await;
        let api = api(&client, ns);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let short = object("e", json!({ "protocol": "oci", "uri": "r.example/f:v1" }), json!({}));
        let taken = api.create(&dry, &short).await.unwrap();
        for (field, value) in
            [("filter_type", "http"), ("failure_policy", "FailClosed"), ("after_deletion", "Remove")]
        {
            assert_eq!(taken.data["spec"][field], value, "{field}");
        }
        let reference = json!({ "key": "k", "name": "n", "namespace": "ns" });
        let configuration = json!({ "value": "", "valueFrom": { "configMapKeyRef": reference, "secretKeyRef": reference } });
        let image = json!({
            "protocol": "oci", "uri": "r.example/f:v1", "sha256": "0123456789abcdefABCDEF".repeat(3)[..64],
            "pull_policy": "Always", "pull_secret": "s", "ca_bundle": "-----BEGIN CERTIFICATE-----\n",
        });
        let selector = json!({
            "node_ids": ["n"], "clusters": ["c"], "metadata": [{ "path": ["a", "b"], "value": "v" }],
        });
        let whole = object(
            "e",
            image,
            json!({
                "runtime": "", "filter_type": "network", "failure_policy": "FailReload", "after_deletion": "NoOp",
                "plugin_configuration": configuration, "vm_configuration": configuration, "selector": selector,
            }),
        );
        let taken = api.create(&dry, &whole).await.unwrap();
        assert_eq!(taken.data["spec"], whole.data["spec"]);
        for (protocol, uri) in [
            ("local_fs", "dir/filter.wasm"),
            ("s3", "my-bucket/path/to/filter.wasm"),
            ("http", "127.0.0.1:8080/filter.wasm"),
            ("https", "example.dev/assets/filter.wasm"),
            ("oci", "r.example:5000/a/b:v0.1"),
        ] {
            let image = json!({ "protocol": protocol, "uri": uri, "sha256": "" });
            api.create(&dry, &object("e", image, json!({}))).await.unwrap();
        }
    })
    .await;
}

/// Extensions as others have written them, with nothing of ours in them.
#[tokio::test]
async fn extensions_of_wasmxds_are_taken_as_they_are() {
    with_temp_ns(async |client, ns| {
        definition().await;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let key =
            |namespace: &str| json!({ "name": "my-name", "namespace": namespace, "key": "my-config-key" });
        for (image, plugin, vm) in [
            (
                json!({ "protocol": "local_fs", "uri": "filter.wasm" }),
                json!({ "valueFrom": { "secretKeyRef": key("my-secret-space") } }),
                json!({ "valueFrom": { "configMapKeyRef": key("my-config-space") } }),
            ),
            (
                json!({ "protocol": "https", "uri": "mathetake.github.io/assets/wasm/filter.https.wasm" }),
                json!({ "valueFrom": { "configMapKeyRef": key("default") } }),
                json!({ "valueFrom": { "secretKeyRef": key("default") } }),
            ),
            (
                json!({ "protocol": "oci", "uri": "webassemblyhub.io/mathetake/example:v0.1", "sha256": "" }),
                json!({ "value": "p1" }),
                json!({ "value": "v1" }),
            ),
        ] {
            let more = json!({ "plugin_configuration": plugin, "vm_configuration": vm });
            api(&client, ns).create(&dry, &object("sample-filter", image, more)).await.unwrap();
        }
    })
    .await;
}

/// The command prints the definition that the manifests have.
#[tokio::test]
async fn the_command_prints_the_definition() {
    let printed =
        Command::new(kubewasm_tests::node::program().unwrap()).args(["extension", "crd"]).output().unwrap();
    let file = std::fs::read(guests::repository().join("manifests/extension/crd.yaml")).unwrap();
    assert_eq!(String::from_utf8_lossy(&printed.stdout), String::from_utf8_lossy(&file));
}

/// The API server takes the manifests, and the strictest of its standards for pods what they start.
#[tokio::test]
async fn the_api_server_takes_the_manifests() {
    with_temp_ns(async |_, ns| {
        let cluster = &suite().await.cluster;
        cluster
            .kubectl(&["label", "namespace", ns, "pod-security.kubernetes.io/warn=restricted"])
            .await
            .unwrap();
        let manifests = guests::repository().join("manifests/extension");
        let built = cluster.kubectl(&["kustomize", &manifests.to_string_lossy()]).await.unwrap();
        // Another namespace: this one is not there otherwise.
        let file = suite().await.home.folder(ns).unwrap().join("extension.yaml");
        std::fs::write(&file, built.replace("kubewasm-system", ns)).unwrap();
        let mut command = Command::new(cluster.kubectl_path());
        command.arg(format!("--kubeconfig={}", cluster.admin_kubeconfig().display()));
        let output = command.args(["apply", "--dry-run=server", "-f"]).arg(&file).output().unwrap();
        let (said, complaints) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{complaints}");
        assert!(!complaints.contains("would violate PodSecurity"), "{complaints}");
        for made in [
            "deployment.apps/kubewasm-extension",
            "service/kubewasm-extension",
            "poddisruptionbudget.policy/kubewasm-extension",
        ] {
            assert!(said.contains(made), "{said}");
        }
    })
    .await;
}
