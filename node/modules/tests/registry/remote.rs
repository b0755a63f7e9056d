//! What a registry says of images of which nothing is kept.

use std::{collections::BTreeMap, fs};

use super::{
    cosign::{Cosign, FORMS},
    *,
};

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn an_image_is_looked_up_and_nothing_of_it_is_kept() {
    let (registry, node) = (Registry::start(), Node::new());
    let layer = tar(&[("app", &module("app"))]);
    let image = container(vec![(layer, TAR)], json!({ "Entrypoint": ["/app"] }));
    let ours = registry.push("app:ours", image).await;
    let wasi = registry.push("app:wasi", artifact(module("wasi"), WASM, None)).await;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let entries = [(wasi.as_str(), "wasi", "wasm"), (ours.as_str(), "linux", architecture)];
    let index = registry.push_index("app:v1", &entries).await;
    let reference = registry.reference("app:v1");

    let found = node.store.look_up(&reference, &[]).await.unwrap();
    assert_eq!(found.digest.to_string(), index);
    assert_eq!(Digest::of(&found.bytes), found.digest);
    let image = node.store.look_up_image(&reference, &[]).await.unwrap();
    assert_eq!(image.manifest.digest.to_string(), ours);
    let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
    assert_eq!(config["config"]["Entrypoint"], json!(["/app"]));
    let single = node.store.look_up_image(&registry.reference("app:wasi"), &[]).await.unwrap();
    assert_eq!(single.manifest.digest.to_string(), wasi);

    let only = registry.push_index("app:wasm", &entries[..1]).await;
    assert_eq!(
        node.store.look_up(&registry.reference("app:wasm"), &[]).await.unwrap().digest.to_string(),
        only
    );
    let error = node.store.look_up_image(&registry.reference("app:wasm"), &[]).await.unwrap_err();
    assert!(error.to_string().contains("no image for linux/"), "{error}");
    let error = node.store.look_up(&registry.reference("none:v1"), &[]).await.unwrap_err();
    assert!(matches!(error.reason, PullFailure::NotFound(_)), "{error}");
    node.assert_empty();
}

#[tokio::test]
async fn signatures_are_verified_for_whoever_asks() {
    let (registry, cosign, node) = (Registry::start(), Cosign::new(), Node::new());
    let keys = ["team", "other", "stranger"].map(|name| fs::read_to_string(cosign.key(name)).unwrap());
    let [team, other, stranger] = keys.each_ref();
    for (form, name) in FORMS.into_iter().zip(["bundle", "tag"]) {
        let digest = registry.push(&format!("{name}:v1"), artifact(module(name), WASM, None)).await;
        let reference = registry.reference(&format!("{name}:v1"));
        let verify = async |keys: &[&String], noted: &[(&str, &str)]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).clone()).collect();
            let noted = annotations(noted);
            let verified = node.store.verify_remote(&reference, &keys, &noted, &[], "somebody");
            verified.await.map(|digest| digest.to_string()).map_err(|error| error.to_string())
        };
        let unsigned = verify(&[team], &[]).await.unwrap_err();
        assert!(unsigned.contains("is not signed, and somebody asks for it"), "{form:?}: {unsigned}");
        cosign.sign_noting(form, "team", &reference, &digest, &["-a", "stage=prod", "-a", "by=us"]);
        cosign.sign(form, "other", &reference, &digest);
        assert_eq!(verify(&[team], &[]).await, Ok(digest.clone()), "{form:?}");
        assert_eq!(verify(&[team, other], &[]).await, Ok(digest.clone()), "{form:?}");
        assert_eq!(verify(&[team], &[("stage", "prod"), ("by", "us")]).await, Ok(digest.clone()), "{form:?}");
        for (keys, noted, expected) in [
            (&[stranger][..], &[][..], "not by a trusted key"),
            (&[team, stranger], &[], "not by a trusted key"),
            (&[team], &[("stage", "test")], "without the annotations that are asked for"),
            (&[team, other], &[("stage", "prod")], "without the annotations that are asked for"),
            (&[], &[], "somebody names 0 public keys"),
            (&[&"no key".to_owned()], &[], "public key 1 of somebody holds no public key"),
        ] {
            let error = verify(keys, noted).await.unwrap_err();
            assert!(error.contains(expected), "{form:?} {expected}: {error}");
        }
    }
    node.assert_empty();
}
