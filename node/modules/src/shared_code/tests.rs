use std::path::PathBuf;

use serde_json::json;

use super::{
    artifact::{ARTIFACT_TYPE, CODE_TYPE, COMPILER, FACTS_TYPE, MODULE},
    *,
};
use crate::{
    Image, Store, StoreOptions,
    signature::testing::{Signer, payload, statement},
    testing::{EMPTY_MODULE, Fixture, files},
};

const KEY: &str = "engine-1";
const CODE: &[u8] = b"machine code";
const FACTS: &str = r#"{"kind":"command","imports":["i"],"exports":[]}"#;

/// Another process on the store of `fixture`, which trusts `signer`.
fn trusting(fixture: &Fixture, signer: &Signer) -> Store {
    let signature_policy = signer.trusted_with_code(fixture.directory.path());
    Store::open(&fixture.root(), StoreOptions { signature_policy, ..StoreOptions::default() }).unwrap()
}

/// An image with a module; the digest of that.
async fn image(fixture: &Fixture, name: &str) -> (Image, Digest) {
    let image = fixture.filesystem(name, |root| fs::write(root.join("m"), EMPTY_MODULE).unwrap());
    let module = fixture.store.module(&image, "/m").await.unwrap().digest;
    (image, module)
}

fn manifest(module: &Digest, key: &str) -> String {
    json!({
        "artifactType": ARTIFACT_TYPE,
        "layers": [
            {"mediaType": CODE_TYPE, "digest": Digest::of(CODE), "size": CODE.len()},
            {"mediaType": FACTS_TYPE, "digest": Digest::of(FACTS.as_bytes()), "size": FACTS.len()},
        ],
        "annotations": {MODULE: module, COMPILER: key},
    })
    .to_string()
}

/// Code that `signer` has signed.
fn signed(manifest: String, signer: &Signer) -> KeptCode {
    let digest = Digest::of(manifest.as_bytes());
    KeptCode {
        manifest,
        facts: FACTS.to_owned(),
        evidence: vec![signer.bundle(&statement(&digest))],
        signer: "builder.pub".to_owned(),
        image: "r.io/team/app".to_owned(),
    }
}

fn code(fixture: &Fixture) -> PathBuf {
    fixture.file("code", CODE)
}

#[tokio::test]
async fn code_is_good_for_the_images_whose_rule_trusts_its_signer() {
    let fixture = Fixture::new();
    let signer = Signer::new();
    let (app, module) = image(&fixture, "r.io/team/app:v1").await;
    let (other, same) = image(&fixture, "r.io/other/app:v1").await;
    assert_eq!(module, same);
    let kept = signed(manifest(&module, KEY), &signer);
    fixture.store.inner.keep_shared_code(&app.digest, &module, &kept, &code(&fixture)).unwrap();

    let store = trusting(&fixture, &signer);
    let found = store.inner.code_of(Some(&app.reference), &module, KEY).unwrap().unwrap();
    assert_eq!(fs::read(&found.path).unwrap(), CODE);
    assert_eq!(
        (found.facts.kind.as_str(), found.facts.imports.as_slice()),
        ("command", &["i".to_owned()][..])
    );
    for (name, module, key) in [
        (&other.reference, &module, KEY),
        (&app.reference, &Digest::of(b"another module"), KEY),
        (&app.reference, &module, "engine-2"),
        (&"/m.wasm".parse().unwrap(), &module, KEY),
        (&"https://r.io/team/app".parse().unwrap(), &module, KEY),
    ] {
        assert_eq!(store.inner.code_of(Some(name), module, key).unwrap(), None, "{name} {key}");
    }
    assert_eq!(store.inner.code_of(None, &module, KEY).unwrap(), None, "only its own");
    // The policy of another process, or of this one after it was changed.
    assert_eq!(fixture.store.inner.code_of(Some(&app.reference), &module, KEY).unwrap(), None);
    let stranger = trusting(&fixture, &Signer::new());
    assert_eq!(stranger.inner.code_of(Some(&app.reference), &module, KEY).unwrap(), None);
}

#[tokio::test]
async fn what_was_changed_since_it_was_signed_is_not_used() {
    let signer = Signer::new();
    let good = |module: &Digest| signed(manifest(module, KEY), &signer);
    type Make<'a> = &'a dyn Fn(&Digest) -> KeptCode;
    let cases: [(&str, Make<'_>); 5] = [
        ("the manifest of another compiler", &|module| KeptCode {
            manifest: manifest(module, KEY),
            ..signed(manifest(module, "engine-2"), &signer)
        }),
        ("the facts", &|module| KeptCode { facts: "{\"kind\":\"x\"}".to_owned(), ..good(module) }),
        ("no signature", &|module| KeptCode { evidence: Vec::new(), ..good(module) }),
        ("the signature of the module", &|module| KeptCode {
            evidence: vec![signer.simple(&payload(module))],
            ..good(module)
        }),
        ("what is no manifest", &|_| signed("{}".to_owned(), &signer)),
    ];
    for (case, kept) in cases {
        let fixture = Fixture::new();
        let (app, module) = image(&fixture, "r.io/team/app:v1").await;
        let store = trusting(&fixture, &signer);
        store.inner.keep_shared_code(&app.digest, &module, &kept(&module), &code(&fixture)).unwrap();
        assert_eq!(store.inner.code_of(Some(&app.reference), &module, KEY).unwrap(), None, "{case}");
        // Beside it good code is found.
        store.inner.keep_shared_code(&app.digest, &module, &good(&module), &code(&fixture)).unwrap();
        assert!(store.inner.code_of(Some(&app.reference), &module, KEY).unwrap().is_some(), "{case}");
    }
}

#[tokio::test]
async fn half_of_the_code_is_none() {
    let fixture = Fixture::new();
    let signer = Signer::new();
    let (app, module) = image(&fixture, "r.io/team/app:v1").await;
    let store = trusting(&fixture, &signer);
    let kept = signed(manifest(&module, KEY), &signer);
    store.inner.keep_shared_code(&app.digest, &module, &kept, &fixture.file("half", b"mach")).unwrap();
    assert_eq!(store.inner.code_of(Some(&app.reference), &module, KEY).unwrap(), None);
    fs::remove_file(store.inner.layout.shared_code_file(&module, &kept.digest())).unwrap();
    assert_eq!(store.inner.code_of(Some(&app.reference), &module, KEY).unwrap(), None);
}

#[tokio::test]
async fn code_goes_with_the_last_image_that_has_the_module() {
    let fixture = Fixture::new();
    let signer = Signer::new();
    let (app, module) = image(&fixture, "r.io/team/app:v1").await;
    let (other, _) = image(&fixture, "r.io/team/other:v1").await;
    let kept = signed(manifest(&module, KEY), &signer);
    fixture.store.inner.keep_shared_code(&app.digest, &module, &kept, &code(&fixture)).unwrap();
    let shared = fixture.root().join("shared");

    fixture.store.remove(&app.reference).unwrap();
    drop(Store::open(&fixture.root(), StoreOptions::default()).unwrap());
    assert_eq!(files(&shared), [module.hex()]);
    fixture.store.remove(&other.reference).unwrap();
    assert!(files(&shared).is_empty());

    // Nothing comes after the image has gone, and what a crash has left goes with the next start.
    let late = fixture.store.inner.keep_shared_code(&app.digest, &module, &kept, &code(&fixture));
    assert!(matches!(late, Err(StoreError::Absent { .. })));
    fs::create_dir(shared.join(module.hex())).unwrap();
    drop(Store::open(&fixture.root(), StoreOptions::default()).unwrap());
    assert!(files(&shared).is_empty());
}
