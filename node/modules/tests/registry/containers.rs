//! Container images: a file system with modules in it.

use super::*;

#[tokio::test]
async fn a_container_image_of_three_layers() {
    let (registry, node) = (Registry::start(), Node::new());
    let (first, second) = (module("first"), module("second"));
    let mut links = tar::Builder::new(Vec::new());
    for (kind, name, target) in [
        (tar::EntryType::Symlink, "bin/tool", "hello.wasm"),
        (tar::EntryType::Link, "bin/hard", "bin/hello.wasm"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        links.append_link(&mut header, name, target).unwrap();
    }
    let layers = vec![
        (tar(&[("bin/hello.wasm", &first), ("etc/old", b"x"), ("etc/motd", b"hi")]), TAR),
        (gzip(&tar(&[("bin/hello.wasm", &second), ("etc/.wh.old", b"")])), TAR_GZIP),
        (zstd::encode_all(links.into_inner().unwrap().as_slice(), 3).unwrap(), TAR_ZSTD),
    ];
    let config = json!({
        "Entrypoint": ["/bin/hello.wasm"], "Cmd": ["world"], "Env": ["PATH=/bin", "A=b=c"],
        "WorkingDir": "/bin", "User": "1000",
    });
    let digest = registry.push("app:v1", container(layers, config)).await;
    let reference = registry.reference("app:v1");
    let image = pull(&node.store, &reference).await.unwrap();
    assert_eq!(image.kind, ImageKind::Filesystem);
    assert_eq!(image.digest.to_string(), digest);
    assert_eq!(
        (image.entrypoint.as_slice(), image.cmd.as_slice()),
        (&["/bin/hello.wasm".to_owned()][..], &["world".to_owned()][..])
    );
    assert_eq!((image.working_dir.as_deref(), image.user.as_deref()), (Some("/bin"), Some("1000")));
    assert_eq!(image.env[1], ("A".to_owned(), "b=c".to_owned()));

    let root = node.store.rootfs(&image).unwrap();
    assert_eq!(fs::read_to_string(root.join("etc/motd")).unwrap(), "hi");
    assert!(!root.join("etc/old").exists());
    for command in ["/bin/hello.wasm", "./hello.wasm", "tool", "hard"] {
        let found = node.store.module(&image, command).await.unwrap();
        assert_eq!(found.digest, Digest::of(&second), "{command}");
    }
    let error = node.store.module(&image, "/etc/motd").await.unwrap_err();
    assert!(matches!(error, ModuleError::NotWasm { .. }), "{error}");

    // The same image again costs nothing, and another store opened on the directory has it too.
    assert_eq!(pull(&node.store, &reference).await.unwrap(), image);
    let reopened = Store::open(node.directory.path(), StoreOptions::default()).unwrap();
    assert_eq!(reopened.get(&reference.into()).unwrap(), Some(image));
}

#[tokio::test]
async fn dockers_own_types() {
    let (registry, node) = (Registry::start(), Node::new());
    let layer = gzip(&tar(&[("app.wasm", &module("docker"))]));
    let mut image = container(
        vec![(layer, oci_client::manifest::IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE)],
        json!({"Entrypoint": null, "Cmd": ["/app.wasm"], "Env": null, "WorkingDir": ""}),
    );
    image.config.media_type = oci_client::manifest::IMAGE_DOCKER_CONFIG_MEDIA_TYPE.to_owned();
    image.manifest_type = oci_client::manifest::IMAGE_MANIFEST_MEDIA_TYPE;
    registry.push("app", image).await;
    let image = pull(&node.store, &registry.reference("app")).await.unwrap();
    assert_eq!((image.entrypoint.len(), image.cmd.as_slice()), (0, &["/app.wasm".to_owned()][..]));
    assert!(node.store.module(&image, "app.wasm").await.is_ok(), "the root is looked in last");
}

#[tokio::test]
async fn an_index_leads_to_the_wasm_platform() {
    let (registry, node) = (Registry::start(), Node::new());
    let image = |text: &str, entrypoint: &str| {
        container(vec![(tar(&[("app", &module(text))]), TAR)], json!({"Entrypoint": [entrypoint]}))
    };
    let wasi = registry.push("app:wasi", image("wasi", "/app")).await;
    let linux = registry.push("app:linux", image("linux", "/app")).await;
    let disguised = registry.push("app:disguised", image("disguised", "/app.wasm")).await;

    let index = registry.push_index("app:all", &[(&linux, "linux", "amd64"), (&wasi, "wasi", "wasm")]).await;
    let pulled = pull(&node.store, &registry.reference("app:all")).await.unwrap();
    assert_eq!((pulled.digest.to_string(), pulled.manifest.to_string()), (index.clone(), wasi));
    assert!(pulled.id().ends_with(&index), "the id is what the name resolves to");
    let found = node.store.module(&pulled, "/app").await.unwrap();
    assert_eq!(found.digest, Digest::of(&module("wasi")));
    assert!(pull(&node.store, &registry.reference(&format!("app@{index}"))).await.is_ok());

    registry.push_index("app:linux-only", &[(&linux, "linux", "amd64"), (&linux, "linux", "arm64")]).await;
    let reason = failure(&node.store, &registry.reference("app:linux-only")).await;
    assert!(
        matches!(&reason, PullFailure::Unsupported(text) if text.contains("--platform wasi/wasm")),
        "{reason}"
    );

    registry.push_index("app:guess", &[(&disguised, "linux", "amd64"), (&linux, "linux", "arm64")]).await;
    let pulled = pull(&node.store, &registry.reference("app:guess")).await.unwrap();
    assert_eq!(pulled.manifest.to_string(), disguised);
}

#[tokio::test]
async fn an_index_whose_wasm_entry_says_linux_and_that_carries_an_attestation() {
    let (registry, node) = (Registry::start(), Node::new());
    let image =
        |text: &str| container(vec![(tar(&[("app", &module(text))]), TAR)], json!({"Entrypoint": ["/app"]}));
    let wasm = registry.push("app:wasm", image("wasm")).await;
    let linux = registry.push("app:linux", image("linux")).await;
    let attestation = registry.push("app:attestation", artifact(b"{}".to_vec(), "text/plain", None)).await;
    let entries = [
        (attestation.as_str(), "unknown", "unknown"),
        (linux.as_str(), "linux", "amd64"),
        (wasm.as_str(), "linux", "wasm"),
    ];
    registry.push_index("app:all", &entries).await;
    let pulled = pull(&node.store, &registry.reference("app:all")).await.unwrap();
    assert_eq!(pulled.manifest.to_string(), wasm);
    let found = node.store.module(&pulled, "/app").await.unwrap();
    assert_eq!(found.digest, Digest::of(&module("wasm")));
}

#[tokio::test]
async fn images_that_share_a_layer_are_removed_one_by_one() {
    let (mut registry, node) = (Registry::start(), Node::new());
    let shared = gzip(&tar(&[("lib.wasm", &module("shared"))]));
    let image = |name: &str| -> Pushed {
        let own = gzip(&tar(&[("app.wasm", &module(name))]));
        container(vec![(shared.clone(), TAR_GZIP), (own, TAR_GZIP)], json!({"Cmd": ["/app.wasm"]}))
    };
    registry.push("a", image("a")).await;
    registry.push("b", image("b")).await;
    let a = pull(&node.store, &registry.reference("a")).await.unwrap();
    let b = pull(&node.store, &registry.reference("b")).await.unwrap();
    assert_eq!(node.count("blobs/sha256"), 6, "two manifests, one configuration, three layers");

    let hold = node.store.hold(&a).unwrap();
    assert!(matches!(node.store.remove(&a.reference), Err(StoreError::InUse { .. })));
    drop(hold);
    node.store.remove(&a.reference).unwrap();
    assert_eq!((node.count("blobs/sha256"), node.count("rootfs")), (4, 1));
    assert!(node.store.module(&b, "/app.wasm").await.is_ok());
    let error = node.store.module(&a, "/app.wasm").await.unwrap_err().to_string();
    assert!(error.contains("is not in the module store; pull it first"), "{error}");

    // What is there is not fetched again.
    pull(&node.store, &registry.reference("a")).await.unwrap();
    let layers =
        registry.stop().into_iter().filter(|line| is_get(line, &Digest::of(&shared).to_string())).count();
    assert_eq!(layers, 1);
    for image in [a, b] {
        node.store.remove(&image.reference).unwrap();
    }
    node.assert_empty();
}
