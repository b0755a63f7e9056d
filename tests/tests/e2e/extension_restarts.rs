//! Servers come and go: what Envoys have stays, and is not sent again.

use kubewasm_tests::{
    envoy::{FilterKind, Variant},
    wait,
    web::Load,
};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    extension_modules::{FileServer, filter},
    extension_site::{ExtensionSite, is_filtered},
    suite::{SOON, with_temp_ns},
};

/// The server is killed, and told to stop, under load: nothing fails, and the Envoy that comes back to it keeps its version, though
/// the source is gone meanwhile. What changes afterwards arrives.
#[tokio::test]
async fn after_a_restart_nothing_is_sent_again() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let files = FileServer::start(false).await;
        let mut server = site.start("a").await;
        for variant in Variant::ALL {
            let uri = files.put("/filter.wasm", filter("kept"));
            let spec = |plugin: &str| {
                json!({
                    "image": { "protocol": "http", "uri": uri, "pull_policy": "Always" },
                    "plugin_configuration": { "value": plugin },
                })
            };
            site.apply("filter", spec("1")).await;
            let envoy = site.envoy(&server, variant, "filter").await;
            envoy.until("the filter", |answer| is_filtered(answer, "kept", "", "1")).await.unwrap();
            site.accepted("filter", 1).await;
            let of = async |name: &str| {
                envoy.of_discovery(FilterKind::Http, &site.filter("filter"), name).await.unwrap()
            };
            let seen =
                async || (of("version_text").await, of("config_reload").await, of("update_rejected").await);
            let before = seen().await;
            let load = Load::start(envoy.port(), 2, |answer| answer.header("plugin-configuration") == "1");
            files.answer("/filter.wasm", 503, "text/plain", "away");
            for is_killed in [true, false] {
                match is_killed {
                    true => server.process.kill().unwrap(),
                    false => {
                        server.process.signal(Signal::TERM).unwrap();
                        assert!(server.process.await_end(SOON).await.unwrap().success());
                    }
                }
                load.more(50).await.unwrap();
                server = site.start_at("a", server.port, server.health_port).await;
                server.streams(1).await;
                let state = site.accepted("filter", 1).await;
                assert!(state.is("Fetched", "True"), "{state:?}");
                load.more(50).await.unwrap();
                assert_eq!(seen().await, before, "{variant:?}");
            }
            load.end().await.unwrap();
            // What is sent next is the first that is sent at all.
            files.put("/filter.wasm", filter("kept"));
            site.apply("filter", spec("2")).await;
            envoy.until("a change", |answer| is_filtered(answer, "kept", "", "2")).await.unwrap();
            let reloads = before.1.parse::<u64>().unwrap() + 1;
            assert_eq!(of("config_reload").await, reloads.to_string(), "{variant:?}");
            site.delete("filter").await;
        }
        site.end().await;
    })
    .await;
}

/// Of two replicas each answers, and one writes statuses, those of the other's Envoys too; when it is gone, the other one does.
#[tokio::test]
async fn of_two_replicas_one_writes_and_both_answer() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let site = site.flag("--leader-elect-lease-duration=3").flag("--leader-elect-retry-period=1");
        std::fs::write(site.modules().join("filter.wasm"), filter("file")).unwrap();
        let spec = |plugin: &str| json!({
            "image": { "protocol": "local_fs", "uri": "filter.wasm" }, "plugin_configuration": { "value": plugin },
        });
        let (one, other) = (site.start("a").await, site.start("b").await);
        site.apply("filter", spec("1")).await;
        let mut envoys = Vec::new();
        for server in [&one, &other] {
            let envoy = site.envoy(server, Variant::Delta, "filter").await;
            envoy.until("the filter", |answer| is_filtered(answer, "file", "", "1")).await.unwrap();
            envoys.push(envoy);
        }
        // Versions are the content's, whoever has made them.
        let name = site.filter("filter");
        let version = |of: usize| envoys[of].of_discovery(FilterKind::Http, &name, "version_text");
        assert_eq!(version(0).await.unwrap(), version(1).await.unwrap());
        site.accepted("filter", 2).await;

        let (mut leader, follower, orphan) = match site.leader().await.as_deref() {
            Some("a") => (one, other, 0),
            Some("b") => (other, one, 1),
            nobody => panic!("{nobody:?}"),
        };
        // An Envoy that knows both goes to the one that is left.
        let both = site.options(&leader, Variant::StateOfTheWorld, "filter").await.server(follower.port);
        let both = site.start_envoy(&both).await;
        both.until("the filter", |answer| is_filtered(answer, "file", "", "1")).await.unwrap();
        let load = Load::start(both.port(), 2, |answer| !answer.header("plugin-configuration").is_empty());
        leader.process.kill().unwrap();
        let taken = async || match site.leader().await {
            Some(name) if name == follower.name => Ok(()),
            nobody => Err(format!("{nobody:?}")),
        };
        wait::until("another leader", SOON, taken).await.unwrap();
        site.apply("filter", spec("2")).await;
        both.until("a change", |answer| is_filtered(answer, "file", "", "2")).await.unwrap();
        envoys[1 - orphan].until("a change", |answer| is_filtered(answer, "file", "", "2")).await.unwrap();
        site.accepted("filter", 2).await;
        // The one whose server is gone filters as it did.
        assert!(is_filtered(&envoys[orphan].get().await.unwrap(), "file", "", "1"));
        load.end().await.unwrap();
        site.end().await;
    })
    .await;
}
