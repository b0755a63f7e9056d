//! What an Envoy refuses (NACK): the filter that it has stays, and who made the extension is told why.

use kubewasm_tests::{
    envoy::{FilterKind, Variant},
    guests,
    web::Load,
};
use serde_json::json;

use crate::{
    extension_modules::filter,
    extension_site::{ExtensionSite, is_filtered},
    suite::with_temp_ns,
};

/// What a stock Envoy says of a filter that it cannot make.
const ENVOYS_TEXT: &str = "Unable to create Wasm plugin";

/// A module that no Envoy can link, and one that does not take its configuration: each is refused, told with Envoy's own words, sent
/// no second time, and gone as soon as there is a better one.
#[tokio::test]
async fn a_refusal_is_told_with_envoys_own_text() {
    let unlinked = guests::guest("unlinked-filter.wat").await.unwrap();
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let server = site.start("a").await;
        std::fs::write(site.modules().join("good.wasm"), filter("good")).unwrap();
        std::fs::write(site.modules().join("unlinked.wasm"), &unlinked).unwrap();
        let spec = |file: &str, plugin: &str| {
            json!({
                "image": { "protocol": "local_fs", "uri": file }, "plugin_configuration": { "value": plugin },
            })
        };
        for variant in Variant::ALL {
            site.apply("filter", spec("good.wasm", "0")).await;
            let envoy = site.envoy(&server, variant, "filter").await;
            envoy.until("the filter", |answer| is_filtered(answer, "good", "", "0")).await.unwrap();
            site.accepted("filter", 1).await;
            let load = Load::start(envoy.port(), 2, |answer| answer.header("protocol") == "good");
            for (round, (file, plugin)) in
                [("unlinked.wasm", "a"), ("good.wasm", "!no")].into_iter().enumerate()
            {
                site.apply("filter", spec(file, plugin)).await;
                let state = site.until("filter", "a refusal", |state| state.is("Accepted", "False")).await;
                let [_, _, message] = state.condition("Accepted");
                assert!(message.contains(ENVOYS_TEXT), "{message}");
                assert_eq!(
                    (state.number("subscribers"), state.number("acks"), state.number("nacks")),
                    (1, 0, 1),
                    "{state:?}"
                );
                assert!(
                    state.is("Published", "True"),
                    "it is published, whatever Envoys make of it: {state:?}"
                );
                site.event("filter", "Refused", ENVOYS_TEXT).await;
                // Another extension's change is nothing to this Envoy: what it has refused is not sent again.
                let of = async |name: &str| {
                    envoy.of_discovery(FilterKind::Http, &site.filter("filter"), name).await.unwrap()
                };
                let rejected = of("update_rejected").await;
                site.apply("other", spec("good.wasm", &format!("{variant:?} {round}"))).await;
                site.published("other").await;
                load.more(50).await.unwrap();
                assert_eq!(of("update_rejected").await, rejected, "{variant:?}");
                let better = (round + 1).to_string();
                site.apply("filter", spec("good.wasm", &better)).await;
                envoy.until("a better one", |answer| is_filtered(answer, "good", "", &better)).await.unwrap();
                let state = site.accepted("filter", 1).await;
                assert_eq!(state.number("nacks"), 0, "{state:?}");
            }
            load.end().await.unwrap();
        }
        site.end().await;
    })
    .await;
}

/// Several Envoys are counted, those that have gone are not, and one that refuses is enough.
#[tokio::test]
async fn envoys_are_counted() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let server = site.start("a").await;
        std::fs::write(site.modules().join("good.wasm"), filter("good")).unwrap();
        let spec = |plugin: &str| json!({
            "image": { "protocol": "local_fs", "uri": "good.wasm" }, "plugin_configuration": { "value": plugin },
        });
        site.apply("filter", spec("0")).await;
        site.until("filter", "nobody", |state| state.is("Published", "True") && state.number("subscribers") == 0).await;
        let envoy = site.envoy(&server, Variant::Delta, "filter").await;
        site.accepted("filter", 1).await;
        // One that is no Envoy, and says no to whatever it is sent.
        let discovery = site.discovery(&server).await.node("contrary", "test");
        let name = site.filter("filter");
        let mut contrary = discovery.subscribe(Variant::StateOfTheWorld, &[&name]).await.unwrap();
        let update = contrary.next().await.unwrap();
        contrary.refuse(&update, "not with me\nand\u{1b}[31m never").await.unwrap();
        let is_so = |state: &crate::extension_site::ExtensionState| {
            (state.number("subscribers"), state.number("acks"), state.number("nacks")) == (2, 1, 1)
        };
        let state = site.until("filter", "one of each", is_so).await;
        let [status, _, message] = state.condition("Accepted");
        assert!(status == "False" && message.contains("not with me") && message.contains("contrary"), "{message}");
        assert!(!message.contains('\u{1b}'), "{message:?}");
        drop(contrary);
        site.accepted("filter", 1).await;
        drop(envoy);
        site.until("filter", "nobody", |state| state.number("subscribers") == 0).await;
        site.end().await;
    })
    .await;
}
