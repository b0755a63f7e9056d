//! What becomes of Envoys that have an extension which is deleted.

use kubewasm_tests::{
    envoy::{FilterKind, Variant},
    web::Load,
};
use serde_json::{Value, json};

use crate::{
    extension_modules::filter,
    extension_site::{ExtensionServer, ExtensionSite, is_filtered},
    suite::with_temp_ns,
};

fn spec(plugin: &str, extra: Value) -> Value {
    let mut spec = json!({
        "image": { "protocol": "local_fs", "uri": "filter.wasm" }, "plugin_configuration": { "value": plugin },
    });
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    spec
}

async fn prepared(client: &kube::Client, ns: &str) -> (ExtensionSite, ExtensionServer) {
    let site = ExtensionSite::new(client, ns).await;
    std::fs::write(site.modules().join("filter.wasm"), filter("file")).unwrap();
    let server = site.start("a").await;
    (site, server)
}

/// By delta, an Envoy is told that the extension is gone, and answers 500; by the state of the world it cannot be told, and keeps
/// what it has. Both get the next one of that name.
#[tokio::test]
async fn what_is_deleted_closes_by_delta_and_stays_otherwise() {
    with_temp_ns(async |client, ns| {
        let (site, server) = prepared(&client, ns).await;
        for variant in Variant::ALL {
            site.apply("filter", spec("1", json!({}))).await;
            // Somebody's that goes on, on the same stream where there is one for everything.
            site.apply("other", spec("other", json!({}))).await;
            site.published("other").await;
            let envoy = site.envoy(&server, variant, "filter").await;
            envoy.until("the filter", |answer| is_filtered(answer, "file", "", "1")).await.unwrap();
            site.delete("filter").await;
            match variant.is_delta() {
                true => drop(envoy.until("the end", |answer| answer.status == 500).await.unwrap()),
                false => {
                    // A change of something else comes after the deletion, wherever both go.
                    site.apply("other", spec("others", json!({}))).await;
                    site.published("other").await;
                    let load = Load::start(envoy.port(), 2, |answer| is_filtered(answer, "file", "", "1"));
                    load.more(100).await.unwrap();
                    load.end().await.unwrap();
                }
            }
            site.apply("filter", spec("2", json!({}))).await;
            envoy.until("the next one", |answer| is_filtered(answer, "file", "", "2")).await.unwrap();
            site.delete("filter").await;
        }
        site.end().await;
    })
    .await;
}

/// On request, a module that does nothing takes the filter's place: no request fails, whatever the variant, and none is filtered.
#[tokio::test]
async fn what_is_deleted_lets_pass_on_request() {
    with_temp_ns(async |client, ns| {
        let (site, server) = prepared(&client, ns).await;
        for variant in Variant::ALL {
            site.apply("filter", spec("1", json!({ "after_deletion": "NoOp" }))).await;
            let envoy = site.envoy(&server, variant, "filter").await;
            envoy.until("the filter", |answer| is_filtered(answer, "file", "", "1")).await.unwrap();
            site.accepted("filter", 1).await;
            let load = Load::start(envoy.port(), 2, |answer| answer.status == 200);
            load.more(20).await.unwrap();
            site.delete("filter").await;
            let is_bare = |answer: &kubewasm_tests::web::Answer| {
                answer.status == 200 && answer.headers.get("protocol").is_none()
            };
            envoy.until("no filter", is_bare).await.unwrap();
            load.more(20).await.unwrap();
            site.apply("filter", spec("2", json!({}))).await;
            envoy.until("the next one", |answer| is_filtered(answer, "file", "", "2")).await.unwrap();
            load.end().await.unwrap();
            site.delete("filter").await;
        }
        site.end().await;
    })
    .await;
}

/// A deletion that happens while the server is not there: Envoys that come back to it learn of it as they would have.
#[tokio::test]
async fn a_deletion_during_a_restart_is_not_missed() {
    with_temp_ns(async |client, ns| {
        let (site, mut server) = prepared(&client, ns).await;
        for (name, after) in [("removed", "Remove"), ("passed", "NoOp")] {
            site.apply(name, spec(name, json!({ "after_deletion": after }))).await;
        }
        let mut envoys = Vec::new();
        for (name, variant) in [
            ("removed", Variant::Delta),
            ("passed", Variant::Delta),
            ("passed", Variant::StateOfTheWorld),
            ("removed", Variant::StateOfTheWorld),
        ] {
            let envoy = site.envoy(&server, variant, name).await;
            envoy.until(name, |answer| is_filtered(answer, "file", "", name)).await.unwrap();
            envoys.push(envoy);
        }
        server.process.kill().unwrap();
        site.delete("removed").await;
        site.delete("passed").await;
        let _server = site.start_at("a", server.port, server.health_port).await;
        envoys[0].until("the end", |answer| answer.status == 500).await.unwrap();
        for envoy in &envoys[1..3] {
            envoy
                .until("no filter", |answer| answer.status == 200 && answer.headers.get("protocol").is_none())
                .await
                .unwrap();
        }
        assert!(is_filtered(&envoys[3].get().await.unwrap(), "file", "", "removed"));
        let reloads =
            envoys[3].of_discovery(FilterKind::Http, &site.filter("removed"), "config_reload").await;
        assert_eq!(reloads.unwrap(), "1");
        site.end().await;
    })
    .await;
}
