//! How downloads are shared, watched, given up and repaired.

use super::*;
use crate::web::{Body, Reply, WebServer, offset};

#[tokio::test(flavor = "multi_thread")]
async fn many_pulls_are_one_download() {
    let (mut registry, node) = (Registry::start(), Node::new());
    registry.push("app", artifact(vec![7; 3 << 20], WASM, None)).await;
    let reference = registry.reference("app");
    let before = registry.reference("app");

    // Some give up at once, in the middle, or never.
    let quitters = join_all((0..10).map(|_| async {
        let download = Box::pin(node.store.pull(&reference, &[], None));
        let soon = Box::pin(tokio::task::yield_now());
        drop(futures::future::select(download, soon).await);
    }));
    let stayers = join_all((0..20).map(|_| node.store.pull(&reference, &[], None)));
    let (_, images) = futures::join!(quitters, stayers);
    let first = images[0].clone().unwrap();
    assert!(images.into_iter().all(|image| image.unwrap() == first));
    assert_eq!(before, reference);

    let log = registry.stop();
    let of = |what: &str| log.iter().filter(|line| is_get(line, what) && line.contains("kubewasm/")).count();
    assert_eq!(
        (of("/manifests/"), of("/blobs/")),
        (1, 2),
        "one manifest, one configuration, one layer: {log:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn different_images_are_pulled_side_by_side() {
    let (registry, node) = (Registry::start(), Node::new());
    let names: Vec<String> = (0..8).map(|number| format!("app-{number}")).collect();
    for name in &names {
        registry.push(name, artifact(module(name), WASM, None)).await;
    }
    let references: Vec<Reference> = names.iter().map(|name| registry.reference(name)).collect();
    let images = join_all(references.iter().map(|reference| pull(&node.store, reference))).await;
    for (image, name) in images.into_iter().zip(&names) {
        let found = node.store.module(&image.unwrap(), name).await.unwrap();
        assert_eq!(fs::read(found.path).unwrap(), module(name));
    }
    assert_eq!(node.store.list().unwrap().len(), 8);
}

#[tokio::test]
async fn progress_counts_bytes() {
    let (registry, node) = (Registry::start(), Node::new());
    registry.push("app", artifact(vec![7; 1 << 20], WASM, None)).await;
    let (updates, highest) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let listener = |progress: PullProgress| {
        assert!(
            progress.done_bytes >= highest.fetch_max(progress.done_bytes, Ordering::SeqCst),
            "it only grows"
        );
        updates.lock().unwrap().push(progress);
    };
    let listener: &dyn Progress = &listener;
    node.store.pull(&registry.reference("app"), &[], Some(listener)).await.unwrap();
    let updates = updates.into_inner().unwrap();
    assert_eq!(updates.last(), Some(&PullProgress { done_bytes: 1 << 20, total_bytes: 1 << 20 }));
    assert!(updates.iter().any(|progress| progress.done_bytes < progress.total_bytes), "{updates:?}");
}

#[tokio::test]
async fn a_store_that_lost_files_heals_with_the_next_pull() {
    let (registry, node) = (Registry::start(), Node::new());
    registry.push("app", container(vec![(tar(&[("app.wasm", &module("x"))]), TAR)], json!({}))).await;
    let reference = registry.reference("app");
    let image = pull(&node.store, &reference).await.unwrap();
    let blob = node.directory.path().join("blobs/sha256").join(image.manifest.hex());
    let damages: [&dyn Fn(); 4] = [
        &|| fs::write(&blob, "").unwrap(),
        &|| fs::remove_file(&blob).unwrap(),
        &|| fs::remove_dir_all(node.store.rootfs(&image).unwrap()).unwrap(),
        &|| {
            fs::write(node.directory.path().join(format!("images/{}.json", image.digest.hex())), "{").unwrap()
        },
    ];
    for damage in damages {
        damage();
        assert_eq!(node.store.get(&reference.clone().into()).unwrap(), None);
        assert_eq!(pull(&node.store, &reference).await.unwrap(), image);
        assert_eq!(node.store.get(&reference.clone().into()).unwrap(), Some(image.clone()));
        assert!(node.store.module(&image, "app.wasm").await.is_ok());
    }
}

#[tokio::test]
async fn a_pull_that_is_given_up_leaves_nothing() {
    let (registry, node) = (Registry::start(), Node::new());
    registry.push("app", artifact(vec![7; 8 << 20], WASM, None)).await;
    let reference = registry.reference("app");
    // Dropped when the first bytes of the layer have come.
    let begun = tokio::sync::Notify::new();
    let listener = |progress: PullProgress| {
        if progress.done_bytes > 0 {
            begun.notify_one();
        }
    };
    let download = Box::pin(node.store.pull(&reference, &[], Some(&listener)));
    match futures::future::select(download, Box::pin(begun.notified())).await {
        futures::future::Either::Left((outcome, _)) => {
            panic!("done before it was given up: {outcome:?}")
        }
        futures::future::Either::Right(((), download)) => drop(download),
    }
    node.assert_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pulls_of_a_tag_that_moved_make_one_request() {
    let (mut registry, node) = (Registry::start(), Node::new());
    let reference = registry.reference("app:v1");
    registry.push("app:v1", artifact(module("old"), WASM, None)).await;
    pull(&node.store, &reference).await.unwrap();
    registry.push("app:v1", artifact(module("new"), WASM, None)).await;
    let images = join_all((0..1000).map(|_| pull(&node.store, &reference))).await;
    let digests: std::collections::BTreeSet<Digest> =
        images.into_iter().map(|image| image.unwrap().digest).collect();
    assert_eq!(digests.len(), 1);
    let log: Vec<String> = registry.stop().into_iter().filter(|line| line.contains("kubewasm/")).collect();
    let count = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert_eq!(count("\"HEAD /v2/app/manifests/"), 1, "{log:#?}");
    assert_eq!(count("\"GET /v2/app/manifests/"), 2, "once for each image: {log:#?}");
    assert_eq!(count("\"GET /v2/app/blobs/"), 3, "a configuration and two modules: {log:#?}");
}

#[tokio::test]
async fn a_pinned_image_that_everybody_may_have_is_not_asked_for_again() {
    let (mut registry, node) = (Registry::start(), Node::new());
    let digest = registry.push("app", artifact(module("x"), WASM, None)).await;
    let pinned = registry.reference(&format!("app@{digest}"));
    let image = pull(&node.store, &registry.reference("app")).await.unwrap();
    registry.stop();
    for _ in 0..3 {
        let again = node.store.pull(&pinned, &[credential(PASSWORD)], None).await.unwrap();
        assert_eq!((again.image.digest, again.credential), (image.digest, None));
    }
    assert!(matches!(failure(&node.store, &registry.reference("app")).await, PullFailure::Unavailable(_)));
}

#[tokio::test]
async fn a_pinned_image_that_took_a_credential_is_for_those_who_may_have_it() {
    let (registry, node) = (Registry::start_with_login(), Node::new());
    let digest = registry.push("app", artifact(module("x"), WASM, None)).await;
    let pinned = registry.reference(&format!("app@{digest}"));
    node.store.pull(&pinned, &[credential(PASSWORD)], None).await.unwrap();
    assert!(matches!(failure(&node.store, &pinned).await, PullFailure::Denied(_)));
    let again = node.store.pull(&pinned, &[credential(PASSWORD)], None).await.unwrap();
    assert_eq!(again.credential, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_several_images_have_travels_once() {
    let (mut registry, node) = (Registry::start(), Node::new());
    let shared = gzip(&tar(&[("lib.wasm", &vec![7; 2 << 20])]));
    let names: Vec<String> = (0..6).map(|number| format!("app-{number}")).collect();
    for name in &names {
        let own = gzip(&tar(&[("app.wasm", &module(name))]));
        // The other way around in every other image.
        let mut layers = vec![(shared.clone(), TAR_GZIP), (own, TAR_GZIP)];
        if name.ends_with(['1', '3', '5']) {
            layers.reverse();
        }
        registry.push(name, container(layers, json!({"Cmd": ["/app.wasm"]}))).await;
    }
    let references: Vec<Reference> = names.iter().map(|name| registry.reference(name)).collect();
    let images = join_all(references.iter().map(|reference| pull(&node.store, reference))).await;
    for image in images {
        assert!(node.store.module(&image.unwrap(), "/app.wasm").await.is_ok());
    }
    let digest = Digest::of(&shared).to_string();
    let gets = registry.stop().into_iter().filter(|line| is_get(line, &digest) && line.contains("kubewasm/"));
    assert_eq!(gets.count(), 1);
}

#[tokio::test]
async fn a_layer_that_is_a_configuration_elsewhere_is_left_alone() {
    let (registry, node) = (Registry::start(), Node::new());
    let digest = Digest::of(b"{}");
    registry.push("plain", artifact(module("x"), WASM, None)).await;
    pull(&node.store, &registry.reference("plain")).await.unwrap();
    let blob = node.directory.path().join("blobs/sha256").join(digest.hex());
    let written = || fs::metadata(&blob).unwrap().modified().unwrap();
    let before = written();
    // Its layer is its configuration.
    registry.push("odd", artifact(b"{}".to_vec(), WASM, None)).await;
    pull(&node.store, &registry.reference("odd")).await.unwrap();
    assert_eq!((fs::read(&blob).unwrap(), written()), (b"{}".to_vec(), before), "it is not written again");
}

#[tokio::test]
async fn a_layer_that_breaks_off_is_continued() {
    let layer = [module("long"), vec![7; 1 << 20]].concat();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}"), "size": 2},
        "layers": [{"mediaType": WASM, "digest": Digest::of(&layer), "size": layer.len()}],
    });
    for knows_ranges in [true, false] {
        let (manifest, content) = (manifest.to_string(), layer.clone());
        let breaks = AtomicU64::new(2);
        let server = WebServer::start(move |request| {
            let path = request.split(' ').nth(1).unwrap_or_default();
            if path.contains("/manifests/") {
                return Reply::ok(manifest.clone());
            }
            if path.ends_with(&Digest::of(b"{}").hex()) {
                return Reply::ok("{}");
            }
            let from = offset(request).filter(|_| knows_ranges);
            let rest = content[from.unwrap_or_default()..].to_vec();
            let is_cut =
                breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            let body = if is_cut { Body::Cut(rest, 100_000) } else { Body::Whole(rest) };
            match from {
                Some(from) => {
                    let range =
                        format!("content-range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
                    Reply::new("206 Partial Content", &range, body)
                }
                None => Reply::new("200 OK", "", body),
            }
        })
        .await;
        let node = Node::new();
        let image = pull(&node.store, &server.reference("app:v1")).await.unwrap();
        let found = node.store.module(&image, "app").await.unwrap();
        assert_eq!(fs::read(found.path).unwrap(), layer);
        let blob = Digest::of(&layer).hex();
        let requests = server.requests();
        let offsets: Vec<_> = requests
            .iter()
            .filter(|request| request.contains(&blob))
            .map(|request| offset(request))
            .collect();
        assert!(
            matches!(offsets[..], [None, Some(first), Some(second)] if first > 0 && second > 0),
            "{offsets:?}"
        );
        if knows_ranges {
            assert!(offsets[1] < offsets[2], "no byte travels twice: {offsets:?}");
        }
    }
}
