//! Modules as artifacts: one layer is the module.

use super::*;

#[tokio::test]
async fn an_artifact_by_tag_and_by_digest() {
    let (registry, node) = (Registry::start(), Node::new());
    let bytes = module("hello");
    let digest = registry.push("team/hello:v1", artifact(bytes.clone(), WASM, Some("hello.wasm"))).await;
    let tagged = registry.reference("team/hello:v1");
    assert_eq!(node.store.get(&tagged.clone().into()).unwrap(), None);

    let image = pull(&node.store, &tagged).await.unwrap();
    assert_eq!(image.digest.to_string(), digest);
    assert_eq!(image.manifest, image.digest);
    assert_eq!(image.kind, ImageKind::Module { module: Digest::of(&bytes) });
    assert_eq!(image.id(), format!("{}@{digest}", tagged.name()));
    assert_eq!(image.names, [image.id(), tagged.to_string()]);
    assert_eq!(image.entrypoint, ["hello.wasm"]);
    assert!(image.size_bytes > bytes.len() as u64);
    assert_eq!(node.store.rootfs(&image), None);
    assert_eq!(node.store.get(&tagged.clone().into()).unwrap(), Some(image.clone()));
    assert_eq!(node.store.list().unwrap(), std::slice::from_ref(&image));

    let found = node.store.module(&image, "whatever").await.unwrap();
    assert_eq!((found.digest, fs::read(&found.path).unwrap()), (Digest::of(&bytes), bytes));

    // By digest, with and without a tag that says something else.
    for name in [format!("team/hello@{digest}"), format!("team/hello:other@{digest}")] {
        let other = Node::new();
        let reference = registry.reference(&name);
        let image = pull(&other.store, &reference).await.unwrap();
        assert_eq!(image.names, [format!("{}@{digest}", tagged.name())], "a tag beside a digest is no name");
        assert!(node.store.get(&reference.into()).unwrap().is_some());
    }
}

#[tokio::test]
async fn every_kind_of_module_layer() {
    let (registry, node) = (Registry::start(), Node::new());
    for media_type in [
        WASM,
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.module.wasm.content.layer.v1+wasm",
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    ] {
        registry.push("team/app", artifact(module(media_type), media_type, None)).await;
        let image = pull(&node.store, &registry.reference("team/app")).await.unwrap();
        assert_eq!(image.entrypoint, ["app"], "without a title the repository gives the name");
        let found = node.store.module(&image, "app").await.unwrap();
        assert_eq!(fs::read(found.path).unwrap(), module(media_type));
    }
}

#[tokio::test]
async fn an_artifact_with_an_image_configuration_keeps_its_environment() {
    let (registry, node) = (Registry::start(), Node::new());
    let config = json!({"Env": ["A=1"], "Cmd": ["serve"]});
    registry.push("app", container(vec![(module("x"), WASM)], config)).await;
    let image = pull(&node.store, &registry.reference("app")).await.unwrap();
    assert_eq!(image.env, [("A".to_owned(), "1".to_owned())]);
    assert_eq!((image.entrypoint, image.cmd), (vec!["app".to_owned()], vec!["serve".to_owned()]));
}

#[tokio::test]
async fn a_tag_that_moves_and_two_digests_are_two_images() {
    let (registry, node) = (Registry::start(), Node::new());
    let reference = registry.reference("app:v1");
    let mut digests = Vec::new();
    for text in ["old", "new"] {
        digests.push(registry.push("app:v1", artifact(module(text), WASM, None)).await);
        pull(&node.store, &reference).await.unwrap();
    }
    let tagged = node.store.get(&reference.clone().into()).unwrap().unwrap();
    assert_eq!(tagged.digest.to_string(), digests[1], "a pull asks what the tag means now");
    for (digest, text) in digests.iter().zip(["old", "new"]) {
        let name: ImageName = format!("{}@{digest}", reference.name()).parse().unwrap();
        let image = node.store.get(&name).unwrap().unwrap();
        let found = node.store.module(&image, "app").await.unwrap();
        assert_eq!(fs::read(found.path).unwrap(), module(text));
    }
}

#[tokio::test]
async fn an_image_that_has_not_changed_is_asked_by_head_only() {
    let (mut registry, node) = (Registry::start(), Node::new());
    registry.push("app", artifact(module("x"), WASM, None)).await;
    let reference = registry.reference("app");
    let first = pull(&node.store, &reference).await.unwrap();
    for _ in 0..3 {
        assert_eq!(pull(&node.store, &reference).await.unwrap(), first);
    }
    let log = registry.stop();
    let count = |method: &str| {
        let of = |line: &&String| {
            line.contains(&format!("\"{method} /v2/app/manifests/")) && line.contains("kubewasm/")
        };
        log.iter().filter(of).count()
    };
    assert_eq!((count("GET"), count("HEAD")), (1, 3), "{log:#?}");
}
