//! What sources have that is not what was asked for: nobody gets it, nothing of it is kept, and who has a filter keeps that.

use std::path::Path;

use kubewasm_tests::{envoy::Variant, guests, web::Load};
use serde_json::json;

use crate::{
    extension_modules::{FileServer, filter, page, push, sha256},
    extension_site::{ExtensionSite, ExtensionState, is_filtered},
    suite::with_temp_ns,
};

/// Bytes that a server takes of a module, in these tests.
const LIMIT: usize = 1 << 20;

/// Whether there is a file below a folder that has these bytes in it.
fn keeps(folder: &Path, bytes: &[u8]) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => keeps(&path, bytes),
            Ok(kind) if kind.is_file() => std::fs::read(&path)
                .is_ok_and(|content| content.windows(bytes.len()).any(|part| part == bytes)),
            _ => false,
        }
    })
}

/// What a server answers in place of a module, and what comes of it.
struct Case<'a> {
    path: &'a str,
    status: u16,
    kind: &'a str,
    content: Vec<u8>,
    /// The digest that is asked for.
    pin: Option<String>,
    /// Which condition is false, and why.
    condition: &'a str,
    reason: &'a str,
    /// What nobody may keep.
    unwanted: &'a [u8],
}

impl<'a> Case<'a> {
    fn new(path: &'a str, status: u16, kind: &'a str, content: &[u8]) -> Self {
        let content = content.to_vec();
        Self { path, status, kind, content, pin: None, condition: "", reason: "", unwanted: b"" }
    }

    fn pinned(self, module: &[u8]) -> Self {
        Self { pin: Some(sha256(module)), ..self }
    }

    fn is(self, condition: &'a str, reason: &'a str) -> Self {
        Self { condition, reason, ..self }
    }

    fn without(self, unwanted: &'a [u8]) -> Self {
        Self { unwanted, ..self }
    }
}

/// One after the other, all that is wrong with a module, under load; and after each of them, a good one.
#[tokio::test]
async fn what_is_not_the_module_is_neither_served_nor_kept() {
    let unlike = guests::guest("reactor.wat").await.unwrap();
    let component = guests::guest("hello-0.2.wat").await.unwrap();
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await.flag(format!("--max-module-bytes={LIMIT}"));
        let server = site.start("a").await;
        let files = FileServer::start(false).await;
        let good = filter("good");
        let spec = |uri: &str, digest: Option<String>, plugin: &str| {
            let mut image = json!({ "protocol": "http", "uri": uri });
            if let Some(digest) = digest {
                image["sha256"] = json!(digest);
            }
            json!({ "image": image, "plugin_configuration": { "value": plugin } })
        };
        let there = files.put("/good.wasm", good.clone());
        site.apply("filter", spec(&there, Some(sha256(&good)), "0")).await;
        let envoy = site.envoy(&server, Variant::StateOfTheWorld, "filter").await;
        envoy.until("the filter", |answer| is_filtered(answer, "good", "", "0")).await.unwrap();
        let load = Load::start(envoy.port(), 2, |answer| answer.header("protocol") == "good");

        let stranger = filter("a-stranger-to-the-digest");
        let large = guests::with_section(&filter("far-too-large"), &vec![7; LIMIT]);
        let cut = filter("cut-in-the-middle");
        let cut = cut[..cut.len() / 2].to_vec();
        let marker = b"a page of a server".as_slice();
        let html = page("a page of a server");
        let digest = |of: &[u8]| Some(sha256(of));
        let html = html.to_vec();
        let cases = [
            // By what it is called, and what is answered there, with which type.
            Case::new("/digest", 200, "application/wasm", &stranger)
                .pinned(&good)
                .is("Verified", "DigestMismatch")
                .without(b"a-stranger-to-the-digest"),
            Case::new("/gone", 404, "text/html", &html).is("Fetched", "NotFound").without(marker),
            Case::new("/gone-pinned", 404, "text/html", &html)
                .pinned(&html)
                .is("Fetched", "NotFound")
                .without(marker),
            Case::new("/page", 200, "text/html", &html).is("Verified", "NotWasm").without(marker),
            Case::new("/page-pinned", 200, "application/wasm", &html)
                .pinned(&html)
                .is("Verified", "NotWasm")
                .without(marker),
            Case::new("/large", 200, "application/wasm", &large)
                .pinned(&large)
                .is("Fetched", "TooLarge")
                .without(b"far-too-large"),
            Case::new("/denied", 403, "text/plain", b"no").is("Fetched", "Denied").without(marker),
            Case::new("/broken", 500, "text/plain", &html).is("Fetched", "Unavailable").without(marker),
            Case::new("/cut", 200, "application/wasm", &cut)
                .pinned(&cut)
                .is("Verified", "NotWasm")
                .without(b"cut-in-the-middle"),
        ];
        for (round, case) in cases.into_iter().enumerate() {
            let path = case.path;
            let uri = files.answer(path, case.status, case.kind, case.content.clone());
            site.apply("filter", spec(&uri, case.pin.clone(), "wrong")).await;
            let expected = ["False", case.reason];
            let is_so = |state: &ExtensionState| state.condition(case.condition)[..2] == expected;
            let state = site.until("filter", path, is_so).await;
            let message = state.condition(case.condition)[2];
            assert!(!message.is_empty() && !message.contains("<html"), "{path}: {message}");
            let told = if case.condition == "Verified" { "VerificationFailed" } else { "FetchFailed" };
            let told = site.event("filter", told, case.reason).await;
            assert!(!told.contains("<html"), "{path}: {told}");
            assert!(!keeps(&site.root("a"), case.unwanted), "{path} is kept");
            load.more(20).await.unwrap();
            let plugin = (round + 1).to_string();
            site.apply("filter", spec(&there, Some(sha256(&good)), &plugin)).await;
            envoy.until("a good one", |answer| is_filtered(answer, "good", "", &plugin)).await.unwrap();
            site.accepted("filter", 1).await;
        }
        // What is WebAssembly, and no filter.
        for (name, module) in [("reactor", &unlike), ("component", &component)] {
            let uri = files.put(&format!("/{name}"), module.clone());
            site.apply("filter", spec(&uri, digest(module), "wrong")).await;
            let of = |state: &ExtensionState| state.condition("Verified")[1] == "NotProxyWasm";
            let state = site.until("filter", name, of).await;
            assert!(state.is("Verified", "False"), "{state:?}");
        }
        let answer = envoy.get().await.unwrap();
        assert!(is_filtered(&answer, "good", "", "9"), "{answer:?}");
        load.end().await.unwrap();
        site.end().await;
    })
    .await;
}

