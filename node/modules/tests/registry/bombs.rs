//! Registries that send what is too much, too slow, or something else than they say.

use std::time::Duration;

use tokio::net::TcpListener;

use super::*;
use crate::{
    hostile::pull_as_alice,
    web::{Body, Reply, WebServer},
};

/// A registry of one image, in the words of a hostile one: `manifest` and each of the blobs is what is sent, true or not.
async fn registry_of(manifest: Vec<u8>, blobs: Vec<(String, fn() -> Reply)>) -> WebServer {
    WebServer::start(move |request| {
        let path = request.split(' ').nth(1).unwrap_or_default();
        if path.contains("/manifests/") {
            return Reply::ok(manifest.clone());
        }
        let blob = blobs.iter().find(|(digest, _)| path.ends_with(digest));
        blob.map_or_else(|| Reply::status("404 Not Found"), |(_, reply)| reply())
    })
    .await
}

/// A manifest of one layer whose digest and size are what they are said to be.
pub(crate) fn manifest_of(media_type: &str, digest: &str, size: u64) -> Vec<u8> {
    let config = b"{}";
    json!({
        "schemaVersion": 2,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": Digest::of(config).to_string(),
            "size": config.len(),
        },
        "layers": [{"mediaType": media_type, "digest": digest, "size": size}],
    })
    .to_string()
    .into_bytes()
}

pub(crate) fn config() -> (String, fn() -> Reply) {
    (Digest::of(b"{}").to_string(), || Reply::ok("{}"))
}

/// A node with small limits.
fn wary() -> Node {
    Node::with(limits())
}

/// A node with small limits, which knows no patience.
fn impatient() -> Node {
    Node::with(StoreOptions { stall_timeout: Duration::from_millis(500), ..limits() })
}

fn limits() -> StoreOptions {
    StoreOptions { layer_limit: 4 << 20, image_limit: 8 << 20, entry_limit: 1000, ..StoreOptions::default() }
}

#[tokio::test]
async fn manifests_that_are_none() {
    let nested = br#"{"schemaVersion":2,"manifests":[{"digest":"DIGEST","size":2,"platform":{"os":"wasi","architecture":"wasm"}}]}"#;
    let inner = br#"{"schemaVersion":2,"manifests":[]}"#;
    let many = |entry: &str, count: usize| vec![entry; count].join(",");
    let layer = format!(r#"{{"mediaType":"{TAR}","digest":"{}","size":1}}"#, Digest::of(b"x"));
    let platform = r#"{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":1,"platform":{"os":"windows","architecture":"s390x"}}"#;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"<!DOCTYPE html><title>Sign in</title>".to_vec(), "its manifest cannot be read"),
        (b"".to_vec(), "its manifest cannot be read"),
        ("[".repeat(100_000).into_bytes(), "its manifest cannot be read"),
        (vec![b' '; (4 << 20) + 1], "the manifest is larger than 4194304 bytes"),
        (
            format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, many(platform, 20_000)).into_bytes(),
            "it has no image for wasi/wasm",
        ),
        (
            format!(
                r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":2}},"layers":[{}]}}"#,
                Digest::of(b"{}"),
                many(&layer, 10_000)
            )
            .into_bytes(),
            "it has 10000 layers, and 128 is the limit",
        ),
        (
            String::from_utf8_lossy(nested).replace("DIGEST", &Digest::of(inner).to_string()).into_bytes(),
            // The same is sent for what the index names.
            "has the digest",
        ),
    ];
    for (manifest, found) in cases {
        let server = registry_of(manifest, vec![]).await;
        let node = wary();
        let text = failure(&node.store, &server.reference("app:v1")).await.to_string();
        assert!(text.contains(found) && text.len() < 1500, "{found}: {text}");
        assert!(server.requests().len() <= 2, "a bomb is not lit");
        node.assert_empty();
    }
}

