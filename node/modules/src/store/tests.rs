use std::fs;

use super::*;
use crate::testing::{EMPTY_MODULE, Fixture};

fn reference(text: &str) -> ImageName {
    text.parse().unwrap()
}

#[test]
fn nothing_is_found_in_an_empty_store() {
    let fixture = Fixture::new();
    assert_eq!(fixture.store.get(&reference("busybox")).unwrap(), None);
    assert_eq!(fixture.store.get(&reference("./x.wasm")).unwrap(), None);
    assert_eq!(fixture.store.list().unwrap(), []);
    assert!(matches!(fixture.store.remove(&reference("busybox")), Err(StoreError::Absent { .. })));
}

#[test]
fn a_store_that_cannot_be_written_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file, StoreOptions::default()).unwrap_err().to_string();
    assert!(error.contains(&file.display().to_string()) && error.contains("--root-dir"), "{error}");

    let options = StoreOptions { certificate_authorities: vec![file.clone()], ..Default::default() };
    let error = Store::open(directory.path(), options).unwrap_err().to_string();
    assert!(error.contains("PEM") && error.contains(&file.display().to_string()), "{error}");
}

#[test]
fn names_lead_to_images_and_a_tag_moves() {
    let fixture = Fixture::new();
    let old = fixture.filesystem("r.io/a:v1", |_| {});
    assert_eq!(fixture.store.get(&reference("r.io/a:v1")).unwrap(), Some(old.clone()));
    assert_eq!(old.names, [format!("r.io/a@{}", old.digest), "r.io/a:v1".to_owned()]);
    assert_eq!(old.id(), format!("r.io/a@{}", old.digest));

    // The tag is given to another image.
    let new = fixture.filesystem("r.io/a:v2", |_| {});
    let record = Record::find(&fixture.store.inner.layout, "r.io/a:v2").unwrap().unwrap();
    let name = Name { name: "r.io/a:v1".to_owned(), digest: record.digest, public: false, version: None };
    fixture.store.inner.record(record, &[name]).unwrap();
    assert_eq!(fixture.store.get(&reference("r.io/a:v1")).unwrap().unwrap().digest, new.digest);
    let by_digest = fixture.store.get(&reference(&old.id())).unwrap().unwrap();
    assert_eq!((by_digest.digest, by_digest.names.as_slice()), (old.digest, [old.id()].as_slice()));
    assert_eq!(fixture.store.list().unwrap().len(), 2);
}

#[test]
fn an_image_that_lost_a_file_is_not_there() {
    let fixture = Fixture::new();
    let image = fixture.filesystem("r.io/a:v1", |_| {});
    fs::remove_dir(fixture.store.rootfs(&image).unwrap()).unwrap();
    assert_eq!(fixture.store.get(&image.reference).unwrap(), None);
    assert_eq!(fixture.store.list().unwrap(), []);
}

#[tokio::test]
async fn a_blob_that_lost_bytes_is_not_there() {
    let fixture = Fixture::new();
    let image = fixture.store.import(&fixture.file("m.wasm", EMPTY_MODULE)).await.unwrap();
    fs::write(fixture.store.inner.layout.blob(&image.digest), b"\0asm").unwrap();
    assert_eq!(fixture.store.get(&image.reference).unwrap(), None);
    let again = fixture.store.import(&fixture.file("m.wasm", EMPTY_MODULE)).await.unwrap();
    assert_eq!(fixture.store.get(&image.reference).unwrap(), Some(again));
}

#[test]
fn damaged_records_hide_an_image_and_nothing_else() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.filesystem("r.io/a:v1", |_| {}), fixture.filesystem("r.io/b:v1", |_| {}));
    fs::write(fixture.store.inner.layout.image(&a.digest), "{").unwrap();
    let store = Store::open(&fixture.root(), StoreOptions::default()).unwrap();
    assert_eq!(store.get(&a.reference).unwrap(), None);
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&b));
    store.remove(&a.reference).unwrap();
    assert_eq!(store.get(&b.reference).unwrap(), Some(b));
}
