//! The controller of Envoy extensions: what it fetches and what it does not, and what it says of that. No Envoy is needed.

mod site;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use kubewasm_tests::{
    guests,
    registry::{PASSWORD, Registry, USER, image::Content},
    wait,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::site::{ExtensionCluster, ModuleHost, condition};
use crate::{
    extension_resource::grants_definition,
    suite::{SOON, suite, with_temp_ns},
};

/// A filter of its own kind.
fn filter(kind: u32) -> Vec<u8> {
    wat::parse_str(format!(
        "(module (func (export \"proxy_abi_version_0_2_1\")) (global (export \"kind\") i32 (i32.const {kind})))"
    ))
    .unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// From all five kinds of sources but S3, which needs a server of it, a filter is fetched, and its status says all of it.
#[tokio::test]
async fn a_filter_is_fetched_from_where_it_is() {
    with_temp_ns(async |client, ns| {
        let cluster = ExtensionCluster::new(&client, ns).await;
        let (host, module) = (ModuleHost::start().await, filter(1));
        host.put("/f.wasm", 200, &module);
        std::fs::write(cluster.modules().join("f.wasm"), &module).unwrap();
        let pushed = suite()
            .await
            .registry
            .push("extensions/one:v1", &Content::Artifact(module.clone()))
            .await
            .unwrap();
        let _server = cluster.start("a").await;
        for (name, image) in [
            ("http", host.image("/f.wasm")),
            ("file", json!({ "protocol": "local_fs", "uri": "f.wasm" })),
            ("oci", json!({ "protocol": "oci", "uri": pushed.tagged })),
        ] {
            cluster.apply(name, image, json!({ "vm_configuration": { "value": "v" } })).await;
            let status = cluster.published(name).await;
            assert_eq!(status["resolvedDigest"], format!("sha256:{}", hex(&module)), "{name}");
            assert_eq!(status["sizeBytes"], module.len(), "{name}");
            assert_eq!(
                (&status["abiVersion"], &status["subscribers"]),
                (&json!("0.2.1"), &json!(0)),
                "{name}"
            );
            assert!(status["lastFetched"].is_string() && status["version"].is_string(), "{name}: {status}");
            assert_eq!(condition(&status, "Accepted")["reason"], "NoSubscribers", "{name}");
            cluster.event(name, "Normal", "Created", "").await;
            cluster.event(name, "Normal", "Fetched", "ABI 0.2.1").await;
            cluster.event(name, "Normal", "Published", "").await;
        }
        cluster.end().await;
    })
    .await;
}

/// What a source has that is not what was asked for is not published, and why is said; what was published before goes on. When the
/// right one is there, it is taken without anybody's doing.
#[tokio::test]
async fn what_is_wrong_is_said_and_the_former_version_stays() {
    with_temp_ns(async |client, ns| {
        let cluster = ExtensionCluster::new(&client, ns).await.flag("--max-module-bytes=65536");
        let host = ModuleHost::start().await;
        let good = filter(1);
        host.put("/good", 200, &good);
        host.put("/html", 200, b"<!doctype html><title>not a module</title>");
        host.put("/denied", 403, b"");
        host.put("/down", 503, b"");
        host.put("/large", 200, &[b"\0asm\x01\0\0\0".as_slice(), &[0; 70_000]].concat());
        host.put("/module", 200, &wat::parse_str("(module)").unwrap());
        host.put("/component", 200, &guests::guest("hello-0.2.wat").await.unwrap());
        let _server = cluster.start("a").await;
        cluster.apply("e", host.image("/good"), json!({})).await;
        let first = cluster.published("e").await["version"].clone();
        let wrong = |mut image: Value| {
            image["sha256"] = json!("0".repeat(64));
            image
        };
        for (image, kind, status, reason, said) in [
            (host.image("/none"), "Fetched", "False", "NotFound", "404"),
            (host.image("/denied"), "Fetched", "False", "Denied", "403"),
            (host.image("/down"), "Fetched", "False", "Unavailable", "503"),
            (host.image("/large"), "Fetched", "False", "TooLarge", "--max-module-bytes"),
            (host.image("/html"), "Verified", "False", "NotWasm", "an HTML page"),
            (host.image("/module"), "Verified", "False", "NotProxyWasm", "proxy_abi_version"),
            (host.image("/component"), "Verified", "False", "NotProxyWasm", "a component"),
            (wrong(host.image("/good")), "Verified", "False", "DigestMismatch", "is wanted"),
            (
                json!({ "protocol": "local_fs", "uri": "/etc/passwd" }),
                "Fetched",
                "False",
                "InvalidImage",
                "--local-modules",
            ),
            (
                json!({ "protocol": "oci", "uri": "NOT A NAME".replace(' ', "-") }),
                "Fetched",
                "False",
                "InvalidImage",
                "image.uri",
            ),
        ] {
            cluster.apply("e", image, json!({})).await;
            let now =
                cluster.until("e", &[(kind, status, reason), ("Published", "False", "FormerVersion")]).await;
            let message = condition(&now, kind)["message"].as_str().unwrap().to_owned();
            assert!(message.contains(said), "{reason}: {message}");
            assert_eq!(now["version"], first, "{reason}");
            let event = if kind == "Fetched" { "FetchFailed" } else { "VerificationFailed" };
            cluster.event("e", "Warning", event, reason).await;
        }
        cluster.apply("e", host.image("/later"), json!({})).await;
        cluster.until("e", &[("Fetched", "False", "NotFound")]).await;
        host.put("/later", 200, &filter(2));
        assert_ne!(cluster.published("e").await["version"], first);
        // One that never was anything.
        cluster.apply("new", host.image("/html"), json!({})).await;
        let status = cluster.until("new", &[("Published", "False", "NotPublished")]).await;
        assert!(status.get("resolvedDigest").is_none() && status.get("version").is_none(), "{status}");
        cluster.end().await;
    })
    .await;
}

/// Configurations follow the objects that they are from, and nothing of a Secret is told.
#[tokio::test]
async fn a_changed_secret_is_a_new_version() {
    with_temp_ns(async |client, ns| {
        let cluster = ExtensionCluster::new(&client, ns).await;
        let host = ModuleHost::start().await;
        host.put("/f", 200, &filter(1));
        let _server = cluster.start("a").await;
        let key = |name: &str| json!({ "namespace": ns, "name": name, "key": "k" });
        let more = json!({
            "plugin_configuration": { "valueFrom": { "secretKeyRef": key("s") } },
            "vm_configuration": { "valueFrom": { "configMapKeyRef": key("m"), "secretKeyRef": key("s") } },
        });
        cluster.apply("e", host.image("/f"), more).await;
        cluster
            .until(
                "e",
                &[("ConfigResolved", "False", "ObjectMissing"), ("Published", "False", "NotPublished")],
            )
            .await;
        cluster.event("e", "Warning", "ConfigurationFailed", "there is no Secret").await;
        cluster.secret(ns, "s", json!({ "stringData": { "other": "hunter2" } })).await;
        cluster.until("e", &[("ConfigResolved", "False", "KeyMissing")]).await;
        cluster.secret(ns, "s", json!({ "stringData": { "k": "hunter2" } })).await;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
        let map = json!({ "metadata": { "name": "m" }, "data": { "k": "v1" } });
        maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
        let mut version = cluster.published("e").await["version"].clone();
        cluster.event("e", "Normal", "ConfigurationResolved", "").await;
        let changed = async |before: &Value| {
            let probe = async || match cluster.published("e").await["version"].clone() {
                now if now != *before => Ok(now),
                now => Err(now.to_string()),
            };
            wait::until("another version", SOON, probe).await.unwrap()
        };
        cluster.secret(ns, "s", json!({ "stringData": { "k": "hunter3" } })).await;
        version = changed(&version).await;
        let patch = Patch::Merge(json!({ "data": { "k": "v2" } }));
        maps.patch("m", &PatchParams::default(), &patch).await.unwrap();
        version = changed(&version).await;
        // What is taken away is what it was.
        maps.delete("m", &DeleteParams::default()).await.unwrap();
        let status = cluster.until("e", &[("ConfigResolved", "False", "ObjectMissing")]).await;
        assert_eq!(status["version"], version);
        assert_eq!(host.asked("/f"), 1);
        let events = format!("{:?}", cluster.events("e").await);
        for text in [status.to_string(), events, cluster.log("a").await] {
            assert!(!text.contains("hunter"), "{text}");
        }
        cluster.end().await;
    })
    .await;
}

/// What another namespace has is read only where somebody there allows it, for as long as that is so.
#[tokio::test]
async fn a_secret_of_another_namespace_needs_a_grant_there() {
    with_temp_ns(async |client, ns| {
        grants_definition().await;
        let cluster = ExtensionCluster::new(&client, ns).await;
        let host = ModuleHost::start().await;
        host.put("/f", 200, &filter(1));
        let vault = format!("{ns}-vault");
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let made = serde_json::from_value(json!({ "metadata": { "name": vault } })).unwrap();
        namespaces.create(&PostParams::default(), &made).await.unwrap();
        cluster.secret(&vault, "s", json!({ "stringData": { "k": "v" } })).await;
        let _server = cluster.start("a").await;
        let reference = json!({ "namespace": vault, "name": "s", "key": "k" });
        let more = json!({ "plugin_configuration": { "valueFrom": { "secretKeyRef": reference } } });
        cluster.apply("e", host.image("/f"), more).await;
        let refused = [("ConfigResolved", "False", "RefNotPermitted")];
        let status = cluster.until("e", &refused).await;
        let message = condition(&status, "ConfigResolved")["message"].to_string();
        assert!(message.contains("no ReferenceGrant there allows it"), "{message}");
        let resource = ApiResource {
            group: "gateway.networking.k8s.io".to_owned(),
            version: "v1beta1".to_owned(),
            api_version: "gateway.networking.k8s.io/v1beta1".to_owned(),
            kind: "ReferenceGrant".to_owned(),
            plural: "referencegrants".to_owned(),
        };
        let grants: Api<DynamicObject> = Api::namespaced_with(client.clone(), &vault, &resource);
        let grant = json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant", "metadata": { "name": "g" },
            "spec": {
                "from": [{ "group": "wasmxds.tetrate.io", "kind": "WasmExtension", "namespace": ns }],
                "to": [{ "group": "", "kind": "Secret", "name": "s" }],
            },
        });
        grants.create(&PostParams::default(), &serde_json::from_value(grant).unwrap()).await.unwrap();
        let version = cluster.published("e").await["version"].clone();
        grants.delete("g", &DeleteParams::default()).await.unwrap();
        // Envoys keep what they have, and get nothing new of it.
        let status = cluster.until("e", &refused).await;
        assert_eq!(status["version"], version);
        let _ = namespaces.delete(&vault, &DeleteParams::default()).await;
        cluster.end().await;
    })
    .await;
}

