//! What is pushed, as this crate and as others pull it; and what others push.

use std::{collections::BTreeMap, path::PathBuf};

use kubewasm_modules::{Artifact, ArtifactConfig, ComponentInterfaces};
use oci_client::{
    client::{Config, ImageLayer},
    manifest::OCI_IMAGE_MEDIA_TYPE,
};
use tempfile::TempDir;

use super::*;

const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";

/// A module file that is to be pushed.
fn file(bytes: &[u8]) -> (TempDir, Artifact) {
    let folder = TempDir::new().unwrap();
    let module = folder.path().join("hello.wasm");
    fs::write(&module, bytes).unwrap();
    let config = ArtifactConfig {
        created: "2026-01-01T00:00:00Z".to_owned(),
        os: "wasip2".to_owned(),
        component: Some(ComponentInterfaces { imports: vec!["a:b/c".to_owned()], exports: Vec::new() }),
    };
    let annotations = BTreeMap::from([("org.example.key".to_owned(), "value".to_owned())]);
    (folder, Artifact { module, title: "hello.wasm".to_owned(), config, annotations })
}

fn is(line: &str, method: &str, what: &str) -> bool {
    line.split('"').nth(1).is_some_and(|request| request.starts_with(method) && request.contains(what))
}

#[tokio::test]
async fn what_is_pushed_is_pulled_by_us_and_by_others() {
    let (mut registry, node) = (Registry::start(), Node::new());
    let bytes = module("pushed");
    let (_folder, artifact) = file(&bytes);
    let reference = registry.reference("team/hello:v1");
    let seen = Mutex::new(Vec::new());
    let progress = |state: PullProgress| seen.lock().unwrap().push(state);
    let pushed = node.store.push(&reference, &artifact, &[], Some(&progress as &dyn Progress)).await.unwrap();
    assert_eq!((pushed.module, pushed.size), (Digest::of(&bytes), bytes.len() as u64));
    let last = *seen.lock().unwrap().last().unwrap();
    assert_eq!(last.done_bytes, last.total_bytes);
    assert!(node.store.list().unwrap().is_empty(), "it is the registry's");

    let image = pull(&node.store, &reference).await.unwrap();
    assert_eq!((image.digest, image.entrypoint.as_slice()), (pushed.digest, &["hello.wasm".to_owned()][..]));
    assert_eq!(image.kind, ImageKind::Module { module: pushed.module });

    let (manifest, config, layer) = registry.pull_with_oci_client("team/hello:v1").await;
    assert_eq!(layer, bytes);
    assert_eq!(manifest.config.media_type, WASM_CONFIG);
    assert_eq!(manifest.annotations.unwrap()["org.example.key"], "value");
    assert_eq!(
        manifest.layers[0].annotations.as_ref().unwrap()["org.opencontainers.image.title"],
        "hello.wasm"
    );
    let expected = json!({
        "created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2",
        "layerDigests": [pushed.module], "component": {"imports": ["a:b/c"], "exports": []},
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&config).unwrap(), expected);

    // Under another tag nothing is sent but the manifest.
    let again = node.store.push(&registry.reference("team/hello:v2"), &artifact, &[], None).await.unwrap();
    assert_eq!(again.digest, pushed.digest);
    let log = registry.stop();
    assert_eq!(log.iter().filter(|line| is(line, "PUT ", "/blobs/uploads/")).count(), 2);
    assert_eq!(log.iter().filter(|line| is(line, "PUT ", "/manifests/")).count(), 2);
}

#[tokio::test]
async fn a_push_by_login_and_over_tls() {
    let registry = Registry::start_with_login();
    let node = Node::new();
    let (_folder, artifact) = file(&module("x"));
    let reference = registry.reference("hello:v1");
    for wrong in [&[][..], &[credential("wrong")]] {
        let error = node.store.push(&reference, &artifact, wrong, None).await.unwrap_err();
        assert!(matches!(error.reason, PullFailure::Denied(_)), "{error}");
    }
    let pushed =
        node.store.push(&reference, &artifact, &[credential("wrong"), credential(PASSWORD)], None).await;
    assert_eq!(pushed.unwrap().credential, Some(1));

    let registry = Registry::start_with_tls();
    let reference = registry.reference("hello:v1");
    let error = node.store.push(&reference, &artifact, &[], None).await.unwrap_err();
    assert!(
        matches!(error.reason, PullFailure::Unavailable(_)),
        "nobody vouches for its certificate: {error}"
    );
    let options =
        StoreOptions { certificate_authorities: vec![registry.authority()], ..StoreOptions::default() };
    let node = Node::with(options);
    let pushed = node.store.push(&reference, &artifact, &[], None).await.unwrap();
    assert_eq!(pull(&node.store, &reference).await.unwrap().digest, pushed.digest);
}

