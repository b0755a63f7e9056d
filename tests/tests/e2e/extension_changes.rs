//! What is changed while an extension is in use: its configuration, its module, and whom it is for.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, api::DeleteParams};
use kubewasm_tests::{
    envoy::{Credentials, EnvoyOptions, FilterKind, Variant},
    guests,
    web::Load,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    extension_modules::{FileServer, filter, push, sha256},
    extension_site::{ExtensionSite, is_filtered},
    suite::with_temp_ns,
};

/// What a Secret and a ConfigMap say now is what Envoy has; what they do not say any more, it keeps, and the status tells.
#[tokio::test]
async fn secrets_and_config_maps_are_followed() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let server = site.start("a").await;
        std::fs::write(site.modules().join("filter.wasm"), filter("file")).unwrap();
        site.put("Secret", ns, "secret", "key", "secret-1").await;
        site.put("ConfigMap", ns, "map", "key", "map-1").await;
        let of = |name: &str| json!({ "name": name, "namespace": ns, "key": "key" });
        let spec = json!({
            "image": { "protocol": "local_fs", "uri": "filter.wasm" },
            "plugin_configuration": { "valueFrom": { "secretKeyRef": of("secret") } },
            "vm_configuration": { "valueFrom": { "configMapKeyRef": of("map") } },
        });
        site.apply("filter", spec).await;
        let envoy = site.envoy(&server, Variant::StateOfTheWorld, "filter").await;
        envoy.until("both", |answer| is_filtered(answer, "file", "map-1", "secret-1")).await.unwrap();
        let load = Load::start(envoy.port(), 2, |answer| !answer.header("plugin-configuration").is_empty());
        site.put("Secret", ns, "secret", "key", "secret-2").await;
        envoy
            .until("a Secret's change", |answer| is_filtered(answer, "file", "map-1", "secret-2"))
            .await
            .unwrap();
        site.put("ConfigMap", ns, "map", "key", "map-2").await;
        envoy
            .until("a ConfigMap's change", |answer| is_filtered(answer, "file", "map-2", "secret-2"))
            .await
            .unwrap();
        site.accepted("filter", 1).await;

        // What is gone does not take the filter along.
        Api::<Secret>::namespaced(client.clone(), ns)
            .delete("secret", &DeleteParams::default())
            .await
            .unwrap();
        let state = site.until("filter", "a lack", |state| state.is("ConfigResolved", "False")).await;
        let [_, _, message] = state.condition("ConfigResolved");
        assert!(
            message.contains("plugin_configuration") && message.contains(&format!("{ns}/secret")),
            "{message}"
        );
        assert!(!message.contains("secret-2"), "{message}");
        load.more(50).await.unwrap();
        assert!(is_filtered(&envoy.get().await.unwrap(), "file", "map-2", "secret-2"));
        site.put("Secret", ns, "secret", "key", "secret-3").await;
        envoy.until("its return", |answer| is_filtered(answer, "file", "map-2", "secret-3")).await.unwrap();
        site.until("filter", "a configuration", |state| state.is("ConfigResolved", "True")).await;
        load.end().await.unwrap();

        // Nothing of a Secret is in what people who may not read it can see.
        let log = site.log("a").await;
        for secret in ["secret-1", "secret-2", "secret-3"] {
            assert!(!log.contains(secret), "{secret} is logged");
        }
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
        maps.delete("map", &DeleteParams::default()).await.unwrap();
        site.until("filter", "another lack", |state| {
            state.condition("ConfigResolved")[2].contains(&format!("{ns}/map"))
        })
        .await;
        site.end().await;
    })
    .await;
}

/// A filter that is of no version of its own, and comes again: what Envoy has stays what it is, and nothing is sent.
#[tokio::test]
async fn what_is_the_same_is_not_sent_again() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let server = site.start("a").await;
        let module = filter("same");
        let uri = push(&format!("{ns}/same:v1"), module.clone()).await;
        let spec = |uri: &str| json!({
            "image": { "protocol": "oci", "uri": uri }, "plugin_configuration": { "value": "p" },
        });
        site.apply("filter", spec(&uri)).await;
        site.apply("other", spec(&uri)).await;
        for variant in Variant::ALL {
            let envoy = site.envoy(&server, variant, "filter").await;
            envoy.until("the filter", |answer| is_filtered(answer, "same", "", "p")).await.unwrap();
            let of = async |name: &str| envoy.of_discovery(FilterKind::Http, &site.filter("filter"), name).await.unwrap();
            let (reloads, version) = (of("config_reload").await, of("version_text").await);
            assert!(!version.is_empty());
            // Another source of the same bytes, and another extension's change.
            let again = push(&format!("{ns}/again:v1"), module.clone()).await;
            site.apply("filter", spec(&again)).await;
            site.published("filter").await;
            site.apply("other", json!({ "image": { "protocol": "oci", "uri": uri }, "plugin_configuration": { "value": "q" } }))
                .await;
            site.published("other").await;
            // Something that is sent comes after all that was.
            site.apply("filter", json!({ "image": { "protocol": "oci", "uri": uri }, "plugin_configuration": { "value": "r" } }))
                .await;
            envoy.until("a change", |answer| is_filtered(answer, "same", "", "r")).await.unwrap();
            let expected = reloads.parse::<u64>().unwrap() + 1;
            assert_eq!(of("config_reload").await, expected.to_string(), "{variant:?}");
            site.apply("filter", spec(&uri)).await;
            envoy.until("its return", |answer| is_filtered(answer, "same", "", "p")).await.unwrap();
            assert_eq!(of("version_text").await, version, "a version is its content's: {variant:?}");
        }
        site.end().await;
    })
    .await;
}