/// A registry that knows its users gives its modules to those that have a pull secret for it.
#[tokio::test]
async fn a_private_registry_wants_a_pull_secret() {
    with_temp_ns(async |client, ns| {
        let mut registry = Registry::private(&suite().await.home, "extension-registry").unwrap();
        registry.start().await.unwrap();
        let pushed = registry.push("filter:v1", &Content::Artifact(filter(1))).await.unwrap();
        let cluster = ExtensionCluster::new(&client, ns).await;
        let _server = cluster.start("a").await;
        let image = |more: Value| {
            let mut image = json!({ "protocol": "oci", "uri": pushed.tagged });
            image.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            image
        };
        let login = |password: &str| {
            let auths = json!({ "auths": { registry.host(): { "username": USER, "password": password } } });
            json!({ "type": "kubernetes.io/dockerconfigjson", "stringData": { ".dockerconfigjson": auths.to_string() } })
        };
        cluster.apply("e", image(json!({})), json!({})).await;
        cluster.until("e", &[("Fetched", "False", "Denied")]).await;
        cluster.apply("e", image(json!({ "pull_secret": "pull" })), json!({})).await;
        cluster.until("e", &[("Fetched", "False", "PullSecretUnusable")]).await;
        cluster.secret(ns, "pull", login("looking-glass")).await;
        let status = cluster.until("e", &[("Fetched", "False", "Denied")]).await;
        assert!(!status.to_string().contains("looking-glass"), "{status}");
        // A Secret's type cannot be changed, what is in it can, and that is seen at once.
        cluster.secret(ns, "pull", login(PASSWORD)).await;
        cluster.published("e").await;
        let log = cluster.log("a").await;
        assert!(!log.contains("looking-glass") && !log.contains(PASSWORD), "{log}");
        registry.stop().unwrap();
        cluster.end().await;
    })
    .await;
}