#[tokio::test]
async fn what_is_not_pushed() {
    let (registry, node) = (Registry::start(), Node::new());
    let (folder, artifact) = file(b"#!/bin/sh\n");
    let push = async |reference: &Reference, module: PathBuf| {
        let artifact = Artifact { module, ..artifact.clone() };
        node.store.push(reference, &artifact, &[], None).await.unwrap_err().reason
    };
    let tagged = registry.reference("hello:v1");
    let reason = push(&tagged, artifact.module.clone()).await;
    assert!(
        matches!(&reason, PullFailure::Unsupported(text) if text.contains("not a WebAssembly module")),
        "{reason}"
    );
    let reason = push(&tagged, folder.path().to_owned()).await;
    assert!(
        matches!(&reason, PullFailure::Unsupported(text) if text.contains("no regular file")),
        "{reason}"
    );
    assert!(matches!(push(&tagged, folder.path().join("none")).await, PullFailure::Store(_)));
    let digest = registry.reference(&format!("hello@{}", Digest::of(b"")));
    let reason = push(&digest, artifact.module.clone()).await;
    assert!(matches!(&reason, PullFailure::Unsupported(text) if text.contains("under a tag")), "{reason}");
}

/// The manifests that `wkg oci push` and `spin registry push` write, by their sources.
#[tokio::test]
async fn what_wkg_and_spin_push_is_pulled() {
    let (registry, node) = (Registry::start(), Node::new());
    let bytes = module("component");
    let title =
        |title: &str| Some(BTreeMap::from([("org.opencontainers.image.title".to_owned(), title.to_owned())]));
    let config = json!({
        "created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2", "layerDigests": [Digest::of(&bytes)],
        "component": {"exports": ["wasi:cli/run@0.2.0"], "imports": []},
    });
    let wkg = Pushed {
        layers: vec![ImageLayer::new(bytes.clone(), WASM.to_owned(), title("hello.wasm"))],
        config: Config::new(config.to_string().into_bytes(), WASM_CONFIG.to_owned(), None),
        manifest_type: OCI_IMAGE_MEDIA_TYPE,
    };
    registry.push("wkg:v1", wkg).await;
    let image = pull(&node.store, &registry.reference("wkg:v1")).await.unwrap();
    assert_eq!(
        (image.kind, image.entrypoint.as_slice()),
        (ImageKind::Module { module: Digest::of(&bytes) }, &["hello.wasm".to_owned()][..])
    );

    let content = "application/vnd.wasm.content.layer.v1+wasm";
    let application = "application/vnd.fermyon.spin.application.v1+config";
    let spin = |components: &[&str]| {
        let mut layers: Vec<_> =
            components.iter().map(|text| ImageLayer::new(module(text), content.to_owned(), None)).collect();
        layers.push(ImageLayer::new(
            b"file".to_vec(),
            "application/vnd.wasm.content.layer.v1+data".to_owned(),
            None,
        ));
        layers.push(ImageLayer::new(b"{}".to_vec(), application.to_owned(), None));
        let config = json!({"architecture": "wasm", "os": "Wasip1", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}});
        let config = Config::new(
            config.to_string().into_bytes(),
            oci_client::manifest::IMAGE_CONFIG_MEDIA_TYPE.to_owned(),
            None,
        );
        Pushed { layers, config, manifest_type: OCI_IMAGE_MEDIA_TYPE }
    };
    registry.push("spin:one", spin(&["one"])).await;
    let image = pull(&node.store, &registry.reference("spin:one")).await.unwrap();
    assert_eq!(image.kind, ImageKind::Module { module: Digest::of(&module("one")) });
    registry.push("spin:two", spin(&["one", "two"])).await;
    let reason = failure(&node.store, &registry.reference("spin:two")).await;
    assert!(
        matches!(&reason, PullFailure::Unsupported(text) if text.contains("a Spin application of 2 components")),
        "{reason}"
    );
}
