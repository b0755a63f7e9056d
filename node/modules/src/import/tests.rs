use super::*;
use crate::testing::{EMPTY_MODULE, Fixture, files};

#[tokio::test]
async fn an_imported_file_is_an_image_of_its_path() {
    let fixture = Fixture::new();
    let path = fixture.file("hello.wasm", EMPTY_MODULE);
    let image = fixture.store.import(&path).await.unwrap();
    let digest = Digest::of(EMPTY_MODULE);
    assert_eq!(image.id(), format!("hello.wasm@{digest}"));
    assert_eq!(image.entrypoint, ["hello.wasm"]);
    assert_eq!(image.size_bytes, 8);
    assert_eq!(fixture.store.get(&ImageName::Path(path.clone())).unwrap(), Some(image.clone()));
    assert_eq!(fixture.store.list().unwrap(), std::slice::from_ref(&image));
    assert_eq!(fixture.store.rootfs(&image), None);

    let module = fixture.store.module(&image, "any name").await.unwrap();
    assert_eq!((module.digest, fs::read(&module.path).unwrap()), (digest, EMPTY_MODULE.to_vec()));

    // A changed file is another image under the same name; the first stays as it was while it is held.
    let hold = fixture.store.hold(&image).unwrap();
    fs::write(&path, [EMPTY_MODULE, b"\0"].concat()).unwrap();
    let second = fixture.store.import(&path).await.unwrap();
    assert_ne!(second.digest, image.digest);
    assert_eq!(fixture.store.get(&ImageName::Path(path.clone())).unwrap(), Some(second));
    assert_eq!(fs::read(&module.path).unwrap(), EMPTY_MODULE);

    drop(hold);
    fixture.store.import(&path).await.unwrap();
    assert!(module.path.exists(), "nobody looks for what has lost its name before");
    drop(Store::open(&fixture.root(), crate::StoreOptions::default()).unwrap());
    assert!(!module.path.exists());
}

#[tokio::test]
async fn a_changed_file_takes_the_place_of_what_it_was() {
    let fixture = Fixture::new();
    for content in [&b"1"[..], b"2", b"2", b"3"] {
        let path = fixture.file("m.wasm", &[EMPTY_MODULE, content].concat());
        fixture.store.import(&path).await.unwrap();
        assert_eq!(files(&fixture.root().join("blobs/sha256")).len(), 1);
    }
    // Another path to the same content keeps it.
    let other = fixture.file("n.wasm", &[EMPTY_MODULE, b"3"].concat());
    let kept = fixture.store.import(&other).await.unwrap();
    fixture.store.import(&fixture.file("m.wasm", EMPTY_MODULE)).await.unwrap();
    assert_eq!(fixture.store.get(&ImageName::Path(other)).unwrap().unwrap().digest, kept.digest);
}

#[tokio::test]
async fn files_that_cannot_be_imported() {
    let options = crate::StoreOptions { layer_limit: 16, ..Default::default() };
    let fixture = Fixture::with(options);
    for (content, text) in [
        (&b"hello"[..], "it looks like a text file"),
        (b"", "the module is empty (0 bytes)"),
        (b"\0asm\x01\0\0\0 and nine bytes", "is larger than 16 bytes"),
    ] {
        let error = fixture.store.import(&fixture.file("x", content)).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    let missing = fixture.directory.path().join("missing");
    let error = fixture.store.import(&missing).await.unwrap_err().to_string();
    assert!(error.contains("No such file") && error.contains("missing"), "{error}");
    assert!(fixture.store.import(fixture.directory.path()).await.is_err());
    assert!(files(&fixture.root().join("blobs/sha256")).is_empty());
}
