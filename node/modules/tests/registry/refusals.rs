//! Registries that say no, images that are refused.

use super::*;

#[tokio::test]
async fn logins_that_are_good_wrong_and_missing() {
    let (registry, node) = (Registry::start_with_login(), Node::new());
    registry.push("private", artifact(module("x"), WASM, None)).await;
    let reference = registry.reference("private");

    let reason = failure(&node.store, &reference).await;
    assert!(matches!(&reason, PullFailure::Denied(text) if text.contains("imagePullSecrets")), "{reason}");

    let wrong = credential("not the password");
    let error = node.store.pull(&reference, std::slice::from_ref(&wrong), None).await.unwrap_err();
    assert!(matches!(error.reason, PullFailure::Denied(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("not the password"));
    node.assert_empty();

    let credentials = [wrong, credential(PASSWORD)];
    let fetched = node.store.pull(&reference, &credentials, None).await.unwrap();
    assert_eq!(fetched.credential, Some(1));
    assert_eq!(node.store.get(&reference.clone().into()).unwrap(), Some(fetched.image.clone()));

    // What is here is asked for all the same, and given to those who may have it.
    let again = node.store.pull(&reference, &credentials[1..], None).await.unwrap();
    assert_eq!((again.image, again.credential), (fetched.image, Some(0)));
    assert!(matches!(failure(&node.store, &reference).await, PullFailure::Denied(_)));
}

#[tokio::test]
async fn tls_with_an_authority_of_ones_own() {
    let registry = Registry::start_with_tls();
    registry.push("app", artifact(module("x"), WASM, None)).await;
    let reference = registry.reference("app");
    let trusting = Node::with(StoreOptions {
        certificate_authorities: vec![registry.authority()],
        ..StoreOptions::default()
    });
    pull(&trusting.store, &reference).await.unwrap();

    // Not trusted is not served: there is no way down to plain HTTP, on this machine or elsewhere.
    let insecure = vec![reference.registry().to_owned()];
    let node = Node::with(StoreOptions { insecure_registries: insecure, ..StoreOptions::default() });
    let reason = failure(&node.store, &reference).await;
    assert!(matches!(&reason, PullFailure::Unavailable(text) if text.contains("certificate")), "{reason}");
}

#[tokio::test]
async fn images_that_are_not_there() {
    let (registry, node) = (Registry::start(), Node::new());
    registry.push("app:v1", artifact(module("x"), WASM, None)).await;
    let none = Digest::of(b"nothing of that name");
    for name in ["app:v2", "none", &format!("app@{none}")] {
        let reason = failure(&node.store, &registry.reference(name)).await;
        assert!(
            matches!(&reason, PullFailure::NotFound(text) if text.contains("unknown")),
            "{name}: {reason}"
        );
        assert!(reason.to_string().starts_with("not found: "), "{reason}");
    }
    let sha512 = format!("app@sha512:{}", "0".repeat(128));
    let reason = failure(&node.store, &registry.reference(&sha512)).await;
    assert!(matches!(reason, PullFailure::Unsupported(_)), "{reason}");
    node.assert_empty();
}

#[tokio::test]
async fn a_registry_that_is_down() {
    let (mut registry, node) = (Registry::start(), Node::new());
    registry.push("app", artifact(module("x"), WASM, None)).await;
    registry.stop();
    let reason = failure(&node.store, &registry.reference("app")).await;
    assert!(
        matches!(&reason, PullFailure::Unavailable(text) if text.contains("onnection refused")),
        "{reason}"
    );
}

#[tokio::test]
async fn content_that_was_damaged_is_never_kept() {
    let (registry, node) = (Registry::start(), Node::new());
    let bytes = module("precious");
    let layer = Digest::of(&bytes).to_string();
    let manifest = registry.push("app", artifact(bytes.clone(), WASM, None)).await;
    let reference = registry.reference("app");
    let mut flipped = bytes.clone();
    flipped[bytes.len() - 1] ^= 1;

    for damaged in [&flipped[..], &[&bytes[..], b"more"].concat()] {
        fs::write(registry.blob(&layer), damaged).unwrap();
        let reason = failure(&node.store, &reference).await;
        assert!(matches!(&reason, PullFailure::Mismatch(text) if text.contains(&layer)), "{reason}");
        node.assert_empty();
    }
    fs::remove_file(registry.blob(&layer)).unwrap();
    let reason = failure(&node.store, &reference).await;
    assert!(
        matches!(&reason, PullFailure::Malformed(text) if text.contains("missing in the registry")),
        "{reason}"
    );

    fs::write(registry.blob(&layer), &bytes).unwrap();
    let original = fs::read_to_string(registry.blob(&manifest)).unwrap();
    fs::write(registry.blob(&manifest), format!("{original} ")).unwrap();
    let by_digest = registry.reference(&format!("app@{manifest}"));
    let reason = failure(&node.store, &by_digest).await;
    assert!(matches!(reason, PullFailure::Mismatch(_)), "{reason}");
    node.assert_empty();

    fs::write(registry.blob(&manifest), original).unwrap();
    pull(&node.store, &reference).await.unwrap();
}

#[tokio::test]
async fn what_cannot_run_is_refused_before_it_is_downloaded() {
    let (mut registry, node) = (Registry::start(), Node::new());
    registry
        .push("chart", artifact(b"x".to_vec(), "application/vnd.cncf.helm.chart.content.v1.tar+gzip", None))
        .await;
    let reason = failure(&node.store, &registry.reference("chart")).await;
    assert!(matches!(&reason, PullFailure::Unsupported(text) if text.contains("no WebAssembly")), "{reason}");

    let empty = registry.push("empty", artifact(Vec::new(), WASM, None)).await;
    let reason = failure(&node.store, &registry.reference("empty")).await;
    assert!(
        matches!(&reason, PullFailure::EmptyLayer(layer) if *layer == Digest::of(b"")),
        "{empty}: {reason}"
    );

    let hostile = tar_named("../outside", b"x");
    registry.push("hostile", container(vec![(hostile, TAR)], json!({}))).await;
    let reason = failure(&node.store, &registry.reference("hostile")).await;
    assert!(
        matches!(&reason, PullFailure::Malformed(text) if text.contains("leads out of the image")),
        "{reason}"
    );
    node.assert_empty();

    let blobs: Vec<String> = registry.stop().into_iter().filter(|line| is_get(line, "/blobs/")).collect();
    assert_eq!(blobs.len(), 2, "configuration and layer of the hostile image only: {blobs:#?}");
}

#[tokio::test]
async fn limits_of_the_node() {
    let registry = Registry::start();
    let options =
        StoreOptions { layer_limit: 4096, image_limit: 6000, entry_limit: 2, ..StoreOptions::default() };
    let node = Node::with(options);
    let plain = |files: &[(&str, &[u8])]| container(vec![(tar(files), TAR)], json!({}));
    let big = vec![0; 5000];
    for (name, image) in [
        ("layer", artifact(vec![0; 5000], WASM, None)),
        ("packed", container(vec![(vec![1; 4000], TAR), (vec![2; 4000], TAR)], json!({}))),
        ("bomb", container(vec![(gzip(&tar(&[("a", &big)])), TAR_GZIP)], json!({}))),
        ("many", plain(&[("a", b""), ("b", b""), ("c", b"")])),
    ] {
        registry.push(name, image).await;
        let reason = failure(&node.store, &registry.reference(name)).await;
        assert!(
            matches!(&reason, PullFailure::TooLarge(text) if text.contains("this node's limit")),
            "{name}: {reason}"
        );
        node.assert_empty();
    }
    registry.push("fits", plain(&[("a", b"x"), ("b", b"")])).await;
    pull(&node.store, &registry.reference("fits")).await.unwrap();
}