#[tokio::test]
async fn an_index_that_leads_to_an_index() {
    let inner = json!({"schemaVersion": 2, "manifests": []}).to_string();
    let entry = json!({
        "digest": Digest::of(inner.as_bytes()).to_string(), "size": inner.len(),
        "platform": {"os": "wasi", "architecture": "wasm"},
    });
    let outer = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let server = WebServer::start(move |request| {
        Reply::ok(if request.contains("/manifests/v1 ") { outer.clone() } else { inner.clone() })
    })
    .await;
    let node = wary();
    let reason = failure(&node.store, &server.reference("app:v1")).await;
    assert!(matches!(&reason, PullFailure::Unsupported(text) if text.contains("another index")), "{reason}");
    node.assert_empty();
}

#[tokio::test]
async fn blobs_that_are_not_what_the_manifest_says() {
    let good = module("x");
    let digest = Digest::of(&good).to_string();
    let size = good.len() as u64;
    type Case = (u64, fn() -> Reply, &'static str);
    let cases: &[Case] = &[
        (size, || Reply::ok(module("y")), "has the digest"),
        (size + 1, || Reply::ok(module("x")), "should have"),
        (size - 1, || Reply::ok(module("x")), "and has more"),
        (size, || Reply::ok("<html>Sign in</html>"), "should have"),
        (1 << 20, || Reply::new("200 OK", "", Body::Endless(b"")), "and has more"),
        (1 << 20, || Reply::new("200 OK", "", Body::Cut(vec![0; 1 << 20], 10)), "it has broken off 6 times"),
        (
            size,
            || Reply::new("206 Partial Content", "content-range: bytes 5-9/10\r\n", Body::Whole(vec![0; 5])),
            "the range that came is bytes 5-9/10",
        ),
        (size, || Reply::redirect("/v2/app/loop"), "missing in the registry"),
        (1 << 40, || Reply::ok(""), "this node's limit for a layer"),
        (u64::MAX, || Reply::ok(""), "this node's limit for a layer"),
    ];
    for (size, reply, found) in cases {
        let blobs = vec![config(), (digest.clone(), *reply)];
        let server = registry_of(manifest_of(WASM, &digest, *size), blobs).await;
        let node = wary();
        let text = failure(&node.store, &server.reference("app:v1")).await.to_string();
        assert!(text.contains(found), "{found}: {text}");
        assert!(server.requests().len() <= 12, "{found}");
        node.assert_empty();
    }
}

#[tokio::test]
async fn redirects_and_challenges_without_end() {
    let node = wary();
    let circle = WebServer::start(|_| Reply::redirect("/v2/app/manifests/v1")).await;
    let reason = failure(&node.store, &circle.reference("app:v1")).await;
    assert!(matches!(&reason, PullFailure::Unavailable(text) if text.contains("too often")), "{reason}");
    assert!(circle.requests().len() <= 12);

    let asking = WebServer::start(|_| {
        Reply::new("401 Unauthorized", "www-authenticate: Basic realm=\"r\"\r\n", Body::Whole(vec![]))
    })
    .await;
    let reason = pull_as_alice(&node, &asking.reference("app:v1")).await;
    assert!(matches!(&reason, PullFailure::Denied(_)), "{reason}");
    assert_eq!(asking.requests().len(), 3, "with the credential twice, and once without");

    // A service whose tokens are never good enough.
    let own = std::sync::Arc::new(std::sync::OnceLock::new());
    let address = std::sync::Arc::clone(&own);
    let tokens = WebServer::start(move |request| match request.contains(" /token") {
        true => Reply::ok(r#"{"token":"T"}"#),
        false => {
            let realm: &std::net::SocketAddr = address.get().unwrap();
            let challenge =
                format!("www-authenticate: Bearer realm=\"http://{realm}/token\",service=\"s\"\r\n");
            Reply::new("401 Unauthorized", &challenge, Body::Whole(vec![]))
        }
    })
    .await;
    own.set(tokens.address).unwrap();
    let reason = pull_as_alice(&node, &tokens.reference("app:v1")).await;
    assert!(matches!(&reason, PullFailure::Denied(_)), "{reason}");
    assert!(tokens.requests().len() <= 6);

    let flood = WebServer::start(|request| match request.contains(" /token") {
        true => Reply::new("200 OK", "", Body::Endless(b"{\"token\":\"")),
        false => {
            let host = web::header(request, "host").unwrap();
            let challenge = format!("www-authenticate: Bearer realm=\"http://{host}/token\"\r\n");
            Reply::new("401 Unauthorized", &challenge, Body::Whole(vec![]))
        }
    })
    .await;
    let reason = failure(&node.store, &flood.reference("app:v1")).await;
    assert!(matches!(&reason, PullFailure::TooLarge(text) if text.contains("the token")), "{reason}");
    node.assert_empty();
}

#[tokio::test]
async fn answers_that_never_come() {
    let node = impatient();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reference: Reference = format!("{}/app:v1", silent.local_addr().unwrap()).parse().unwrap();
    let reason = failure(&node.store, &reference).await;
    assert!(matches!(reason, PullFailure::Unavailable(_)), "{reason}");
    // In the middle of a manifest, and of a layer.
    let stalled = WebServer::start(|_| Reply::new("200 OK", "", Body::Stalled)).await;
    let reason = failure(&node.store, &stalled.reference("app:v1")).await;
    assert!(matches!(reason, PullFailure::Unavailable(_)), "{reason}");
    let digest = Digest::of(b"x").to_string();
    let layer: fn() -> Reply = || Reply::new("200 OK", "", Body::Stalled);
    let blobs = vec![config(), (digest.clone(), layer)];
    let server = registry_of(manifest_of(WASM, &digest, 1 << 20), blobs).await;
    let reason = failure(&node.store, &server.reference("app:v1")).await;
    assert!(matches!(reason, PullFailure::Unavailable(_)), "{reason}");
    node.assert_empty();
}

#[tokio::test]
async fn archives_that_lead_out_or_swell() {
    let registry = Registry::start();
    let link = |kind: tar::EntryType, name: &str, target: &str| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, name, target).unwrap();
        let mut file = tar::Header::new_gnu();
        file.set_size(1);
        file.set_mode(0o644);
        builder.append_data(&mut file, format!("{name}/passwd"), &b"x"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let zeros = vec![0; 32 << 20];
    let bomb = tar(&[("bomb", &zeros)]);
    let crowd: Vec<(String, &[u8])> = (0..2000).map(|number| (number.to_string(), &b""[..])).collect();
    let crowd: Vec<(&str, &[u8])> = crowd.iter().map(|(name, content)| (name.as_str(), *content)).collect();
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("dots", tar_named("../outside", b"x"), TAR, "leads out of the image"),
        ("deep-dots", tar_named("a/../../outside", b"x"), TAR, "leads out of the image"),
        ("gzip-bomb", gzip(&bomb), TAR_GZIP, "this node's limit"),
        ("zstd-bomb", zstd::encode_all(bomb.as_slice(), 3).unwrap(), TAR_ZSTD, "this node's limit"),
        ("crowd", gzip(&tar(&crowd)), TAR_GZIP, "this node's limit"),
        ("cut", gzip(&bomb)[..1000].to_vec(), TAR_GZIP, ""),
        ("noise", vec![0xa5; 4096], TAR_ZSTD, ""),
    ];
    for (name, layer, media_type, found) in cases {
        registry.push(name, container(vec![(layer, media_type)], json!({}))).await;
        let node = wary();
        let text = failure(&node.store, &registry.reference(name)).await.to_string();
        assert!(text.contains(found), "{name}: {text}");
        node.assert_empty();
    }

    // What is absolute, or goes through a link, stays inside.
    let outside = tempfile::TempDir::new().unwrap();
    for (name, layer) in [
        ("absolute", tar_named("/etc/passwd", b"x")),
        ("link", link(tar::EntryType::Symlink, "etc", outside.path().to_str().unwrap())),
        ("up", link(tar::EntryType::Symlink, "etc", "../../../../../../../../../tmp")),
    ] {
        registry.push(name, container(vec![(layer, TAR)], json!({}))).await;
        let node = wary();
        match pull(&node.store, &registry.reference(name)).await {
            Ok(image) => assert!(node.store.rootfs(&image).is_some(), "{name}"),
            Err(error) => {
                assert!(matches!(error.reason, PullFailure::Malformed(_)), "{name}: {error}");
                node.assert_empty();
            }
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{name}");
    }
}
