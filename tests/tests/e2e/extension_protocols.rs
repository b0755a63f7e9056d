//! A stock Envoy gets a filter from everywhere, configured in every way, and is switched from one to the next while it is asked.

use kubewasm_tests::{envoy::Variant, web::Load};
use serde_json::{Value, json};

use crate::{
    extension_modules::{PROTOCOLS, Sources, filter},
    extension_site::{ExtensionSite, is_filtered},
    suite::with_temp_ns,
};

/// Who asks at the same time.
const CALLERS: usize = 4;
/// Where a configuration comes from.
const FROM: [&str; 3] = ["value", "ConfigMap", "Secret"];

/// A configuration that comes from there.
async fn configuration(site: &ExtensionSite, from: &str, name: &str, value: &str) -> Value {
    if from == "value" {
        return json!({ "value": value });
    }
    site.put(from, &site.namespace, name, "configuration", value).await;
    let reference = if from == "Secret" { "secretKeyRef" } else { "configMapKeyRef" };
    let key = json!({ "name": name, "namespace": site.namespace, "key": "configuration" });
    json!({ "valueFrom": { reference: key } })
}

/// One name, to which five protocols and three ways to configure are applied in turn: no request fails or passes unfiltered, and each
/// switch is what Envoy has accepted.
async fn switches(variant: Variant) {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let sources = Sources::start(site.modules()).await;
        let site = site.environment(sources.bucket.environment());
        let server = site.start("a").await;
        let envoy = site.envoy(&server, variant, "filter").await;

        let mut load = None;
        for (round, vm_from) in FROM.into_iter().enumerate() {
            let plugin_from = FROM[(round + 1) % FROM.len()];
            for protocol in PROTOCOLS {
                let (vm, plugin) = (format!("{protocol}-vm-{round}"), format!("{protocol}-plugin-{round}"));
                let says = format!("{protocol}-{round}");
                let image = sources.put(protocol, &format!("{says}.wasm"), filter(&says)).await;
                let spec = json!({
                    "image": image,
                    "vm_configuration": configuration(&site, vm_from, "vm", &vm).await,
                    "plugin_configuration": configuration(&site, plugin_from, "plugin", &plugin).await,
                });
                site.apply("filter", spec).await;
                let what = format!("{protocol}, {vm_from} and {plugin_from}");
                envoy.until(&what, |answer| is_filtered(answer, &says, &vm, &plugin)).await.unwrap();
                let state = site.accepted("filter", 1).await;
                assert_eq!(
                    state.status["resolvedDigest"],
                    format!("sha256:{}", image["sha256"].as_str().unwrap())
                );
                let is_filtered = |answer: &kubewasm_tests::web::Answer| {
                    answer.status == 200
                        && ["protocol", "vm-configuration", "plugin-configuration"]
                            .iter()
                            .all(|name| !answer.header(name).is_empty())
                };
                let load = load.get_or_insert_with(|| Load::start(envoy.port(), CALLERS, is_filtered));
                load.more(50).await.unwrap();
            }
        }
        load.unwrap().end().await.unwrap();
        site.end().await;
    })
    .await;
}

#[tokio::test]
async fn state_of_the_world_is_switched_without_a_failed_request() {
    switches(Variant::StateOfTheWorld).await;
}

#[tokio::test]
async fn delta_is_switched_without_a_failed_request() {
    switches(Variant::Delta).await;
}

#[tokio::test]
async fn an_aggregated_stream_is_switched_without_a_failed_request() {
    switches(Variant::Aggregated).await;
}

#[tokio::test]
async fn an_aggregated_delta_stream_is_switched_without_a_failed_request() {
    switches(Variant::AggregatedDelta).await;
}