/// Of two replicas one writes; when it is gone, the other one goes on, and says nothing new where nothing is.
#[tokio::test]
async fn one_replica_writes_and_another_takes_over() {
    with_temp_ns(async |client, ns| {
        let cluster = ExtensionCluster::new(&client, ns).await;
        let cluster = cluster.flag("--leader-elect-lease-duration=3").flag("--leader-elect-retry-period=1");
        let host = ModuleHost::start().await;
        host.put("/f", 200, &filter(1));
        let (mut one, mut other) = (cluster.start("a").await, cluster.start("b").await);
        let both = async || match cluster.replicas().await {
            names if names.len() == 2 => Ok(()),
            names => Err(format!("{names:?}")),
        };
        wait::until("two replicas", SOON, both).await.unwrap();
        cluster.apply("e", host.image("/f"), json!({})).await;
        cluster.published("e").await;
        cluster.event("e", "Normal", "Published", "").await;
        let events = cluster.events("e").await;
        let object = cluster.api().get_status("e").await.unwrap();
        let managers = object.metadata.managed_fields.unwrap();
        let writers = managers.iter().filter(|entry| entry.subresource.as_deref() == Some("status"));
        assert_eq!(writers.count(), 1);
        let follower = match cluster.leader().await.as_deref() {
            Some("a") => {
                one.kill().unwrap();
                "b"
            }
            Some("b") => {
                other.kill().unwrap();
                "a"
            }
            nobody => panic!("{nobody:?}"),
        };
        let taken = async || match cluster.leader().await {
            Some(name) if name == follower => Ok(()),
            other => Err(format!("{other:?}")),
        };
        wait::until("another leader", SOON, taken).await.unwrap();
        // That it works is seen by another extension; of the first there is nothing to say.
        cluster.apply("f", host.image("/none"), json!({})).await;
        cluster.until("f", &[("Fetched", "False", "NotFound")]).await;
        assert_eq!(cluster.events("e").await, events);
        let alone = async || match cluster.replicas().await {
            names if names == [follower] => Ok(()),
            names => Err(format!("{names:?}")),
        };
        wait::until("the Lease of the other one to be removed", SOON, alone).await.unwrap();
        let _ = (one.kill(), other.kill());
        cluster.end().await;
    })
    .await;
}