/// A pin is what counts: the file behind a name may be another one meanwhile, and is not taken.
#[tokio::test]
async fn a_pin_is_not_moved_by_its_source() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let server = site.start("a").await;
        let files = FileServer::start(false).await;
        let (first, second) = (filter("first"), filter("second"));
        let uri = files.put("/filter.wasm", first.clone());
        let pinned = |module: &[u8], plugin: &str| json!({
            "image": { "protocol": "http", "uri": uri, "sha256": sha256(module) }, "plugin_configuration": { "value": plugin },
        });
        site.apply("filter", pinned(&first, "1")).await;
        let envoy = site.envoy(&server, Variant::Delta, "filter").await;
        envoy.until("the first", |answer| is_filtered(answer, "first", "", "1")).await.unwrap();
        files.put("/filter.wasm", second.clone());
        let asked = files.asked();
        site.apply("filter", pinned(&first, "2")).await;
        envoy.until("the first again", |answer| is_filtered(answer, "first", "", "2")).await.unwrap();
        assert_eq!(files.asked(), asked, "what is pinned and here is not asked for");
        site.apply("filter", pinned(&second, "3")).await;
        envoy.until("the second", |answer| is_filtered(answer, "second", "", "3")).await.unwrap();
        site.end().await;
    })
    .await;
}

/// Of two Envoys, the one that a selector means gets the extension.
#[tokio::test]
async fn a_selector_tells_envoys_apart() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let server = site.start("a").await;
        std::fs::write(site.modules().join("filter.wasm"), filter("file")).unwrap();
        let spec = |selector: serde_json::Value| {
            json!({
                "image": { "protocol": "local_fs", "uri": "filter.wasm" }, "selector": selector,
            })
        };
        let canary = json!({ "clusters": ["edge"], "metadata": [{ "path": ["tier"], "value": "canary" }] });
        site.apply("filter", spec(canary.clone())).await;
        site.published("filter").await;
        for variant in Variant::ALL {
            let of = async |id: &str, cluster: &str, tier: &str| {
                let options = site.options(&server, variant, "filter").await;
                site.start_envoy(&options.node(id, cluster, json!({ "tier": tier }))).await
            };
            let (meant, other) = (of("one", "edge", "canary").await, of("two", "edge", "stable").await);
            meant.until("the filter", |answer| is_filtered(answer, "file", "", "")).await.unwrap();
            other.until("nothing", |answer| answer.status == 500).await.unwrap();
            // As soon as it is meant, too, it gets it.
            site.apply("filter", spec(json!({ "node_ids": ["two"] }))).await;
            other.until("the filter", |answer| is_filtered(answer, "file", "", "")).await.unwrap();
            site.apply("filter", spec(canary.clone())).await;
            site.published("filter").await;
        }
        site.end().await;
    })
    .await;
}

/// A filter of connections.
#[tokio::test]
async fn connections_are_filtered() {
    let module = guests::guest("connection-filter.wat").await.unwrap();
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let server = site.start("a").await;
        std::fs::write(site.modules().join("filter.wasm"), &module).unwrap();
        let spec = |value: &str| {
            json!({
                "image": { "protocol": "local_fs", "uri": "filter.wasm" },
                "filter_type": "network", "plugin_configuration": { "value": value },
            })
        };
        site.apply("filter", spec("one:")).await;
        for variant in [Variant::StateOfTheWorld, Variant::Delta] {
            let options: EnvoyOptions =
                site.options(&server, variant, "filter").await.kind(FilterKind::Network);
            let envoy = site
                .start_envoy(&options.credentials(Credentials::Token(site.token(ns, "default").await)))
                .await;
            for value in ["one:", "two:"] {
                site.apply("filter", spec(value)).await;
                let echoed = async || {
                    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", envoy.port())).await?;
                    stream.write_all(b"ping").await?;
                    let mut answer = vec![0; value.len() + 4];
                    stream.read_exact(&mut answer).await?;
                    Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
                };
                let probe = async || match echoed().await {
                    Ok(answer) if answer == format!("{value}ping") => Ok(()),
                    other => Err(format!("{other:?}")),
                };
                kubewasm_tests::wait::until("what the filter adds", crate::suite::SOON, probe).await.unwrap();
            }
            site.apply("filter", spec("one:")).await;
        }
        site.end().await;
    })
    .await;
}