/// A source that was away is asked again, and what it then has is published without anybody's help.
#[tokio::test]
async fn a_source_that_comes_back_is_asked_again() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let server = site.start("a").await;
        let files = FileServer::start(false).await;
        let uri = files.answer("/filter.wasm", 503, "text/plain", "away");
        site.apply("filter", json!({ "image": { "protocol": "http", "uri": uri } })).await;
        site.until("filter", "an absence", |state| {
            state.condition("Fetched")[..2] == ["False", "Unavailable"]
        })
        .await;
        let envoy = site.envoy(&server, Variant::Delta, "filter").await;
        files.put("/filter.wasm", filter("back"));
        envoy.until("the filter", |answer| is_filtered(answer, "back", "", "")).await.unwrap();
        site.accepted("filter", 1).await;
        site.end().await;
    })
    .await;
}

/// Files are taken from the server's folders alone, and credentials are of the namespace that has them.
#[tokio::test]
async fn no_file_and_no_image_of_others_is_read() {
    with_temp_ns(async |client, ns| {
        let site = ExtensionSite::new(&client, ns).await;
        let _server = site.start("a").await;
        let outside = site.write("outside.wasm", filter("outside"));
        std::os::unix::fs::symlink(&outside, site.modules().join("link.wasm")).unwrap();
        let of = |uri: &str| json!({ "image": { "protocol": "local_fs", "uri": uri } });
        for uri in ["../outside.wasm", "a/../../outside.wasm"] {
            let refused = site.try_apply(ns, "refused", of(uri)).await.unwrap_err().to_string();
            assert!(refused.contains("the path of a module has no part that is .."), "{refused}");
        }
        for (name, uri) in
            [("absolute", outside.to_str().unwrap()), ("link", "link.wasm"), ("none", "none.wasm")]
        {
            site.apply(name, of(uri)).await;
            let state = site.until(name, "a refusal", |state| state.is("Published", "False")).await;
            assert!(state.is("Fetched", "False"), "{state:?}");
        }
        let uri = push(&format!("{ns}/fine:v1"), filter("fine")).await;
        site.apply("fine", json!({ "image": { "protocol": "oci", "uri": uri, "pull_secret": "nobodys" } }))
            .await;
        let state = site.until("fine", "a lack", |state| state.is("Fetched", "False")).await;
        assert_eq!(state.condition("Fetched")[1], "PullSecretUnusable", "{state:?}");
        site.end().await;
    })
    .await;
}
