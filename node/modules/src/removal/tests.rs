use super::*;
use crate::{
    StoreOptions,
    testing::{EMPTY_MODULE, Fixture, files},
};

fn reference(text: &str) -> ImageName {
    text.parse().unwrap()
}

#[tokio::test]
async fn removing_an_image_removes_all_that_is_its_own() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let image = fixture.filesystem("r.io/a:v1", |root| fs::write(root.join("m"), EMPTY_MODULE).unwrap());
    let module = store.module(&image, "m").await.unwrap();
    let compiled = store.inner.layout.precompiled().join(format!("{}-k", module.digest.hex()));
    fs::write(&compiled, "").unwrap();
    let same_module = store.import(&fixture.file("m.wasm", EMPTY_MODULE)).await.unwrap();

    store.remove(&image.reference).unwrap();
    assert_eq!(store.get(&image.reference).unwrap(), None);
    assert_eq!(store.get(&reference(&image.id())).unwrap(), None, "the digest goes with the last tag");
    for directory in ["rootfs", "digests"] {
        assert!(files(&fixture.root().join(directory)).is_empty(), "{directory}");
    }
    assert!(compiled.exists(), "another image has the same module");

    store.remove(&same_module.reference).unwrap();
    for directory in ["images", "names", "blobs/sha256", "precompiled", "holds"] {
        assert!(files(&fixture.root().join(directory)).is_empty(), "{directory}");
    }
}

#[test]
fn a_held_image_stays() {
    let fixture = Fixture::new();
    let image = fixture.filesystem("r.io/a:v1", |_| {});
    let hold = fixture.store.hold(&image).unwrap();
    let second = fixture.store.hold(&image).unwrap();
    let other = Store::open(&fixture.root(), StoreOptions::default()).unwrap();
    let foreign = other.hold(&image).unwrap();

    drop((hold, foreign));
    for store in [&fixture.store, &other] {
        assert!(matches!(store.remove(&image.reference), Err(StoreError::InUse { .. })));
        assert_eq!(store.get(&image.reference).unwrap(), Some(image.clone()), "nothing has changed");
    }
    drop(second);
    other.remove(&image.reference).unwrap();
    assert!(matches!(fixture.store.hold(&image), Err(StoreError::Absent { .. })));
}

#[test]
fn which_names_are_left() {
    let cases: &[(&[&str], &str, &[&str])] = &[
        (&["r/a@sha256:D", "r/a:v1"], "r/a:v1", &[]),
        (&["r/a@sha256:D", "r/a:v1", "r/a:v2"], "r/a:v1", &["r/a@sha256:D", "r/a:v2"]),
        (
            &["r/a@sha256:D", "r/b@sha256:D", "r/a:v1", "r/b:v1"],
            "r/a:v1",
            &["r/a@sha256:D", "r/b@sha256:D", "r/b:v1"],
        ),
        (&["r/a@sha256:D", "r/b@sha256:D", "r/a:v1", "r/b:v1"], "r/a@sha256:D", &["r/b@sha256:D", "r/b:v1"]),
        (&["r/a@sha256:D"], "r/a@sha256:D", &[]),
        (&["localhost@sha256:D", "localhost:5000/x:v1"], "localhost@sha256:D", &["localhost:5000/x:v1"]),
        (&["https://h/x@sha256:D", "https://h/x"], "https://h/x", &[]),
        (&["https://h/x@sha256:D", "https://h/x", "r/a@sha256:D"], "https://h/x@sha256:D", &["r/a@sha256:D"]),
        (
            &["https://h/@s/x@sha256:D", "https://h/@s/x", "r/a:v1"],
            "https://h/@s/x",
            &["https://h/@s/x@sha256:D", "r/a:v1"],
        ),
        (&["/srv/m.wasm", "/srv/n.wasm"], "/srv/m.wasm", &["/srv/n.wasm"]),
        (&["/srv/m@1.wasm"], "/srv/m@1.wasm", &[]),
    ];
    for (names, gone, expected) in cases {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(&names_left(&names, gone), expected, "{gone} of {names:?}");
    }
}

#[tokio::test]
async fn opening_sweeps_what_no_image_has() {
    let fixture = Fixture::new();
    let image = fixture.filesystem("r.io/a:v1", |root| fs::write(root.join("m"), EMPTY_MODULE).unwrap());
    let module = fixture.store.import(&fixture.file("m.wasm", EMPTY_MODULE)).await.unwrap();
    let layout = &fixture.store.inner.layout;
    let stray = Digest::of(b"stray");
    let litter = || {
        fs::write(layout.blob(&stray), "x").unwrap();
        fs::create_dir(layout.rootfs(&stray)).unwrap();
    };
    let reopen = || Store::open(&fixture.root(), StoreOptions::default()).unwrap();
    litter();
    let reopened = reopen();
    assert!(!layout.blob(&stray).exists() && !layout.rootfs(&stray).exists());
    for image in [&image, &module] {
        assert_eq!(reopened.get(&image.reference).unwrap().as_ref(), Some(image));
    }

    // A damaged record may be of an image in use: nothing is touched.
    litter();
    fs::write(layout.image(&image.digest), "{").unwrap();
    drop(reopen());
    assert!(
        layout.blob(&stray).exists()
            && layout.rootfs(&stray).exists()
            && layout.rootfs(&image.manifest).exists()
    );

    // An image that lost its last name goes, unless somebody has it.
    fs::remove_file(layout.image(&image.digest)).unwrap();
    fs::remove_file(layout.name(&module.reference.key().unwrap())).unwrap();
    let hold = fixture.store.hold(&module).unwrap();
    drop(reopen());
    assert!(layout.blob(&module.digest).exists() && !layout.rootfs(&image.manifest).exists());
    drop(hold);
    drop(reopen());
    assert!(!layout.blob(&module.digest).exists());
}