/// A replica that comes back publishes what it did before, also where the source is gone.
#[tokio::test]
async fn after_a_restart_all_is_as_it_was() {
    with_temp_ns(async |client, ns| {
        let cluster = ExtensionCluster::new(&client, ns).await;
        let host = ModuleHost::start().await;
        host.put("/f", 200, &filter(1));
        host.put("/pinned", 200, &filter(2));
        let mut pinned = host.image("/pinned");
        pinned["sha256"] = json!(hex(&filter(2)));
        let mut server = cluster.start("a").await;
        cluster.apply("always", host.image("/f"), json!({})).await;
        cluster.apply("pinned", pinned, json!({})).await;
        let versions = async || {
            let of = async |name: &str| cluster.published(name).await["version"].clone();
            (of("always").await, of("pinned").await)
        };
        let before = versions().await;
        server.stop(SOON).await.unwrap();
        host.put("/f", 503, b"");
        let mut again = cluster.start("a").await;
        cluster
            .until("always", &[("Fetched", "True", "FetchedBefore"), ("Published", "True", "Published")])
            .await;
        assert_eq!(versions().await, before);
        assert_eq!(host.asked("/pinned"), 1);
        // One that is deleted and made anew is another one.
        cluster.api().delete("pinned", &DeleteParams::default()).await.unwrap();
        cluster.apply("pinned", host.image("/html"), json!({})).await;
        cluster.until("pinned", &[("Fetched", "False", "NotFound")]).await;
        again.stop(SOON).await.unwrap();
        cluster.end().await;
    })
    .await;
}
